//! Our own routes, under `/api/witness/`.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use witness_diagnostics::Diagnostic;

use crate::lenient::{is_zero, null_default};
use crate::{ErrorBody, ModelDetails};

/// Answer of `GET /api/witness/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusResponse {
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// How long it has run.
    pub uptime_ms: u64,
    /// Its home directory.
    pub home: PathBuf,
    /// Its store.
    pub models: PathBuf,
    /// Address that it listens on.
    pub host: String,
    /// Its unix socket.
    pub socket: PathBuf,
    /// Where it looks for plugins.
    pub plugin_directories: Vec<PathBuf>,
    /// Models in memory.
    pub loaded: Vec<LoadedModel>,
    /// Requests that wait.
    pub queued: u64,
    /// Requests that run.
    pub running: u64,
    /// Resident memory of the daemon itself.
    #[serde(skip_serializing_if = "is_zero")]
    pub resident_bytes: u64,
    /// Memory that loaded models may take together.
    pub memory_budget_bytes: u64,
    /// Disk that packed weights take beside the models' own files; only where it was asked for (`?disk`).
    #[serde(skip_serializing_if = "is_zero")]
    pub packed_bytes: u64,
}

/// A model in memory, for the status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadedModel {
    /// Short name that loaded it.
    pub model: String,
    /// Bytes that it takes.
    pub bytes: u64,
    /// Requests that run on it.
    pub running: u64,
    /// Process that computes it.
    pub worker_pid: u32,
    /// Plugin that computes it.
    pub plugin: String,
}

/// Answer of `GET /api/witness/plugins`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PluginsResponse {
    /// Every file that was looked at.
    #[serde(deserialize_with = "null_default")]
    pub plugins: Vec<PluginReport>,
    /// Directories that were searched.
    #[serde(default)]
    pub directories: Vec<PathBuf>,
}

/// Body of `POST /api/witness/plugins/check`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginCheckRequest {
    /// File to check.
    pub path: PathBuf,
}

/// One plugin file: its descriptor as the plugin wrote it, or why it was refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PluginReport {
    /// The file.
    pub path: PathBuf,
    /// `sha256:<hex>` of the file as it was opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// ABI version of its tables, `major.minor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abi: Option<String>,
    /// Purposes for which it died too often and is not started any more: `{purpose, deaths, last}`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set_aside: Vec<serde_json::Value>,
    /// Descriptor, when it was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<serde_json::Value>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Diagnostic>,
}

/// Body of `POST /api/witness/fsck`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FsckRequest {
    /// Move damaged blobs aside, remove stray files.
    #[serde(deserialize_with = "null_default")]
    pub repair: bool,
}

/// A line of `POST /api/witness/fsck`; the last one has `done`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FsckProgress {
    /// What is being done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// Bytes hashed.
    pub completed: u64,
    /// Bytes to hash.
    pub total: u64,
    /// Whether this is the report.
    pub done: bool,
    /// Blobs checked.
    pub blobs: u64,
    /// Models checked.
    pub models: u64,
    /// What was found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<FsckProblem>,
    /// Why it broke off.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ErrorBody>,
}

/// Something wrong in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FsckProblem {
    /// `manifest_unreadable`, `manifest_misplaced`, `blob_corrupt`, `blob_unreadable`, `blob_missing`, `blob_length`, `blob_old_name`,
    /// `orphan`, `stray_file`.
    pub problem: String,
    /// Whether a model may be unusable because of it.
    pub is_damage: bool,
    /// Digest, or else path, that it is about.
    pub object: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Models that it breaks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// What was seen.
    pub message: String,
    /// What was done about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repaired: Option<String>,
}

/// Body of `POST /api/witness/import` (unix socket only).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImportRequest {
    /// Absolute path of the file.
    pub path: PathBuf,
    /// Share the file's bytes (reflink or hard link) instead of copying them, where the file system can.
    #[serde(deserialize_with = "null_default")]
    pub link: bool,
}

/// A line of `POST /api/witness/import`; the last one has `digest`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImportProgress {
    /// What is being done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// Bytes done.
    pub completed: u64,
    /// Bytes in all.
    pub total: u64,
    /// `sha256:<hex>` of the stored blob, on the last line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Bytes of the stored blob, on the last line.
    #[serde(skip_serializing_if = "is_zero")]
    pub size: u64,
    /// Why it broke off.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ErrorBody>,
}

/// Body of `POST /api/witness/unload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnloadRequest {
    /// Name of the model.
    #[serde(alias = "name", deserialize_with = "null_default")]
    pub model: String,
}

/// Answer of `POST /api/witness/unload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnloadResponse {
    /// Whether it was loaded.
    pub unloaded: bool,
}

/// Body of `POST /api/witness/estimate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EstimateRequest {
    /// Name of the model.
    #[serde(alias = "name", deserialize_with = "null_default")]
    pub model: String,
    /// Context in tokens; nothing = what a request would get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_ctx: Option<u64>,
}

/// Answer of `POST /api/witness/estimate`: bytes that loading takes, and what there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EstimateResponse {
    /// Name as asked.
    pub model: String,
    /// What it is.
    pub details: ModelDetails,
    /// Context in tokens that was reckoned with.
    pub num_ctx: u64,
    /// Sequences that were reckoned with.
    pub num_parallel: u64,
    /// Weights.
    pub weights_bytes: u64,
    /// Keys and values of the whole context.
    pub kv_bytes: u64,
    /// Adapters.
    pub adapter_bytes: u64,
    /// The draft, with its own keys and values; 0 without one.
    pub draft_bytes: u64,
    /// Activations, tables, tokenizer.
    pub overhead_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
    /// Memory that loaded models may take together.
    pub budget_bytes: u64,
    /// Memory that loaded models take now.
    pub used_bytes: u64,
    /// Whether it fits, after idle models made room.
    pub fits: bool,
    /// Whether it is loaded already.
    pub is_loaded: bool,
}
