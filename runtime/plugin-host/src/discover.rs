//! Which files could be plugins: names and identities only, nothing is opened.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::boot::Identity;

/// Files that are looked at in one directory; a directory with more is not one of plugins.
const DIRECTORY_ENTRIES_MAX: usize = 100_000;

/// A file whose name is a plugin's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
}

/// Returns the candidates of all directories in their order, by name within each; a file with two names counts once.
pub(crate) fn scan(directories: &[PathBuf]) -> Vec<Candidate> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for directory in directories {
        let Ok(entries) = std::fs::read_dir(directory) else {
            continue;
        };
        let mut paths: Vec<PathBuf> = entries
            .take(DIRECTORY_ENTRIES_MAX)
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| is_plugin_name(path))
            .collect();
        paths.sort();
        for path in paths {
            let Ok(metadata) = path.metadata() else { continue };
            let identity = Identity::of(&metadata);
            if metadata.is_file() && seen.insert(identity.file()) {
                found.push(Candidate { path, identity });
            }
        }
    }
    found
}

/// Returns whether a file is named like a plugin: `libwitness_<x>.so` or `witness_<x>.so`, and `.dylib` for `.so`.
fn is_plugin_name(path: &Path) -> bool {
    let is_library = path
        .extension()
        .is_some_and(|extension| extension == "so" || extension == "dylib");
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    is_library && name.strip_prefix("lib").unwrap_or(name).starts_with("witness_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_plugins_count_and_a_hard_link_once() {
        for (name, expected) in [
            ("libwitness_plugin_serve.so", true),
            ("witness_echo.so", true),
            ("libwitness_x.dylib", true),
            ("libwitness_x.rlib", false),
            ("witness_plugin_host-0123", false),
            ("libother.so", false),
        ] {
            assert_eq!(is_plugin_name(Path::new(name)), expected, "{name}");
        }
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        for directory in [&one, &two] {
            std::fs::create_dir(directory).unwrap();
        }
        std::fs::write(one.join("witness_b.so"), "b").unwrap();
        std::fs::write(one.join("witness_a.so"), "a").unwrap();
        std::fs::hard_link(one.join("witness_a.so"), two.join("witness_a.so")).unwrap();
        let found = scan(&[directory.path().join("absent"), one, two]);
        let names: Vec<_> = found
            .iter()
            .map(|candidate| candidate.path.file_name().unwrap())
            .collect();
        assert_eq!(names, ["witness_a.so", "witness_b.so"]);
    }
}
