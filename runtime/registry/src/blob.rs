//! Writing blobs: bytes go to a staged file and through the hash at the same time; `commit` publishes under the digest they have.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use tempfile::TempPath;

use crate::Result;
use crate::digest::Digest;
use crate::error::RegistryError;
use crate::hash::{BUFFER_BYTES, HashPipe};
use crate::lease::Lease;
use crate::publish::{self, Mode};
use crate::space;
use crate::store::Inner;
use crate::writeback::Writeback;

/// How the bytes of a blob came into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Written.
    Copied,
    /// Shared with the source until either is written to (copy on write): safe.
    Reflinked,
    /// The same file as the source under a second name: a change to the source damages the blob.
    HardLinked,
    /// The source itself, which is gone from where it was: safe.
    Moved,
}

/// A blob that is in the store, kept from gc while this value lives.
#[derive(Clone, Debug)]
pub struct StoredBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// How it came there.
    pub placement: Placement,
    /// Drop this only when a manifest names the blob, or when nobody needs it.
    pub lease: Lease,
}

/// A blob that is being written. Dropping it without [`BlobWriter::commit`] leaves nothing behind.
pub struct BlobWriter {
    inner: Arc<Inner>,
    file: File,
    staged: TempPath,
    expected: Option<Digest>,
    size_hint: Option<u64>,
    bytes: u64,
    buffer: Vec<u8>,
    hash: HashPipe,
    writeback: Writeback,
}

impl BlobWriter {
    pub(crate) fn begin(inner: &Arc<Inner>, expected: Option<Digest>, size_hint: Option<u64>) -> Result<Self> {
        inner.writable()?;
        let staging = &inner.layout.blob_staging;
        if let Some(bytes) = size_hint {
            space::check(staging, bytes)?;
        }
        let (file, staged) = publish::stage(staging)?.into_parts();
        Ok(Self {
            inner: Arc::clone(inner),
            file,
            staged,
            expected,
            size_hint,
            bytes: 0,
            buffer: Vec::new(),
            hash: HashPipe::new(),
            writeback: Writeback::default(),
        })
    }

    /// Returns how many bytes were written so far.
    pub fn bytes_written(&self) -> u64 {
        self.bytes + self.buffer.len() as u64
    }

    /// Adds bytes. Like [`Write::write_all`], with the store's own errors.
    ///
    /// # Errors
    /// [`RegistryError::NoSpace`] when the disk is full, [`RegistryError::Io`] otherwise.
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            self.make_room()?;
            let (now, later) = bytes.split_at(bytes.len().min(BUFFER_BYTES - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Adds up to one buffer straight from a source, without another copy. Returns how much; 0 is the end of the source.
    pub(crate) fn append_from(&mut self, source: &mut impl Read, source_path: &Path) -> Result<u64> {
        self.make_room()?;
        let room = (BUFFER_BYTES - self.buffer.len()) as u64;
        let read = source.by_ref().take(room).read_to_end(&mut self.buffer);
        Ok(read.map_err(RegistryError::io("read", source_path))? as u64)
    }

    fn make_room(&mut self) -> Result<()> {
        if self.buffer.len() == BUFFER_BYTES {
            self.write_buffer()?;
            let full = std::mem::take(&mut self.buffer);
            self.buffer = self.hash.exchange(full);
        } else if self.buffer.capacity() == 0 {
            let wanted = self
                .size_hint
                .map_or(BUFFER_BYTES, |hint| usize::try_from(hint).unwrap_or(BUFFER_BYTES));
            self.buffer.reserve_exact(wanted.clamp(64, BUFFER_BYTES));
        }
        Ok(())
    }

    fn write_buffer(&mut self) -> Result<()> {
        let rest = self
            .size_hint
            .map_or(self.buffer.len() as u64, |hint| hint.saturating_sub(self.bytes));
        self.file
            .write_all(&self.buffer)
            .map_err(space::write_error("write", &self.staged, rest))?;
        self.bytes += self.buffer.len() as u64;
        self.writeback.wrote(&self.file, self.buffer.len() as u64);
        Ok(())
    }

    /// Publishes the blob.
    ///
    /// A blob of the same digest that is already there is replaced by these verified bytes, which heals it if it was damaged;
    /// whoever has the old file open or mapped keeps it.
    ///
    /// # Errors
    /// [`RegistryError::DigestMismatch`] when another digest was promised, [`RegistryError::NoSpace`], [`RegistryError::Io`].
    pub fn commit(mut self) -> Result<StoredBlob> {
        self.write_buffer()?;
        let Self {
            inner,
            file,
            staged,
            expected,
            bytes,
            buffer,
            hash,
            writeback,
            ..
        } = self;
        writeback.finish().map_err(space::write_error("write", &staged, 0))?;
        let digest = hash.finish(&buffer);
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(RegistryError::DigestMismatch {
                expected,
                found: Box::new(digest),
                bytes,
            });
        }
        let lease = inner.leases.lease([digest]);
        publish::publish(&file, staged, &inner.layout.blob(&digest), Mode::Usual)?;
        inner.linked.forget(&digest);
        inner.generation.bump();
        Ok(StoredBlob {
            digest,
            size: bytes,
            placement: Placement::Copied,
            lease,
        })
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl std::fmt::Debug for BlobWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobWriter")
            .field("expected", &self.expected)
            .field("bytes", &self.bytes_written())
            .finish()
    }
}
