//! What can be wrong with a tokenizer file or a text given to one.

use witness_diagnostics::{Diagnostic, Kind};
use witness_formats::FormatError;

/// Why a tokenizer could not be loaded or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file that holds the tokenizer could not be read as its format.
    #[error("the file that holds the tokenizer cannot be read")]
    Format(#[source] FormatError),
    /// The model brings no tokenizer.
    #[error("the model has no tokenizer: {missing}")]
    Missing {
        /// What was looked for.
        missing: String,
    },
    /// A part of the tokenizer contradicts itself or its format.
    #[error("the tokenizer is damaged at `{part}`: {problem}")]
    Damaged {
        /// The file, key or JSON path.
        part: String,
        /// What was found and what was expected there.
        problem: String,
    },
    /// A count or length is beyond what this program accepts.
    #[error("the tokenizer's {what} is {found}, beyond the limit of {limit}")]
    TooLarge {
        /// The thing that was counted.
        what: &'static str,
        /// How much of it there is.
        found: u64,
        /// How much is accepted.
        limit: u64,
    },
    /// The tokenizer is of a kind that this version does not know.
    #[error("tokenizer model `{model}` is not supported yet")]
    Unsupported {
        /// The name of the kind.
        model: String,
    },
    /// An option of a tokenizer's training contradicts another or a limit.
    #[error("`{name}` of the new tokenizer cannot be so: {problem}")]
    Option {
        /// The option.
        name: &'static str,
        /// What it is and what it may be.
        problem: String,
    },
    /// A tokenizer could not be trained.
    #[error("the tokenizer cannot be trained: {problem}")]
    Train {
        /// What was in the way.
        problem: String,
    },
    /// The text is longer than one call accepts.
    #[error("the text has {found} bytes, beyond the limit of {limit} for one call")]
    TextTooLong {
        /// Bytes of the text.
        found: usize,
        /// Bytes accepted.
        limit: usize,
    },
    /// The tokenizer gave up on a text.
    #[error("the tokenizer cannot encode this text: {problem}")]
    Encode {
        /// What the tokenizer said.
        problem: String,
    },
}

impl TokenizerError {
    /// Makes the error for a part that contradicts its format.
    pub(crate) fn damaged(part: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Damaged {
            part: part.into(),
            problem: problem.into(),
        }
    }
}

impl From<FormatError> for TokenizerError {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

impl From<TokenizerError> for Diagnostic {
    fn from(error: TokenizerError) -> Self {
        let message = error.to_string();
        match error {
            TokenizerError::Format(source) => source.into(),
            TokenizerError::Missing { .. } => {
                Diagnostic::new("witness::tokenizer::missing", Kind::Invalid, message)
                    .hint("import the model with its tokenizer: a GGUF file that holds one, or a directory with `tokenizer.json`")
            }
            TokenizerError::Damaged { .. } => {
                Diagnostic::new("witness::tokenizer::damaged", Kind::Invalid, message)
                    .hint("fetch or convert the model again; the tokenizer of this copy cannot be trusted")
            }
            TokenizerError::TooLarge { .. } => {
                Diagnostic::new("witness::tokenizer::too_large", Kind::Invalid, message)
                    .hint("no published model comes near this limit; the file is most likely damaged")
            }
            TokenizerError::Unsupported { .. } => {
                Diagnostic::new("witness::tokenizer::unsupported", Kind::Unsupported, message)
                    .hint("supported are `gpt2`, `llama`, `bert`, `gemma4` and `t5` vocabularies in GGUF, and `tokenizer.json`")
            }
            TokenizerError::Option { name, .. } => {
                Diagnostic::new("witness::tokenizer::option", Kind::Invalid, message)
                    .hint(format!("change `{name}` among the tokenizer's settings"))
            }
            TokenizerError::Train { .. } => Diagnostic::new("witness::tokenizer::train", Kind::Invalid, message)
                .hint("look at the rows: they must hold text, and enough of it for the vocabulary that is asked for"),
            TokenizerError::TextTooLong { .. } => {
                Diagnostic::new("witness::tokenizer::text_too_long", Kind::Invalid, message)
                    .hint("send a shorter prompt")
            }
            TokenizerError::Encode { .. } => Diagnostic::new("witness::tokenizer::encode", Kind::Invalid, message)
                .hint("the tokenizer's own rules do not cover this text; try another prompt or another copy of the tokenizer"),
        }
    }
}
