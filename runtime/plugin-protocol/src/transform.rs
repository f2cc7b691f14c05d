//! The role `quantize`: a model becomes another form of itself. What is asked for, what it would give, what is reported, what is left.
//!
//! One request names one way: `base -> [merge an adapter] -> [quantize] -> form`. A plugin works in one directory that is its own and leaves nothing there but whole
//! files; the host stores, or hands over, what the reply names.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{AdapterSpec, FileRef, ModelSpec};

/// Asks for a transformation, or for what it would give.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransformRequest {
    /// The base.
    pub model: ModelSpec,
    /// An adapter of it. Merged into it where `form` is a model's; changed by itself where `form` is an adapter's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterSpec>,
    /// What the base is called, for the files that name it.
    #[serde(default)]
    pub model_name: String,
    /// What is to come out.
    pub form: ModelForm,
    /// Storage of the weights by a name of llama.cpp's, in any case: `Q4_K_M`, `Q8_0`, `F16`, or `NF4` for a Hugging Face directory; nothing keeps what the source has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// How to quantize.
    #[serde(default)]
    pub options: QuantizeOptions,
    /// Chat template that is written in place of the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Where the files go; absolute, there, and empty. Not read by `plan`.
    #[serde(default)]
    pub directory: PathBuf,
    /// Threads; all processors where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_thread: Option<u32>,
}

/// A form of a model or of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelForm {
    /// One GGUF file.
    Gguf,
    /// A Hugging Face directory.
    Safetensors,
    /// A GGUF file of an adapter.
    GgufAdapter,
    /// A PEFT directory.
    Peft,
}

impl ModelForm {
    /// Returns the form of a model whose weights are stored by this name: NF4 is bitsandbytes' way with a Hugging Face directory, the other quantized types are GGUF's.
    pub fn of_quantization(name: &str) -> ModelForm {
        match name.trim().eq_ignore_ascii_case("nf4") {
            true => ModelForm::Safetensors,
            false => ModelForm::Gguf,
        }
    }

    /// Says whether it is the form of a whole model.
    pub fn is_model(self) -> bool {
        matches!(self, ModelForm::Gguf | ModelForm::Safetensors)
    }
}

/// How weights are quantized.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QuantizeOptions {
    /// Importance of the columns of each matrix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imatrix: Option<FileRef>,
    /// Types of tensors by a regular expression of their GGUF names; the first that fits holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tensor_types: Vec<TensorType>,
    /// Type of the output matrix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_type: Option<String>,
    /// Type of the embedding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding_type: Option<String>,
    /// One type for all matrices, whatever the name's mixture says.
    pub pure: bool,
    /// Quantize what is quantized already, with the loss of both.
    pub requantize: bool,
    /// Bytes after which a safetensors directory begins another file; 5 GB where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard_bytes: Option<u64>,
}

/// A type for the tensors whose names fit a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorType {
    /// Regular expression, to be found anywhere in a tensor's GGUF name.
    pub pattern: String,
    /// Type by GGUF's name.
    #[serde(rename = "type")]
    pub kind: String,
}

/// What a transformation would give.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TransformPlan {
    /// Architecture in GGUF's spelling.
    pub architecture: String,
    /// Storage of most weights now, and then.
    pub from: String,
    /// As `from`.
    pub to: String,
    /// Bytes of all tensors now.
    pub source_bytes: u64,
    /// Bytes of all tensors then.
    pub target_bytes: u64,
    /// Bits a weight then.
    pub bits_per_weight: f64,
    /// Memory that it takes at most.
    pub memory_bytes: u64,
    /// The tensors, in the order of the new file.
    pub tensors: Vec<PlannedTensor>,
    /// What should be known.
    pub warnings: Vec<String>,
}

/// A tensor before and after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlannedTensor {
    /// Name in the new form.
    pub name: String,
    /// Shape, row-major.
    pub shape: Vec<u64>,
    /// Type now, by GGUF's name.
    pub from: String,
    /// Type then.
    pub to: String,
    /// Bytes then.
    pub bytes: u64,
}

/// A report of a running transformation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TransformEvent {
    /// Work begins.
    Start {
        /// As in the plan.
        from: String,
        /// As in the plan.
        to: String,
        /// Bytes of source to go through.
        total_bytes: u64,
        /// Tensors.
        n_tensors: u64,
    },
    /// So much is done.
    Progress {
        /// The tensor that was finished last.
        tensor: String,
        /// Bytes of source gone through.
        completed_bytes: u64,
    },
    /// Something to know.
    Warning {
        /// What.
        message: String,
    },
}

/// What a transformation leaves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TransformReply {
    /// The files, by names inside the directory that was given, in the order of the model.
    pub files: Vec<String>,
    /// Storage of most weights.
    pub quantization: String,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Bits a weight.
    pub bits_per_weight: f64,
    /// Version of the plugin.
    pub plugin_version: String,
}
