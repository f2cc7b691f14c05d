//! A stored model, read from its manifest: files, texts, adapters. Blocking; called from the blocking pool.
//!
//! **Invariant:** nothing here opens a weight file. Only text layers and the config are read, each up to a limit.

use std::fs::File;
use std::io::Read;
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use witness_api::Message;
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{AdapterSpec, FileRef, ModelSpec};
use witness_registry::{Digest, Layer, Manifest, ModelName, Registry, media};

use super::config::ConfigBlob;
use crate::limits::TEXT_LAYER_BYTES_MAX;

/// Everything about a stored model but its weights.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) name: ModelName,
    /// Digest of the manifest: what Ollama calls the model's digest.
    pub(crate) digest: Digest,
    pub(crate) modified: SystemTime,
    pub(crate) manifest: Manifest,
    pub(crate) config: ConfigBlob,
    pub(crate) base: ModelSpec,
    /// Equal for models that share their base files, whatever else differs.
    pub(crate) base_key: String,
    pub(crate) adapters: Vec<AdapterSpec>,
    /// A small model that guesses for the base.
    pub(crate) draft: Option<AdapterSpec>,
    pub(crate) template: Option<String>,
    pub(crate) system: Option<String>,
    pub(crate) parameters: Map<String, Value>,
    pub(crate) messages: Vec<Message>,
    pub(crate) licenses: Vec<String>,
}

impl Stored {
    /// Reads a model.
    pub(crate) fn read(registry: &Registry, name: &ModelName) -> Result<Self, Diagnostic> {
        let stored = registry.manifest(name).map_err(Diagnostic::from)?;
        Self::of_manifest(registry, name, stored.manifest, stored.digest, stored.modified)
    }

    /// Reads a model whose manifest is known already: one that its name may not lead to any more.
    pub(crate) fn of_manifest(
        registry: &Registry,
        name: &ModelName,
        manifest: Manifest,
        digest: Digest,
        modified: SystemTime,
    ) -> Result<Self, Diagnostic> {
        // The collector must not take a layer between the manifest's reading and the layer's.
        let _lease = registry.lease(&manifest.digests().into_iter().collect::<Vec<_>>());
        let mut model = Self {
            name: name.clone(),
            digest,
            modified,
            config: read_json(registry, name, &manifest.config)?,
            base: ModelSpec { files: Vec::new() },
            base_key: String::new(),
            adapters: Vec::new(),
            draft: None,
            template: None,
            system: None,
            parameters: Map::new(),
            messages: Vec::new(),
            licenses: Vec::new(),
            manifest: Manifest::new(manifest.config.clone(), Vec::new()),
        };
        for layer in &manifest.layers {
            model.take_layer(registry, layer)?;
        }
        model.manifest = manifest;
        model.base_key = key_of(&model.base.files);
        Ok(model)
    }

    fn take_layer(&mut self, registry: &Registry, layer: &Layer) -> Result<(), Diagnostic> {
        let text = |name: &ModelName| read_text(registry, name, layer);
        match layer.media_type.as_str() {
            media::MODEL => {
                let default = if self.base.files.is_empty() {
                    "model.gguf".to_owned()
                } else {
                    format!("model-{}.gguf", self.base.files.len() + 1)
                };
                self.base.files.push(file_of(registry, layer, default));
            }
            media::WITNESS_MODEL_FILE => {
                self.base.files.push(file_of(registry, layer, layer.digest.file_name()));
            }
            media::ADAPTER => {
                let name = layer
                    .annotation(media::ADAPTER_NAME)
                    .map_or_else(|| free_name(&self.adapters), str::to_owned);
                self.adapters.push(AdapterSpec {
                    name,
                    files: vec![file_of(registry, layer, "adapter.gguf".into())],
                });
            }
            media::WITNESS_ADAPTER_FILE => {
                let name = layer
                    .annotation(media::ADAPTER_NAME)
                    .unwrap_or(ADAPTER_DEFAULT)
                    .to_owned();
                let file = file_of(registry, layer, layer.digest.file_name());
                match self.adapters.iter_mut().find(|adapter| adapter.name == name) {
                    Some(adapter) => adapter.files.push(file),
                    None => self.adapters.push(AdapterSpec {
                        name,
                        files: vec![file],
                    }),
                }
            }
            media::WITNESS_DRAFT_FILE => {
                let file = file_of(registry, layer, layer.digest.file_name());
                let draft = self.draft.get_or_insert_with(|| AdapterSpec {
                    name: layer.annotation(media::DRAFT_NAME).unwrap_or_default().to_owned(),
                    files: Vec::new(),
                });
                draft.files.push(file);
            }
            media::TEMPLATE | media::PROMPT => self.template = Some(text(&self.name)?),
            media::SYSTEM => self.system = Some(text(&self.name)?),
            media::PARAMS => self.parameters = read_json(registry, &self.name, layer)?,
            media::MESSAGES => self.messages = read_json(registry, &self.name, layer)?,
            media::LICENSE => self.licenses.push(text(&self.name)?),
            // Projectors and what others add: shown by fsck, not used.
            _ => {}
        }
        Ok(())
    }

    /// Returns every blob of the model.
    pub(crate) fn digests(&self) -> Vec<Digest> {
        self.manifest.all_layers().map(|layer| layer.digest).collect()
    }
}

/// Name of an adapter that nobody named.
pub(crate) const ADAPTER_DEFAULT: &str = "default";

/// Returns `default`, or `default-2` and so on when that is taken.
pub(crate) fn free_name(adapters: &[AdapterSpec]) -> String {
    let is_taken = |name: &str| adapters.iter().any(|adapter| adapter.name == name);
    if !is_taken(ADAPTER_DEFAULT) {
        return ADAPTER_DEFAULT.to_owned();
    }
    // One of the first `len + 1` names is free.
    (2..)
        .map(|n| format!("{ADAPTER_DEFAULT}-{n}"))
        .find(|name| !is_taken(name))
        .unwrap_or_default()
}

/// Returns one text that is equal for equal files under equal names.
pub(crate) fn key_of(files: &[FileRef]) -> String {
    let mut text = String::new();
    for file in files {
        text.push_str(&file.name);
        text.push('\0');
        text.push_str(&file.digest);
        text.push('\n');
    }
    Digest::of(text.as_bytes()).hex().to_owned()
}

fn file_of(registry: &Registry, layer: &Layer, default: String) -> FileRef {
    FileRef {
        name: layer.annotation(media::TITLE).map_or(default, str::to_owned),
        path: registry.blob_path(&layer.digest),
        digest: layer.digest.as_str().to_owned(),
        size: layer.size,
    }
}

fn read_bytes(registry: &Registry, name: &ModelName, layer: &Layer) -> Result<Vec<u8>, Diagnostic> {
    let damaged = |cause: String| {
        Diagnostic::new(
            "witness::daemon::layer",
            Kind::Damaged,
            format!("a layer of model `{name}` cannot be read"),
        )
        .cause(format!("blob `{}` ({}): {cause}", layer.digest, layer.media_type))
        .hint("run `witness fsck` to see what is damaged")
    };
    if layer.size > TEXT_LAYER_BYTES_MAX {
        return Err(damaged(format!(
            "{} bytes, more than the {TEXT_LAYER_BYTES_MAX} that a text may have",
            layer.size
        )));
    }
    let mut bytes = Vec::new();
    File::open(registry.blob_path(&layer.digest))
        .and_then(|file| file.take(TEXT_LAYER_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|error| damaged(error.to_string()))?;
    Ok(bytes)
}

fn read_text(registry: &Registry, name: &ModelName, layer: &Layer) -> Result<String, Diagnostic> {
    Ok(String::from_utf8_lossy(&read_bytes(registry, name, layer)?).into_owned())
}

pub(crate) fn read_json<T: DeserializeOwned>(
    registry: &Registry,
    name: &ModelName,
    layer: &Layer,
) -> Result<T, Diagnostic> {
    serde_json::from_slice(&read_bytes(registry, name, layer)?).map_err(|error| {
        Diagnostic::new(
            "witness::daemon::layer",
            Kind::Damaged,
            format!("a layer of model `{name}` does not parse"),
        )
        .cause(format!("blob `{}` ({}): {error}", layer.digest, layer.media_type))
        .hint("run `witness fsck` to see what is damaged")
    })
}
