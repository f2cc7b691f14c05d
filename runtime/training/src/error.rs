//! What can go wrong in training. Converts to a [`Diagnostic`] at the edge.

use std::path::PathBuf;

use witness_diagnostics::{Diagnostic, Kind};
use witness_formats::FormatError;

/// Why a model could not be trained.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// A known variant that is not trained here.
    #[error("{what} cannot be trained")]
    Unsupported {
        /// The variant, with the value in backticks.
        what: String,
        /// What to do instead.
        hint: String,
    },
    /// A setting that makes no sense.
    #[error("`{key}` is {found}, expected {expected}")]
    Setting {
        /// Which.
        key: &'static str,
        /// Value seen.
        found: String,
        /// Value wanted.
        expected: String,
    },
    /// A tensor that the configuration calls for is not in the files.
    #[error("the weights lack tensor `{name}`")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A tensor's shape contradicts the configuration.
    #[error("tensor `{name}` has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Tensor.
        name: String,
        /// Shape in the file, row-major.
        found: Vec<usize>,
        /// Shape wanted, row-major.
        expected: Vec<usize>,
    },
    /// The adapter's configuration names no module of the model.
    #[error("`target_modules` ({targets}) names no module of the model")]
    NoTargets {
        /// As it was said.
        targets: String,
    },
    /// A token outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocab_size} tokens")]
    Token {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// A batch that cannot be computed.
    #[error("the batch is malformed: {0}")]
    Batch(String),
    /// A loss, gradient or weight is infinite or not a number.
    #[error("{what} is not finite at step {step}")]
    NotFinite {
        /// What.
        what: String,
        /// The optimizer step, from 0.
        step: u64,
    },
    /// A saved state belongs to another run.
    #[error("the saved state does not fit this run: {0}")]
    State(String),
    /// A file could not be written or read.
    #[error("`{}` could not be {verb}", path.display())]
    Io {
        /// Path.
        path: PathBuf,
        /// What was tried.
        verb: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The threads could not be started.
    #[error("the threads of training could not be started: {0}")]
    Threads(String),
    /// A file is malformed.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, TrainingError>;

impl TrainingError {
    /// Builds the error for a setting.
    pub(crate) fn setting(
        key: &'static str,
        found: impl std::fmt::Display,
        expected: impl std::fmt::Display,
    ) -> TrainingError {
        TrainingError::Setting {
            key,
            found: format!("`{found}`"),
            expected: expected.to_string(),
        }
    }

    /// Builds the error for a variant that is known but not trained.
    pub(crate) fn unsupported(what: impl std::fmt::Display, hint: impl std::fmt::Display) -> TrainingError {
        TrainingError::Unsupported {
            what: what.to_string(),
            hint: hint.to_string(),
        }
    }

    fn code_and_kind(&self) -> (&'static str, Kind) {
        match self {
            TrainingError::Unsupported { .. } => ("witness::training::unsupported", Kind::Unsupported),
            TrainingError::Setting { .. } => ("witness::training::bad_setting", Kind::Invalid),
            TrainingError::MissingTensor { .. } => ("witness::training::missing_tensor", Kind::Invalid),
            TrainingError::Shape { .. } => ("witness::training::bad_shape", Kind::Invalid),
            TrainingError::NoTargets { .. } => ("witness::training::no_targets", Kind::Invalid),
            TrainingError::Token { .. } => ("witness::training::bad_token", Kind::Invalid),
            TrainingError::Batch(_) => ("witness::training::bad_batch", Kind::Invalid),
            TrainingError::NotFinite { .. } => ("witness::training::not_finite", Kind::Invalid),
            TrainingError::State(_) => ("witness::training::state_misfit", Kind::Invalid),
            TrainingError::Io { .. } => ("witness::training::io", Kind::Environment),
            TrainingError::Threads(_) => ("witness::training::threads", Kind::Environment),
            TrainingError::Format(_) => ("witness::training::format", Kind::Invalid),
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            TrainingError::Unsupported { hint, .. } => return Some(hint.clone()),
            TrainingError::NoTargets { .. } => {
                "name some of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, or say `all-linear`"
            }
            TrainingError::MissingTensor { .. } | TrainingError::Shape { .. } => {
                "the files may be damaged or mixed from two models; fetch them again"
            }
            TrainingError::Token { .. } => "tokenize the data with the base model's own tokenizer",
            TrainingError::NotFinite { .. } => {
                "the weights before this step are kept; lower the learning rate, clip gradients (max_grad_norm 1.0), or check the base model's weights"
            }
            TrainingError::State(_) => "resume with the recipe and base that the checkpoint was made with",
            TrainingError::Io { .. } => "check that the directory exists, may be written and has room",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl From<TrainingError> for Diagnostic {
    fn from(error: TrainingError) -> Self {
        if let TrainingError::Format(error) = error {
            return error.into();
        }
        let (code, kind) = error.code_and_kind();
        let mut diagnostic = Diagnostic::new(code, kind, error.to_string());
        if let TrainingError::Io { source, .. } = &error {
            diagnostic = diagnostic.cause(source.to_string());
        }
        match error.hint() {
            Some(hint) => diagnostic.hint(hint),
            None => diagnostic,
        }
    }
}
