//! Where the paths of a Modelfile lead: relative ones from the folder of the file, `~` from the user's home. Pure text, no look at the disk.

use std::path::{Path, PathBuf};

/// A path that cannot be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `~` without a known home folder.
    #[error("`{path}` begins at the home folder, and which one that is is not known")]
    NoHome {
        /// The path as written.
        path: String,
    },
    /// `~name`, another user's home.
    #[error("`{path}` names another user's home folder; write the whole path")]
    OtherHome {
        /// The path as written.
        path: String,
    },
    /// Nothing, or a text with a zero byte.
    #[error("`{}` is not a path", path.escape_debug())]
    NotAPath {
        /// The path as written.
        path: String,
    },
}

impl From<PathError> for witness_diagnostics::Diagnostic {
    fn from(error: PathError) -> Self {
        Self::new(
            "witness::modelfile::path",
            witness_diagnostics::Kind::Invalid,
            error.to_string(),
        )
        .hint("write a path relative to the Modelfile (`./adapter`) or a whole one (`/models/adapter`)")
    }
}

/// Returns where `text` leads: from `base`, the folder of the Modelfile, or from `home` when it begins with `~`.
///
/// # Errors
/// [`PathError`] when `~` cannot be followed or the text is no path.
pub fn resolve_path(text: &str, base: &Path, home: Option<&Path>) -> Result<PathBuf, PathError> {
    if text.is_empty() || text.contains('\0') {
        return Err(PathError::NotAPath { path: text.to_owned() });
    }
    if let Some(behind) = text.strip_prefix('~') {
        let is_separated = behind.is_empty() || behind.starts_with(['/', std::path::MAIN_SEPARATOR]);
        if !is_separated {
            return Err(PathError::OtherHome { path: text.to_owned() });
        }
        let home = home.ok_or_else(|| PathError::NoHome { path: text.to_owned() })?;
        return Ok(joined(
            home,
            behind.trim_start_matches(['/', std::path::MAIN_SEPARATOR]),
        ));
    }
    Ok(joined(base, text))
}

/// Joins without the `.` parts, which only lengthen what people read.
fn joined(base: &Path, text: &str) -> PathBuf {
    use std::path::Component;
    let behind: PathBuf = Path::new(text)
        .components()
        .filter(|part| *part != Component::CurDir)
        .collect();
    if behind.as_os_str().is_empty() {
        base.to_owned()
    } else {
        base.join(behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_to_the_file_or_the_home() {
        let check = |text: &str, expected: &str| {
            let found = resolve_path(text, Path::new("/recipes"), Some(Path::new("/home/me"))).expect("a path");
            assert_eq!(found, Path::new(expected), "{text}");
        };
        check("./base", "/recipes/base");
        check("base/./x.gguf", "/recipes/base/x.gguf");
        check("../base", "/recipes/../base");
        check("/models/a", "/models/a");
        check("~", "/home/me");
        check("~/a b", "/home/me/a b");
        check(".", "/recipes");
        for (text, home) in [
            ("~", None),
            ("~you/x", Some(Path::new("/home/me"))),
            ("", None),
            ("a\0b", None),
        ] {
            assert!(resolve_path(text, Path::new("/recipes"), home).is_err(), "{text:?}");
        }
    }
}
