//! Importing a file of the user's: copied and hashed in one pass, or linked when the user says so and the file system can.
//!
//! The hash is always that of the bytes that the store keeps: of the buffers as they are written, or of the linked file itself.
//! A source that changes meanwhile is refused, for half of an old file and half of a new one is a valid blob of nothing.
//!
//! Cost of a copy: one read and one write of each byte on the caller's thread, the hash beside it, then what is left
//! of one fsync. The hash is the limit: 1 GB in 0.52 s in memory (1.9 GB/s, SHA instructions), where `cp` takes 0.25 s and
//! `sha256sum` 2.0 s (2-core EPYC, 2026-11). `cargo run --release -p witness-registry --example import` measures it anywhere.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::NamedTempFile;

use crate::Result;
use crate::blob::{BlobWriter, Placement, StoredBlob};
use crate::digest::Digest;
use crate::error::RegistryError;
use crate::hash::{BUFFER_BYTES, HashPipe};
use crate::linked::LinkRecord;
use crate::publish::{self, Mode};
use crate::store::Inner;

/// How to import a file.
#[derive(Default)]
pub struct ImportOptions<'a> {
    /// Share the bytes with the source when the file system can: a reflink, else a hard link, else a copy. With a hard link the
    /// source must not be written to in place any more; `fsck`, and every load, notice when it was.
    pub link: bool,
    /// Move the source where the file system can: for files of a [working directory](crate::Registry::working_directory), which nobody else has. Nothing is copied,
    /// and afterwards the source is gone.
    pub takes: bool,
    /// Called after every buffer with the bytes done and the bytes in total.
    pub progress: Option<&'a mut dyn FnMut(u64, u64)>,
    /// Stops the import soon after it becomes true.
    pub cancel: Option<&'a AtomicBool>,
}

impl ImportOptions<'_> {
    fn step(&mut self, done: u64, total: u64) -> Result<()> {
        step(&mut self.progress, self.cancel, done, total)
    }
}

/// Between two buffers of a long copy: stops where nobody wants it any more, else tells how far it is.
pub(crate) fn step(
    progress: &mut Option<&mut dyn FnMut(u64, u64)>,
    cancel: Option<&AtomicBool>,
    done: u64,
    total: u64,
) -> Result<()> {
    if cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
        return Err(RegistryError::Cancelled);
    }
    if let Some(progress) = progress {
        progress(done, total);
    }
    Ok(())
}

pub(crate) fn import_file(inner: &Arc<Inner>, path: &Path, mut options: ImportOptions<'_>) -> Result<StoredBlob> {
    inner.writable()?;
    // A pipe would block in `open` itself, so its kind is asked first; the opened file is asked again below.
    let kind = fs::metadata(path).map_err(RegistryError::io("read", path))?;
    if !kind.is_file() {
        return Err(RegistryError::NotAFile { path: path.to_owned() });
    }
    let mut source = File::open(path).map_err(RegistryError::io("read", path))?;
    let before = source.metadata().map_err(RegistryError::io("read", path))?;
    if !before.is_file() {
        return Err(RegistryError::NotAFile { path: path.to_owned() });
    }
    if (options.link || options.takes)
        && let Some(stored) = link(inner, path, &before, &mut options)?
    {
        return Ok(stored);
    }
    // Only a hint to the kernel to read ahead further; its refusal means nothing.
    let _ = rustix::fs::fadvise(&source, 0, None, rustix::fs::Advice::Sequential);
    let mut writer = BlobWriter::begin(inner, None, Some(before.len()))?;
    loop {
        let read = writer.append_from(&mut source, path)?;
        options.step(writer.bytes_written(), before.len())?;
        if read == 0 {
            break;
        }
    }
    let after = source.metadata().map_err(RegistryError::io("read", path))?;
    if writer.bytes_written() != before.len() || !is_same_state(&before, &after) {
        return Err(RegistryError::SourceChanged { path: path.to_owned() });
    }
    writer.commit()
}

/// Tries a reflink, then a hard link. Returns nothing when neither can be had here.
fn link(
    inner: &Arc<Inner>,
    path: &Path,
    before: &Metadata,
    options: &mut ImportOptions<'_>,
) -> Result<Option<StoredBlob>> {
    // A hard link to a symbolic link would be a second symbolic link.
    let source_path = path.canonicalize().map_err(RegistryError::io("read", path))?;
    let staging = &inner.layout.blob_staging;
    let staged = |make: &dyn Fn(&Path) -> std::io::Result<()>| -> Option<NamedTempFile> {
        let builder = tempfile::Builder::new().prefix("incoming-").to_owned();
        builder
            .make_in(staging, |target| make(target).and_then(|()| File::open(target)))
            .ok()
    };
    type Make<'a> = &'a dyn Fn(&Path) -> std::io::Result<()>;
    let renamed: Make<'_> = &|target| fs::rename(&source_path, target);
    let reflinked: Make<'_> = &|target| reflink_copy::reflink(&source_path, target);
    let hard_linked: Make<'_> = &|target| fs::hard_link(&source_path, target);
    let ways = match options.takes {
        true => &[(renamed, Placement::Moved)][..],
        false => &[(reflinked, Placement::Reflinked), (hard_linked, Placement::HardLinked)],
    };
    let made = ways
        .iter()
        .find_map(|(make, placement)| Some((staged(make)?, *placement)));
    let Some((linked, placement)) = made else {
        return Ok(None);
    };
    let (mut file, staged) = linked.into_parts();
    let (digest, bytes) = hash_file(&mut file, path, before.len(), options)?;
    let after = match placement {
        Placement::Moved => file.metadata(),
        _ => fs::metadata(path),
    }
    .map_err(RegistryError::io("read", path))?;
    if bytes != before.len() || !is_same_state(before, &after) {
        return Err(RegistryError::SourceChanged { path: path.to_owned() });
    }
    let target = inner.layout.blob(&digest);
    let lease = inner.leases.lease([digest]);
    if placement == Placement::HardLinked {
        inner.linked.remember(&digest, LinkRecord::new(&after, &source_path))?;
        // Two names of one inode: rename(2) would do nothing and leave the staged name, which dropping `staged` removes.
        let is_there =
            fs::metadata(&target).is_ok_and(|there| there.ino() == after.ino() && there.dev() == after.dev());
        if !is_there {
            publish::publish(&file, staged, &target, Mode::Untouched)?;
        }
    } else {
        inner.linked.forget(&digest);
        publish::publish(&file, staged, &target, Mode::Usual)?;
    }
    inner.generation.bump();
    Ok(Some(StoredBlob {
        digest,
        size: bytes,
        placement,
        lease,
    }))
}

fn hash_file(file: &mut File, path: &Path, total: u64, options: &mut ImportOptions<'_>) -> Result<(Digest, u64)> {
    let mut hash = HashPipe::new();
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    let mut bytes = 0;
    loop {
        let read = file.by_ref().take(BUFFER_BYTES as u64).read_to_end(&mut buffer);
        bytes += read.map_err(RegistryError::io("read", path))? as u64;
        options.step(bytes, total)?;
        if buffer.len() < BUFFER_BYTES {
            return Ok((hash.finish(&buffer), bytes));
        }
        buffer = hash.exchange(buffer);
    }
}

fn is_same_state(before: &Metadata, after: &Metadata) -> bool {
    let state = |metadata: &Metadata| {
        (
            metadata.dev(),
            metadata.ino(),
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        )
    };
    state(before) == state(after)
}
