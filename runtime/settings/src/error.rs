//! What can be wrong with a setting, and how to get out of it.

use std::path::PathBuf;

use witness_diagnostics::{Diagnostic, Kind};

use crate::resolve::Source;

/// Why the settings could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A value does not parse or is out of range.
    #[error("`{value}` is no value for `{key}`, which was set by {origin}")]
    Value {
        /// The key of the table.
        key: &'static str,
        /// Where the value came from, named so that it can be found: a flag, a variable, a file.
        origin: String,
        /// Which layer it came from.
        layer: Source,
        /// The text as given.
        value: String,
        /// What was wanted instead.
        expected: String,
    },
    /// A key that the table does not have.
    #[error("`{key}` is no setting, but {origin} sets it")]
    UnknownKey {
        /// The key as given.
        key: String,
        /// Where it stands.
        origin: String,
        /// Known keys close to it.
        near: Vec<&'static str>,
    },
    /// A config file was asked for by name, or exists, but cannot be read.
    #[error("the config file `{}` cannot be read", path.display())]
    FileUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A config file is too long to be one.
    #[error("the config file `{}` has {bytes} bytes, more than the {bytes_max} allowed", path.display())]
    FileTooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// A config file is not TOML.
    #[error("the config file `{}` is not valid TOML", path.display())]
    FileSyntax {
        /// The file.
        path: PathBuf,
        /// What the parser said, with line and column.
        reason: String,
    },
    /// No home directory is known, and none was given.
    #[error("the user's home directory is unknown")]
    NoHome,
    /// The path of the unix socket is longer than the operating system takes.
    #[error("the socket path `{}` is longer than the {bytes_max} bytes that a unix socket may have", path.display())]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
        /// The limit.
        bytes_max: usize,
    },
}

impl From<SettingsError> for Diagnostic {
    fn from(error: SettingsError) -> Self {
        let message = error.to_string();
        let new = |name: &str, kind| Diagnostic::new(format!("witness::settings::{name}"), kind, message);
        match error {
            SettingsError::Value {
                key,
                origin,
                layer,
                expected,
                ..
            } => {
                let diagnostic = new("value", Kind::Invalid).cause(format!("expected {expected}"));
                match layer {
                    Source::Default => diagnostic,
                    _ => diagnostic.hint(format!(
                        "correct or remove it in {origin}; `witness doctor` explains `{key}`"
                    )),
                }
            }
            SettingsError::UnknownKey { near, .. } => {
                let diagnostic = new("unknown_key", Kind::Invalid);
                match near.as_slice() {
                    [] => diagnostic.hint("`witness doctor` lists every setting"),
                    near => diagnostic.hint(format!("did you mean `{}`?", near.join("` or `"))),
                }
            }
            SettingsError::FileUnreadable { source, .. } => new("file_unreadable", Kind::Environment)
                .cause(source.to_string())
                .hint("make the file readable, or name another with `--config` or `WITNESS_CONFIG`"),
            SettingsError::FileTooLong { .. } => {
                new("file_too_long", Kind::Invalid).hint("name the right file with `--config` or `WITNESS_CONFIG`")
            }
            SettingsError::FileSyntax { reason, .. } => new("file_syntax", Kind::Invalid)
                .cause(reason)
                .hint("write one `key = value` on a line, texts in quotes"),
            SettingsError::NoHome => {
                new("no_home", Kind::Environment).hint("set `HOME`, or `WITNESS_HOME` to a directory")
            }
            SettingsError::SocketPathTooLong { .. } => new("socket_path_too_long", Kind::Environment)
                .hint("set `WITNESS_SOCKET` to a shorter path, for example below `/run/user`"),
        }
    }
}
