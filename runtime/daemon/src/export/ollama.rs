//! A model in a store that Ollama opens: its layers under Ollama's media types, GGUF where it has another form, and nothing of ours in its configuration.
//!
//! ```text
//! base    a GGUF file as it is stored; else a plugin makes one (of a directory, of a split file, merged, quantized, with a template inside)
//! adapter as it is stored where it is GGUF; else a plugin makes that
//! texts   as they are stored, but a template only where it is one of Go's
//! draft   left out, and said: Ollama has none. What the model says is the same without it
//! ```
//! The target is a store like ours and is written as ours is: blobs first, each renamed into its place; the manifest last; blobs that are there already stay.
//! A kill leaves blobs that no manifest names, which Ollama removes at its next start.
//!
//! Source of what Ollama reads: `server/images.go` (`GetModel`), `server/create.go`, `manifest/` and `types/model/config.go` of its repository, as of 2026.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::{Map, Value, json};
use witness_api::{ExportProgress, ExportRequest, Progress};
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{
    AdapterSpec, FileRef, ModelForm, ModelInfo, ModelSpec, QuantizeOptions, TransformRequest,
};
use witness_registry::{Digest, ImportOptions, Layer, Manifest, OpenOptions, Registry, RegistryError, media};

use super::files::stored_template;
use super::{Lines, make};
use crate::app::App;
use crate::create::order::is_gguf;
use crate::models::config::ConfigBlob;
use crate::models::library::blocking;
use crate::models::stored::{Stored, read_json};
use crate::progress::CancelOnDrop;
use crate::reckon::lease_of;
use crate::reply::invalid;
use crate::template::is_go_layer;
use crate::transform::Made;
use crate::turn::choose_adapter;

/// Where Ollama keeps its store inside its own directory.
const MODELS: &str = "models";

/// What is told of a model that Ollama has no template for.
const NO_TEMPLATE: &str = "warning: the model has no Go template, and Ollama looks for one when it creates a model, not when it opens a store: until it has one, the words of a chat may come without their roles";

/// Says that a draft stays behind.
fn no_draft(draft: &AdapterSpec) -> String {
    format!(
        "warning: the draft `{}` is left out, for Ollama has none: the model says the same without it, in more time; `--to bundle` keeps it",
        draft.name
    )
}

/// A model that was asked for, and how its parts come to be.
pub(crate) struct Order {
    stored: Arc<Stored>,
    directory: PathBuf,
    force: bool,
    base: Part,
    adapter: Option<Part>,
    info: Arc<ModelInfo>,
    _lease: witness_registry::Lease,
}

/// A GGUF file of the model.
enum Part {
    /// Stored as it is needed.
    Stored(FileRef),
    /// To be made.
    Make(Box<TransformRequest>),
}

/// A GGUF file that is there.
enum Ready {
    Stored(FileRef),
    Made {
        path: PathBuf,
        /// The directory that it lies in, which goes away with this.
        _made: Made,
    },
}

impl Order {
    pub(super) async fn read(app: &Arc<App>, request: ExportRequest) -> Result<Self, Diagnostic> {
        let stored = app.library.stored(&request.model).await?;
        let adapter = adapter_of(&stored, &request)?;
        let lease = app.library.registry.lease(&stored.digests());
        let (directory, force) = (request.directory.clone(), request.force);
        let name = stored.name.clone();
        // Told before an hour of work and not after it; looked at again when the files are there.
        blocking(move || refuse_occupied(&directory, &name, force)).await?;
        let quantization = request.quantize.filter(|name| !name.is_empty());
        let merged = adapter.clone().filter(|_| request.merge);
        let template = stored_template(&stored);
        let is_changed = quantization.is_some() || merged.is_some() || template.is_some();
        let beside = adapter.filter(|_| !request.merge);
        let model = Arc::clone(&stored);
        let info = app.library.info(&stored).await?;
        let (base, adapter) = blocking(move || {
            let base = match model.base.files.as_slice() {
                [] => return Err(no_weights(&model)),
                [file] if !is_changed && is_gguf(file) => Part::Stored(file.clone()),
                _ => Part::Make(Box::new(TransformRequest {
                    quantization,
                    template,
                    ..transformation(&model, merged, ModelForm::Gguf)
                })),
            };
            let adapter = beside.map(|adapter| match adapter.files.as_slice() {
                [file] if is_gguf(file) => Part::Stored(file.clone()),
                _ => Part::Make(Box::new(transformation(&model, Some(adapter), ModelForm::GgufAdapter))),
            });
            Ok((base, adapter))
        })
        .await?;
        Ok(Self {
            stored,
            directory: request.directory,
            force,
            base,
            adapter,
            info,
            _lease: lease,
        })
    }
}

fn no_weights(stored: &Stored) -> Diagnostic {
    Diagnostic::new(
        "witness::daemon::no_weights",
        Kind::Unsupported,
        format!("model `{}` has no weights", stored.name),
    )
    .hint("it may be a remote or an image model of another program")
}

/// Ollama applies one adapter, always: which one must be said where there are several.
fn adapter_of(stored: &Stored, request: &ExportRequest) -> Result<Option<AdapterSpec>, Diagnostic> {
    let asked = request.adapter.as_deref().filter(|name| !name.is_empty());
    let names: Vec<&str> = stored.adapters.iter().map(|adapter| adapter.name.as_str()).collect();
    if asked.is_none() && names.len() > 1 {
        let message = format!(
            "Ollama takes one adapter, and model `{}` has {}",
            stored.name,
            names.len()
        );
        return Err(invalid("export_adapters_many", message)
            .hint(format!(
                "name one with `\"adapter\"` (`--adapter`): {}",
                names.join(", ")
            ))
            .hint("`\"adapter\": \"base\"` writes the base alone"));
    }
    let adapter = choose_adapter(stored, asked)?;
    if request.merge && adapter.is_none() {
        return Err(invalid("export_adapter", "there is no adapter to merge")
            .hint("leave `merge` out (`--merge`) for the base alone"));
    }
    Ok(adapter)
}

fn transformation(stored: &Stored, adapter: Option<AdapterSpec>, form: ModelForm) -> TransformRequest {
    TransformRequest {
        model: stored.base.clone(),
        adapter,
        model_name: stored.name.display_short(),
        form,
        quantization: None,
        options: QuantizeOptions::default(),
        template: None,
        directory: PathBuf::new(),
        num_thread: None,
    }
}

fn open(directory: &Path) -> Result<Registry, Diagnostic> {
    let registry = Registry::open(directory, &OpenOptions::new("an export to Ollama"))?;
    match registry.is_read_only() {
        false => Ok(registry),
        true => Err(Diagnostic::from(RegistryError::ReadOnly {
            path: directory.to_owned(),
        })
        .hint("export to a directory of your own, and let Ollama's user copy it, or set `OLLAMA_MODELS` to it")),
    }
}

/// A directory must be new, empty, or a store; a model of that name must not be there.
fn refuse_occupied(directory: &Path, name: &witness_registry::ModelName, force: bool) -> Result<(), Diagnostic> {
    let failed = |error: &io::Error| super::failed(directory, error);
    let mut there = match fs::read_dir(directory) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(&error)),
    };
    let is_store = |directory: &Path| directory.join("manifests").is_dir();
    if !is_store(directory) {
        if there.next().is_none() || force {
            return Ok(());
        }
        let refusal = Diagnostic::new(
            "witness::daemon::export_not_empty",
            Kind::Conflict,
            format!("`{}` is neither empty nor a store of models", directory.display()),
        );
        let inside = directory.join(MODELS);
        return Err(match is_store(&inside) {
            true => refusal.hint(format!("Ollama's store is `{}`", inside.display())),
            false => refusal,
        }
        .hint("name a directory that is new, empty, or Ollama's `models`, or say `\"force\": true` (`--force`)"));
    }
    match open(directory)?.manifest(name) {
        Err(RegistryError::NotFound { .. }) => Ok(()),
        _ if force => Ok(()),
        _ => Err(Diagnostic::new(
            "witness::daemon::export_name_taken",
            Kind::Conflict,
            format!(
                "there is a model `{}` in `{}`",
                name.display_short(),
                directory.display()
            ),
        )
        .hint("to replace it, say `\"force\": true` (`--force`); `witness cp` gives yours another name first")),
    }
}

pub(super) async fn run(app: Arc<App>, order: Order, lines: Lines) -> Result<ExportProgress, Diagnostic> {
    // Dropped with this task: a client who leaves ends the copy.
    let cancel = CancelOnDrop::default();
    let Order {
        stored,
        directory,
        force,
        base,
        adapter,
        info,
        _lease,
    } = order;
    let is_base_made = matches!(base, Part::Make(_));
    let base = ready(&app, base, &info, &lines).await?;
    let adapter = match adapter {
        Some(part) => {
            let made = ready(&app, part, &info, &lines).await;
            let way_out = |error: Diagnostic| error.hint("`--merge` puts an adapter of any kind into the weights");
            Some(made.map_err(way_out)?)
        }
        None => None,
    };
    let store = {
        let directory = directory.clone();
        blocking(move || open(&directory)).await?
    };
    let (model, target, source) = (Arc::clone(&stored), store.clone(), app.library.registry.clone());
    let (flag, teller) = (cancel.flag(), lines.clone());
    let (layers, leases) =
        blocking(move || write_layers(&source, &target, &model, (base, adapter), &teller, &flag)).await?;
    let info = match is_base_made {
        false => info,
        true => Arc::new(inspect(&app, &store, &layers).await?),
    };
    if !layers.iter().any(|layer| layer.media_type == media::TEMPLATE) {
        let _ = lines.send(Progress::status(NO_TEMPLATE).into()).await;
    }
    if let Some(draft) = &stored.draft {
        let _ = lines.send(Progress::status(no_draft(draft)).into()).await;
    }
    let _ = lines.send(Progress::status("writing manifest").into()).await;
    let source = app.library.registry.clone();
    let last = blocking(move || {
        let _leases = leases;
        refuse_again(&store, &stored, force)?;
        let config = config(&source, &stored, &info, &layers)?;
        let config = store.put_bytes(&config)?;
        let manifest = Manifest::new(Layer::of(media::CONFIG, &config), layers);
        store.write_manifest(&stored.name, &manifest)?;
        tracing::info!(model = %stored.name, directory = %directory.display(), "exported to Ollama");
        Ok::<_, Diagnostic>(ExportProgress {
            directory: Some(directory),
            files: vec![stored.name.display_short()],
            ..Progress::status("success").into()
        })
    })
    .await?;
    drop(cancel);
    Ok(last)
}

/// Has a part made, if it is not stored.
async fn ready(app: &Arc<App>, part: Part, info: &ModelInfo, lines: &Lines) -> Result<Ready, Diagnostic> {
    let request = match part {
        Part::Stored(file) => return Ok(Ready::Stored(file)),
        Part::Make(request) => request,
    };
    let made = make(app, *request, info, lines).await?;
    blocking(move || {
        let files = made.files()?;
        match files.as_slice() {
            [(_, path)] => Ok(Ready::Made {
                path: path.clone(),
                _made: made,
            }),
            files => Err(Diagnostic::new(
                "witness::daemon::plugin_reply",
                Kind::Plugin,
                format!(
                    "plugin `{}` made {} files where one was asked for",
                    made.plugin,
                    files.len()
                ),
            )),
        }
    })
    .await
}

/// A name that was free when the work began may not be so at its end.
fn refuse_again(store: &Registry, stored: &Stored, force: bool) -> Result<(), Diagnostic> {
    match store.manifest(&stored.name) {
        Err(RegistryError::NotFound { .. }) => Ok(()),
        _ if force => Ok(()),
        _ => Err(Diagnostic::new(
            "witness::daemon::export_name_taken",
            Kind::Conflict,
            format!("a model `{}` was made there meanwhile", stored.name.display_short()),
        )
        .hint("to replace it, say `\"force\": true` (`--force`)")),
    }
}

/// Copies what the target lacks. Returns the layers in Ollama's order, and what keeps them there.
fn write_layers(
    source: &Registry,
    target: &Registry,
    stored: &Stored,
    (base, adapter): (Ready, Option<Ready>),
    lines: &Lines,
    cancel: &AtomicBool,
) -> Result<(Vec<Layer>, Vec<witness_registry::Lease>), Diagnostic> {
    let texts: Vec<&Layer> = stored
        .manifest
        .layers
        .iter()
        .filter(|layer| is_taken(stored, layer))
        .collect();
    let bytes_of = |part: &Ready| match part {
        Ready::Stored(file) => file.size,
        Ready::Made { path, .. } => fs::metadata(path).map_or(0, |metadata| metadata.len()),
    };
    let parts = std::iter::once(&base).chain(&adapter).map(bytes_of);
    let total: u64 = parts.chain(texts.iter().map(|layer| layer.size)).sum();
    let mut before = 0;
    let (mut layers, mut leases) = (Vec::new(), Vec::new());
    let mut put = |media_type: &str, path: &Path, known: Option<(Digest, u64)>| -> Result<(), Diagnostic> {
        if let Some((digest, bytes)) = known {
            let lease = target.lease(&[digest]);
            if target.has_blob(&digest) == Some(bytes) {
                before += bytes;
                layers.push(Layer::new(media_type, digest, bytes));
                leases.push(lease);
                return Ok(());
            }
        }
        let mut report = |completed, _| {
            // A line that finds the queue full is one too many; the next says more.
            let _ = lines.try_send(ExportProgress {
                total,
                completed: before + completed,
                ..Progress::status("writing layers").into()
            });
        };
        let blob = target.import_file(
            path,
            ImportOptions {
                takes: known.is_none(),
                progress: Some(&mut report),
                cancel: Some(cancel),
                ..ImportOptions::default()
            },
        )?;
        if let Some((digest, _)) = known.filter(|(digest, _)| *digest != blob.digest) {
            return Err(Diagnostic::new(
                "witness::daemon::layer",
                Kind::Damaged,
                format!("a layer of model `{}` is damaged", stored.name),
            )
            .cause(format!("blob `{digest}` hashes to `{}`", blob.digest))
            .hint("run `witness fsck` to see what is damaged"));
        }
        before += blob.size;
        layers.push(Layer::of(media_type, &blob));
        leases.push(blob.lease);
        Ok(())
    };
    for (media_type, part) in [(media::MODEL, Some(&base)), (media::ADAPTER, adapter.as_ref())] {
        match part {
            None => {}
            Some(Ready::Made { path, .. }) => put(media_type, path, None)?,
            Some(Ready::Stored(file)) => {
                let digest = Digest::parse(&file.digest)?;
                put(media_type, &file.path, Some((digest, file.size)))?;
            }
        }
    }
    for layer in texts {
        let path = source.blob_path(&layer.digest);
        put(&layer.media_type, &path, Some((layer.digest, layer.size)))?;
    }
    Ok((layers, leases))
}

/// Tells the layers, beside weights and adapters, that Ollama has a use for.
fn is_taken(stored: &Stored, layer: &Layer) -> bool {
    match layer.media_type.as_str() {
        media::TEMPLATE | media::PROMPT => is_go_layer(stored.template.as_deref()),
        media::SYSTEM | media::PARAMS | media::MESSAGES | media::LICENSE | media::PROJECTOR => true,
        _ => false,
    }
}

/// Has a plugin look at weights that were just made, from where they are now.
async fn inspect(app: &Arc<App>, store: &Registry, layers: &[Layer]) -> Result<ModelInfo, Diagnostic> {
    let weights = layers.iter().filter(|layer| layer.media_type == media::MODEL);
    let files = weights.map(|layer| FileRef {
        name: "model.gguf".to_owned(),
        path: store.blob_path(&layer.digest),
        digest: layer.digest.as_str().to_owned(),
        size: layer.size,
    });
    let model = ModelSpec { files: files.collect() };
    let _lease = lease_of(app, &model.files);
    let (_, reply) = app.library.inspect(model, Vec::new(), None, None).await?;
    Ok(reply.model)
}

/// Returns Ollama's configuration of a model: what another program had put there (a renderer, a parser), and what is known of the weights.
fn config(source: &Registry, stored: &Stored, info: &ModelInfo, layers: &[Layer]) -> Result<Vec<u8>, Diagnostic> {
    let digests: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
    let ours = ConfigBlob {
        model_format: "gguf".to_owned(),
        witness: None,
        ..ConfigBlob::new(info, Default::default(), &digests)
    };
    let known: Map<String, Value> = read_json(source, &stored.name, &stored.manifest.config)?;
    let mut config: BTreeMap<String, Value> = known.into_iter().collect();
    config.remove("witness");
    if let Value::Object(ours) = json!(ours) {
        config.extend(ours);
    }
    serde_json::to_vec(&config).map_err(|error| {
        Diagnostic::new("witness::daemon::json", Kind::Internal, "the config cannot be written")
            .cause(error.to_string())
    })
}
