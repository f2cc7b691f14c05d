//! Writing a bundle: to a hidden file beside the target, hashed while it is copied, and renamed when all of it is on the disk.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempPath;

use super::index::{Entry, Index};
use super::{ENTRIES_MAX, INDEX_BYTES_MAX, Watch, frame};
use crate::Result;
use crate::digest::Digest;
use crate::error::{Damage, RegistryError};
use crate::hash::{BUFFER_BYTES, HashPipe};
use crate::manifest::Manifest;
use crate::name::ModelName;
use crate::publish;
use crate::space::{self, write_error};
use crate::store::Registry;
use crate::writeback::Writeback;

/// Mode of a bundle before the user's mask: it is the user's own file.
const BUNDLE_MODE: u32 = 0o666;

/// What goes into a bundle, and where it goes.
#[derive(Debug)]
pub struct PackOptions<'a> {
    /// Name that the model gets where it is imported without another.
    pub name: &'a ModelName,
    /// The program that writes it, with its version.
    pub program: &'a str,
    /// Leave the base out, and call it so.
    pub without_base: Option<&'a str>,
    /// Blobs that the manifest names and the store lacks: small ones, made for this bundle.
    pub made: &'a [Vec<u8>],
    /// Replace a file that is there.
    pub replace: bool,
}

/// Writes a bundle. Returns its length in bytes.
pub(crate) fn pack(
    registry: &Registry,
    manifest_bytes: &[u8],
    target: &Path,
    options: &PackOptions<'_>,
    mut watch: Watch<'_>,
) -> Result<u64> {
    let manifest = Manifest::from_bytes(manifest_bytes).map_err(|reason| RegistryError::Damaged {
        name: options.name.to_string(),
        damage: Box::new(Damage::ManifestUnreadable {
            path: target.to_owned(),
            reason,
        }),
    })?;
    let index = Index::new(
        options.name,
        options.program,
        (manifest_bytes, &manifest),
        options.without_base,
    );
    let index_bytes = index.to_bytes();
    if index.entries.len() > ENTRIES_MAX || index_bytes.len() as u64 > INDEX_BYTES_MAX {
        return Err(RegistryError::ManifestTooLong {
            name: options.name.to_string(),
            bytes: index_bytes.len() as u64,
            bytes_max: INDEX_BYTES_MAX,
        });
    }
    refuse_existing(target, options.replace)?;
    let made: Vec<(Digest, &[u8])> = options
        .made
        .iter()
        .map(|bytes| (Digest::of(bytes), bytes.as_slice()))
        .collect();
    let digests: Vec<Digest> = index.blobs().iter().map(|entry| entry.digest).collect();
    let _lease = registry.lease(&digests);
    let file_bytes = index.file_bytes(index_bytes.len() as u64).unwrap_or(u64::MAX);
    let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    space::check(directory, file_bytes)?;
    let mut out = Out::begin(directory, file_bytes)?;
    let name = frame::index_path(&Digest::of(&index_bytes));
    out.entry(&name, &index_bytes)?;
    out.entry(&index.manifest().path, manifest_bytes)?;
    let (mut done, total) = (0, index.blob_bytes());
    watch.step(done, total)?;
    for entry in index.blobs() {
        match made.iter().find(|(digest, _)| *digest == entry.digest) {
            Some((_, bytes)) => {
                out.entry(&entry.path, bytes)?;
                done += entry.bytes;
                watch.step(done, total)?;
            }
            None => {
                let mut step = |bytes| {
                    done += bytes;
                    watch.step(done, total)
                };
                out.blob(registry, options.name, entry, &mut step)?;
            }
        }
    }
    out.zeros(frame::END_BYTES)?;
    out.finish(directory, target, options.replace)?;
    Ok(file_bytes)
}

/// Told before the work, and found again when the file is put in its place.
fn refuse_existing(target: &Path, replace: bool) -> Result<()> {
    match std::fs::symlink_metadata(target) {
        Ok(metadata) if metadata.is_dir() => Err(RegistryError::NotAFile {
            path: target.to_owned(),
        }),
        Ok(_) if !replace => Err(RegistryError::Exists {
            path: target.to_owned(),
        }),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(RegistryError::io("look at", target)(error)),
    }
}

/// The bundle while it is written. Dropping it removes it.
struct Out {
    file: File,
    staged: TempPath,
    file_bytes: u64,
    bytes: u64,
    writeback: Writeback,
}

impl Out {
    fn begin(directory: &Path, file_bytes: u64) -> Result<Self> {
        let staged = tempfile::Builder::new()
            .prefix(".witness-")
            .suffix(".part")
            .permissions(Permissions::from_mode(BUNDLE_MODE))
            .tempfile_in(directory)
            .map_err(write_error("create a file in", directory, file_bytes))?;
        let (file, staged) = staged.into_parts();
        Ok(Self {
            file,
            staged,
            file_bytes,
            bytes: 0,
            writeback: Writeback::default(),
        })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let rest = self.file_bytes.saturating_sub(self.bytes);
        self.file
            .write_all(bytes)
            .map_err(write_error("write", &self.staged, rest))?;
        self.bytes += bytes.len() as u64;
        self.writeback.wrote(&self.file, bytes.len() as u64);
        Ok(())
    }

    fn zeros(&mut self, count: u64) -> Result<()> {
        const ZEROS: [u8; frame::END_BYTES as usize] = [0; frame::END_BYTES as usize];
        // No padding is longer than the zeros at the end.
        let count = usize::try_from(count).unwrap_or(ZEROS.len()).min(ZEROS.len());
        self.put(&ZEROS[..count])
    }

    fn entry(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        self.put(&frame::header(&frame::entry(path), bytes.len() as u64))?;
        self.put(bytes)?;
        self.zeros(frame::padding(bytes.len() as u64))
    }

    /// Copies a blob, and finds out whether it is what its name says.
    fn blob(
        &mut self,
        registry: &Registry,
        model: &ModelName,
        entry: &Entry,
        step: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let damaged = |damage| RegistryError::Damaged {
            name: model.to_string(),
            damage: Box::new(damage),
        };
        let path = registry.blob_path(&entry.digest);
        let mut blob = registry.open_blob(&entry.digest)?;
        let bytes_found = blob.metadata().map_err(RegistryError::io("read", &path))?.len();
        if bytes_found != entry.bytes {
            return Err(damaged(Damage::BlobLength {
                digest: entry.digest,
                bytes_expected: entry.bytes,
                bytes_found,
            }));
        }
        // Only a hint to the kernel to read ahead further; its refusal means nothing.
        let _ = rustix::fs::fadvise(&blob, 0, None, rustix::fs::Advice::Sequential);
        self.put(&frame::header(&frame::entry(&entry.path), entry.bytes))?;
        let mut hash = HashPipe::new();
        let wanted = usize::try_from(entry.bytes).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
        let mut buffer = Vec::with_capacity(wanted);
        let mut left = entry.bytes;
        loop {
            // Never more than the header promised, whatever becomes of the file meanwhile.
            let room = left.min(BUFFER_BYTES as u64);
            let read = (&mut blob).take(room).read_to_end(&mut buffer);
            let read = read.map_err(RegistryError::io("read", &path))? as u64;
            self.put(&buffer)?;
            left -= read;
            step(read)?;
            if left == 0 || read == 0 {
                break;
            }
            buffer = hash.exchange(buffer);
        }
        let found = hash.finish(&buffer);
        if found != entry.digest {
            return Err(damaged(Damage::BlobCorrupt {
                digest: entry.digest,
                found: Box::new(found),
            }));
        }
        self.zeros(frame::padding(entry.bytes))
    }

    fn finish(self, directory: &Path, target: &Path, replace: bool) -> Result<()> {
        let synced = self.writeback.finish().and_then(|()| self.file.sync_all());
        synced.map_err(write_error("write", &self.staged, 0))?;
        let placed = match replace {
            true => self.staged.persist(target),
            false => self.staged.persist_noclobber(target),
        };
        placed.map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => RegistryError::Exists {
                path: target.to_owned(),
            },
            _ => write_error("rename into", target, 0)(error.error),
        })?;
        publish::sync_directory(directory)
    }
}
