//! Where plugins keep keys and values of chats while their models are not loaded: a file for each base, below one directory that is kept to a size.
//!
//! What is in the files is the plugin's business. They may go at any time: a chat that is not found again is read again.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use witness_plugin_protocol::{ChatsFile, FileRef};
use witness_settings::Settings;

use crate::models::stored::key_of;

/// Part of the whole that the chats of one base may take: a fourth.
const SHARE: u64 = 4;

fn directory(settings: &Settings) -> PathBuf {
    settings.home.join("chats")
}

/// Returns where the chats of a base are kept, if they are.
pub(crate) fn place(settings: &Settings, files: &[FileRef]) -> Option<ChatsFile> {
    (settings.chat_cache_bytes > 0).then(|| ChatsFile {
        path: directory(settings).join(format!("{}.kv", key_of(files))),
        bytes_max: settings.chat_cache_bytes / SHARE,
    })
}

/// Deletes the chats of a base, if there are any.
pub(crate) fn forget(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), "chats of a deleted model stay: {error}");
        }
        _ => {}
    }
}

/// Makes the directory, and deletes the oldest files until the rest is within its size. A file that a plugin left half-written goes too.
///
/// # Errors
/// The directory cannot be made or read.
pub(crate) fn tidy(settings: &Settings) -> io::Result<()> {
    let directory = directory(settings);
    if settings.chat_cache_bytes > 0 {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    }
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for entry in entries.flatten() {
        let metadata = entry.metadata()?;
        let path = entry.path();
        if metadata.is_file() {
            let is_whole = path.extension().is_some_and(|extension| extension == "kv");
            let time = if is_whole {
                metadata.modified()?
            } else {
                SystemTime::UNIX_EPOCH
            };
            files.push((time, metadata.size(), path));
        }
    }
    files.sort();
    let mut sum: u64 = files.iter().map(|(_, size, _)| size).sum();
    for (time, size, path) in files {
        if sum > settings.chat_cache_bytes || time == SystemTime::UNIX_EPOCH {
            fs::remove_file(path)?;
            sum = sum.saturating_sub(size);
        }
    }
    Ok(())
}
