//! Which files a data set is made of: paths, folders and patterns, in an order that does not depend on the disk.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::error::DatasetError;
use crate::limits::{FILES_MAX, FOLDER_DEPTH_MAX};

/// The files of a data set, in reading order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Each file once.
    pub files: Vec<PathBuf>,
    /// Files that were named again; they are read once.
    pub repeated: Vec<PathBuf>,
    /// What messages call each file, in the order of [`Sources::files`], where that is not its path. A name's ending also says what the
    /// file holds.
    pub names: Vec<String>,
}

impl Sources {
    /// Makes a data set of files that lie under other names than their own, such as in a store.
    pub fn named(files: impl IntoIterator<Item = (String, PathBuf)>) -> Self {
        let (names, files) = files.into_iter().unzip();
        Self {
            files,
            repeated: Vec::new(),
            names,
        }
    }

    /// Returns what messages call a file; empty for an index beyond the last.
    pub fn name(&self, file: usize) -> String {
        match (self.names.get(file), self.files.get(file)) {
            (Some(name), _) => name.clone(),
            (None, Some(path)) => path.display().to_string(),
            (None, None) => String::new(),
        }
    }

    /// Finds the files of each argument, in the order of the arguments. An argument is, the first that holds:
    /// a file; a folder, which stands for every `.jsonl` file below it; a pattern with `*`, `**`, `?` or `[..]`.
    /// The files of one argument are sorted by the bytes of their path, as `sorted(glob.glob(..))` and shells in the C locale do.
    pub fn find<S: AsRef<Path>>(arguments: &[S]) -> Result<Self, DatasetError> {
        let mut sources = Sources::default();
        let mut seen = HashSet::new();
        for argument in arguments {
            for file in files_of(argument.as_ref())? {
                // Two spellings of one file are one file. A path that cannot be resolved fails when it is read.
                let identity = file.canonicalize().unwrap_or_else(|_| file.clone());
                if !seen.insert(identity) {
                    sources.repeated.push(file);
                } else if sources.files.len() == FILES_MAX {
                    return Err(DatasetError::TooManyFiles);
                } else {
                    sources.files.push(file);
                }
            }
        }
        Ok(sources)
    }

    /// Returns whether a path is one of the files, however it is spelled.
    pub fn contains(&self, path: &Path) -> bool {
        let Ok(path) = path.canonicalize() else {
            return false;
        };
        self.files
            .iter()
            .any(|file| file.canonicalize().is_ok_and(|file| file == path))
    }
}

fn files_of(argument: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let no_files = || DatasetError::NoFiles {
        pattern: argument.display().to_string(),
    };
    let mut files = Vec::new();
    if argument.is_dir() {
        search(argument, 0, &mut files)?;
    } else if argument.exists() {
        return Ok(vec![argument.to_owned()]);
    } else {
        let pattern = argument.to_str().ok_or_else(no_files)?;
        let is_pattern = pattern.contains(['*', '?', '[']);
        let matches = glob::glob(pattern).map_err(|error| DatasetError::BadPattern {
            pattern: pattern.to_owned(),
            reason: error.msg.to_owned(),
        })?;
        for found in matches.filter(|_| is_pattern) {
            let path = found.map_err(|error| DatasetError::Read {
                path: error.path().to_owned(),
                source: std::io::Error::new(error.error().kind(), error.error().to_string()),
            })?;
            if path.is_file() {
                files.push(path);
            }
            if files.len() > FILES_MAX {
                return Err(DatasetError::TooManyFiles);
            }
        }
    }
    if files.is_empty() {
        return Err(no_files());
    }
    files.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
    Ok(files)
}

/// Collects every `.jsonl` file below a folder. Links to folders are not followed, so a circle ends.
fn search(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), DatasetError> {
    let read = |source| DatasetError::Read {
        path: folder.to_owned(),
        source,
    };
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        let path = entry.path();
        if entry.file_type().map_err(read)?.is_dir() {
            if depth < FOLDER_DEPTH_MAX {
                search(&path, depth + 1, files)?;
            }
        } else if path.extension().is_some_and(|ending| ending == "jsonl") && path.is_file() {
            if files.len() == FILES_MAX {
                return Err(DatasetError::TooManyFiles);
            }
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_folders_and_patterns_come_sorted_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("data/inner")).unwrap();
        for name in [
            "data/b.jsonl",
            "data/a.jsonl",
            "data/B.jsonl",
            "data/inner/c.jsonl",
            "data/notes.md",
            "data/odd[1].jsonl",
        ] {
            std::fs::write(at(name), "{}\n").unwrap();
        }
        let find = |arguments: &[&str]| {
            let arguments: Vec<PathBuf> = arguments.iter().map(|name| at(name)).collect();
            Sources::find(&arguments).map(|sources| {
                let names = |files: &[PathBuf]| -> Vec<String> {
                    let names = files
                        .iter()
                        .map(|file| file.strip_prefix(folder.path()).unwrap().display().to_string());
                    names.collect()
                };
                (names(&sources.files), names(&sources.repeated))
            })
        };
        let (files, repeated) = find(&["data/*.jsonl"]).unwrap();
        assert_eq!(
            files,
            ["data/B.jsonl", "data/a.jsonl", "data/b.jsonl", "data/odd[1].jsonl"]
        );
        assert!(repeated.is_empty());
        assert_eq!(find(&["data/**/*.jsonl"]).unwrap().0.len(), 5);
        assert_eq!(find(&["data"]).unwrap().0.len(), 5);
        // The order of the arguments is kept, what comes again is told.
        let (files, repeated) = find(&["data/b.jsonl", "data/inner/../a.jsonl", "data/[ab].jsonl"]).unwrap();
        assert_eq!(files, ["data/b.jsonl", "data/inner/../a.jsonl"]);
        assert_eq!(repeated, ["data/a.jsonl", "data/b.jsonl"]);
        // A file whose name looks like a pattern is itself.
        assert_eq!(find(&["data/odd[1].jsonl"]).unwrap().0, ["data/odd[1].jsonl"]);
        for missing in ["data/none.jsonl", "data/*.csv", "data/inner/*.md"] {
            assert!(
                matches!(find(&[missing]), Err(DatasetError::NoFiles { .. })),
                "{missing}"
            );
        }
        assert!(matches!(find(&["data/[a.jsonl"]), Err(DatasetError::BadPattern { .. })));
    }
}
