//! Models and adapters as a plugin is handed them, and what it finds out about them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::PathBuf;

use crate::LoadOptions;

/// One immutable file of a model. The name is the one it had in its directory; the path is where it lies now (a blob).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// File name inside the model's directory, such as `model.safetensors`; `/`-separated, never absolute, no `..`.
    pub name: String,
    /// Absolute path to open.
    pub path: PathBuf,
    /// `sha256:<hex>` of the content; empty when not known.
    #[serde(default)]
    pub digest: String,
    /// Bytes.
    #[serde(default)]
    pub size: u64,
}

/// The files that make one base model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Weights, configuration and tokenizer files. One `.gguf` (or its split parts in order), or the files of a Hugging Face directory.
    pub files: Vec<FileRef>,
}

/// The files that make one adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterSpec {
    /// Name by which a request asks for it; unique within a loaded model.
    pub name: String,
    /// `adapter_config.json` and `adapter_model.safetensors`, or one GGUF LoRA file.
    pub files: Vec<FileRef>,
}

/// Asks what files hold. Runs in a worker of its own with limits on memory and time: the files are not trusted yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectRequest {
    /// The base.
    pub model: ModelSpec,
    /// Adapters to check against the base: names, shapes, variants. No weights are computed with.
    #[serde(default)]
    pub adapters: Vec<AdapterSpec>,
    /// A Jinja chat template that is to take the place of the model's own: to be refused if it cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// A model that is to guess for the base: to be refused if the two do not share a vocabulary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<ModelSpec>,
}

/// What an inspection found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InspectReply {
    /// The base.
    pub model: ModelInfo,
    /// The adapters, in the order asked.
    #[serde(default)]
    pub adapters: Vec<AdapterInfo>,
    /// The draft, when asked for; nothing from a plugin that knows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<ModelInfo>,
}

/// Facts about a base model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// `gguf` or `safetensors`.
    pub format: String,
    /// Architecture in GGUF's spelling: `llama`, `qwen2`.
    pub architecture: String,
    /// Name that the file gives itself, if any.
    #[serde(default)]
    pub name: String,
    /// Number of weights.
    pub parameter_count: u64,
    /// Storage of most weights in GGUF's names: `F32`, `F16`, `BF16`, `Q4_K_M`.
    pub quantization: String,
    /// Positions the model was made for.
    pub context_length: u64,
    /// Width of the residual stream.
    pub embedding_length: u64,
    /// Tokens in the vocabulary.
    pub vocab_size: u64,
    /// The model's own Jinja chat template, if it has one.
    #[serde(default)]
    pub chat_template: Option<String>,
    /// `completion`, `tools`, `thinking`, `embedding`, ... as Ollama names them.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Sampling defaults of the model's own `generation_config.json`, in Modelfile parameter names.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// Metadata in GGUF's keys (`general.architecture`, `llama.block_count`, ...), long arrays left out. For `/api/show`.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// What it will take to load.
    pub memory: MemoryEstimate,
}

/// Memory in bytes that a loaded model takes: `weights + overhead + kv_per_token * context * sequences`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryEstimate {
    /// Weights as this plugin holds them.
    pub weights_bytes: u64,
    /// Key and value cache of one position of one sequence, stored as the plugin sees fit.
    pub kv_bytes_per_token: u64,
    /// Numbers that these bytes hold, for a plugin that heeds [`crate::LoadOptions::kv_cache_type`]; else 0.
    #[serde(default)]
    pub kv_numbers_per_token: u64,
    /// Activations, tables, tokenizer.
    pub overhead_bytes: u64,
}

/// Facts about an adapter, checked against its base. Of a draft only name, format and bytes mean something.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AdapterInfo {
    /// Name as asked.
    pub name: String,
    /// `peft` or `gguf`; `draft`.
    pub format: String,
    /// Largest rank among its pairs.
    pub rank: u64,
    /// `lora_alpha`.
    pub alpha: f64,
    /// Module names that it changes (`q_proj`, ...), sorted.
    pub targets: Vec<String>,
    /// Number of low-rank pairs.
    pub pairs: u64,
    /// Bytes it takes when loaded; those of a draft count its keys and values too.
    pub bytes: u64,
}

/// Loads a base model. One model per worker is the rule, more is allowed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadRequest {
    /// The base.
    pub model: ModelSpec,
    /// Context, threads and the like.
    #[serde(default)]
    pub options: LoadOptions,
    /// Where keys and values of chats may be kept while the model is not loaded; nothing = nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chats: Option<ChatsFile>,
    /// Where what was made of the weights may be kept, so that it need not be made again; nothing = nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<PackedFile>,
}

/// A file for weights in the form in which they are computed with. It is the plugin's to write and to read; whoever names it may delete it at any time, and with it those of
/// other versions and what was left half-written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedFile {
    /// Path without its version: the plugin appends `.v` and the number of its layout, to a file on its way there also `.part`. The directory exists.
    pub stem: PathBuf,
    /// Bytes that it may take.
    pub bytes_max: u64,
}

/// A file for keys and values of chats. It is the plugin's to write and to read; whoever names it may delete it at any time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatsFile {
    /// Path; the directory exists.
    pub path: PathBuf,
    /// Bytes that it may take.
    pub bytes_max: u64,
}

/// Answer to a load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadReply {
    /// Facts about the model.
    pub info: ModelInfo,
    /// Bytes that it takes now: weights and caches.
    pub resident_bytes: u64,
    /// Context length in force, in tokens.
    pub num_ctx: u64,
}

/// Attaches an adapter to a loaded base without touching its weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadAdapterRequest {
    /// The adapter. Loading the same name and digests again does nothing.
    pub adapter: AdapterSpec,
    /// Run the base with and without it and report how much the logits differ.
    #[serde(default)]
    pub check: bool,
    /// The files are those of a whole model: a draft, which guesses for the sequences that name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<DraftOptions>,
}

/// How a draft is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftOptions {
    /// Bytes that its own keys and values may take; nothing = a full context for each sequence that may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_bytes: Option<u64>,
}

/// Answer to an adapter's load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadAdapterReply {
    /// Facts about it.
    pub info: AdapterInfo,
    /// The check, when asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<AdapterCheck>,
}

/// Proof that an adapter does something: the same tokens with and without it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterCheck {
    /// Largest absolute difference of a logit. Exactly 0 means that the adapter changes nothing.
    pub logit_difference_max: f64,
    /// Tokens that were run.
    pub tokens: u64,
}

/// Detaches an adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnloadAdapterRequest {
    /// Its name.
    pub name: String,
}
