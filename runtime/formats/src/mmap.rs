//! A read-only mapping of a whole file: weights are looked at in place and never copied to the heap.
//!
//! This is the only module of the crate with `unsafe`. It knows nothing of any format.
//!
//! **Invariant:** the files given to this crate are blobs of the registry (immutable by its rules) or files that the user named and
//! leaves alone while they are in use. A file that somebody truncates while it is mapped makes a later read of the lost pages fail
//! with SIGBUS, which is one reason why model files are opened in worker processes that can be lost.
#![expect(
    unsafe_code,
    reason = "mapping a file is unsafe in itself; everything above works on slices"
)]

use std::{fs::File, ops::Deref, path::Path, sync::Arc};

use crate::{FormatError, Result};

/// A shared, read-only mapping of one file. Clones share it; the last one unmaps.
#[derive(Clone, Debug)]
pub struct Mmap {
    bytes: Arc<memmap2::Mmap>,
}

impl Mmap {
    /// Maps a regular file, which may be empty. Reads nothing yet.
    pub fn open(path: &Path) -> Result<Mmap> {
        let name = || path.display().to_string();
        let file = File::open(path).map_err(|source| FormatError::io(name(), "open", source))?;
        let about = file
            .metadata()
            .map_err(|source| FormatError::io(name(), "examine", source))?;
        if !about.is_file() {
            return Err(FormatError::malformed(
                name(),
                "the path",
                "a regular file",
                if about.is_dir() {
                    "a directory"
                } else {
                    "a special file"
                },
            ));
        }
        // SAFETY: the mapping is private to this value, read-only, and handed out only as `&[u8]` bound to it; that the file is not
        // changed underneath is the module's invariant.
        let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(|source| FormatError::io(name(), "map", source))?;
        Ok(Mmap { bytes: Arc::new(bytes) })
    }
}

impl Deref for Mmap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}
