//! `witness create`: a Modelfile becomes a model. Files are found here and stored in the daemon, which does the rest.

use std::io::Read;
use std::path::Path;

use witness_client::{Client, Roots, SourceFile, Sources};
use witness_diagnostics::{Diagnostic, Kind};
use witness_modelfile::{FILE_BYTES_MAX, Plan};

use crate::cli::Create;
use crate::commands::following;
use crate::commands::train::{self, Order};
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::progress::Bars;

/// Makes a model. Ctrl-C leaves the store as it was: unfinished files are removed, and the name is given last.
pub(crate) fn create(context: &Context, arguments: &Create) -> Outcome {
    let mut plan = plan(&arguments.file)?;
    choose_type(arguments.quantize.as_deref(), &mut plan)?;
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
    // With a draft either may be the one that is missing; the daemon says which.
    let meant = sources.from.as_deref().filter(|_| sources.draft.is_none());
    following::end(context, made, &arguments.name, meant)
}

/// Puts the flag in place of the recipe's type.
fn choose_type(flag: Option<&str>, plan: &mut Plan) -> Outcome {
    let Some(flag) = flag else { return Ok(()) };
    if plan.training.is_some() {
        return Err(Diagnostic::new(
            "witness::cli::quantize",
            Kind::Unsupported,
            "a recipe that trains cannot quantize in the same step yet",
        )
        .hint("leave `--quantize` out, train first, then `witness quantize NAME TYPE`"));
    }
    if let Some(written) = &plan.quantize
        && !written.eq_ignore_ascii_case(flag)
    {
        output::note(&format!(
            "`--quantize {flag}` takes the place of the recipe's `QUANTIZE {written}`"
        ));
    }
    plan.quantize = Some(flag.to_owned());
    Ok(())
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
    let digests = following::store(client, bars, &files, arguments.link).await?;
    let mut request = sources.request(&arguments.name, plan, &digests);
    request.check = arguments.no_check.then_some(false);
    following::make(client, bars, &request).await
}
