//! Where plugins keep what they made of a blob so that it need not be made again: packed weights. What is in the files is the plugin's business.
//!
//! | name in the directory | what it is |
//! | --- | --- |
//! | `sha256-<hex>.v<number>` | made of that blob, in the plugin's layout of that number |
//! | `sha256-<hex>.v<number>.part` | one on its way there |
//!
//! They may go at any time, also while they are in use: who has one open keeps it. **Invariant:** one stays no longer than its blob, so that what was made of damaged bytes is
//! not found again beside right ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::Result;
use crate::digest::Digest;
use crate::error::RegistryError;
use crate::layout::{Layout, create_private};
use crate::space;
use crate::store::Inner;

/// How old a file on its way must be to be taken for one whose writer was killed.
const PART_AGE: Duration = Duration::from_secs(3600);
/// Part of the file system that stays free, at least: a twentieth, and not more than this.
const FREE_SHARE: u64 = 20;
const FREE_BYTES_MAX: u64 = 10 << 30;

/// Where the packed form of a blob may be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedPlace {
    /// Path without its version: the writer appends `.v` and the number of its layout.
    pub stem: PathBuf,
    /// Bytes that it may take.
    pub bytes_max: u64,
}

/// A file in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PackedFile {
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
    version: u64,
    is_part: bool,
    bytes: u64,
    /// When it was written or used.
    used: SystemTime,
}

impl PackedFile {
    fn of(path: PathBuf) -> Option<PackedFile> {
        let name = path.file_name()?.to_str()?;
        let (blob, rest) = name.split_once(".v")?;
        let (version, beside) = match rest.split_once('.') {
            Some((version, beside)) => (version, Some(beside)),
            None => (rest, None),
        };
        let is_part = match beside {
            None => false,
            Some("part") => true,
            Some(_) => return None,
        };
        let metadata = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file)?;
        Some(PackedFile {
            digest: Digest::parse(blob).ok()?,
            version: version.parse().ok()?,
            is_part,
            bytes: metadata.len(),
            used: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            path,
        })
    }
}

/// Returns the files, those unused longest first. Others in the directory are not ours.
pub(crate) fn files(layout: &Layout) -> Vec<PackedFile> {
    let entries = fs::read_dir(layout.packed()).into_iter().flatten().flatten();
    let mut files: Vec<PackedFile> = entries.filter_map(|entry| PackedFile::of(entry.path())).collect();
    files.sort_by(|one, other| (one.used, &one.path).cmp(&(other.used, &other.path)));
    files
}

/// Returns the bytes of all files.
pub(crate) fn bytes(layout: &Layout) -> u64 {
    files(layout).iter().map(|file| file.bytes).sum()
}

/// Removes files until that of `digest`, of about `bytes`, fits into `bytes_max` beside the rest, those unused longest first, and says how long it may become. Nothing where
/// it cannot be kept.
pub(crate) fn place(inner: &Inner, digest: &Digest, bytes: u64, bytes_max: u64) -> Option<PackedPlace> {
    if inner.writable().is_err() || bytes > bytes_max {
        return None;
    }
    let layout = &inner.layout;
    create_private(&layout.packed()).ok()?;
    let others: Vec<PackedFile> = files(layout)
        .into_iter()
        .filter(|file| file.digest != *digest)
        .collect();
    let mut used: u64 = others.iter().map(|file| file.bytes).sum();
    for file in others.iter().filter(|file| !file.is_part) {
        if used.saturating_add(bytes) <= bytes_max {
            break;
        }
        if fs::remove_file(&file.path).is_ok() {
            used -= file.bytes;
        }
    }
    let (free, whole) = space::free_and_whole_bytes(&layout.packed());
    let free = free.saturating_sub((whole / FREE_SHARE).min(FREE_BYTES_MAX));
    Some(PackedPlace {
        stem: layout.packed().join(digest.file_name()),
        bytes_max: bytes_max.saturating_sub(used).min(free),
    })
}

/// Removes what is of no use any more: files whose blob is gone, of layouts before the newest one that is there, and those whose writer was killed. `only` is about files of
/// these blobs, and about nothing but that their blob is gone. Returns what was removed, with its bytes.
pub(crate) fn collect(
    inner: &Inner,
    only: Option<&std::collections::BTreeSet<Digest>>,
    now: SystemTime,
) -> Result<Vec<(PathBuf, u64)>> {
    let files = files(&inner.layout);
    let newest = files.iter().map(|file| file.version).max().unwrap_or(0);
    let mut removed = Vec::new();
    for file in files {
        let has_blob = || matches!(inner.layout.find_blob(&file.digest), Ok(Some(_)) | Err(_));
        let is_left = || {
            let age = now.duration_since(file.used).unwrap_or_default();
            file.version < newest || (file.is_part && age >= PART_AGE)
        };
        let is_useless = match only {
            Some(only) => only.contains(&file.digest) && !has_blob(),
            None => is_left() || !has_blob(),
        };
        if is_useless && remove(&file.path)? {
            removed.push((file.path, file.bytes));
        }
    }
    Ok(removed)
}

/// Removes what was made of a blob, for it turned out to be damaged.
pub(crate) fn forget(layout: &Layout, digest: &Digest) -> Result<()> {
    for file in files(layout).iter().filter(|file| file.digest == *digest) {
        remove(&file.path)?;
    }
    Ok(())
}

/// Removes what killed writers left. Only for the holder of the lock, before there are writers.
pub(crate) fn clear_parts(layout: &Layout) {
    for file in files(layout).iter().filter(|file| file.is_part) {
        // What cannot be removed now is found again by gc.
        let _ = fs::remove_file(&file.path);
    }
}

fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(RegistryError::io("remove", path)(error)),
    }
}
