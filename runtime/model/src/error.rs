//! What can be wrong with a model, an adapter or a batch. Converts to a [`Diagnostic`] at the edge; knows no file offsets
//! (those are `formats`' errors, kept as sources).

use witness_diagnostics::{Diagnostic, Kind};
use witness_formats::FormatError;
use witness_kernels::KernelError;

/// Why a model could not be built or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The family is not one of [`crate::FAMILIES`].
    #[error("architecture `{found}` is not one that this graph computes")]
    UnknownArchitecture {
        /// As the file names it.
        found: String,
    },
    /// A value of the configuration is missing, out of its limits or contradicts another.
    #[error("`{key}` in the model's configuration is {found}, expected {expected}")]
    Config {
        /// Key, as the file spells it.
        key: String,
        /// Value seen.
        found: String,
        /// Value wanted.
        expected: String,
    },
    /// A known variant that cannot be computed exactly here.
    #[error("{what} is not supported")]
    Unsupported {
        /// The variant, with the value in backticks.
        what: String,
        /// What to do instead.
        hint: String,
    },
    /// Tensors that the configuration calls for are not in the files.
    #[error("the weights lack {count} tensor(s) that the configuration calls for, first `{first}`")]
    MissingTensors {
        /// How many.
        count: usize,
        /// The first of them.
        first: String,
    },
    /// Tensors in the files that the graph has no place for. Ignoring one would change what the model says.
    #[error("the weights hold {count} tensor(s) that architecture `{architecture}` has no place for, first `{first}`")]
    UnknownTensors {
        /// How many.
        count: usize,
        /// The first of them.
        first: String,
        /// The family.
        architecture: String,
    },
    /// A tensor's shape contradicts the configuration.
    #[error("tensor `{name}` has shape {found:?}, the configuration calls for {expected:?}")]
    Shape {
        /// Tensor.
        name: String,
        /// Shape in the file, row-major.
        found: Vec<usize>,
        /// Shape wanted, row-major.
        expected: Vec<usize>,
    },
    /// A tensor's bytes do not make up its shape, or hold values no trained weight has.
    #[error("tensor `{name}` is damaged: {detail}")]
    Damaged {
        /// Tensor.
        name: String,
        /// What is wrong.
        detail: String,
    },
    /// A tensor is stored in a way that cannot be computed with.
    #[error("tensor `{name}` is stored as `{found}`, which cannot be computed with here")]
    Storage {
        /// Tensor.
        name: String,
        /// Storage type in the file's words.
        found: String,
    },
    /// An adapter does not fit its base.
    #[error("the adapter's `{module}` does not fit the base: the adapter has {adapter}, the base has {base}")]
    AdapterMisfit {
        /// Module as the adapter names it.
        module: String,
        /// The adapter's side.
        adapter: String,
        /// The base's side.
        base: String,
    },
    /// An adapter without a single delta.
    #[error("the adapter holds no weights that apply to this base")]
    AdapterEmpty,
    /// A token outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocab_size} tokens")]
    Token {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// A sequence would outgrow its cache.
    #[error("{wanted} positions do not fit the context of {capacity}")]
    ContextFull {
        /// Positions wanted.
        wanted: usize,
        /// Positions there are.
        capacity: usize,
    },
    /// All pages of the pool are held.
    #[error("all {max} pages of keys and values are in use")]
    NoPages {
        /// Pages of the pool.
        max: usize,
    },
    /// A batch that makes no sense: no tokens, more logits than tokens.
    #[error("the batch is malformed: {0}")]
    Batch(&'static str),
    /// A file could not be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The system starts no more threads.
    #[error("the threads to compute with cannot be started: {0}")]
    Threads(String),
    /// The kernels refused weights or a product.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, ModelError>;

impl ModelError {
    /// Builds the error for a configuration value.
    pub(crate) fn config(key: impl Into<String>, found: impl std::fmt::Display, expected: impl Into<String>) -> Self {
        ModelError::Config {
            key: key.into(),
            found: format!("`{found}`"),
            expected: expected.into(),
        }
    }

    /// Builds the error for a variant that is known but not computed.
    pub(crate) fn unsupported(what: impl Into<String>, hint: impl Into<String>) -> Self {
        ModelError::Unsupported {
            what: what.into(),
            hint: hint.into(),
        }
    }

    fn code_and_kind(&self) -> (&'static str, Kind) {
        match self {
            ModelError::UnknownArchitecture { .. } => ("witness::model::unknown_architecture", Kind::Unsupported),
            ModelError::Config { .. } => ("witness::model::bad_config", Kind::Invalid),
            ModelError::Unsupported { .. } => ("witness::model::unsupported", Kind::Unsupported),
            ModelError::MissingTensors { .. } => ("witness::model::missing_tensors", Kind::Invalid),
            ModelError::UnknownTensors { .. } => ("witness::model::unknown_tensors", Kind::Unsupported),
            ModelError::Shape { .. } => ("witness::model::bad_shape", Kind::Invalid),
            ModelError::Damaged { .. } => ("witness::model::damaged_tensor", Kind::Invalid),
            ModelError::Storage { .. } => ("witness::model::storage_type", Kind::Unsupported),
            ModelError::AdapterMisfit { .. } => ("witness::model::adapter_misfit", Kind::Invalid),
            ModelError::AdapterEmpty => ("witness::model::adapter_empty", Kind::Invalid),
            ModelError::Token { .. } => ("witness::model::bad_token", Kind::Invalid),
            ModelError::ContextFull { .. } => ("witness::model::context_full", Kind::Invalid),
            ModelError::NoPages { .. } => ("witness::model::no_pages", Kind::Busy),
            ModelError::Batch(_) => ("witness::model::bad_batch", Kind::Internal),
            ModelError::Threads(_) => ("witness::model::threads", Kind::Environment),
            ModelError::Format(_) | ModelError::Kernel(_) => ("witness::model::compute", Kind::Internal),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ModelError::UnknownArchitecture { .. } => Some(format!(
                "this graph computes {}",
                crate::config::family_names().join(", ")
            )),
            ModelError::Unsupported { hint, .. } => Some(hint.clone()),
            ModelError::MissingTensors { .. } => {
                Some("give all the files of the model; a sharded one needs every shard beside its index".to_owned())
            }
            ModelError::Storage { .. } => {
                Some("convert the model to F16, Q8_0, Q4_K or another type that the message does not name".to_owned())
            }
            ModelError::Threads(_) => Some("lower `num_thread`".to_owned()),
            ModelError::AdapterMisfit { .. } | ModelError::AdapterEmpty => Some(
                "use the base that the adapter was trained on (`base_model_name_or_path` in adapter_config.json)"
                    .to_owned(),
            ),
            ModelError::Config { .. } | ModelError::Shape { .. } | ModelError::Damaged { .. } => {
                Some("the files may be damaged or mixed from two models; fetch them again".to_owned())
            }
            _ => None,
        }
    }
}

impl From<ModelError> for Diagnostic {
    fn from(error: ModelError) -> Self {
        let (code, kind) = error.code_and_kind();
        let hint = error.hint();
        let mut diagnostic = match error {
            ModelError::Format(error) => return error.into(),
            ModelError::Kernel(error) => return error.into(),
            other => Diagnostic::new(code, kind, other.to_string()),
        };
        if let Some(hint) = hint {
            diagnostic = diagnostic.hint(hint);
        }
        diagnostic
    }
}
