//! What leaves the store for the user's own directories: files for other programs, a model in one file, a store that Ollama opens.
//!
//! **Invariants:** nothing is written before all of it is there or being checked; a file is old or new, never half of one; the store is not changed.

mod bundle;
mod files;
mod ollama;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;
use witness_api::{ExportProgress, ExportRequest};
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{ModelInfo, TransformRequest};

use crate::app::App;
use crate::reply::invalid;
use crate::transform::{self, Made};

/// Where lines of progress go.
type Lines = mpsc::Sender<ExportProgress>;

/// Forms that are more than files of one kind, by their names on the wire.
const FORMS_OF_THEIR_OWN: [&str; 2] = [BUNDLE, OLLAMA];
const BUNDLE: &str = "bundle";
const OLLAMA: &str = "ollama";

/// An export that was checked.
pub(crate) enum Order {
    Files(files::Order),
    Bundle(bundle::Order),
    Ollama(Box<ollama::Order>),
}

impl Order {
    /// Checks a request whose paths are absolute.
    pub(crate) async fn read(app: &Arc<App>, request: ExportRequest) -> Result<Self, Diagnostic> {
        let is_bundle = request.form.as_deref() == Some(BUNDLE);
        if request.file.is_some() && !is_bundle {
            return Err(invalid("export_file", "only a bundle is written into one file")
                .hint("name a directory in `directory`, or say `\"form\": \"bundle\"`"));
        }
        if request.without_base && !is_bundle {
            return Err(
                invalid("export_without_base", "only a bundle is written without its base")
                    .hint("say `\"form\": \"bundle\"` (`--to bundle`), or leave `without_base` out"),
            );
        }
        match request.form.as_deref() {
            Some(BUNDLE) => bundle::Order::read(app, request).await.map(Order::Bundle),
            Some(OLLAMA) => ollama::Order::read(app, request)
                .await
                .map(|order| Order::Ollama(Box::new(order))),
            _ => files::Order::read(app, request).await.map(Order::Files),
        }
    }
}

/// Carries out an order. Returns the last line.
pub(crate) async fn run(app: Arc<App>, order: Order, lines: Lines) -> Result<ExportProgress, Diagnostic> {
    match order {
        Order::Files(order) => files::run(app, order, lines).await,
        Order::Bundle(order) => bundle::run(app, order, lines).await,
        Order::Ollama(order) => ollama::run(app, *order, lines).await,
    }
}

/// Has a plugin make the files, and passes on what it reports.
async fn make(
    app: &Arc<App>,
    request: TransformRequest,
    info: &ModelInfo,
    lines: &mpsc::Sender<ExportProgress>,
) -> Result<Made, Diagnostic> {
    transform::run_telling(app, request, info, lines, |line| Some(line.into())).await
}

/// What becomes of the files that are written.
#[derive(Clone, Copy)]
enum How {
    /// They stay where they are.
    Copy,
    /// They are nobody else's.
    Move,
}

fn failed(path: &Path, error: &io::Error) -> Diagnostic {
    Diagnostic::new(
        "witness::daemon::export_failed",
        Kind::Environment,
        format!("`{}` cannot be written", path.display()),
    )
    .cause(error.to_string())
}

/// Puts a file that is nobody else's in its place, and makes the folder where that is missing.
pub(crate) fn place_new(source: &Path, target: &Path) -> Result<(), Diagnostic> {
    let parent = target.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|error| failed(parent, &error))?;
    place(source, target, How::Move).map_err(|error| failed(target, &error))
}

/// Puts a file in place. Whoever reads the directory meanwhile finds a file old or new; a link that lies there is replaced and not followed.
fn place(source: &Path, target: &Path, how: How) -> io::Result<()> {
    // Within one file system nothing is copied. Across two, or where the move is refused, the copy says why.
    if matches!(how, How::Move) && fs::rename(source, target).is_ok() {
        return fs::File::open(target)?.sync_all();
    }
    let mut draft = target.to_owned().into_os_string();
    draft.push(".witness-part");
    let draft = Path::new(&draft);
    copy(source, draft)
        .and_then(|()| fs::rename(draft, target))
        .inspect_err(|_| drop(fs::remove_file(draft)))
}

/// Copies the bytes alone: a blob may not be written to, and the user's file may.
fn copy(source: &Path, target: &Path) -> io::Result<()> {
    let mut written = fs::File::create(target)?;
    io::copy(&mut fs::File::open(source)?, &mut written)?;
    written.sync_all()
}
