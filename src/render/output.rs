//! Standard output and error. A reader that goes away (`witness list | head -1`) ends the program quietly, never with a panic.

use std::io::{IsTerminal, Write};

use serde::Serialize;
use witness_diagnostics::{Diagnostic, Kind};

/// Code of the error that says that nobody reads standard output any more.
pub(crate) const CLOSED: &str = "witness::cli::output_closed";

/// Writes text to standard output and flushes it.
pub(crate) fn print(text: &str) -> Result<(), Diagnostic> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => Diagnostic::new(CLOSED, Kind::Cancelled, "standard output was closed"),
            _ => Diagnostic::new(
                "witness::cli::output",
                Kind::Environment,
                "standard output cannot be written",
            )
            .cause(error.to_string())
            .hint("is the disk full that it is redirected to?"),
        })
}

/// Writes a line to standard output.
pub(crate) fn line(text: &str) -> Result<(), Diagnostic> {
    print(&format!("{text}\n"))
}

/// Writes a value as indented JSON to standard output.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Diagnostic> {
    let text = serde_json::to_string_pretty(value).map_err(|error| {
        Diagnostic::new("witness::cli::json", Kind::Internal, "the answer has no JSON form").cause(error.to_string())
    })?;
    line(&text)
}

/// Writes a line to standard error; a closed one is not worth an error.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes a warning to standard error.
pub(crate) fn warn(text: &str) {
    note(&format!("warning: {}", super::table::one_line(text)));
}

/// Writes an error to standard error.
pub(crate) fn error(diagnostic: &Diagnostic) {
    let text = witness_diagnostics::render(diagnostic, is_colour_wanted());
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Returns true when standard error shows colours and the user has not refused them (<https://no-color.org>).
pub(crate) fn is_colour_wanted() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Returns the width of the terminal that standard output goes to; nothing when it goes elsewhere.
pub(crate) fn width() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    terminal_size::terminal_size().map(|(terminal_size::Width(columns), _)| usize::from(columns))
}
