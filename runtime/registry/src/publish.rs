//! The one way in which a file becomes visible in a store. Blobs, manifests and link records all pass here.
//!
//! ```text
//! temporary file in the same file system  ->  write (and hash)  ->  fsync file  ->  rename  ->  fsync directory
//! ```
//! A crash before the rename leaves a stray temporary file, which the next open removes; after it, the whole file under its name.
//! A directory that is made on the way is fsynced in its parent before anything is put into it.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::{NamedTempFile, TempPath};

use crate::Result;
use crate::error::RegistryError;
use crate::space::write_error;

/// Mode of published files: as Ollama's, so that both programs and a second user can read them.
const PUBLISHED_MODE: u32 = 0o644;

/// A moment at which a crash must leave the store whole. Tests stop the process at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Created,
    Written,
    Synced,
    Renamed,
    DirectorySynced,
}

#[cfg(test)]
use crate::fault::reached;

#[cfg(not(test))]
#[inline]
fn reached(_: Step) {}

/// Makes a temporary file for this user only. Dropping it removes it.
pub(crate) fn stage(staging: &Path) -> Result<NamedTempFile> {
    let file = tempfile::Builder::new()
        .prefix("incoming-")
        .tempfile_in(staging)
        .map_err(write_error("create a file in", staging, 0))?;
    reached(Step::Created);
    Ok(file)
}

/// What to do with the mode of a file that is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Set the usual one.
    Usual,
    /// Leave it: the file is also somebody else's.
    Untouched,
}

/// Puts a staged file in its place, durably, replacing what is there. All of it has been written to `file`.
pub(crate) fn publish(file: &File, staged: TempPath, target: &Path, mode: Mode) -> Result<()> {
    reached(Step::Written);
    if mode == Mode::Usual {
        file.set_permissions(Permissions::from_mode(PUBLISHED_MODE))
            .map_err(write_error("set the mode of", &staged, 0))?;
    }
    file.sync_all().map_err(write_error("write", &staged, 0))?;
    reached(Step::Synced);
    staged
        .persist(target)
        .map_err(|error| write_error("rename into", target, 0)(error.error))?;
    reached(Step::Renamed);
    if let Some(dir) = target.parent() {
        sync_directory(dir)?;
    }
    reached(Step::DirectorySynced);
    Ok(())
}

/// Puts a file that is already in the same file system in another place, durably.
pub(crate) fn publish_existing(source: &Path, target: &Path, mode: Mode) -> Result<()> {
    match File::open(source) {
        Ok(file) => {
            if mode == Mode::Usual {
                file.set_permissions(Permissions::from_mode(PUBLISHED_MODE))
                    .map_err(write_error("set the mode of", source, 0))?;
            }
            file.sync_all().map_err(write_error("write", source, 0))?;
        }
        // What cannot be read can still be moved aside.
        Err(_) if mode == Mode::Untouched => {}
        Err(error) => return Err(RegistryError::io("read", source)(error)),
    }
    fs::rename(source, target).map_err(write_error("move", source, 0))?;
    for dir in [source.parent(), target.parent()].into_iter().flatten() {
        sync_directory(dir)?;
    }
    Ok(())
}

/// Publishes a few bytes.
pub(crate) fn publish_bytes(staging: &Path, target: &Path, bytes: &[u8]) -> Result<()> {
    let (mut file, staged) = stage(staging)?.into_parts();
    file.write_all(bytes)
        .map_err(write_error("write", &staged, bytes.len() as u64))?;
    publish(&file, staged, target, Mode::Usual)
}

/// Makes the directories between `root`, which exists, and `dir`, each durable before the next.
pub(crate) fn create_directories(root: &Path, dir: &Path) -> Result<()> {
    let Ok(below) = dir.strip_prefix(root) else {
        return Err(RegistryError::io("create", dir)(io::ErrorKind::InvalidInput.into()));
    };
    let mut parent = root.to_owned();
    for part in below {
        let child = parent.join(part);
        match fs::create_dir(&child) {
            Ok(()) => sync_directory(&parent)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(write_error("create", &child, 0)(error)),
        }
        parent = child;
    }
    Ok(())
}

/// Makes renames and removals in a directory durable.
pub(crate) fn sync_directory(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(write_error("write", dir, 0))
}

/// Removes what a killed process left in a staging directory. Only for the holder of the lock.
pub(crate) fn clear_staging(staging: &Path) {
    for entry in fs::read_dir(staging).into_iter().flatten().flatten() {
        // What cannot be removed now is found again at the next open, and files by fsck.
        let _ = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => fs::remove_dir_all(entry.path()),
            false => fs::remove_file(entry.path()),
        };
    }
}
