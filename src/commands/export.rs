//! `witness export`: a model or an adapter, written into a folder for other programs.

use witness_api::{ExportProgress, ExportRequest};
use witness_client::Client;

use super::following;
use super::run::checkpoint;
use crate::cli::Export;
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::progress::{Bars, Told};

/// Most files whose names are told.
const NAMES_TOLD_MAX: usize = 2;

/// Writes the files. The daemon does it, since the store is its own.
pub(crate) fn export(context: &Context, arguments: &Export) -> Outcome {
    let client = context.daemon()?;
    let adapter = match arguments.checkpoint {
        Some(step) => Some(checkpoint::adapter(context, &arguments.name, step)?),
        None => arguments.adapter.clone(),
    };
    let directory = std::path::absolute(&arguments.directory).unwrap_or_else(|_| arguments.directory.clone());
    let request = ExportRequest {
        model: arguments.name.clone(),
        adapter,
        directory: directory.clone(),
        form: Some(arguments.to.as_wire().to_owned()),
        quantize: arguments.quantize.clone(),
        merge: arguments.merge,
        force: arguments.force,
        stream: None,
    };
    let bars = Bars::new();
    let ended = context.wait_or_interrupt(follow(client, &bars, &request));
    bars.clear();
    let files = match ended {
        Ok(Some(last)) => last.files,
        Ok(None) => return Err(following::interrupted(format!("`{}` was not exported", arguments.name))),
        Err(refusal) => return Err(following::explain(context, Some(&arguments.name), refusal)),
    };
    if arguments.json {
        return output::json(&serde_json::json!({ "directory": directory, "files": files }));
    }
    let told = match files.len() {
        0..=NAMES_TOLD_MAX => files.join(" and "),
        count => format!("{count} files"),
    };
    output::note(&format!("wrote {told} to `{}`", directory.display()));
    Ok(())
}

/// Draws what is told and returns the last line.
async fn follow(client: &Client, bars: &Bars, request: &ExportRequest) -> Outcome<ExportProgress> {
    let mut lines = client.export_lines(request).await?;
    let mut told = Told::new(bars);
    let mut last = ExportProgress::default();
    while let Some(line) = lines.next().await? {
        told.line(&line.status, line.completed, line.total);
        last = line;
    }
    Ok(last)
}
