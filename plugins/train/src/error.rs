//! Errors of this plugin that are no other crate's.

use std::path::Path;

use witness_diagnostics::{Diagnostic, Kind};

/// A setting that makes no sense, or not together with another.
pub(crate) fn setting(name: &str, found: impl std::fmt::Display, wanted: impl std::fmt::Display) -> Diagnostic {
    let message = format!("`{name}` is {found}; it must be {wanted}");
    Diagnostic::new("witness::train::bad_setting", Kind::Invalid, message)
        .hint(format!("change `{name}` in the recipe or on the command line"))
}

/// A setting that is known but cannot be followed by this version.
pub(crate) fn unsupported(what: impl std::fmt::Display, hint: impl Into<String>) -> Diagnostic {
    Diagnostic::new(
        "witness::train::unsupported",
        Kind::Unsupported,
        format!("{what} is not supported by this version"),
    )
    .hint(hint)
}

/// A file of the run that could not be read or written.
pub(crate) fn io(verb: &str, path: &Path, error: &std::io::Error) -> Diagnostic {
    let message = format!("`{}` could not be {verb}", path.display());
    Diagnostic::new("witness::train::io", Kind::Environment, message)
        .cause(error.to_string())
        .hint("check that the directory exists, may be written and has room")
}

/// A fault of this program.
pub(crate) fn internal(message: impl Into<String>) -> Diagnostic {
    Diagnostic::new("witness::train::internal", Kind::Internal, message)
        .hint("please report this with the settings that led to it")
}
