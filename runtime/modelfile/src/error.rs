//! What is wrong with a Modelfile, where, and what to write instead.

use witness_diagnostics::{Diagnostic, Kind};

use crate::ast::Position;

/// Longest offending text that an error repeats, in characters.
const TEXT_CHARS_MAX: usize = 80;

/// A fault at a place of a Modelfile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct ModelfileError {
    /// Name of the file as given to the parser.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The offending text, shortened.
    pub text: String,
    /// The sort of fault.
    pub problem: Problem,
    /// What is wrong, in words.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

/// Sorts of faults, one for each thing that a caller may do differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The bytes are not text in UTF-8 or UTF-16.
    Encoding,
    /// The text does not follow the grammar.
    Syntax,
    /// An option is unknown or its value has the wrong type or range.
    Parameter,
    /// The instructions contradict each other or `FROM` is missing.
    Plan,
    /// The instruction is understood, but no version acts on it yet.
    NotYet,
    /// A size limit is exceeded.
    Limit,
}

impl Problem {
    fn code(self) -> (&'static str, Kind) {
        match self {
            Problem::Encoding => ("encoding", Kind::Invalid),
            Problem::Syntax => ("syntax", Kind::Invalid),
            Problem::Parameter => ("parameter", Kind::Invalid),
            Problem::Plan => ("plan", Kind::Invalid),
            Problem::NotYet => ("not_yet", Kind::Unsupported),
            Problem::Limit => ("limit", Kind::Invalid),
        }
    }
}

impl ModelfileError {
    /// Makes an error; `text` is shortened to one line.
    pub(crate) fn new(
        problem: Problem,
        position: Position,
        text: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        let line = text.lines().next().unwrap_or_default();
        let mut text: String = line.chars().take(TEXT_CHARS_MAX).filter(|c| !c.is_control()).collect();
        if line.chars().nth(TEXT_CHARS_MAX).is_some() {
            text.push_str("...");
        }
        Self {
            file: String::new(),
            line: position.line,
            column: position.column,
            text,
            problem,
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// Says which file it is about.
    pub(crate) fn in_file(mut self, file: &str) -> Self {
        self.file = file.to_owned();
        self
    }
}

impl From<ModelfileError> for Diagnostic {
    fn from(error: ModelfileError) -> Self {
        let (code, kind) = error.problem.code();
        let mut diagnostic = Diagnostic::new(format!("witness::modelfile::{code}"), kind, error.to_string());
        if !error.text.is_empty() {
            diagnostic = diagnostic.cause(format!("line {}: `{}`", error.line, error.text));
        }
        diagnostic.hint(error.hint)
    }
}
