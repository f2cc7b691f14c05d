//! `witness export`: a model or an adapter, written out for other programs, for Ollama, or into one file.

use std::path::{Path, PathBuf};

use witness_api::{ExportProgress, ExportRequest};
use witness_client::Client;

use super::following;
use super::run::checkpoint;
use crate::cli::{Export, ExportForm};
use crate::context::{Context, Outcome};
use crate::render::progress::{Bars, Told};
use crate::render::{output, quantity};

/// Most files whose names are told.
const NAMES_TOLD_MAX: usize = 2;

/// Writes the files. The daemon does it, since the store is its own.
pub(crate) fn export(context: &Context, arguments: &Export) -> Outcome {
    let client = context.daemon()?;
    let adapter = match arguments.checkpoint {
        Some(step) => Some(checkpoint::adapter(context, &arguments.name, step)?),
        None => arguments.adapter.clone(),
    };
    let target = std::path::absolute(&arguments.target).unwrap_or_else(|_| arguments.target.clone());
    let (directory, file) = match arguments.to {
        ExportForm::Bundle => (PathBuf::new(), Some(target.clone())),
        _ => (target.clone(), None),
    };
    let request = ExportRequest {
        model: arguments.name.clone(),
        adapter,
        directory,
        file,
        form: Some(arguments.to.as_wire().to_owned()),
        quantize: arguments.quantize.clone(),
        merge: arguments.merge,
        without_base: arguments.without_base,
        force: arguments.force,
        stream: None,
    };
    let bars = Bars::new();
    let ended = context.wait_or_interrupt(follow(client, &bars, &request));
    bars.clear();
    let last = match ended {
        Ok(Some(last)) => last,
        Ok(None) => return Err(following::interrupted(format!("`{}` was not exported", arguments.name))),
        Err(refusal) => return Err(following::explain(context, Some(&arguments.name), refusal)),
    };
    if arguments.json {
        return output::json(&match arguments.to {
            ExportForm::Bundle => serde_json::json!({ "file": target, "size": last.total }),
            _ => serde_json::json!({ "directory": target, "files": last.files }),
        });
    }
    output::note(&told(arguments.to, &target, &last));
    Ok(())
}

/// Says what is there now, and what to do with it.
fn told(form: ExportForm, target: &Path, last: &ExportProgress) -> String {
    let at = target.display();
    match (form, last.files.as_slice()) {
        (ExportForm::Bundle, _) => {
            let size = quantity::size(last.total);
            format!("wrote `{at}` ({size}); `witness import FILE` makes the model of it on another machine")
        }
        (ExportForm::Ollama, [name]) => {
            let name = name.trim_end_matches(":latest");
            format!("wrote `{name}` to `{at}`; an Ollama whose `OLLAMA_MODELS` that is runs it: `ollama run {name}`")
        }
        (_, files) if files.len() <= NAMES_TOLD_MAX => format!("wrote {} to `{at}`", files.join(" and ")),
        (_, files) => format!("wrote {} files to `{at}`", files.len()),
    }
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
