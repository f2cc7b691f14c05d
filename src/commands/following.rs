//! A model that the daemon makes, followed to its end: by `create`, `quantize` and `merge`.

use std::path::Path;

use witness_api::CreateRequest;
use witness_client::{Client, SourceFile};
use witness_diagnostics::{Diagnostic, Kind};

use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::progress::{Bars, Told};

/// Code of the daemon's "no such model".
const MISSING: &str = "witness::registry::not_found";

/// Asks for a model and draws what is told until it is made.
pub(crate) async fn make(client: &Client, bars: &Bars, request: &CreateRequest) -> Outcome {
    let mut lines = client.create(request).await?;
    let mut told = Told::new(bars);
    while let Some(line) = lines.next().await? {
        told.line(&line.status, line.completed, line.total);
    }
    Ok(())
}

/// Stores files and returns their digests in order, with a bar for each.
pub(crate) async fn store(client: &Client, bars: &Bars, files: &[&SourceFile], link: bool) -> Outcome<Vec<String>> {
    let mut shown = None;
    let digests = client
        .store_files(files, link, &mut |index, state| {
            if !matches!(&shown, Some((known, phase, _)) if *known == index && *phase == state.phase) {
                let label = format!("{} {}", state.phase, files[index].name);
                shown = Some((index, state.phase, bars.bytes(&label, state.total_bytes)));
            }
            if let Some((_, _, bar)) = &shown {
                bar.set_position(state.done_bytes);
                if state.done_bytes == state.total_bytes {
                    bar.finish();
                }
            }
        })
        .await?;
    Ok(digests)
}

/// Stores one file and returns its digest.
pub(crate) async fn store_one(client: &Client, bars: &Bars, path: &Path) -> Outcome<String> {
    let file = SourceFile {
        name: file_name(path),
        path: path.to_owned(),
    };
    let digests = store(client, bars, &[&file], false).await?;
    Ok(digests.into_iter().next().unwrap_or_default())
}

/// Returns what a file is called, without its folders.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Says how the making of `name` ended. `from` is the model that it was made of, if it was one.
pub(crate) fn end(context: &Context, made: Outcome<Option<()>>, name: &str, from: Option<&str>) -> Outcome {
    match made {
        Ok(Some(())) => {
            output::note(&format!("created `{name}`; ask it with `witness run {name}`"));
            Ok(())
        }
        Ok(None) => Err(interrupted(format!("`{name}` was not created"))),
        Err(refusal) => Err(explain(context, from, refusal)),
    }
}

/// Adds to "no such model" what its name may have meant.
pub(crate) fn explain(context: &Context, from: Option<&str>, refusal: Diagnostic) -> Diagnostic {
    match from {
        Some(from) if refusal.code == MISSING => context.explain_missing(from, refusal),
        _ => refusal,
    }
}

/// What was ended by Ctrl-C.
pub(crate) fn interrupted(message: String) -> Diagnostic {
    Diagnostic::new("witness::cli::interrupted", Kind::Cancelled, message).hint("the store is as it was")
}
