//! A model in one file, for machines that no network joins: written by [`Registry::pack`](crate::Registry::pack), read by [`Bundle`].
//!
//! ```text
//! witness-bundle-1/index-sha256-<64 hex>.json     the index; the digest of its bytes is in its name
//! witness-bundle-1/manifest.json                  the manifest, byte for byte as in the store
//! witness-bundle-1/blobs/sha256-<64 hex>          each blob once: the configuration, then the layers in their order
//! (two blocks of zeros)
//! ```
//! It is a tar, uncompressed because weights do not compress, so that any machine can list and take apart what a stranger sent. Each header has no owner, no
//! time and one mode: it follows from the entry's name and length, and these from the index. So the reader parses no tar. It makes the headers that the index
//! implies and compares, and the length of the whole file is known before the first blob is read.
//!
//! **Invariants:** the same model packed by the same version is the same bytes. No path is ever made from the file's text: a blob's place follows from its digest.
//! A byte that differs anywhere is found, but in the blobs that the store has already, which are not read. Nothing but blobs is in the store before the caller
//! [publishes](Unpacked::publish), and a file that was packed is under its name whole or not at all.
//!
//! Cost: one read of each blob with the hash beside it, one write, buffers of [`hash`](crate::hash); the index and the manifest are in memory, each below a limit.

mod frame;
mod index;
mod pack;
#[cfg(test)]
mod tests;
mod unpack;

use std::sync::atomic::AtomicBool;

pub use index::{BaseReference, Entry};
pub use pack::PackOptions;
pub(crate) use pack::pack;
pub use unpack::{Bundle, Unpacked};

use crate::Result;

/// Version of the format that this program writes, and the only one that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// As many blobs as a manifest of the greatest length can name.
const ENTRIES_MAX: usize = 16_384;

/// An index names what a manifest names, in about as many words.
const INDEX_BYTES_MAX: u64 = crate::manifest::MANIFEST_BYTES_MAX;

/// Who watches a long copy.
#[derive(Default)]
pub struct Watch<'a> {
    /// Called after every buffer with the bytes of blobs done and in total.
    pub progress: Option<&'a mut dyn FnMut(u64, u64)>,
    /// Stops the copy soon after it becomes true.
    pub cancel: Option<&'a AtomicBool>,
}

impl Watch<'_> {
    fn step(&mut self, done: u64, total: u64) -> Result<()> {
        crate::import::step(&mut self.progress, self.cancel, done, total)
    }
}
