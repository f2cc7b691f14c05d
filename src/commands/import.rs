//! `witness import`: a bundle becomes a model of this machine's store.

use witness_api::{UnbundleProgress, UnbundleRequest};
use witness_client::Client;

use super::following;
use crate::cli::Import;
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::progress::{Bars, Told};

/// Has the daemon read the file: it is on its machine, and the store is its own.
pub(crate) fn import(context: &Context, arguments: &Import) -> Outcome {
    let client = context.daemon()?;
    let request = UnbundleRequest {
        path: std::path::absolute(&arguments.file).unwrap_or_else(|_| arguments.file.clone()),
        model: arguments.name.clone(),
        force: arguments.force,
        stream: None,
    };
    let bars = Bars::new();
    let ended = context.wait_or_interrupt(follow(client, &bars, &request));
    bars.clear();
    let Some(last) = ended? else {
        let file = arguments.file.display();
        return Err(following::interrupted(format!("`{file}` was not imported")));
    };
    if arguments.json {
        return output::json(&serde_json::json!({ "model": last.model, "digest": last.digest }));
    }
    let name = last.model.trim_end_matches(":latest");
    output::note(&format!("imported `{name}`; ask it with `witness run {name}`"));
    Ok(())
}

/// Draws what is told and returns the last line.
async fn follow(client: &Client, bars: &Bars, request: &UnbundleRequest) -> Outcome<UnbundleProgress> {
    let mut lines = client.unbundle(request).await?;
    let mut told = Told::new(bars);
    let mut last = UnbundleProgress::default();
    while let Some(line) = lines.next().await? {
        told.line(&line.status, line.completed, line.total);
        last = line;
    }
    Ok(last)
}
