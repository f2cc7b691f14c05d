//! What can stop the work on a data set as a whole. What is wrong inside one row is a [`crate::Fault`].

use std::path::PathBuf;

use witness_diagnostics::{Diagnostic, Kind};

use crate::fault::Fault;
use crate::limits::{FILES_MAX, ROWS_MAX};

/// Why a data set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A path or pattern that names no file.
    #[error("`{pattern}` matches no file")]
    NoFiles {
        /// As it was given.
        pattern: String,
    },
    /// A pattern that cannot be read.
    #[error("`{pattern}` is not a file pattern: {reason}")]
    BadPattern {
        /// As it was given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// More files than [`FILES_MAX`].
    #[error("more than {FILES_MAX} files match")]
    TooManyFiles,
    /// More rows than [`ROWS_MAX`].
    #[error("more than {ROWS_MAX} rows")]
    TooManyRows,
    /// A file that could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file that could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// An output that is one of the inputs, or two outputs that are one file.
    #[error("`{}` would be both read and written", path.display())]
    OutputIsInput {
        /// The file.
        path: PathBuf,
    },
    /// Two outputs that are one file.
    #[error("`{}` is named for both parts", path.display())]
    SameOutput {
        /// The file.
        path: PathBuf,
    },
    /// Rows that cannot be used, and leave was not given to skip them.
    #[error("{count} of {rows} rows cannot be used")]
    BadRows {
        /// How many rows are bad.
        count: u64,
        /// How many rows there are in all.
        rows: u64,
        /// The first faults, at least one.
        first: Vec<Fault>,
    },
    /// No row is left to work with.
    #[error("no usable row in {files} files")]
    NoRows {
        /// How many files were read.
        files: usize,
    },
    /// A share of rows that is not between 0 and 1.
    #[error("`{fraction}` is not a share between 0 and 1")]
    BadFraction {
        /// As it was given.
        fraction: f64,
    },
    /// A file that was written to between two passes over it.
    #[error("`{}` changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

impl From<DatasetError> for Diagnostic {
    fn from(error: DatasetError) -> Self {
        let (name, kind, hint) = match &error {
            DatasetError::NoFiles { .. } => (
                "no_files",
                Kind::NotFound,
                "give a file, a folder that holds .jsonl files, or a pattern such as 'data/**/*.jsonl'",
            ),
            DatasetError::BadPattern { .. } => (
                "bad_pattern",
                Kind::Invalid,
                "`*` stands for any letters of a name, `**` for any folders, `?` for one letter, `[ab]` for one of several",
            ),
            DatasetError::TooManyFiles => (
                "too_many_files",
                Kind::Invalid,
                "merge the files first, a part at a time, with `witness data merge`",
            ),
            DatasetError::TooManyRows => ("too_many_rows", Kind::Invalid, "train on a part of the data"),
            DatasetError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => (
                "no_files",
                Kind::NotFound,
                "check the spelling of the path, and the folder you are in",
            ),
            DatasetError::Read { .. } => (
                "read",
                Kind::Environment,
                "check that you may read the file and that its disk is there",
            ),
            DatasetError::Write { .. } => (
                "write",
                Kind::Environment,
                "check the folder, its permissions and the space left; what lay there before is unchanged",
            ),
            DatasetError::OutputIsInput { .. } => (
                "output_is_input",
                Kind::Conflict,
                "write to a file outside of what the patterns match",
            ),
            DatasetError::SameOutput { .. } => ("same_output", Kind::Conflict, "give the two parts different names"),
            DatasetError::BadRows { .. } => (
                "bad_rows",
                Kind::Invalid,
                "mend the rows, or leave them out with --skip-bad; `witness data validate` lists every fault",
            ),
            DatasetError::NoRows { .. } => (
                "no_rows",
                Kind::Invalid,
                "a row is one line such as {\"messages\": [{\"role\": \"user\", \"content\": \"..\"}, {\"role\": \"assistant\", \"content\": \"..\"}]}",
            ),
            DatasetError::BadFraction { .. } => (
                "bad_fraction",
                Kind::Invalid,
                "0.9 trains on nine rows of ten and keeps the tenth for validation",
            ),
            DatasetError::Changed { .. } => (
                "changed",
                Kind::Conflict,
                "run the command again when nothing writes to the file",
            ),
        };
        let mut diagnostic = Diagnostic::new(format!("witness::dataset::{name}"), kind, error.to_string());
        match &error {
            DatasetError::BadRows { first, count, .. } => {
                for fault in first {
                    diagnostic = diagnostic.cause(fault.to_string());
                }
                let told = first.len() as u64;
                if *count > told {
                    diagnostic = diagnostic.cause(format!("and {} rows more", count - told));
                }
            }
            DatasetError::Read { source, .. } | DatasetError::Write { source, .. } => {
                diagnostic = diagnostic.cause(source.to_string());
            }
            _ => {}
        }
        diagnostic.hint(hint)
    }
}
