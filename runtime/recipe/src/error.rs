//! What is wrong with a recipe, where, and what to write instead. All faults of a text are told at once.

use witness_diagnostics::{Diagnostic, Kind};

use crate::node::Position;

/// Most faults that a diagnostic tells one by one.
const FAULTS_TOLD_MAX: usize = 20;

/// Sorts of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The text is not YAML, or its outermost value no map.
    Syntax,
    /// A size limit is exceeded.
    Limit,
    /// No key of that name is known.
    UnknownKey,
    /// A value has the wrong type or range.
    Value,
    /// Two keys contradict each other.
    Conflict,
    /// The key is understood and would change what is learned, but no version does it yet.
    NotYet,
}

impl Problem {
    fn code(self) -> (&'static str, Kind) {
        match self {
            Problem::Syntax => ("syntax", Kind::Invalid),
            Problem::Limit => ("limit", Kind::Invalid),
            Problem::UnknownKey => ("unknown_key", Kind::Invalid),
            Problem::Value => ("value", Kind::Invalid),
            Problem::Conflict => ("conflict", Kind::Invalid),
            Problem::NotYet => ("not_yet", Kind::Unsupported),
        }
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", self.place())]
pub struct Fault {
    /// The sort of fault.
    pub problem: Problem,
    /// The text it is in: a file's name; empty for flags.
    pub origin: String,
    /// Where in it.
    pub position: Option<Position>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

impl Fault {
    pub(crate) fn new(
        problem: Problem,
        position: Option<Position>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            problem,
            origin: String::new(),
            position,
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// Says which text it is about.
    pub(crate) fn within(mut self, origin: &str) -> Self {
        self.origin = origin.to_owned();
        self
    }

    fn place(&self) -> String {
        match (self.origin.as_str(), self.position) {
            ("", _) => String::new(),
            (origin, Some(at)) if at.line > 0 => format!("{origin}:{}:{}: ", at.line, at.column),
            (origin, _) => format!("{origin}: "),
        }
    }
}

/// Everything that is wrong with a recipe. **Invariant:** at least one fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.summary())]
pub struct RecipeError {
    /// In the order of the text.
    pub faults: Vec<Fault>,
}

impl RecipeError {
    fn summary(&self) -> String {
        match self.faults.as_slice() {
            [] => "the recipe cannot be used".to_owned(),
            [only] => only.to_string(),
            [first, ..] => format!("{first} (and {} more)", self.faults.len() - 1),
        }
    }
}

impl From<Fault> for RecipeError {
    fn from(fault: Fault) -> Self {
        Self { faults: vec![fault] }
    }
}

impl From<RecipeError> for Diagnostic {
    fn from(error: RecipeError) -> Self {
        // What needs correcting comes before what has to wait for a later version.
        let first = error.faults.iter().find(|fault| fault.problem != Problem::NotYet);
        let (code, kind) = match first.or(error.faults.first()) {
            Some(fault) => fault.problem.code(),
            None => Problem::Syntax.code(),
        };
        let code = format!("witness::recipe::{code}");
        let mut hints: Vec<String> = Vec::new();
        let mut diagnostic = match error.faults.as_slice() {
            [only] => Diagnostic::new(code, kind, only.to_string()),
            faults => Diagnostic::new(code, kind, format!("the recipe has {} faults", faults.len())),
        };
        let told = error.faults.iter().take(FAULTS_TOLD_MAX);
        for fault in told {
            if error.faults.len() > 1 {
                diagnostic = diagnostic.cause(fault.to_string());
            }
            if !fault.hint.is_empty() && !hints.contains(&fault.hint) {
                hints.push(fault.hint.clone());
            }
        }
        if error.faults.len() > FAULTS_TOLD_MAX {
            diagnostic = diagnostic.cause(format!("and {} more", error.faults.len() - FAULTS_TOLD_MAX));
        }
        hints.into_iter().fold(diagnostic, Diagnostic::hint)
    }
}
