//! Why a model was not converted. What a reader of files refuses passes through unchanged; only what conversion itself decides is said here.

use witness_diagnostics::{Diagnostic, Kind};
use witness_formats::FormatError;
use witness_tokenizer::TokenizerError;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, ConversionError>;

/// Why a model was not converted.
#[derive(Debug, thiserror::Error)]
pub enum ConversionError {
    /// A file was not accepted.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A tokenizer was not accepted.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model is of a kind that has no counterpart here.
    #[error("`{model}` cannot be converted: {what}")]
    Unsupported {
        /// The model as the user knows it.
        model: String,
        /// What stands in the way, with its name in backticks.
        what: String,
        /// A way out.
        hint: String,
    },
    /// The way text is cut into words has no name in GGUF that is known here.
    #[error("the tokenizer of `{model}` cuts text into words in a way that has no known name in GGUF: {found}")]
    PreTokenizer {
        /// The model as the user knows it.
        model: String,
        /// The definition that was found.
        found: String,
    },
    /// A tensor does not fit what the configuration says.
    #[error("tensor `{tensor}` of `{model}` does not fit: expected {expected}, found {found}")]
    Tensor {
        /// The model as the user knows it.
        model: String,
        /// The tensor's name in the source.
        tensor: String,
        /// What is asked for.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl ConversionError {
    /// Returns the stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            ConversionError::Format(error) => error.code(),
            ConversionError::Tokenizer(_) => "witness::conversion::tokenizer",
            ConversionError::Unsupported { .. } => "witness::conversion::unsupported",
            ConversionError::PreTokenizer { .. } => "witness::conversion::pre_tokenizer",
            ConversionError::Tensor { .. } => "witness::conversion::tensor",
        }
    }

    pub(crate) fn unsupported(model: &str, what: impl Into<String>, hint: impl Into<String>) -> Self {
        ConversionError::Unsupported {
            model: model.to_owned(),
            what: what.into(),
            hint: hint.into(),
        }
    }

    pub(crate) fn tensor(model: &str, tensor: &str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        ConversionError::Tensor {
            model: model.to_owned(),
            tensor: excerpt(tensor),
            expected: expected.into(),
            found: found.into(),
        }
    }

    pub(crate) fn missing(file: &str, what: impl Into<String>) -> Self {
        ConversionError::Format(FormatError::Missing {
            file: file.to_owned(),
            what: what.into(),
            hint: None,
        })
    }

    pub(crate) fn malformed(
        file: &str,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        ConversionError::Format(FormatError::Malformed {
            file: file.to_owned(),
            place: place.into(),
            expected: expected.into(),
            found: found.into(),
        })
    }
}

impl From<ConversionError> for Diagnostic {
    fn from(error: ConversionError) -> Diagnostic {
        let (code, message) = (error.code(), error.to_string());
        match error {
            ConversionError::Format(error) => error.into(),
            ConversionError::Tokenizer(error) => error.into(),
            ConversionError::Unsupported { hint, .. } => Diagnostic::new(code, Kind::Unsupported, message).hint(hint),
            ConversionError::PreTokenizer { .. } => Diagnostic::new(code, Kind::Unsupported, message)
                .hint("use the model in its Hugging Face form, whose tokenizer.json is read as it is, or a GGUF file made by its authors"),
            ConversionError::Tensor { .. } => Diagnostic::new(code, Kind::Invalid, message)
                .hint("config.json and the weights come from different models; fetch or export the model again"),
        }
    }
}

/// Shows text from a file in an error: shortened, control characters escaped.
pub(crate) fn excerpt(text: &str) -> String {
    const CHARACTERS_MAX: usize = 200;
    let mut shown: String = text.chars().take(CHARACTERS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(CHARACTERS_MAX).is_some() {
        shown.push_str("...");
    }
    shown
}
