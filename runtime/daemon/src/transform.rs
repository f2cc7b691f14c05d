//! Another form of a model: a plugin makes it in a directory of the store, and what it made is moved in.
//!
//! Nothing that is half made is ever visible: files become blobs once the job has ended well, and a model is made of them by its manifest, which comes last. A reader
//! who leaves drops the job, whose worker and directory go with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use witness_api::Progress;
use witness_diagnostics::Diagnostic;
use witness_plugin_protocol::{FileRef, ModelInfo, TransformEvent, TransformReply, TransformRequest};
use witness_registry::{ImportOptions, Lease, Registry, WorkingDirectory};

use crate::app::{App, VERSION};
use crate::create::Lines;
use crate::create::order::check_file_name;
use crate::limits::{FILES_MAX, PROGRESS_LINES_MAX};
use crate::models::library::{blocking, shutting_down};
use crate::product;

/// Room that files need beside their tensors: metadata, a tokenizer, alignment.
const BESIDE_BYTES: u64 = 64 << 20;

/// What a plugin made, still in its directory.
pub(crate) struct Made {
    /// Removed with everything in it when dropped.
    pub(crate) directory: WorkingDirectory,
    pub(crate) reply: TransformReply,
    pub(crate) plugin: String,
}

/// Files that were moved into the store, and what keeps them there until a manifest names them.
pub(crate) struct Stored {
    pub(crate) files: Vec<FileRef>,
    pub(crate) leases: Vec<Lease>,
}

/// Has a plugin make another form. `request` names everything but the directory.
pub(crate) async fn run(
    app: &Arc<App>,
    mut request: TransformRequest,
    info: &ModelInfo,
    lines: &Lines,
) -> Result<Made, Diagnostic> {
    let (_, plan) = app.engine.plan_transform(&request, &info.architecture).await?;
    for warning in &plan.warnings {
        say(lines, Progress::status(format!("warning: {warning}"))).await;
    }
    let (registry, bytes) = (app.library.registry.clone(), plan.target_bytes);
    let directory = blocking(move || {
        let room = bytes.saturating_add(BESIDE_BYTES);
        registry.working_directory(room).map_err(Diagnostic::from)
    })
    .await?;
    request.directory = directory.path().to_owned();
    let status = match (plan.from == plan.to, request.adapter.is_some()) {
        (_, true) if request.form.is_model() => format!("merging into {} model as {}", plan.from, plan.to),
        (true, _) => format!("converting {} model", plan.from),
        (false, _) => format!("quantizing {} model to {}", plan.from, plan.to),
    };
    say(lines, Progress::status(status.clone())).await;
    let purpose = format!("making another form of {}", request.model_name);
    let mut job = app.engine.transform(&request, &info.architecture, &purpose).await?;
    let plugin = job.plugin();
    let mut total = plan.source_bytes;
    loop {
        let event = tokio::select! {
            event = job.next() => event,
            () = app.shutdown.cancelled() => return Err(shutting_down()),
        };
        let Some(event) = event else { break };
        match serde_json::from_value::<TransformEvent>(event) {
            Ok(TransformEvent::Start { total_bytes, .. }) => total = total_bytes,
            Ok(TransformEvent::Progress { completed_bytes, .. }) => {
                let line = Progress {
                    status: status.clone(),
                    total,
                    completed: completed_bytes.min(total),
                    ..Progress::default()
                };
                say(lines, line).await;
            }
            Ok(TransformEvent::Warning { message }) => {
                say(lines, Progress::status(format!("warning: {message}"))).await;
            }
            // Reports of a newer plugin that this version does not know.
            Err(_) => {}
        }
    }
    let reply = job.finish().await?;
    let reply: TransformReply = serde_json::from_value(reply).map_err(|error| no_files(&plugin, error.to_string()))?;
    if reply.files.is_empty() || reply.files.len() > FILES_MAX {
        return Err(no_files(&plugin, format!("it names {} files", reply.files.len())));
    }
    Ok(Made {
        directory,
        reply,
        plugin,
    })
}

/// As [`run`], with the reports handed on as lines of another kind; those for which `turned` gives none are dropped.
pub(crate) async fn run_telling<T>(
    app: &Arc<App>,
    request: TransformRequest,
    info: &ModelInfo,
    lines: &mpsc::Sender<T>,
    turned: impl Fn(Progress) -> Option<T>,
) -> Result<Made, Diagnostic> {
    let (teller, mut told) = mpsc::channel::<Progress>(PROGRESS_LINES_MAX);
    let work = run(app, request, info, &teller);
    tokio::pin!(work);
    // A reader who left does not stop a line from being written; that ends the whole task.
    loop {
        tokio::select! {
            biased;
            Some(line) = told.recv() => if let Some(line) = turned(line) {
                let _ = lines.send(line).await;
            },
            made = &mut work => {
                while let Ok(line) = told.try_recv() {
                    if let Some(line) = turned(line) {
                        let _ = lines.send(line).await;
                    }
                }
                return made;
            }
        }
    }
}

impl Made {
    /// Returns the files by their names, in the order of the model; each lies in the directory. Blocking.
    pub(crate) fn files(&self) -> Result<Vec<(String, PathBuf)>, Diagnostic> {
        let found = self.reply.files.iter().map(|name| {
            let path = inside(self.directory.path(), name).map_err(|cause| no_files(&self.plugin, cause))?;
            Ok((name.clone(), path))
        });
        found.collect()
    }

    /// Moves the files into the store. Blocking.
    pub(crate) fn store(&self, registry: &Registry) -> Result<Stored, Diagnostic> {
        let (mut files, mut leases) = (Vec::new(), Vec::new());
        for (name, path) in self.files()? {
            let options = ImportOptions {
                takes: true,
                ..ImportOptions::default()
            };
            let (file, lease) = product::store(registry, &name, &path, options)?;
            files.push(file);
            leases.push(lease);
        }
        Ok(Stored { files, leases })
    }

    /// Says how it was made, for the model that is made of it.
    pub(crate) fn account(&self, request: &TransformRequest) -> Map<String, Value> {
        let digests = |files: &[FileRef]| -> Vec<String> { files.iter().map(|file| file.digest.clone()).collect() };
        let mut account = Map::new();
        account.insert("from".into(), json!(request.model_name));
        account.insert("digests".into(), json!(digests(&request.model.files)));
        if let Some(adapter) = &request.adapter {
            let merged = json!({ "name": adapter.name, "digests": digests(&adapter.files) });
            account.insert("merged".into(), merged);
        }
        account.insert("quantization".into(), json!(self.reply.quantization));
        account.insert("bits_per_weight".into(), json!(self.reply.bits_per_weight));
        let mut options = json!(request.options);
        if let (Some(imatrix), Some(options)) = (&request.options.imatrix, options.as_object_mut()) {
            // Where it lay is nobody's business later; what it was is.
            options.insert(
                "imatrix".into(),
                json!({ "name": imatrix.name, "digest": imatrix.digest }),
            );
        }
        account.insert("options".into(), options);
        account.insert("plugin".into(), json!(self.plugin));
        account.insert("plugin_version".into(), json!(self.reply.plugin_version));
        account.insert("witness".into(), json!(VERSION));
        account
    }
}

async fn say(lines: &Lines, line: Progress) {
    let _ = lines.send(line).await;
}

/// Returns the path of a file, if it leads nowhere else.
fn inside(directory: &Path, name: &str) -> Result<PathBuf, String> {
    check_file_name(name, name).map_err(|error| error.to_string())?;
    let resolved = product::resolve_inside(directory, &directory.join(name));
    let resolved = resolved.map_err(|error| format!("`{name}`: {error}"))?;
    resolved.ok_or_else(|| format!("`{name}` leads out of its directory"))
}

fn no_files(plugin: &str, cause: String) -> Diagnostic {
    product::refuse(&format!("plugin `{plugin}`"), cause)
}
