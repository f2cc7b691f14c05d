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

use std::{fs::File, ops::Deref, ops::Range, path::Path, sync::Arc};

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

    /// Takes the pages of a range out of this process's resident memory; the next look at them reads them again. For a range that was copied and is not needed
    /// soon: without it a model that is read once stands in memory twice.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if range.start < range.end && range.end <= self.bytes.len() {
            // SAFETY: the mapping is of a file, read-only and shared, so that pages taken from it come back with the same bytes.
            let advised = unsafe {
                self.bytes
                    .unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
            // It is advice: where the system does not take it, nothing is lost but memory.
            drop(advised);
        }
    }
}

impl Deref for Mmap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}
