//! What went wrong, why, and what to do: the one error value that reaches a person.
//!
//! Library crates keep their own typed errors and convert them into a [`Diagnostic`] at their edge. A diagnostic crosses every
//! boundary of the program unchanged: from a plugin through the worker's socket, the daemon's HTTP answer and the command line.
//! It knows nothing of terminals or HTTP; [`Kind`] says which exit code and which class of HTTP status it stands for.

mod kind;
mod render;
mod suggest;

pub use kind::Kind;
pub use render::render;
pub use suggest::{near_miss, near_misses};

use serde::{Deserialize, Serialize};

/// An error as a person sees it. Renders as the message, then its causes, then its hints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Stable, searchable name, such as `witness::registry::blob_corrupt`.
    pub code: String,
    /// Whose fault it is, hence which exit code and HTTP status.
    pub kind: Kind,
    /// What happened: one sentence, lower case, objects in backticks, no trailing period.
    pub message: String,
    /// Why, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// How to get out of it: each one an action that the reader can take.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

impl Diagnostic {
    /// Starts a diagnostic with a stable code, a kind and what happened.
    pub fn new(code: impl Into<String>, kind: Kind, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            kind,
            message: message.into(),
            causes: Vec::new(),
            hints: Vec::new(),
        }
    }

    /// Adds one reason below those already named.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Adds one way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds an error and everything below it as causes.
    #[must_use]
    pub fn cause_chain(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}
