//! A model in one file. What a bundle looks like is the registry's; which model goes into it is decided here.
//!
//! A model that leaves whole keeps its manifest byte for byte, and so its digest. One that leaves with a single adapter gets a manifest of its own, whose
//! configuration names that adapter alone; both are made in memory.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use witness_api::{ExportProgress, ExportRequest, Progress};
use witness_diagnostics::{Diagnostic, Kind};
use witness_registry::bundle::{PackOptions, Watch};
use witness_registry::{Digest, Layer, Lease, Manifest, media};

use super::Lines;
use crate::app::{App, VERSION};
use crate::limits::TEXT_LAYER_BYTES_MAX;
use crate::models::library::blocking;
use crate::models::stored::Stored;
use crate::progress::CancelOnDrop;
use crate::reply::invalid;
use crate::turn::{BASE, choose_adapter};

/// A bundle that was asked for.
pub(crate) struct Order {
    stored: Arc<Stored>,
    file: PathBuf,
    manifest: Vec<u8>,
    /// The configuration of a manifest that was made for this bundle.
    made: Vec<Vec<u8>>,
    without_base: bool,
    force: bool,
    _lease: Lease,
}

impl Order {
    pub(super) async fn read(app: &Arc<App>, request: ExportRequest) -> Result<Self, Diagnostic> {
        let Some(file) = request.file.filter(|file| file.file_name().is_some()) else {
            return Err(invalid("export_file", "the request names no `file` for the bundle")
                .hint("name the file that is written in `file`, such as `/mnt/usb/mine.witness.tar`"));
        };
        if request.merge || request.quantize.is_some_and(|name| !name.is_empty()) {
            return Err(invalid("export_bundle", "a bundle holds a model as it is stored")
                .hint("make the model first with `witness merge` or `witness quantize`, and export that"));
        }
        let stored = app.library.stored(&request.model).await?;
        let lease = app.library.registry.lease(&stored.digests());
        let registry = app.library.registry.clone();
        let model = Arc::clone(&stored);
        let (manifest, made) = blocking(move || {
            let bytes = registry.manifest_bytes(&model.name)?;
            if Digest::of(&bytes) != model.digest {
                return Err(Diagnostic::new(
                    "witness::daemon::export_changed",
                    Kind::Conflict,
                    format!("model `{}` was replaced while it was read", model.name),
                )
                .hint("export it again"));
            }
            match request.adapter.as_deref().filter(|name| !name.is_empty()) {
                None => Ok((bytes, Vec::new())),
                Some(name) => with_one_adapter(&registry, &model, bytes, name),
            }
        })
        .await?;
        Ok(Self {
            stored,
            file,
            manifest,
            made,
            without_base: request.without_base,
            force: request.force,
            _lease: lease,
        })
    }
}

/// Makes the manifest of a model that has one of its adapters alone, or none where the name is `base`; and its configuration.
fn with_one_adapter(
    registry: &witness_registry::Registry,
    stored: &Stored,
    bytes: Vec<u8>,
    name: &str,
) -> Result<(Vec<u8>, Vec<Vec<u8>>), Diagnostic> {
    let kept = choose_adapter(stored, Some(name))?;
    let is_all = match name {
        BASE => stored.adapters.is_empty(),
        _ => stored.adapters.len() == 1,
    };
    if is_all {
        return Ok((bytes, Vec::new()));
    }
    let is_kept = |layer: &Layer| {
        let Some(kept) = &kept else { return false };
        // An adapter that another program stored has no name of its own in its layer.
        let named = layer.annotation(media::ADAPTER_NAME);
        named.is_none_or(|named| named == kept.name)
            && kept.files.iter().any(|file| file.digest == layer.digest.as_str())
    };
    let mut manifest = stored.manifest.clone();
    manifest.layers.retain_mut(|layer| {
        if ![media::ADAPTER, media::WITNESS_ADAPTER_FILE].contains(&layer.media_type.as_str()) {
            return true;
        }
        let is_kept = is_kept(layer);
        if let Some(kept) = &kept {
            layer
                .annotations
                .insert(media::ADAPTER_NAME.to_owned(), kept.name.clone());
        }
        is_kept
    });
    let config = registry.read_blob(&manifest.config.digest, TEXT_LAYER_BYTES_MAX)?;
    let config = narrowed(&config, &manifest, name).map_err(|error| {
        Diagnostic::new(
            "witness::daemon::layer",
            Kind::Damaged,
            format!("the configuration of model `{}` does not parse", stored.name),
        )
        .cause(error.to_string())
        .hint("run `witness fsck` to see what is damaged")
    })?;
    manifest.config = Layer::new(&manifest.config.media_type, Digest::of(&config), config.len() as u64);
    let bytes = serde_json::to_vec(&manifest).map_err(|error| {
        Diagnostic::new(
            "witness::daemon::json",
            Kind::Internal,
            "the manifest cannot be written",
        )
        .cause(error.to_string())
    })?;
    Ok((bytes, vec![config]))
}

/// Returns a configuration that knows of one adapter, with all else that it says.
fn narrowed(config: &[u8], manifest: &Manifest, adapter: &str) -> serde_json::Result<Vec<u8>> {
    let mut config: Value = serde_json::from_slice(config)?;
    if let Some(Value::Array(adapters)) = config.pointer_mut("/witness/adapters") {
        adapters.retain(|known| known["name"] == adapter);
    }
    if let Some(layers) = config.pointer_mut("/rootfs/diff_ids") {
        *layers = manifest.layers.iter().map(|layer| layer.digest.as_str()).collect();
    }
    serde_json::to_vec(&config)
}

pub(super) async fn run(app: Arc<App>, order: Order, lines: Lines) -> Result<ExportProgress, Diagnostic> {
    // Dropped with this task: a client who leaves ends the copy, which removes what it had written.
    let cancel = CancelOnDrop::default();
    let flag = cancel.flag();
    let registry = app.library.registry.clone();
    let last = blocking(move || {
        let mut report = |completed, total| {
            // A line that finds the queue full is one too many; the next says more.
            let _ = lines.try_send(told(completed, total));
        };
        let witness = order.stored.config.witness.as_ref();
        let parent = witness
            .map(|witness| witness.parent.clone())
            .filter(|name| !name.is_empty());
        let base_name = parent.unwrap_or_else(|| order.stored.name.display_short());
        let program = format!("witness {VERSION}");
        let options = PackOptions {
            name: &order.stored.name,
            program: &program,
            without_base: order.without_base.then_some(base_name.as_str()),
            made: &order.made,
            replace: order.force,
        };
        let watch = Watch {
            progress: Some(&mut report),
            cancel: Some(&flag),
        };
        let bytes = registry.pack(&order.manifest, &order.file, &options, watch)?;
        tracing::info!(model = %order.stored.name, file = %order.file.display(), bytes, "bundled");
        let name = order.file.file_name().unwrap_or_default();
        Ok::<_, Diagnostic>(ExportProgress {
            directory: order.file.parent().map(std::path::Path::to_owned),
            files: vec![name.to_string_lossy().into_owned()],
            total: bytes,
            completed: bytes,
            ..Progress::status("success").into()
        })
    })
    .await?;
    drop(cancel);
    Ok(last)
}

fn told(completed: u64, total: u64) -> ExportProgress {
    ExportProgress {
        total,
        completed,
        ..Progress::status("writing bundle").into()
    }
}
