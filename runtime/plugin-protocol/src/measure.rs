//! The role `measure`: how well a model foretells a text, how far it is from another model, how much its columns matter, how fast it is.
//!
//! A text is tokenized whole and cut into pieces of `n_context` tokens, each of which begins anew, with the model's beginning token in place of its first where it
//! has one. The second half of a piece is scored: so does llama.cpp's `llama-perplexity`, and the numbers can be laid side by side.
//! One request is about one model. Two models are compared by two requests: the first leaves what it thought of each token in a file, the second is held against it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{AdapterSpec, FileRef, ModelSpec};

/// Asks for a measurement, or for what it would take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasureRequest {
    /// The base.
    pub model: ModelSpec,
    /// An adapter that is applied to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterSpec>,
    /// What the model is called, for messages.
    #[serde(default)]
    pub model_name: String,
    /// What is measured.
    pub task: MeasureTask,
    /// Threads; all processors where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_thread: Option<u32>,
}

/// A text, and how it is cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasuredText {
    /// The text: UTF-8.
    pub file: FileRef,
    /// Tokens of a piece.
    pub n_context: u64,
    /// Pieces at most; all of them where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_chunks: Option<u64>,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum MeasureTask {
    /// Perplexity.
    Perplexity {
        /// On what.
        text: MeasuredText,
    },
    /// The same, and the probabilities of all tokens at each place are left in a file.
    Reference {
        /// On what.
        text: MeasuredText,
        /// Where; absolute, not there yet.
        file: PathBuf,
    },
    /// The same, and how far the probabilities are from those in a file.
    Divergence {
        /// On what.
        text: MeasuredText,
        /// What `Reference` left, of the same text.
        file: PathBuf,
    },
    /// How much each column of each matrix matters.
    Importance {
        /// On what.
        text: MeasuredText,
        /// Where the matrix is put; absolute, not there yet.
        file: PathBuf,
        /// llama.cpp's older form in place of GGUF.
        #[serde(default)]
        is_dat: bool,
    },
    /// How fast it reads and answers.
    Speed {
        /// What is timed.
        cases: Vec<SpeedCase>,
        /// How often.
        n_repeats: u64,
    },
}

/// Something that is timed: the answers where some are generated, else the reading of the prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeedCase {
    /// Tokens of each prompt.
    pub n_prompt: u64,
    /// Tokens of each answer; 0 = the prompt is timed.
    pub n_generate: u64,
    /// Sequences at once.
    pub n_parallel: u64,
    /// Adapters of random numbers that the sequences wear, one after the other; 0 = what the request names, if anything.
    #[serde(default)]
    pub n_adapters: u64,
}

/// A case and what was found, one number each time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpeedFound {
    /// The case.
    #[serde(flatten)]
    pub case: SpeedCase,
    /// Tokens a second, of all sequences together.
    pub tokens_per_second: Vec<f64>,
}

/// Resident memory of a process, as Linux accounts for it: its most so far, and what is resident now by where it comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessMemory {
    /// Most that was resident at a time.
    pub peak_bytes: u64,
    /// Resident memory of the process's own.
    pub anonymous_bytes: u64,
    /// Resident pages of mapped files.
    pub file_bytes: u64,
}

impl ProcessMemory {
    /// Reads the text of `/proc/<pid>/status`; nothing where it is of a process that has ended, or does not say.
    pub fn from_status(text: &str) -> Option<ProcessMemory> {
        let bytes = |name: &str| -> Option<u64> {
            let value = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = value.split_whitespace().next()?.parse().ok()?;
            Some(kib.saturating_mul(1024))
        };
        Some(ProcessMemory {
            peak_bytes: bytes("VmHWM:")?,
            anonymous_bytes: bytes("RssAnon:").unwrap_or(0),
            file_bytes: bytes("RssFile:").unwrap_or(0),
        })
    }
}

/// What a measurement would take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeasurePlan {
    /// Tokens of the whole text.
    pub n_tokens: u64,
    /// Pieces that will be run.
    pub n_chunks: u64,
    /// Tokens of a piece.
    pub n_context: u64,
    /// Bytes of the file that `Reference` leaves.
    pub file_bytes: u64,
}

/// A report of a running measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MeasureEvent {
    /// The model is there.
    Start(MeasurePlan),
    /// A piece is done.
    Progress {
        /// Pieces done.
        n_chunks: u64,
        /// Perplexity so far.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        perplexity: Option<f64>,
        /// Mean divergence so far, nats.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        divergence: Option<f64>,
    },
    /// Something to know.
    Warning {
        /// What.
        message: String,
    },
}

/// What a measurement found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeasureReply {
    /// Pieces that were run.
    pub n_chunks: u64,
    /// Tokens that were scored; 0 for `Importance` and `Speed`.
    pub n_scored: u64,
    /// Perplexity: `exp` of the mean negative log-likelihood.
    pub perplexity: f64,
    /// Its standard error.
    pub perplexity_error: f64,
    /// How far the model is from the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// Matrices whose columns were weighed; 0 but for `Importance`.
    pub n_matrices: u64,
    /// Tokens run, the time of loading left out.
    pub n_tokens: u64,
    /// Seconds that they took.
    pub seconds: f64,
    /// What `Speed` found, in the order of its cases.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub speed: Vec<SpeedFound>,
    /// Bytes of weights that are read for each token; 0 but for `Speed`.
    pub weights_bytes: u64,
    /// What the machine could do at most; of `Speed` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<SpeedLimits>,
    /// Memory of the process behind the last case; of `Speed` only, where the system tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ProcessMemory>,
    /// Version of the plugin.
    pub plugin_version: String,
}

/// What a machine could do at most, with the threads and instructions that the model ran with: measured beside it, the best of several runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpeedLimits {
    /// Name of the instructions.
    pub isa: String,
    /// Threads.
    pub n_threads: u64,
    /// Bytes that are read from memory a second: the limit of answers.
    pub read_bytes_per_second: f64,
    /// Operations a second of what the prompts' products are made of, two for each weight and token: the limit of reading prompts.
    pub operations_per_second: f64,
    /// Weights that a token of a prompt is multiplied with.
    pub n_weights: u64,
}

/// How far a model's probabilities are from a reference's, over the tokens that were scored. Divergences are Kullback and Leibler's from the reference, in nats.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_process_is_read_from_its_status() {
        let text = "Name:\tworker\nVmHWM:\t    2048 kB\nRssAnon:\t 1024 kB\nRssFile:\t  512 kB\nThreads:\t2\n";
        let memory = ProcessMemory::from_status(text).unwrap();
        assert_eq!(
            (memory.peak_bytes, memory.anonymous_bytes, memory.file_bytes),
            (2 << 20, 1 << 20, 512 << 10)
        );
        // A process that has ended and waits to be asked for has no such lines.
        assert_eq!(ProcessMemory::from_status("Name:\tworker\nState:\tZ (zombie)\n"), None);
    }
}
