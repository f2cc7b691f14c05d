//! A bundle becomes a model again. The registry holds the file against its own digests; here it is held against what `create` asks of a model.
//!
//! ```text
//! index and manifest -> name free? -> blobs into the store, each hashed -> texts and names checked -> inspected in a limited worker -> manifest, last
//! ```
//! Digests say that the bytes are those that were packed, and not by whom: a bundle comes from a stranger like any model file. So its files are inspected as those
//! of a create request are, and the facts in its configuration, by which memory is reckoned, are believed only where the plugin finds the same. Then the manifest
//! is published byte for byte and the model has the digest that it had; else the facts are those found, and the digest is another.
//! What an adapter does to its base was proven where it was made; loading the base for that again is left to the first request.
//!
//! **Invariants:** no name is given before all of this; a failure leaves only blobs that the collector takes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;
use witness_api::{Options, Progress, UnbundleProgress, UnbundleRequest};
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{AdapterInfo, FileRef, ModelSpec};
use witness_registry::bundle::{Bundle, Unpacked, Watch};
use witness_registry::{Digest, Layer, Manifest, ModelName, Registry, media};

use crate::app::{App, VERSION};
use crate::create::order::{check_adapter_name, check_file_name, files_many};
use crate::create::{NAME_TAKEN, draft_found};
use crate::limits::{ADAPTERS_MAX, FILES_MAX};
use crate::models::config::{ConfigBlob, WitnessConfig};
use crate::models::library::{blocking, parse_name};
use crate::models::stored::Stored;
use crate::progress::CancelOnDrop;
use crate::reply::invalid;
use crate::template::Template;

/// Where lines of progress go.
type Lines = mpsc::Sender<UnbundleProgress>;

/// A bundle whose index and manifest are sound, and the name that its model gets.
pub(crate) struct Order {
    bundle: Bundle,
    name: ModelName,
    force: bool,
}

impl Order {
    /// Checks a request whose path is absolute.
    pub(crate) async fn read(app: &Arc<App>, request: UnbundleRequest) -> Result<Self, Diagnostic> {
        let name = request.model.as_deref().filter(|name| !name.is_empty());
        let name = name.map(parse_name).transpose()?;
        let bundle = blocking(move || Bundle::open(&request.path)).await?;
        let order = Self {
            name: name.unwrap_or_else(|| bundle.name().clone()),
            bundle,
            force: request.force,
        };
        refuse_taken(app, &order.name, order.bundle.manifest_digest(), order.force).await?;
        Ok(order)
    }
}

/// A name must be nobody's, or that of the very same model.
async fn refuse_taken(app: &Arc<App>, name: &ModelName, digest: &Digest, force: bool) -> Result<(), Diagnostic> {
    if force {
        return Ok(());
    }
    match app.library.stored(&name.to_string()).await {
        Err(error) if error.kind == Kind::NotFound => Ok(()),
        Ok(stored) if stored.digest == *digest => Ok(()),
        _ => Err(Diagnostic::new(
            NAME_TAKEN,
            Kind::Conflict,
            format!("there is a model `{}` already", name.display_short()),
        )
        .hint("give the new one another name: `witness import FILE NAME`")
        .hint("or replace it with `\"force\": true` (`--force`)")),
    }
}

/// Carries out an order. Returns the last line.
pub(crate) async fn run(app: Arc<App>, order: Order, lines: Lines) -> Result<UnbundleProgress, Diagnostic> {
    // Dropped with this task: a client who leaves ends the copy.
    let cancel = CancelOnDrop::default();
    let Order { bundle, name, force } = order;
    let program = bundle.program().to_owned();
    let (registry, teller, flag) = (app.library.registry.clone(), lines.clone(), cancel.flag());
    let model = name.clone();
    let (unpacked, stored) = blocking(move || {
        let mut report = |completed, total| {
            // A line that finds the queue full is one too many; the next says more.
            let _ = teller.try_send(UnbundleProgress {
                total,
                completed,
                ..Progress::status("reading bundle").into()
            });
        };
        let watch = Watch {
            progress: Some(&mut report),
            cancel: Some(&flag),
        };
        let unpacked = bundle.unpack(&registry, watch)?;
        let (manifest, digest) = (unpacked.manifest.clone(), unpacked.manifest_digest());
        let stored = Stored::of_manifest(&registry, &model, manifest, digest, SystemTime::now());
        // What does not parse came like this: there is nothing here to repair.
        let stored = stored.map_err(|error| Diagnostic {
            hints: vec!["export the model again where it is, and check it there with `witness fsck`".to_owned()],
            ..error
        })?;
        check(&stored)?;
        Ok::<_, Diagnostic>((unpacked, stored))
    })
    .await?;
    let _ = lines.send(Progress::status("inspecting model").into()).await;
    let found = inspect(&app, &stored).await?;
    let is_as_claimed = found.is_none();
    if !is_as_claimed {
        let told =
            "warning: the bundle's facts about the model are not those that this version finds; they were replaced";
        let _ = lines.send(Progress::status(told).into()).await;
    }
    refuse_taken(&app, &name, &stored.digest, force).await?;
    let _ = lines.send(Progress::status("writing manifest").into()).await;
    let (registry, model) = (app.library.registry.clone(), name.clone());
    let (digest, named) = blocking(move || publish(&registry, &model, &unpacked, found)).await?;
    drop(cancel);
    app.library.named(&named);
    tracing::info!(model = %name, %digest, %program, is_as_claimed, "imported");
    Ok(UnbundleProgress {
        model: name.display_short(),
        digest: digest.as_str().to_owned(),
        ..Progress::status("success").into()
    })
}

/// Checks what a create request is checked for before any file is opened.
fn check(stored: &Stored) -> Result<(), Diagnostic> {
    if stored.base.files.is_empty() {
        return Err(Diagnostic::new(
            "witness::daemon::no_weights",
            Kind::Unsupported,
            "the bundle's model has no weights",
        )
        .hint("it may be a remote or an image model of another program"));
    }
    let of_adapters = stored.adapters.iter().map(|adapter| adapter.files.len()).sum::<usize>();
    let of_draft: &[FileRef] = stored.draft.as_ref().map_or(&[], |draft| &draft.files);
    for count in [stored.base.files.len(), of_adapters, of_draft.len()] {
        if count > FILES_MAX {
            return Err(files_many("a model", count));
        }
    }
    if stored.adapters.len() > ADAPTERS_MAX {
        return Err(invalid(
            "adapters_many",
            format!(
                "a model with {} adapters; at most {ADAPTERS_MAX} are taken",
                stored.adapters.len()
            ),
        ));
    }
    let of_adapters = stored.adapters.iter().flat_map(|adapter| &adapter.files);
    for file in stored.base.files.iter().chain(of_adapters).chain(of_draft) {
        check_file_name(&file.name, &file.name)?;
    }
    for adapter in &stored.adapters {
        check_adapter_name(&adapter.name)?;
    }
    if let Some(draft) = &stored.draft {
        // It is shown and logged like a file's.
        check_file_name(&draft.name, &draft.name)?;
    }
    Options::read(&stored.parameters)?;
    Ok(())
}

/// Has a plugin look at everything. Returns what is to be written in place of the configuration's facts where these are others.
async fn inspect(app: &Arc<App>, stored: &Stored) -> Result<Option<WitnessConfig>, Diagnostic> {
    let template = match Template::choose(stored.template.as_deref(), None) {
        Template::Jinja(text) => Some(text),
        Template::Own | Template::Plain => None,
    };
    let draft = stored.draft.as_ref().map(|draft| ModelSpec {
        files: draft.files.clone(),
    });
    let has_draft = draft.is_some();
    let (plugin, reply) = app
        .library
        .inspect(stored.base.clone(), stored.adapters.clone(), template, draft)
        .await?;
    if reply.adapters.len() != stored.adapters.len() || reply.model.architecture.is_empty() {
        return Err(Diagnostic::new(
            "witness::daemon::plugin_reply",
            Kind::Plugin,
            format!("plugin `{plugin}` did not report on all of the model"),
        ));
    }
    // The configuration of another program says nothing that memory is reckoned by.
    let Some(claimed) = &stored.config.witness else {
        return Ok(None);
    };
    let named = reply.adapters.into_iter().zip(&stored.adapters);
    let adapters: Vec<AdapterInfo> = named
        .map(|(info, spec)| AdapterInfo {
            name: spec.name.clone(),
            ..info
        })
        .collect();
    let draft = has_draft.then(|| draft_found(&plugin, reply.draft)).transpose()?;
    let found = WitnessConfig {
        info: Some(reply.model),
        adapters,
        draft,
        ..claimed.clone()
    };
    Ok((found != *claimed).then(|| WitnessConfig {
        version: VERSION.to_owned(),
        plugin,
        ..found
    }))
}

/// Names the model. Returns the manifest's digest, and the blobs that it names.
fn publish(
    registry: &Registry,
    name: &ModelName,
    unpacked: &Unpacked,
    found: Option<WitnessConfig>,
) -> Result<(Digest, BTreeSet<Digest>), Diagnostic> {
    let Some(witness) = found else {
        return Ok((unpacked.publish(registry, name)?, unpacked.manifest.digests()));
    };
    let info = witness.info.clone().unwrap_or_default();
    let layers = unpacked.manifest.layers.clone();
    let digests: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
    let config = serde_json::to_vec(&ConfigBlob::new(&info, witness, &digests)).map_err(|error| {
        Diagnostic::new("witness::daemon::json", Kind::Internal, "the config cannot be written")
            .cause(error.to_string())
    })?;
    let config = registry.put_bytes(&config)?;
    let manifest = Manifest::new(Layer::of(media::CONFIG, &config), layers);
    Ok((registry.write_manifest(name, &manifest)?, manifest.digests()))
}
