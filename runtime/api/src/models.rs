//! The routes about stored and loaded models: tags, show, ps, copy, delete, version.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Message;
use crate::lenient::null_default;

/// Answer of `GET /api/tags`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ListResponse {
    /// Stored models, the newest first.
    #[serde(deserialize_with = "null_default")]
    pub models: Vec<ListModel>,
}

/// One stored model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListModel {
    /// Short name.
    pub name: String,
    /// The same.
    pub model: String,
    /// When its manifest was written, RFC 3339.
    pub modified_at: String,
    /// Bytes of its layers.
    pub size: u64,
    /// Digest of its manifest: 64 hex digits.
    pub digest: String,
    /// What it is.
    pub details: ModelDetails,
    /// Ours: why it cannot be used, when it is damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// Ours: names of its adapters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<String>,
}

/// What a model is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelDetails {
    /// Model it was made from.
    pub parent_model: String,
    /// `gguf` or `safetensors`.
    pub format: String,
    /// Architecture.
    pub family: String,
    /// Architectures of its parts.
    pub families: Option<Vec<String>>,
    /// `8.0B`, `260K`.
    pub parameter_size: String,
    /// `Q4_K_M`, `F32`.
    pub quantization_level: String,
}

/// Body of `POST /api/show`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShowRequest {
    /// Name of the model.
    #[serde(alias = "name", deserialize_with = "null_default")]
    pub model: String,
    /// Send long values of `model_info` too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verbose: Option<bool>,
}

/// Answer of `POST /api/show`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShowResponse {
    /// Licence texts.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub license: String,
    /// Modelfile that makes this model again.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub modelfile: String,
    /// Parameters, one `name value` a line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub parameters: String,
    /// Prompt template.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub template: String,
    /// System message.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system: String,
    /// What it is.
    pub details: ModelDetails,
    /// Messages that begin every conversation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// Metadata in GGUF's keys.
    #[serde(deserialize_with = "null_default")]
    pub model_info: Map<String, Value>,
    /// What it can do: `completion`, `tools`, ...
    #[serde(deserialize_with = "null_default")]
    pub capabilities: Vec<String>,
    /// When its manifest was written, RFC 3339.
    pub modified_at: String,
    /// Ours: adapters and notes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub witness: Option<ShowWitness>,
}

/// What Ollama's answer has no place for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShowWitness {
    /// Digest of the manifest.
    pub digest: String,
    /// Names of the adapters, in order; the first answers when a request names none.
    pub adapters: Vec<String>,
    /// Facts about the adapters, as the plugin found them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub adapter_info: Vec<Value>,
    /// The draft, a small model that guesses ahead: what it is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft: Option<String>,
    /// Facts about the draft, as the plugin found them.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub draft_info: Map<String, Value>,
    /// What a reader should know, such as a template or, while the model is loaded, a draft that is not used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Version of the program that the model needs at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requires: Option<String>,
    /// The training run that made it: its id as `run`, base and data digests, settings, seed, versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training: Option<Map<String, Value>>,
    /// Files of the base: name and digest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<(String, String)>,
}

/// Answer of `GET /api/ps`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessResponse {
    /// Loaded models.
    #[serde(deserialize_with = "null_default")]
    pub models: Vec<ProcessModel>,
}

/// One loaded model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessModel {
    /// Short name.
    pub name: String,
    /// The same.
    pub model: String,
    /// Bytes that it takes.
    pub size: u64,
    /// Digest of its manifest: 64 hex digits.
    pub digest: String,
    /// What it is.
    pub details: ModelDetails,
    /// When it will be unloaded, RFC 3339.
    pub expires_at: String,
    /// Bytes of `size` on a GPU.
    pub size_vram: u64,
    /// Context in tokens.
    pub context_length: u64,
    /// Ours: adapters that are loaded on it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<String>,
    /// Ours: drafts that are loaded beside it; `size` counts them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drafts: Vec<String>,
    /// Ours: what a person should know of it, such as a draft that is not used, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Ours: process that computes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_pid: Option<u32>,
    /// Ours: requests that run on it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<u64>,
}

/// Body of `POST /api/copy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CopyRequest {
    /// Model to copy.
    #[serde(deserialize_with = "null_default")]
    pub source: String,
    /// Name of the copy.
    #[serde(deserialize_with = "null_default")]
    pub destination: String,
}

/// Body of `DELETE /api/delete`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeleteRequest {
    /// Name of the model.
    #[serde(alias = "name", deserialize_with = "null_default")]
    pub model: String,
}

/// Answer of `GET /api/version`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionResponse {
    /// Semver.
    pub version: String,
}
