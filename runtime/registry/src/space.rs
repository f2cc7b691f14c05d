//! Disk space: asked before a write whose length is known, and the one clear error when a write finds the disk full anyway.

use std::io;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::error::RegistryError;

/// Room that is left for manifests and for the file system's own books when a blob is checked up front.
const RESERVE_BYTES: u64 = 1 << 20;

/// Returns how many bytes this user may still write in the file system of `path`; unknown counts as unlimited.
pub(crate) fn free_bytes(path: &Path) -> u64 {
    free_and_whole_bytes(path).0
}

/// Returns how many bytes this user may still write in the file system of `path`, and how many it has; unknown counts as unlimited.
pub(crate) fn free_and_whole_bytes(path: &Path) -> (u64, u64) {
    match rustix::fs::statvfs(path) {
        Ok(stat) => (
            stat.f_bavail.saturating_mul(stat.f_frsize),
            stat.f_blocks.saturating_mul(stat.f_frsize),
        ),
        Err(_) => (u64::MAX, 0),
    }
}

/// Returns the store's directory for a path in our part of it: that is what a person knows.
fn shown(dir: &Path) -> PathBuf {
    let private = dir.ancestors().find(|ancestor| ancestor.ends_with(".witness"));
    private.and_then(Path::parent).unwrap_or(dir).to_owned()
}

/// Refuses a write of that many bytes that cannot fit.
pub(crate) fn check(dir: &Path, bytes: u64) -> Result<()> {
    let bytes_free = free_bytes(dir);
    let bytes_needed = bytes.saturating_add(RESERVE_BYTES);
    if bytes_needed > bytes_free {
        return Err(RegistryError::NoSpace {
            path: shown(dir),
            bytes_needed,
            bytes_free,
        });
    }
    Ok(())
}

/// Returns whether an error means that the disk, a quota or a limit on file length is exhausted.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Converts the error of a write: a full disk names what is needed and what is free.
pub(crate) fn write_error(
    action: &'static str,
    path: &Path,
    bytes_needed: u64,
) -> impl FnOnce(io::Error) -> RegistryError {
    move |error| {
        if is_full(&error) {
            let dir = path.parent().unwrap_or(path);
            let bytes_free = free_bytes(dir);
            return RegistryError::NoSpace {
                path: shown(dir),
                bytes_needed: bytes_needed.max(1),
                bytes_free,
            };
        }
        RegistryError::io(action, path)(error)
    }
}
