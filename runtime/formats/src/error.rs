//! Why a model file was not accepted, with the place in it.
//!
//! A bad file is an expected event: every variant names the file, what was wanted and what was there. Nothing here knows a
//! terminal or HTTP; the conversion to [`Diagnostic`] gives each variant its stable code.

use std::io;

use witness_diagnostics::{Diagnostic, Kind};

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, FormatError>;

/// Why a model file was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The operating system refused.
    #[error("cannot {action} `{file}`")]
    Io {
        /// The file as the user knows it.
        file: String,
        /// The verb that failed, such as `open`.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file, key, tensor or field that is needed is not there.
    #[error("`{file}` has no {what}")]
    Missing {
        /// Where it was looked for.
        file: String,
        /// What is missing, with its own name in backticks.
        what: String,
        /// A way out, when there is one.
        hint: Option<String>,
    },
    /// The bytes contradict the format.
    #[error("`{file}` is not well formed at {place}: expected {expected}, found {found}")]
    Malformed {
        /// The file.
        file: String,
        /// Byte offset, key, line or field.
        place: String,
        /// What the format asks for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Something lies outside the file.
    #[error("`{file}` ends too early: {what} needs {needed} bytes at offset {offset}, the file has {available}")]
    Truncated {
        /// The file.
        file: String,
        /// What was being read.
        what: String,
        /// Where it starts.
        offset: u64,
        /// How many bytes it takes.
        needed: u64,
        /// How long the file (or the part of it that may be used) is.
        available: u64,
    },
    /// A count or length is beyond what this reader accepts.
    #[error("`{file}` exceeds a limit: {what} is {found}, the limit is {limit}")]
    Limit {
        /// The file.
        file: String,
        /// What is limited.
        what: String,
        /// The value found.
        found: String,
        /// The largest value accepted.
        limit: u64,
    },
    /// The file may be right, but this program cannot use it as it is.
    #[error("`{file}`: {what}")]
    Unsupported {
        /// The file.
        file: String,
        /// What is asked for, and what can be done instead.
        what: String,
        /// A way out.
        hint: String,
    },
    /// Weights in a format that runs code when it is opened.
    #[error("`{file}` holds pickled weights, which are never opened because reading them runs code from the file")]
    Pickle {
        /// The file.
        file: String,
    },
    /// Two things that must fit each other do not.
    #[error("{left} does not fit {right}: {why}")]
    Mismatch {
        /// One side.
        left: String,
        /// The other side.
        right: String,
        /// How they differ, with both values.
        why: String,
        /// A way out.
        hint: String,
    },
}

impl FormatError {
    /// Returns the stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            FormatError::Io { .. } => "witness::formats::io",
            FormatError::Missing { .. } => "witness::formats::missing",
            FormatError::Malformed { .. } => "witness::formats::malformed",
            FormatError::Truncated { .. } => "witness::formats::truncated",
            FormatError::Limit { .. } => "witness::formats::limit",
            FormatError::Unsupported { .. } => "witness::formats::unsupported",
            FormatError::Pickle { .. } => "witness::formats::pickle",
            FormatError::Mismatch { .. } => "witness::formats::mismatch",
        }
    }

    pub(crate) fn io(file: impl Into<String>, action: &'static str, source: io::Error) -> Self {
        FormatError::Io {
            file: file.into(),
            action,
            source,
        }
    }

    pub(crate) fn missing(file: impl Into<String>, what: impl Into<String>) -> Self {
        FormatError::Missing {
            file: file.into(),
            what: what.into(),
            hint: None,
        }
    }

    pub(crate) fn malformed(
        file: impl Into<String>,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        FormatError::Malformed {
            file: file.into(),
            place: place.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    pub(crate) fn limit(file: impl Into<String>, what: impl Into<String>, found: impl ToString, limit: u64) -> Self {
        FormatError::Limit {
            file: file.into(),
            what: what.into(),
            found: found.to_string(),
            limit,
        }
    }

    pub(crate) fn unsupported(file: impl Into<String>, what: impl Into<String>, hint: impl Into<String>) -> Self {
        FormatError::Unsupported {
            file: file.into(),
            what: what.into(),
            hint: hint.into(),
        }
    }
}

impl From<FormatError> for Diagnostic {
    fn from(error: FormatError) -> Diagnostic {
        let kind = match &error {
            FormatError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Kind::NotFound,
            FormatError::Io { .. } => Kind::Environment,
            FormatError::Unsupported { .. } | FormatError::Pickle { .. } => Kind::Unsupported,
            FormatError::Missing { .. }
            | FormatError::Malformed { .. }
            | FormatError::Truncated { .. }
            | FormatError::Limit { .. } => Kind::Invalid,
            FormatError::Mismatch { .. } => Kind::Conflict,
        };
        let diagnostic = Diagnostic::new(error.code(), kind, error.to_string());
        match error {
            FormatError::Io { source, .. } => {
                let missing = source.kind() == io::ErrorKind::NotFound;
                let diagnostic = diagnostic.cause(source.to_string());
                if missing {
                    diagnostic.hint("check the path; a relative one is taken from the file that names it")
                } else {
                    diagnostic.hint("check that the file can be read by this user")
                }
            }
            FormatError::Missing { hint, .. } => diagnostic.hint(
                hint.unwrap_or_else(|| "the file may be incomplete; fetch or export the model again".to_owned()),
            ),
            FormatError::Truncated { .. } => {
                diagnostic.hint("the download or copy was probably cut short; fetch the file again and compare its size")
            }
            FormatError::Malformed { .. } => {
                diagnostic.hint("the file is damaged or was written by a faulty tool; fetch or export it again")
            }
            FormatError::Limit { .. } => {
                diagnostic.hint("such a value is far beyond any known model, so the file is probably damaged")
            }
            FormatError::Unsupported { hint, .. } | FormatError::Mismatch { hint, .. } => diagnostic.hint(hint),
            FormatError::Pickle { .. } => diagnostic.hint(
                "use the .safetensors form of the same weights: most repositories have one, and `save_pretrained(dir)` of current transformers and peft writes it",
            ),
        }
    }
}

/// Shows text from a file in an error: shortened, control characters escaped.
pub(crate) fn excerpt(text: &str) -> String {
    const CHARACTERS_MAX: usize = 80;
    let mut shown: String = text.chars().take(CHARACTERS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(CHARACTERS_MAX).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use witness_diagnostics::render;

    /// Each variant reaches a person with a code of its own, what was found, and a way out.
    #[test]
    fn every_error_has_a_code_a_kind_and_a_hint() {
        let not_found = || io::Error::new(io::ErrorKind::NotFound, "no such file");
        let cases = [
            (FormatError::io("a", "open", not_found()), Kind::NotFound),
            (FormatError::io("a", "map", io::Error::other("x")), Kind::Environment),
            (FormatError::missing("a", "tensor `t`"), Kind::Invalid),
            (
                FormatError::malformed("a", "offset 0", "`GGUF`", "`<!DO`"),
                Kind::Invalid,
            ),
            (FormatError::limit("a", "the number of tensors", 9, 8), Kind::Invalid),
            (
                FormatError::unsupported("a", "it is big-endian", "convert it"),
                Kind::Unsupported,
            ),
            (
                FormatError::Pickle {
                    file: "a.bin".to_owned(),
                },
                Kind::Unsupported,
            ),
        ];
        for (error, kind) in cases {
            let code = error.code();
            let diagnostic = Diagnostic::from(error);
            assert_eq!((diagnostic.kind, diagnostic.code.as_str()), (kind, code));
            assert!(!diagnostic.hints.is_empty(), "{code}");
        }
        let error = FormatError::malformed("m.gguf", "offset 0", "`GGUF`", "`<!DO`");
        assert_eq!(
            render(&error.into(), false),
            "error[witness::formats::malformed]: `m.gguf` is not well formed at offset 0: expected `GGUF`, found `<!DO`\n  hint: the file is damaged or was written by a faulty tool; fetch or export it again\n"
        );
    }

    #[test]
    fn text_from_a_file_is_shortened_and_escaped() {
        assert_eq!(excerpt("a\u{1b}[31m\n"), "a\\u{1b}[31m\\n");
        assert_eq!(excerpt(&"x".repeat(200)).len(), 83);
    }
}
