//! What can go wrong between a template and a prompt.

use witness_diagnostics::{Diagnostic, Kind};

use crate::limits;

/// Why a template gave no text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The source is a Go template, the form that Ollama's models carry.
    #[error("the template is a Go template; this version renders Jinja chat templates")]
    GoTemplate,
    /// The source is longer than [`limits::SOURCE_BYTES_MAX`].
    #[error(
        "the chat template has {n_bytes} bytes; at most {} are accepted",
        limits::SOURCE_BYTES_MAX
    )]
    SourceTooLong {
        /// Its length.
        n_bytes: usize,
    },
    /// The source is not a template.
    #[error("the chat template does not parse: line {line}: {detail}")]
    Syntax {
        /// Line within the template, from 1.
        line: usize,
        /// What the parser expected or found.
        detail: String,
    },
    /// The template called `raise_exception`: it was made to refuse such a conversation.
    #[error("the model's chat template refuses this conversation: {message}")]
    Refused {
        /// The template's own words.
        message: String,
    },
    /// A step of the template failed on this conversation.
    #[error("the chat template fails on this conversation: line {line}: {detail}")]
    Failed {
        /// Line within the template, from 1; 0 = unknown.
        line: usize,
        /// What failed.
        detail: String,
    },
    /// The template did more work than [`limits::FUEL_BASE`] and the size of the conversation allow.
    #[error("the chat template did not end within {fuel} steps")]
    OutOfFuel {
        /// The steps granted.
        fuel: u64,
    },
    /// A part of the source is larger than the engine can take.
    #[error("the chat template is too complex: line {line}: more than {limit} {what}")]
    TooComplex {
        /// Line within the template, from 1.
        line: usize,
        /// What there is too much of.
        what: &'static str,
        /// How much is accepted.
        limit: usize,
    },
    /// The text or a value grew beyond a limit.
    #[error("the chat template made {what} of more than {limit}")]
    TooLarge {
        /// What grew.
        what: &'static str,
        /// The limit, with its unit.
        limit: String,
    },
}

impl From<TemplateError> for Diagnostic {
    fn from(error: TemplateError) -> Self {
        let (code, kind, hint) = match &error {
            TemplateError::GoTemplate => (
                "go_template",
                Kind::Unsupported,
                "leave `TEMPLATE` out of the Modelfile: the model's own Jinja template is used then",
            ),
            TemplateError::SourceTooLong { .. } | TemplateError::Syntax { .. } | TemplateError::TooComplex { .. } => (
                "invalid",
                Kind::Invalid,
                "correct the template, or give another one with `TEMPLATE` in the Modelfile",
            ),
            TemplateError::Refused { .. } => (
                "refused",
                Kind::Invalid,
                "change the order or the roles of the messages to what the model was trained on, or give another `TEMPLATE`",
            ),
            TemplateError::Failed { .. } => (
                "failed",
                Kind::Invalid,
                "the template may need fields that the messages lack; give another one with `TEMPLATE` in the Modelfile",
            ),
            TemplateError::OutOfFuel { .. } | TemplateError::TooLarge { .. } => (
                "limit",
                Kind::Invalid,
                "the template loops or grows without end; give another one with `TEMPLATE` in the Modelfile",
            ),
        };
        Diagnostic::new(format!("witness::template::{code}"), kind, error.to_string()).hint(hint)
    }
}
