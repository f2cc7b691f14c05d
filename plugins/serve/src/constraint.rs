//! `format`: which tokens may come.

use serde_json::Value;
use witness_diagnostics::{Diagnostic, Kind};
use witness_sampling::json::{JsonMachine, Root};
use witness_tokenizer::Tokenizer;

/// A constraint on an answer and how far the answer has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Constraint {
    machine: JsonMachine,
}

impl Constraint {
    /// Reads the `format` of a request.
    pub(crate) fn from_format(format: Option<&Value>) -> Result<Option<Self>, Diagnostic> {
        match format {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) if text == "json" => Ok(Some(Self {
                machine: JsonMachine::new(Root::Object),
            })),
            Some(Value::Object(_)) => Err(Diagnostic::new(
                "witness::serve::schema_not_yet",
                Kind::Unsupported,
                "answers cannot be constrained to a JSON schema yet",
            )
            .hint("use `\"format\": \"json\"` and describe the fields in the prompt")),
            Some(other) => Err(Diagnostic::new(
                "witness::serve::bad_format",
                Kind::Invalid,
                format!("`format` is `{other}`, expected `\"json\"` or a JSON schema"),
            )
            .hint("leave `format` out for free text")),
        }
    }

    /// Returns whether a token may come next. Tokens without text would let an answer go on for ever.
    pub(crate) fn allows(&self, token: u32, tokenizer: &Tokenizer) -> bool {
        if tokenizer.end_of_generation().contains(&token) {
            return self.machine.is_complete();
        }
        let bytes = tokenizer.token_bytes(token);
        !bytes.is_empty() && !tokenizer.is_special(token) && self.machine.accepts(bytes)
    }

    /// Takes a token that was allowed. Returns whether the answer is complete and nothing may follow.
    pub(crate) fn advance(&mut self, token: u32, tokenizer: &Tokenizer) -> bool {
        self.machine.advance(tokenizer.token_bytes(token)).is_err() || self.machine.is_final()
    }
}
