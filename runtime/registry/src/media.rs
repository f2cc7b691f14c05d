//! Media types of layers: Ollama's where it has one, `application/vnd.witness.*` where it lacks one, and the annotations on ours.

/// Weights, one GGUF file (several layers of this type are the parts of a split file, in order).
pub const MODEL: &str = "application/vnd.ollama.image.model";
/// A GGUF LoRA adapter.
pub const ADAPTER: &str = "application/vnd.ollama.image.adapter";
/// A multimodal projector.
pub const PROJECTOR: &str = "application/vnd.ollama.image.projector";
/// A prompt template.
pub const TEMPLATE: &str = "application/vnd.ollama.image.template";
/// A prompt template under its oldest name.
pub const PROMPT: &str = "application/vnd.ollama.image.prompt";
/// A system message.
pub const SYSTEM: &str = "application/vnd.ollama.image.system";
/// Parameters, a JSON object.
pub const PARAMS: &str = "application/vnd.ollama.image.params";
/// Messages, a JSON array.
pub const MESSAGES: &str = "application/vnd.ollama.image.messages";
/// A licence text.
pub const LICENSE: &str = "application/vnd.ollama.image.license";
/// The model's configuration, a JSON object.
pub const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// The manifest itself.
pub const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// One file of a model directory (config.json, *.safetensors, tokenizer.json ...); [`TITLE`] is its name in the directory.
pub const WITNESS_MODEL_FILE: &str = "application/vnd.witness.model.file";
/// One file of an adapter directory; [`TITLE`] is its name in the directory and [`ADAPTER_NAME`] says which adapter it belongs to.
pub const WITNESS_ADAPTER_FILE: &str = "application/vnd.witness.adapter.file";
/// One file of a draft, a small model that guesses tokens ahead of this one; [`TITLE`] is its name in its directory and [`DRAFT_NAME`] what the draft is called.
pub const WITNESS_DRAFT_FILE: &str = "application/vnd.witness.draft.file";

/// Annotation: the file name of a layer inside its directory.
pub const TITLE: &str = "org.opencontainers.image.title";
/// Annotation: the name of the adapter that a layer belongs to.
pub const ADAPTER_NAME: &str = "dev.witness.adapter";
/// Annotation: what the draft is called that a layer belongs to.
pub const DRAFT_NAME: &str = "dev.witness.draft";
