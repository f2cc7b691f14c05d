//! What goes wrong here and nowhere below.

use std::path::Path;

use witness_diagnostics::{Diagnostic, Kind};

/// The result of everything in this crate.
pub(crate) type Result<T> = std::result::Result<T, Diagnostic>;

/// Somebody asked for what makes no sense.
pub(crate) fn refused(code: &str, message: impl Into<String>) -> Diagnostic {
    Diagnostic::new(format!("witness::quantize::{code}"), Kind::Invalid, message)
}

/// A file cannot be written.
pub(crate) fn cannot_write(path: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic::new(
        "witness::quantize::write",
        Kind::Environment,
        format!("`{}` cannot be written", path.display()),
    )
    .cause(error.to_string())
    .hint("make room on that disk, or move the store with WITNESS_MODELS")
}

/// The host asked to stop.
pub(crate) fn stopped() -> Diagnostic {
    Diagnostic::new("witness::quantize::stopped", Kind::Cancelled, "it was stopped")
}

/// Says of which tensor a fault is.
pub(crate) fn of_tensor(name: &str, diagnostic: Diagnostic) -> Diagnostic {
    Diagnostic {
        message: format!("tensor `{name}`: {}", diagnostic.message),
        ..diagnostic
    }
}
