//! How good a model is (`/api/witness/measure`), which type suits a machine (`/api/witness/suggest`), how much its columns matter (`/api/witness/imatrix`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ErrorBody;
use crate::lenient::{is_zero, null_default};

/// The text that is measured on, and how it is cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeasuredText {
    /// `sha256:<hex>` of the uploaded text, UTF-8.
    pub text: String,
    /// Its name for messages.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub text_name: String,
    /// Tokens of a piece; 512 where nothing is said. Each piece is run by itself, and its second half is scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<u64>,
    /// Pieces at most; all of them where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunks: Option<u64>,
    /// Threads; all processors where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_thread: Option<u32>,
}

/// A model as it would answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeasuredModel {
    /// Name of the model.
    #[serde(alias = "name", deserialize_with = "null_default")]
    pub model: String,
    /// Adapter; nothing = the one that answers when a request names none, `base` = none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
}

/// Body of `POST /api/witness/measure`. Answers with lines ([`MeasureLine`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeasureRequest {
    /// The models. Of two or more the first is what the others are held against.
    pub models: Vec<MeasuredModel>,
    /// On what.
    #[serde(flatten)]
    pub text: MeasuredText,
}

/// Body of `POST /api/witness/suggest`. Answers with lines ([`MeasureLine`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SuggestRequest {
    /// Name of the model: what every type is held against.
    #[serde(alias = "name", deserialize_with = "null_default")]
    pub model: String,
    /// Types to try, by llama.cpp's names; a usual choice where nothing is said.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// Memory that the model may take when it is served; the daemon's own limit where nothing is said. Types that take more are not tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// `sha256:<hex>` of an uploaded importance matrix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imatrix: Option<String>,
    /// On what.
    #[serde(flatten)]
    pub text: MeasuredText,
}

/// Body of `POST /api/witness/imatrix` (unix socket only). Answers with lines ([`MeasureLine`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImatrixRequest {
    /// The model.
    #[serde(flatten)]
    pub model: MeasuredModel,
    /// On what.
    #[serde(flatten)]
    pub text: MeasuredText,
    /// File to write; absolute.
    pub file: PathBuf,
    /// `gguf`, or `dat` for llama.cpp's older form; by the end of the file's name where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<String>,
    /// Write over a file that is there.
    #[serde(deserialize_with = "null_default")]
    pub force: bool,
}

/// Body of `POST /api/witness/bench`. Answers with lines ([`MeasureLine`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BenchRequest {
    /// The model.
    #[serde(flatten)]
    pub model: MeasuredModel,
    /// What is timed.
    pub cases: Vec<SpeedCase>,
    /// How often; 5 where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeats: Option<u64>,
    /// Threads; all processors where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_thread: Option<u32>,
}

/// Something that is timed: the answers where some are generated, else the reading of the prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpeedCase {
    /// Tokens of each prompt.
    pub prompt: u64,
    /// Tokens of each answer; 0 = the prompt is timed.
    pub generate: u64,
    /// Sequences at once; 1 where nothing is said.
    #[serde(deserialize_with = "null_default")]
    pub parallel: u64,
    /// Adapters of random numbers, of rank 16 on q and v, that the sequences wear in turn; 0 = what the request names, if anything.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub adapters: u64,
}

/// A case and what was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpeedFound {
    /// The case.
    #[serde(flatten)]
    pub case: SpeedCase,
    /// Tokens a second of all sequences together, each time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tokens_per_second: Vec<f64>,
}

/// Resident memory of the process that computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessMemory {
    /// Most that was resident at a time.
    pub peak_bytes: u64,
    /// Resident memory of its own at the end.
    pub anonymous_bytes: u64,
    /// Resident pages of mapped files at the end.
    pub file_bytes: u64,
}

/// What a machine could do at most, with the threads and instructions that the model ran with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpeedLimits {
    /// Name of the instructions.
    pub isa: String,
    /// Threads.
    pub threads: u64,
    /// Bytes that are read from memory a second.
    pub read_bytes_per_second: f64,
    /// Operations a second of what products of prompts are made of, two for each weight and token.
    pub operations_per_second: f64,
    /// Weights that a token of a prompt is multiplied with.
    pub weights: u64,
}

/// A line of a measurement. The last one has `results`, or `failure`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeasureLine {
    /// What is being done; `success` on the last line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// Pieces of text in all.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    /// Pieces done.
    #[serde(skip_serializing_if = "is_zero")]
    pub completed: u64,
    /// Perplexity so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// Mean divergence so far, nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub divergence: Option<f64>,
    /// What was found, in the order of the request; of a suggestion the best first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<Measured>,
    /// Why it broke off, on a last line that is an error.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ErrorBody>,
}

/// What was found about one model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Measured {
    /// Its name; of a suggestion the name of the type.
    pub model: String,
    /// The adapter that was applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// Storage of most weights.
    pub quantization: String,
    /// Bytes of the model's files.
    pub size: u64,
    /// Memory that serving it takes, by estimate; of a suggestion only.
    #[serde(skip_serializing_if = "is_zero")]
    pub memory_bytes: u64,
    /// Pieces that were run.
    pub chunks: u64,
    /// Tokens that were scored.
    pub scored: u64,
    /// Perplexity, and its standard error.
    pub perplexity: f64,
    /// As `perplexity`.
    pub perplexity_error: f64,
    /// How far it is from the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// Matrices that were weighed; of an importance matrix only.
    #[serde(skip_serializing_if = "is_zero")]
    pub matrices: u64,
    /// Tokens a second.
    pub tokens_per_second: f64,
    /// What a bench found, in the order of its cases.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub speed: Vec<SpeedFound>,
    /// Bytes of weights that are read for each token; of a bench only.
    #[serde(skip_serializing_if = "is_zero")]
    pub weights_bytes: u64,
    /// What the machine could do at most; of a bench only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<SpeedLimits>,
    /// Memory that the cases of a bench took, with the model; where the system tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ProcessMemory>,
    /// Tokens in the vocabulary; of a bench only.
    #[serde(skip_serializing_if = "is_zero")]
    pub vocab_size: u64,
    /// The model's file where it is one; of a bench only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

/// How far a model's probabilities are from the reference's over the tokens that were scored. Divergences are Kullback and Leibler's, in nats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Divergence {
    /// Mean.
    pub mean: f64,
    /// Standard error of the mean.
    pub error: f64,
    /// Median.
    pub median: f64,
    /// Below which 99 % lie.
    pub p99: f64,
    /// Largest.
    pub max: f64,
    /// Share of places where both think the same token the likeliest.
    pub top_agreement: f64,
    /// Standard error of that share.
    pub top_agreement_error: f64,
    /// Perplexity over the reference's.
    pub perplexity_ratio: f64,
    /// Its standard error, of the pairs.
    pub perplexity_ratio_error: f64,
    /// Root mean square of the change in probability of the token that came.
    pub probability_change_rms: f64,
}
