//! The files of a model by the names they have in its directory, wherever their bytes lie.
//!
//! A directory on disk and a list of blobs from the registry look the same from here on: readers ask for `config.json`, not for a path.
//! Pickled weights are noticed here and never opened by anybody.
//!
//! **Invariant:** every name is relative and without `..`, so a name can neither leave a directory nor be mistaken for a path.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use crate::{FormatError, Result, error::excerpt};

/// How many files a directory of a model may hold. The largest published models have a few hundred shards.
pub const FILES_MAX: usize = 10_000;
/// How deep below the directory files are looked for (`additional_chat_templates/x.jinja` lies at 2).
const DEPTH_MAX: usize = 2;
/// Endings of files that run code when they are unpickled.
const PICKLE_SUFFIXES: [&str; 6] = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"];

/// The files of one model or adapter: logical name to path.
#[derive(Clone, Debug)]
pub struct FileSet {
    label: String,
    files: BTreeMap<String, PathBuf>,
}

impl FileSet {
    /// Lists a directory: its files, and those of its direct subdirectories as `folder/name`. Hidden ones are left out.
    pub fn from_directory(directory: &Path) -> Result<FileSet> {
        let mut files = BTreeMap::new();
        list(directory, "", 1, &mut files)?;
        Ok(FileSet {
            label: directory.display().to_string(),
            files,
        })
    }

    /// Takes pairs of logical name and path, as the registry stores them.
    pub fn new(pairs: impl IntoIterator<Item = (String, PathBuf)>) -> Result<FileSet> {
        let mut files = BTreeMap::new();
        for (name, path) in pairs {
            check_name(&name)?;
            if files.len() == FILES_MAX {
                return Err(FormatError::limit(
                    "the list of files",
                    "the number of files",
                    "larger",
                    FILES_MAX as u64,
                ));
            }
            if files.insert(name.clone(), path).is_some() {
                return Err(FormatError::malformed(
                    "the list of files",
                    format!("`{}`", excerpt(&name)),
                    "one file of that name",
                    "two",
                ));
            }
        }
        let label = match files.first_key_value() {
            Some((name, _)) if files.len() == 1 => name.clone(),
            _ => "the model's files".to_owned(),
        };
        Ok(FileSet { label, files })
    }

    /// Changes what errors call this set, such as the path that the user typed.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> FileSet {
        self.label = label.into();
        self
    }

    /// Returns what errors call this set.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Returns the path of a file, if it is there.
    pub fn get(&self, name: &str) -> Option<&Path> {
        self.files.get(name).map(PathBuf::as_path)
    }

    /// Returns the path of a file that must be there.
    pub fn require(&self, name: &str) -> Result<&Path> {
        self.get(name).ok_or_else(|| {
            let there: Vec<&str> = self.files.keys().map(String::as_str).take(12).collect();
            FormatError::Missing {
                file: self.label.clone(),
                what: format!("file `{name}`"),
                hint: Some(if there.is_empty() {
                    "it has no files at all; check the path".to_owned()
                } else {
                    format!("it has {}", there.join(", "))
                }),
            }
        })
    }

    /// Returns all names and paths, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.files.iter().map(|(name, path)| (name.as_str(), path.as_path()))
    }

    /// Returns the paths of all `.gguf` files, sorted by name: the parts of a split model in their order.
    pub fn gguf_parts(&self) -> Vec<PathBuf> {
        self.iter()
            .filter(|(name, _)| name.to_ascii_lowercase().ends_with(".gguf"))
            .map(|(_, path)| path.to_owned())
            .collect()
    }

    /// Returns the names of files that look like pickled weights.
    pub fn pickles(&self) -> Vec<&str> {
        self.files
            .keys()
            .map(String::as_str)
            .filter(|name| is_pickle(name))
            .collect()
    }

    /// Returns the error that says so when weights exist only in pickled form; `wanted` is what was looked for instead.
    pub(crate) fn no_weights(&self, wanted: &str) -> FormatError {
        match self.pickles().first() {
            Some(pickle) => FormatError::Pickle {
                file: format!("{}/{pickle}", self.label),
            },
            None => FormatError::missing(self.label.clone(), wanted),
        }
    }

    /// Reads a small file whole; longer than `bytes_max` is an error, and never allocated.
    pub fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        let path = self.require(name)?;
        if is_pickle(name) {
            return Err(FormatError::Pickle { file: name.to_owned() });
        }
        let shown = || format!("{}/{name}", self.label);
        let file = File::open(path).map_err(|source| FormatError::io(shown(), "open", source))?;
        let about = file
            .metadata()
            .map_err(|source| FormatError::io(shown(), "examine", source))?;
        if !about.is_file() {
            return Err(FormatError::malformed(
                shown(),
                "the path",
                "a regular file",
                "something else",
            ));
        }
        let mut bytes = Vec::new();
        file.take(bytes_max.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|source| FormatError::io(shown(), "read", source))?;
        if bytes.len() as u64 > bytes_max {
            return Err(FormatError::limit(
                shown(),
                "its length in bytes",
                about.len(),
                bytes_max,
            ));
        }
        Ok(bytes)
    }

    /// Like [`FileSet::read`], but a file that is not there is nothing.
    pub fn read_if_present(&self, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        self.get(name).map(|_| self.read(name, bytes_max)).transpose()
    }

    /// Reads a small UTF-8 file; a byte order mark is dropped.
    pub fn read_text(&self, name: &str, bytes_max: u64) -> Result<String> {
        let text = String::from_utf8(self.read(name, bytes_max)?).map_err(|error| {
            FormatError::malformed(
                format!("{}/{name}", self.label),
                format!("byte {}", error.utf8_error().valid_up_to()),
                "UTF-8",
                "another byte",
            )
        })?;
        Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
    }

    /// Like [`FileSet::read_text`], but a file that is not there is nothing.
    pub fn read_text_if_present(&self, name: &str, bytes_max: u64) -> Result<Option<String>> {
        self.get(name).map(|_| self.read_text(name, bytes_max)).transpose()
    }
}

/// Says whether a name has the ending of a file that runs code when it is unpickled.
pub(crate) fn is_pickle(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    PICKLE_SUFFIXES.iter().any(|suffix| lower.ends_with(suffix))
}

/// Refuses a name that is empty, absolute, hidden in an odd form or climbs out of its directory.
pub(crate) fn check_name(name: &str) -> Result<()> {
    const NAME_BYTES_MAX: usize = 1024;
    let parts_ok = name
        .split('/')
        .all(|part| !part.is_empty() && part != "." && part != "..");
    if parts_ok && name.len() <= NAME_BYTES_MAX && !name.contains(['\\', '\0', ':']) {
        return Ok(());
    }
    Err(FormatError::malformed(
        "the list of files",
        "a file name",
        "a relative name inside the directory",
        format!("`{}`", excerpt(name)),
    ))
}

fn list(directory: &Path, prefix: &str, depth: usize, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let shown = || directory.display().to_string();
    let entries = fs::read_dir(directory).map_err(|source| FormatError::io(shown(), "list", source))?;
    for entry in entries {
        let entry = entry.map_err(|source| FormatError::io(shown(), "list", source))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        // Follows links: a hub's cache directory consists of them.
        let Ok(about) = fs::metadata(entry.path()) else {
            continue;
        };
        let logical = format!("{prefix}{name}");
        if about.is_dir() && depth < DEPTH_MAX {
            list(&entry.path(), &format!("{logical}/"), depth + 1, files)?;
        } else if about.is_file() {
            if files.len() == FILES_MAX {
                return Err(FormatError::limit(
                    shown(),
                    "the number of files",
                    "larger",
                    FILES_MAX as u64,
                ));
            }
            files.insert(logical, entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_listed_two_deep_without_hidden_files_and_pickles_are_noticed() {
        let home = tempfile::tempdir().unwrap();
        for name in [
            "config.json",
            "pytorch_model.bin",
            ".git",
            "b-00002.gguf",
            "a-00001.GGUF",
        ] {
            fs::write(home.path().join(name), b"x").unwrap();
        }
        fs::create_dir_all(home.path().join("additional_chat_templates/deep")).unwrap();
        fs::write(home.path().join("additional_chat_templates/rag.jinja"), "t").unwrap();
        fs::write(home.path().join("additional_chat_templates/deep/no"), "t").unwrap();
        let files = FileSet::from_directory(home.path()).unwrap();
        let names: Vec<&str> = files.iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                "a-00001.GGUF",
                "additional_chat_templates/rag.jinja",
                "b-00002.gguf",
                "config.json",
                "pytorch_model.bin"
            ]
        );
        assert_eq!(files.pickles(), ["pytorch_model.bin"]);
        assert_eq!(files.gguf_parts().len(), 2);
        assert!(matches!(
            files.read("pytorch_model.bin", 10),
            Err(FormatError::Pickle { .. })
        ));
        assert!(matches!(files.no_weights("weights"), FormatError::Pickle { .. }));
        assert!(matches!(files.read("config.json", 0), Err(FormatError::Limit { .. })));
        assert_eq!(files.read("config.json", 1).unwrap(), b"x");
        let missing = files.require("tokenizer.json").unwrap_err().to_string();
        assert!(missing.contains("tokenizer.json"), "{missing}");
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for name in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "./a",
            "a\\b",
            "c:x",
            "a\0b",
        ] {
            assert!(
                FileSet::new([(name.to_owned(), PathBuf::from("x"))]).is_err(),
                "{name:?}"
            );
        }
        let twice = [
            ("a".to_owned(), PathBuf::from("x")),
            ("a".to_owned(), PathBuf::from("y")),
        ];
        assert!(FileSet::new(twice).is_err());
    }
}
