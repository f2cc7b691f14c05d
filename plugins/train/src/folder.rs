//! The run's directory: checkpoints that are whole or not seen, and the product.
//!
//! A directory is built under a name that begins with a dot, every file and then the directory synced; a rename gives it its name, and the
//! parent is synced. One that takes the place of another moves the old one aside first; [`Folder::open`] puts that back when a crash came
//! between, and clears away what was never finished. Removing works the other way round, so that a half removed one is not seen either.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use witness_diagnostics::Diagnostic;

use crate::error::io;

/// Begins the name of a checkpoint's directory; the step follows.
const CHECKPOINT: &str = "checkpoint-";
/// The product's directory.
pub(crate) const FINAL: &str = "final";
/// End of the hidden name of a directory in the making.
const PARTIAL: &str = ".partial";
/// End of the hidden name of one that another takes the place of.
const ASIDE: &str = ".aside";
/// End of the hidden name of one that goes.
const GOING: &str = ".going";

/// The directory of one run.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

/// Returns the name of a checkpoint's directory.
pub(crate) fn checkpoint_name(step: u64) -> String {
    format!("{CHECKPOINT}{step}")
}

impl Folder {
    /// Opens a run's directory, makes it if there is none, and clears away what a crash left.
    pub(crate) fn open(path: &Path) -> Result<Self, Diagnostic> {
        if !path.is_absolute() {
            let wanted = "an absolute path";
            return Err(crate::error::setting(
                "directory",
                format!("`{}`", path.display()),
                wanted,
            ));
        }
        fs::create_dir_all(path).map_err(|error| io("created", path, &error))?;
        let folder = Self { path: path.to_owned() };
        for name in folder.names()? {
            let Some(hidden) = name.strip_prefix('.') else { continue };
            let at = path.join(&name);
            if let Some(own) = hidden.strip_suffix(ASIDE) {
                let own = path.join(own);
                if own.exists() {
                    fs::remove_dir_all(&at).map_err(|error| io("removed", &at, &error))?;
                } else {
                    fs::rename(&at, &own).map_err(|error| io("renamed", &at, &error))?;
                }
            } else if hidden.ends_with(PARTIAL) || hidden.ends_with(GOING) {
                remove(&at)?;
            }
        }
        Ok(folder)
    }

    /// Returns the path of a name in the directory.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Returns the steps that there are checkpoints of, rising.
    pub(crate) fn checkpoints(&self) -> Result<Vec<u64>, Diagnostic> {
        let names = self.names()?;
        let steps = names.iter().filter_map(|name| {
            let step: u64 = name.strip_prefix(CHECKPOINT)?.parse().ok()?;
            // `checkpoint-007` is not ours.
            (checkpoint_name(step) == *name).then_some(step)
        });
        let mut steps: Vec<u64> = steps.collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Makes a directory by letting `fill` write its files; it is seen when all of it is on disk. On any error nothing is left behind and
    /// what had the name before is untouched.
    pub(crate) fn publish(
        &self,
        name: &str,
        fill: impl FnOnce(&Path) -> Result<(), Diagnostic>,
    ) -> Result<(), Diagnostic> {
        let partial = self.path.join(format!(".{name}{PARTIAL}"));
        remove(&partial)?;
        let filled = fs::create_dir(&partial)
            .map_err(|error| io("created", &partial, &error))
            .and_then(|()| fill(&partial))
            .and_then(|()| sync(&partial))
            .and_then(|()| self.take_place(&partial, name));
        if filled.is_err() {
            // The error to tell is the one that came first; what stays is cleared away by the next start.
            let _ = fs::remove_dir_all(&partial);
        }
        filled
    }

    fn take_place(&self, partial: &Path, name: &str) -> Result<(), Diagnostic> {
        let (own, aside) = (self.path.join(name), self.path.join(format!(".{name}{ASIDE}")));
        remove(&aside)?;
        let had_one = own.exists();
        if had_one {
            fs::rename(&own, &aside).map_err(|error| io("renamed", &own, &error))?;
        }
        if let Err(error) = fs::rename(partial, &own) {
            if had_one {
                fs::rename(&aside, &own).map_err(|error| io("renamed", &aside, &error))?;
            }
            return Err(io("renamed", partial, &error));
        }
        sync(&self.path)?;
        remove(&aside)
    }

    /// Writes a single file of the directory, whole or not at all.
    pub(crate) fn replace_file(
        &self,
        name: &str,
        write: impl FnOnce(&Path) -> Result<(), Diagnostic>,
    ) -> Result<(), Diagnostic> {
        let (own, partial) = (self.path.join(name), self.path.join(format!(".{name}.new")));
        write(&partial)?;
        fs::rename(&partial, &own).map_err(|error| io("renamed", &partial, &error))?;
        sync(&self.path)
    }

    /// Removes a checkpoint.
    pub(crate) fn remove_checkpoint(&self, step: u64) -> Result<(), Diagnostic> {
        let name = checkpoint_name(step);
        let (own, going) = (self.path.join(&name), self.path.join(format!(".{name}{GOING}")));
        remove(&going)?;
        fs::rename(&own, &going).map_err(|error| io("renamed", &own, &error))?;
        remove(&going)
    }

    fn names(&self) -> Result<Vec<String>, Diagnostic> {
        let read = |error| io("read", &self.path, &error);
        let entries = fs::read_dir(&self.path).map_err(read)?;
        let mut names = Vec::new();
        for entry in entries {
            // A name that is no UTF-8 is none of ours.
            names.extend(entry.map_err(read)?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }
}

/// Removes a directory that may not be there.
fn remove(path: &Path) -> Result<(), Diagnostic> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("removed", path, &error)),
        _ => Ok(()),
    }
}

/// Syncs a directory: the names in it.
#[cfg(unix)]
fn sync(path: &Path) -> Result<(), Diagnostic> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|error| io("written", path, &error))
}

#[cfg(not(unix))]
fn sync(_path: &Path) -> Result<(), Diagnostic> {
    Ok(())
}

/// Writes a file of a directory in the making, synced.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Diagnostic> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|error| io("written", path, &error))
}

/// Writes a value as readable JSON, synced.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Diagnostic> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| io("written", path, &error.into()))?;
    text.push(b'\n');
    write_file(path, &text)
}

/// Copies a file into a directory in the making, synced.
pub(crate) fn copy_file(from: &Path, to: &Path) -> Result<(), Diagnostic> {
    let copied = File::open(from).and_then(|mut source| {
        let mut target = File::create(to)?;
        std::io::copy(&mut source, &mut target)?;
        target.sync_all()
    });
    copied.map_err(|error| io("written", to, &error))
}

/// Returns the names of the files in a directory, sorted.
pub(crate) fn files_in(path: &Path) -> Result<Vec<String>, Diagnostic> {
    Folder { path: path.to_owned() }.names()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &Path) -> Vec<String> {
        files_in(path).unwrap()
    }

    #[test]
    fn a_directory_is_whole_or_not_there() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::open(home.path()).unwrap();
        let write = |text: &'static str| move |path: &Path| write_file(&path.join("a"), text.as_bytes());
        folder.publish("checkpoint-5", write("five")).unwrap();
        folder.publish("checkpoint-10", write("ten")).unwrap();
        // One that fails leaves nothing, and does not touch the one it would replace.
        let failed = folder.publish("checkpoint-10", |path| {
            write_file(&path.join("a"), b"half")?;
            Err(crate::error::internal("no room"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(home.path().join("checkpoint-10/a")).unwrap(), b"ten");
        folder.publish("checkpoint-10", write("again")).unwrap();
        assert_eq!(fs::read(home.path().join("checkpoint-10/a")).unwrap(), b"again");
        assert_eq!(names(home.path()), ["checkpoint-10", "checkpoint-5"]);
        assert_eq!(folder.checkpoints().unwrap(), [5, 10]);
        folder.remove_checkpoint(5).unwrap();
        assert_eq!(names(home.path()), ["checkpoint-10"]);
    }

    #[test]
    fn what_a_crash_left_is_put_right() {
        let home = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            fs::create_dir(home.path().join(name)).unwrap();
            fs::write(home.path().join(name).join("a"), name).unwrap();
        };
        for name in [
            ".checkpoint-3.partial",
            ".checkpoint-2.going",
            ".checkpoint-4.aside",
            ".checkpoint-6.aside",
            "checkpoint-6",
            "checkpoint-007",
            "other",
        ] {
            make(name);
        }
        let folder = Folder::open(home.path()).unwrap();
        assert_eq!(
            names(home.path()),
            ["checkpoint-007", "checkpoint-4", "checkpoint-6", "other"]
        );
        assert_eq!(folder.checkpoints().unwrap(), [4, 6]);
        assert_eq!(fs::read(home.path().join("checkpoint-6/a")).unwrap(), b"checkpoint-6");
        assert!(Folder::open(Path::new("relative")).is_err());
    }
}
