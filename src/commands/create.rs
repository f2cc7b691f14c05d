//! `witness create`: a Modelfile becomes a model. Files are found here and stored in the daemon, which does the rest.

use std::io::Read;
use std::path::Path;

use indicatif::ProgressBar;
use witness_api::Progress;
use witness_client::{Client, Roots, SourceFile, Sources};
use witness_diagnostics::{Diagnostic, Kind};
use witness_modelfile::{FILE_BYTES_MAX, Plan};

use crate::cli::Create;
use crate::commands::train::{self, Order};
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::progress::Bars;

/// Makes a model. Ctrl-C leaves the store as it was: unfinished files are removed, and the name is given last.
pub(crate) fn create(context: &Context, arguments: &Create) -> Outcome {
    let plan = plan(&arguments.file)?;
    let directory = directory(&arguments.file)?;
    if let Some(training) = &plan.training {
        let file = arguments.file.display().to_string();
        let order = Order::of_modelfile(&arguments.name, &file, &directory, &plan, training)?;
        order.warn();
        return train::run(context, order, false, false);
    }
    let user_home = std::env::home_dir();
    let roots = Roots {
        directory: &directory,
        user_home: user_home.as_deref(),
    };
    let sources = Sources::find(&plan, roots)?;
    let client = context.daemon()?;
    let bars = Bars::new();
    let made = context.wait_or_interrupt(make(client, &bars, arguments, &plan, &sources));
    bars.clear();
    match made {
        Ok(Some(())) => {
            output::note(&format!("created `{}`; ask it with `witness run {0}`", arguments.name));
            Ok(())
        }
        Ok(None) => Err(Diagnostic::new(
            "witness::cli::interrupted",
            Kind::Cancelled,
            format!("`{}` was not created", arguments.name),
        )),
        Err(refusal) => match &sources.from {
            Some(from) if refusal.kind == Kind::NotFound => Err(context.explain_missing(from, refusal)),
            _ => Err(refusal),
        },
    }
}

fn plan(file: &Path) -> Outcome<Plan> {
    let (name, bytes) = if file == Path::new("-") {
        (
            "standard input".to_owned(),
            read(&mut std::io::stdin().lock(), "standard input")?,
        )
    } else {
        let name = file.display().to_string();
        let mut opened = std::fs::File::open(file).map_err(|error| cannot_read(&name, &error))?;
        let bytes = read(&mut opened, &name)?;
        (name, bytes)
    };
    Ok(witness_modelfile::parse_bytes(&name, &bytes)?.plan()?)
}

fn read(source: &mut dyn Read, name: &str) -> Outcome<Vec<u8>> {
    let mut bytes = Vec::new();
    source
        .take(FILE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| cannot_read(name, &error))?;
    Ok(bytes)
}

fn cannot_read(name: &str, error: &std::io::Error) -> Diagnostic {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => Kind::NotFound,
        _ => Kind::Environment,
    };
    Diagnostic::new("witness::cli::modelfile", kind, format!("`{name}` cannot be read"))
        .cause(error.to_string())
        .hint("name the recipe with `-f <Modelfile>`; `-f -` reads it from standard input")
}

/// Relative paths of a Modelfile start at its own directory; at the current one when it comes from standard input.
fn directory(file: &Path) -> Outcome<std::path::PathBuf> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    std::path::absolute(parent.unwrap_or(Path::new("."))).map_err(|error| {
        Diagnostic::new(
            "witness::cli::path",
            Kind::Environment,
            "the current directory cannot be told",
        )
        .cause(error.to_string())
        .hint("change to a directory that exists")
    })
}

pub(crate) async fn make(client: &Client, bars: &Bars, arguments: &Create, plan: &Plan, sources: &Sources) -> Outcome {
    let files: Vec<&SourceFile> = sources.files().collect();
    let digests = store(client, bars, &files, arguments.link).await?;
    let mut request = sources.request(&arguments.name, plan, &digests);
    request.check = arguments.no_check.then_some(false);
    let mut lines = client.stream::<Progress>("/api/create", &request).await?;
    let mut step: Option<(String, ProgressBar)> = None;
    while let Some(line) = lines.next().await? {
        if line.status.is_empty() || step.as_ref().is_some_and(|(status, _)| *status == line.status) {
            continue;
        }
        if let Some((_, bar)) = step.take() {
            bar.finish();
        }
        // Which layers were new is for the log; a person wants to know the step.
        let is_step = line.status != "success" && !line.status.contains(" layer ");
        if is_step {
            step = Some((line.status.clone(), bars.step(&line.status)));
        }
    }
    Ok(())
}

async fn store(client: &Client, bars: &Bars, files: &[&SourceFile], link: bool) -> Outcome<Vec<String>> {
    let mut shown: Option<(usize, &'static str, ProgressBar)> = None;
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
