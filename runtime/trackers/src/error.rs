//! What can go wrong in keeping track of a run. Converts to a [`Diagnostic`] at the edge.

use std::path::PathBuf;

use witness_diagnostics::{Diagnostic, Kind};

/// Why something could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum TrackerError {
    /// A file or directory could not be written.
    #[error("`{}` could not be {verb}", path.display())]
    Io {
        /// Path.
        path: PathBuf,
        /// What was tried.
        verb: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A run's identifier that W&B does not take, or that is no file name.
    #[error("`{found}` cannot be the identifier of a W&B run: {why}")]
    RunId {
        /// As it was given.
        found: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, TrackerError>;

impl From<TrackerError> for Diagnostic {
    fn from(error: TrackerError) -> Self {
        let told = error.to_string();
        match error {
            TrackerError::Io { source, .. } => {
                let diagnostic = Diagnostic::new("witness::trackers::io", Kind::Environment, told);
                diagnostic
                    .cause(source.to_string())
                    .hint("check that the directory exists, may be written and has room, or leave the tracker out of `report_to`")
            }
            TrackerError::RunId { .. } => Diagnostic::new("witness::trackers::bad_run_id", Kind::Invalid, told)
                .hint("use letters, digits, `-` and `_`, at most 64 of them, or name none and one is made"),
        }
    }
}
