//! The role `train`: what a run is asked for, what it would do, what it reports, what it leaves.
//!
//! A run works in one directory that is its own: everything it writes lies there, so that it can be stopped, killed and resumed. The
//! host stores what the last report names.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{AdapterSpec, FileRef, ModelSpec, TrainSettings};

/// Asks for a run, or for what it would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainRequest {
    /// The base; no files when [`TrainSettings::scratch`] makes one.
    pub model: ModelSpec,
    /// Adapter to go on from, in place of a fresh one. Its configuration holds where the settings say nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterSpec>,
    /// What the adapter's files name as their base.
    #[serde(default)]
    pub base_name: String,
    /// `sha256:<hex>` over the base's files, for what the run writes about itself.
    #[serde(default)]
    pub base_digest: String,
    /// Rows to learn from, in this order. Names are those that faults are told with.
    pub data: Vec<FileRef>,
    /// Rows to measure on; none = a share of `data` where the settings say so.
    #[serde(default)]
    pub validation: Vec<FileRef>,
    /// Chat template that takes the place of the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Everything else.
    #[serde(default)]
    pub settings: TrainSettings,
    /// Where the run keeps what it makes; absolute. Not read by `plan`.
    #[serde(default)]
    pub directory: PathBuf,
    /// Go on from the newest whole checkpoint in `directory`; without one, from the beginning.
    #[serde(default)]
    pub resume: bool,
    /// Seconds since 1970 at the start, for the files of trackers.
    #[serde(default)]
    pub started_at: f64,
    /// For `plan`: make a short trial to tell how long the run will take.
    #[serde(default)]
    pub trial: bool,
    /// For `plan`: show these rows (numbers from 0 over `data`) as the model is taught them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preview: Vec<u64>,
}

/// What a run would do and take.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainPlan {
    /// The settings as they will be, every default filled in.
    pub settings: TrainSettings,
    /// Architecture in GGUF's spelling.
    pub architecture: String,
    /// Weights of the model, adapter left out.
    pub n_weights: u64,
    /// Weights that are trained.
    pub n_trained: u64,
    /// Modules that are adapted.
    pub n_modules: u64,
    /// The rows to learn from.
    pub train: RowCounts,
    /// The rows to measure on.
    pub validation: RowCounts,
    /// Optimizer steps of the whole run.
    pub n_steps: u64,
    /// Optimizer steps of one epoch, rounded up.
    pub steps_per_epoch: u64,
    /// Tokens computed in the whole run.
    pub n_tokens: u64,
    /// Tokens that a step computes at most.
    pub step_tokens_max: u64,
    /// Bytes of memory that the run takes at most.
    pub memory_bytes: u64,
    /// Cheaper ways to nearly the same, cheapest last: for a person whose machine has less.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<TrainAlternative>,
    /// Seconds that it will take on this machine, from a short trial; nothing when none was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// What should be known before the first step: what the settings can never reach, leaks, cut rows.
    pub warnings: Vec<String>,
    /// The rows that [`TrainRequest::preview`] asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preview: Vec<PreviewRow>,
    /// SHA-256 of what the rows teach, `sha256:<hex>`.
    pub data_digest: String,
}

/// A change of settings that takes less memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainAlternative {
    /// In words and keys: `gradient_checkpointing: true`.
    pub change: String,
    /// Bytes that the run would take at most.
    pub memory_bytes: u64,
}

/// Counts of one part of the data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RowCounts {
    /// Rows used.
    pub n_rows: u64,
    /// Rows that cannot be used and were passed over.
    pub n_bad: u64,
    /// Rows without a token to learn, left out.
    pub n_without_target: u64,
    /// Rows longer than `sequence_len`, left out.
    pub n_dropped: u64,
    /// Rows longer than `sequence_len`, cut.
    pub n_truncated: u64,
    /// Tokens that cutting lost.
    pub n_tokens_lost: u64,
    /// Tokens of the rows used.
    pub n_tokens: u64,
    /// Tokens among them that are learned.
    pub n_targets: u64,
    /// Longest row used, tokens.
    pub tokens_max: u64,
    /// Lengths of the rows used in tokens, as bars `[first length, rows]` of equal width.
    pub histogram: Vec<[u64; 2]>,
}

/// One row as the model is taught it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PreviewRow {
    /// Its number in `data`.
    pub row: u64,
    /// Its file and line.
    pub place: String,
    /// Pieces of its text, each wholly learned or not.
    pub pieces: Vec<PreviewPiece>,
    /// Its tokens.
    pub n_tokens: u64,
    /// Why it is not used, when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
}

/// A piece of a row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PreviewPiece {
    /// Text, special tokens included.
    pub text: String,
    /// Ids of its tokens.
    pub ids: Vec<u32>,
    /// Whether the model is taught to say it.
    pub is_target: bool,
}

/// What a run reports while it goes. Each is one line of its log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TrainEvent {
    /// Before the first step.
    Started {
        /// What will be done.
        plan: Box<TrainPlan>,
        /// Steps that an earlier start made; 0 for a fresh run.
        resumed_from: u64,
    },
    /// Something that takes a while.
    Status {
        /// In words: `loading the base`.
        message: String,
    },
    /// Something to know.
    Warning {
        /// In words.
        message: String,
    },
    /// An optimizer step was made.
    Step {
        /// Steps made, this one included.
        step: u64,
        /// Epochs done.
        epoch: f64,
        /// Mean loss of the step's targets.
        loss: f64,
        /// Norm of the gradients before clipping.
        grad_norm: f64,
        /// Learning rate used.
        learning_rate: f64,
        /// Tokens computed.
        n_tokens: u64,
        /// Targets among them.
        n_targets: u64,
        /// Seconds it took.
        seconds: f64,
    },
    /// What Transformers would log: means since the last entry.
    Log {
        /// Steps made.
        step: u64,
        /// Epochs done.
        epoch: f64,
        /// Values by their name: `loss`, `grad_norm`, `learning_rate`.
        values: Map<String, Value>,
    },
    /// Part of an evaluation is done.
    Evaluating {
        /// Batches measured.
        done: u64,
        /// Batches in all.
        total: u64,
    },
    /// The validation rows were measured.
    Eval {
        /// Steps made.
        step: u64,
        /// Epochs done.
        epoch: f64,
        /// Loss as Transformers reckons `eval_loss`.
        loss: f64,
        /// Whether it is the best so far.
        is_best: bool,
        /// Seconds it took.
        seconds: f64,
    },
    /// A checkpoint is whole on disk.
    Checkpoint {
        /// Steps made.
        step: u64,
        /// Directory below the run's: `checkpoint-300`.
        directory: String,
        /// Files of it that make an adapter; none for full training.
        files: Vec<String>,
        /// Checkpoints that were removed because of the limit.
        removed: Vec<u64>,
        /// Whether it is the best so far.
        is_best: bool,
    },
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainReply {
    /// Why it ended.
    pub outcome: TrainOutcome,
    /// Steps made.
    pub steps: u64,
    /// What it made.
    pub product: TrainProduct,
    /// Directory below the run's with the product's files: `final`.
    pub directory: String,
    /// The files, by name inside that directory.
    pub files: Vec<String>,
    /// Mean of the step losses of the whole run.
    #[serde(default)]
    pub train_loss: f64,
    /// Last loss on the validation rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// Step of the checkpoint that the product was taken from, when it is not the last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_step: Option<u64>,
    /// Checkpoints that are there.
    #[serde(default)]
    pub checkpoints: Vec<u64>,
    /// What the host keeps beside the product in its manifest: base and data digests, settings, seed, versions.
    #[serde(default)]
    pub provenance: Map<String, Value>,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainOutcome {
    /// All steps were made.
    Finished,
    /// The loss on the validation rows stopped falling.
    EarlyStopped,
    /// It was asked to stop; a checkpoint was written.
    Stopped,
}

/// What a run makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainProduct {
    /// A PEFT directory.
    Adapter,
    /// A Hugging Face directory.
    Model,
}
