//! Files in a directory: what is stored in the form that is asked for is copied, everything else a plugin makes first.
//!
//! **Invariants:** nothing is written before all of it is there; a file in the directory is old or new, never half of one; the store is not changed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;
use witness_api::{ExportProgress, ExportRequest, Progress};
use witness_diagnostics::{Diagnostic, Kind, near_miss};
use witness_plugin_protocol::{AdapterSpec, FileRef, ModelForm, ModelInfo, QuantizeOptions, TransformRequest};
use witness_registry::Lease;

use super::{How, failed, make, place};
use crate::app::App;
use crate::create::order::{check_file_name, is_gguf};
use crate::models::library::blocking;
use crate::models::stored::Stored;
use crate::reckon::lease_of;
use crate::reply::invalid;
use crate::template::Template;
use crate::turn::{BASE, choose_adapter};

/// The forms by their names on the wire.
const FORMS: [(&str, ModelForm); 4] = [
    ("peft", ModelForm::Peft),
    ("gguf_adapter", ModelForm::GgufAdapter),
    ("safetensors", ModelForm::Safetensors),
    ("gguf", ModelForm::Gguf),
];

/// What makes a PEFT directory.
const PEFT: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// An export that was checked.
pub(crate) struct Order {
    model: String,
    directory: PathBuf,
    force: bool,
    work: Work,
    /// Keeps the files from the collector.
    lease: Lease,
}

enum Work {
    /// The files are stored as they are asked for.
    Copy(Vec<FileRef>),
    /// A plugin makes them.
    Make(Box<TransformRequest>, Arc<ModelInfo>),
}

impl Order {
    /// Checks a request whose directory is absolute.
    pub(crate) async fn read(app: &Arc<App>, request: ExportRequest) -> Result<Self, Diagnostic> {
        let form = form_of(&request)?;
        let stored = app.library.stored(&request.model).await?;
        let adapter = adapter_of(&stored, &request, form)?;
        let of_adapter = adapter.iter().flat_map(|adapter| &adapter.files);
        let files: Vec<FileRef> = stored.base.files.iter().chain(of_adapter).cloned().collect();
        let lease = lease_of(app, &files);
        let (directory, force) = (request.directory.clone(), request.force);
        // Told before an hour of work and not after it; looked at again when the files are there.
        blocking(move || refuse_occupied(&directory, force)).await?;
        let work = match form {
            None => Work::Copy(adapter.map_or_else(|| stored.base.files.clone(), |adapter| adapter.files)),
            Some(form) => work(app, &stored, adapter, form, request.quantize).await?,
        };
        Ok(Self {
            model: request.model,
            directory: request.directory,
            force,
            work,
            lease,
        })
    }
}

/// Carries out an order. Returns the last line.
pub(super) async fn run(
    app: Arc<App>,
    order: Order,
    lines: mpsc::Sender<ExportProgress>,
) -> Result<ExportProgress, Diagnostic> {
    let (files, made) = match order.work {
        Work::Copy(files) => (files.into_iter().map(|file| (file.name, file.path)).collect(), None),
        Work::Make(request, info) => {
            let made = make(&app, *request, &info, &lines).await?;
            blocking(move || Ok::<_, Diagnostic>((made.files()?, Some(made)))).await?
        }
    };
    let _ = lines.send(Progress::status("writing files").into()).await;
    let (directory, force, lease) = (order.directory, order.force, order.lease);
    let last = blocking(move || {
        let _lease = lease;
        let how = if made.is_some() { How::Move } else { How::Copy };
        write(&directory, &files, force, how)?;
        Ok::<_, Diagnostic>(ExportProgress {
            files: files.into_iter().map(|(name, _)| name).collect(),
            directory: Some(directory),
            ..Progress::status("success").into()
        })
    })
    .await?;
    let directory = last.directory.as_deref().unwrap_or(Path::new(""));
    tracing::info!(model = %order.model, directory = %directory.display(), "exported");
    Ok(last)
}

/// Reads the form, and refuses what does not go with it.
fn form_of(request: &ExportRequest) -> Result<Option<ModelForm>, Diagnostic> {
    let names = FORMS.map(|(name, _)| name).into_iter().chain(super::FORMS_OF_THEIR_OWN);
    let form = match request.form.as_deref().filter(|name| !name.is_empty()) {
        None => None,
        Some(asked) => {
            let known = FORMS.iter().find(|(name, _)| *name == asked);
            let Some((_, form)) = known else {
                let refusal = invalid("export_form", format!("there is no form `{}`", asked.escape_debug()));
                let refusal = match near_miss(asked, names.clone()) {
                    Some(near) => refusal.hint(format!("did you mean `{near}`?")),
                    None => refusal,
                };
                return Err(refusal.hint(format!(
                    "the forms are {}; without one the files are written as they are stored",
                    names.collect::<Vec<_>>().join(", ")
                )));
            };
            Some(*form)
        }
    };
    let quantizes = request.quantize.as_deref().is_some_and(|name| !name.is_empty());
    let is_model = form.is_some_and(ModelForm::is_model);
    if quantizes && !is_model {
        return Err(
            invalid("export_quantize", "only a whole model is brought to another storage")
                .hint("say `\"form\": \"gguf\"` (`--to gguf`) or `\"safetensors\"`, or leave `quantize` out"),
        );
    }
    if request.merge && !is_model {
        return Err(invalid("export_merge", "an adapter is merged into a whole model only")
            .hint("say `\"form\": \"safetensors\"` or `\"gguf\"` (`--to`), or leave `merge` out"));
    }
    let names_adapter = request
        .adapter
        .as_deref()
        .is_some_and(|name| !name.is_empty() && name != BASE);
    if is_model && names_adapter && !request.merge {
        return Err(invalid(
            "export_merge",
            "a whole model holds an adapter only when that is merged into it",
        )
        .hint("say `\"merge\": true` (`--merge`), or leave `adapter` out for the base alone"));
    }
    Ok(form)
}

/// Returns the adapter that is written, or merged; nothing where the base alone is wanted.
fn adapter_of(
    stored: &Stored,
    request: &ExportRequest,
    form: Option<ModelForm>,
) -> Result<Option<AdapterSpec>, Diagnostic> {
    if form.is_some_and(ModelForm::is_model) && !request.merge {
        return Ok(None);
    }
    let adapter = choose_adapter(stored, request.adapter.as_deref())?;
    let is_base = request.adapter.as_deref() == Some(BASE);
    match (&adapter, form) {
        (Some(_), _) => Ok(adapter),
        (None, None) if is_base => Ok(None),
        (None, Some(_)) if is_base => Err(invalid("export_adapter", format!("`{BASE}` is no adapter"))
            .hint("the base is written in the forms `safetensors` and `gguf`")),
        (None, _) => Err(
            invalid("export_adapter", format!("model `{}` has no adapter", stored.name)).hint(format!(
                "its own files are written with `\"adapter\": \"{BASE}\"`, or in the forms `safetensors` and `gguf`"
            )),
        ),
    }
}

/// Tells whether the files are there already, and what a plugin is to make where they are not.
async fn work(
    app: &Arc<App>,
    stored: &Arc<Stored>,
    adapter: Option<AdapterSpec>,
    form: ModelForm,
    quantize: Option<String>,
) -> Result<Work, Diagnostic> {
    let quantization = quantize.filter(|name| !name.is_empty());
    let template = stored_template(stored).filter(|_| form.is_model());
    let is_changed = quantization.is_some() || template.is_some() || (form.is_model() && adapter.is_some());
    if !is_changed {
        let files = adapter
            .as_ref()
            .map_or(&stored.base.files, |adapter| &adapter.files)
            .clone();
        let (is_ready, files) = blocking(move || Ok::<_, Diagnostic>((is_in_form(&files, form), files))).await?;
        if is_ready {
            return Ok(Work::Copy(files));
        }
    }
    let info = app.library.info(stored).await?;
    let request = TransformRequest {
        model: stored.base.clone(),
        adapter,
        model_name: stored.name.display_short(),
        form,
        quantization,
        options: QuantizeOptions::default(),
        template,
        directory: PathBuf::new(),
        num_thread: None,
    };
    Ok(Work::Make(Box::new(request), info))
}

/// Returns the chat template that was put in place of the one in the files: it belongs into the files that leave. Go templates mean nothing to other programs.
pub(super) fn stored_template(stored: &Stored) -> Option<String> {
    match Template::choose(stored.template.as_deref(), None) {
        Template::Jinja(text) => Some(text),
        Template::Own | Template::Plain => None,
    }
}

/// Tells a form by names and first bytes. Blocking.
fn is_in_form(files: &[FileRef], form: ModelForm) -> bool {
    let has = |name: &str| files.iter().any(|file| file.name == name);
    match form {
        ModelForm::Peft => PEFT.iter().all(|name| has(name)),
        ModelForm::Safetensors => has("config.json") && files.iter().any(|file| file.name.ends_with(".safetensors")),
        ModelForm::Gguf | ModelForm::GgufAdapter => !files.is_empty() && files.iter().all(is_gguf),
    }
}

fn refuse_occupied(directory: &Path, force: bool) -> Result<(), Diagnostic> {
    let mut there = match fs::read_dir(directory) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(directory, &error)),
    };
    if force || there.next().is_none() {
        return Ok(());
    }
    Err(Diagnostic::new(
        "witness::daemon::export_not_empty",
        Kind::Conflict,
        format!("`{}` is not empty", directory.display()),
    )
    .hint("name a directory that is new or empty, or say `\"force\": true` (`--force`)"))
}

/// Writes files, each under its name, into a directory that is new or empty, or whose files may be written over.
fn write(directory: &Path, files: &[(String, PathBuf)], force: bool, how: How) -> Result<(), Diagnostic> {
    refuse_occupied(directory, force)?;
    fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
    for (name, source) in files {
        // Names come out of a manifest, which another program may have written, or from a plugin.
        check_file_name(name, name)?;
        let target = directory.join(name);
        let parent = target.parent().unwrap_or(directory);
        fs::create_dir_all(parent).map_err(|error| failed(parent, &error))?;
        place(source, &target, how).map_err(|error| failed(&target, &error))?;
    }
    Ok(())
}
