//! `witness export`: an adapter's files, written into a folder for other programs.

use witness_api::ExportRequest;

use super::{run::checkpoint, train};
use crate::cli::{Export, ExportForm};
use crate::context::{Context, Outcome};
use crate::render::output;

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
        form: Some(match arguments.to {
            ExportForm::Peft => "peft".to_owned(),
        }),
        force: arguments.force,
    };
    let files = train::export(context, client, &request)
        .map_err(|refusal| context.explain_missing(&arguments.name, refusal))?;
    if arguments.json {
        return output::json(&serde_json::json!({ "directory": directory, "files": files }));
    }
    output::note(&format!("wrote {} to `{}`", files.join(" and "), directory.display()));
    Ok(())
}
