//! Reading a bundle: the index and the manifest first, then each blob through the store's own writer. See the module above for what is trusted when.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::frame::{self, BLOCK_BYTES, First};
use super::index::{BaseReference, Entry, Index};
use super::{FORMAT_VERSION, INDEX_BYTES_MAX, Watch};
use crate::Result;
use crate::digest::Digest;
use crate::error::RegistryError;
use crate::lease::Lease;
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::name::ModelName;
use crate::space;
use crate::store::Registry;

/// An opened bundle whose index and manifest are sound and agree. Its blobs were not looked at yet.
#[derive(Debug)]
pub struct Bundle {
    reader: Reader,
    index: Index,
    manifest: Manifest,
    manifest_bytes: Vec<u8>,
}

/// What came out of a bundle: blobs that are in the store, and a manifest that is not yet.
#[derive(Debug)]
pub struct Unpacked {
    /// The manifest, as it was packed.
    pub manifest: Manifest,
    manifest_bytes: Vec<u8>,
    /// Keeps every blob of the model from gc.
    _leases: Vec<Lease>,
}

impl Bundle {
    /// Opens a bundle and checks its index, its manifest and its length.
    ///
    /// # Errors
    /// [`RegistryError::NotABundle`], [`RegistryError::BundleVersion`], [`RegistryError::BundleDamaged`] with the place, [`RegistryError::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        // A pipe would block in `open` itself, so its kind is asked first.
        let kind = std::fs::metadata(path).map_err(RegistryError::io("read", path))?;
        if !kind.is_file() {
            return Err(RegistryError::NotAFile { path: path.to_owned() });
        }
        let file = File::open(path).map_err(RegistryError::io("read", path))?;
        let bytes_in_file = file.metadata().map_err(RegistryError::io("read", path))?.len();
        let mut reader = Reader {
            file,
            path: path.to_owned(),
            at: 0,
        };
        let not_a_bundle = || RegistryError::NotABundle { path: path.to_owned() };
        if bytes_in_file < BLOCK_BYTES as u64 {
            return Err(not_a_bundle());
        }
        let mut block = [0; BLOCK_BYTES];
        reader.fill(&mut block)?;
        let (digest, index_bytes) = match frame::first(&block) {
            First::Index { digest, bytes } => (digest, bytes),
            First::Version(found) => {
                return Err(RegistryError::BundleVersion {
                    path: path.to_owned(),
                    found,
                    known: FORMAT_VERSION,
                });
            }
            First::Foreign => return Err(not_a_bundle()),
            First::Damaged => return Err(reader.damaged(0, "the header of its index is not as one is written")),
        };
        if index_bytes > INDEX_BYTES_MAX {
            let reason = format!("its index has {index_bytes} bytes, more than the {INDEX_BYTES_MAX} allowed");
            return Err(reader.damaged(0, reason));
        }
        let bytes = reader.content(&digest, index_bytes, bytes_in_file)?;
        let index = Index::from_bytes(&bytes).map_err(|reason| reader.damaged(0, reason))?;
        let manifest_entry = index.manifest().clone();
        if manifest_entry.bytes > MANIFEST_BYTES_MAX {
            return Err(RegistryError::ManifestTooLong {
                name: index.name.to_string(),
                bytes: manifest_entry.bytes,
                bytes_max: MANIFEST_BYTES_MAX,
            });
        }
        match index.file_bytes(index_bytes) {
            Some(expected) if expected == bytes_in_file => {}
            Some(expected) if expected < bytes_in_file => {
                let reason = format!("{} bytes follow its end", bytes_in_file - expected);
                return Err(reader.damaged(expected, reason));
            }
            expected => {
                let expected = expected.map_or("more than any file can have".to_owned(), |bytes| bytes.to_string());
                let reason = format!("it ends after {bytes_in_file} bytes; its index wants {expected}");
                return Err(reader.damaged(bytes_in_file, reason));
            }
        }
        let at = reader.at;
        reader.header(&manifest_entry)?;
        let manifest_bytes = reader.content(&manifest_entry.digest, manifest_entry.bytes, bytes_in_file)?;
        let manifest = Manifest::from_bytes(&manifest_bytes)
            .map_err(|reason| reader.damaged(at, format!("its manifest cannot be read: {reason}")))?;
        index.matches(&manifest).map_err(|reason| reader.damaged(at, reason))?;
        Ok(Self {
            reader,
            index,
            manifest,
            manifest_bytes,
        })
    }

    /// Returns the name that the model had where it was packed.
    pub fn name(&self) -> &ModelName {
        &self.index.name
    }

    /// Returns the program that wrote the bundle, with its version, as the bundle says.
    pub fn program(&self) -> &str {
        &self.index.program
    }

    /// Returns the base that must be in the store already, if the bundle has none.
    pub fn base(&self) -> Option<&BaseReference> {
        self.index.base.as_ref()
    }

    /// Returns the digest of the manifest: what identifies the model.
    pub fn manifest_digest(&self) -> &Digest {
        &self.index.manifest().digest
    }

    /// Stores every blob that the store lacks, checked while it comes. Blobs that it has are passed over: what is there is known by its digest.
    ///
    /// # Errors
    /// [`RegistryError::BundleBase`] when a base that was left out is not in the store, [`RegistryError::BundleDamaged`], [`RegistryError::NoSpace`],
    /// [`RegistryError::Cancelled`], [`RegistryError::Io`].
    pub fn unpack(mut self, registry: &Registry, mut watch: Watch<'_>) -> Result<Unpacked> {
        // Leased first, looked for second: between the two nothing can take them away.
        let digests: Vec<Digest> = self.manifest.digests().into_iter().collect();
        let mut leases = vec![registry.lease(&digests)];
        self.find_base(registry)?;
        let is_here = |entry: &Entry| registry.has_blob(&entry.digest) == Some(entry.bytes);
        let lacking = self.index.blobs().iter().filter(|entry| !is_here(entry));
        let bytes = lacking.fold(0u64, |sum, entry| sum.saturating_add(entry.bytes));
        if bytes > 0 {
            space::check(registry.blob_staging(), bytes)?;
        }
        let (mut done, total) = (0, self.index.blob_bytes());
        watch.step(done, total)?;
        let _ = rustix::fs::fadvise(&self.reader.file, 0, None, rustix::fs::Advice::Sequential);
        for entry in self.index.blobs() {
            self.reader.header(entry)?;
            if is_here(entry) {
                self.reader.skip(entry.bytes)?;
                done += entry.bytes;
                watch.step(done, total)?;
            } else {
                let mut step = |bytes| {
                    done += bytes;
                    watch.step(done, total)
                };
                leases.push(self.reader.blob(registry, entry, &mut step)?);
            }
            self.reader.zeros(frame::padding(entry.bytes))?;
        }
        self.reader.zeros(frame::END_BYTES)?;
        Ok(Unpacked {
            manifest: self.manifest,
            manifest_bytes: self.manifest_bytes,
            _leases: leases,
        })
    }

    fn find_base(&self, registry: &Registry) -> Result<()> {
        let Some(base) = self.base() else { return Ok(()) };
        let missing: Vec<(String, Digest)> = base
            .files
            .iter()
            .filter(|file| registry.has_blob(&file.digest) != Some(file.bytes))
            .map(|file| (file.path.clone(), file.digest))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(RegistryError::BundleBase {
            path: self.reader.path.clone(),
            base: base.name.clone(),
            missing,
        })
    }
}

impl Unpacked {
    /// Names the model, with the manifest byte for byte as it was packed. Returns its digest.
    ///
    /// # Errors
    /// As [`Registry::write_manifest`].
    pub fn publish(&self, registry: &Registry, name: &ModelName) -> Result<Digest> {
        registry.write_manifest_bytes(name, &self.manifest, &self.manifest_bytes)
    }

    /// Returns the digest that the manifest has when it is [published](Self::publish).
    pub fn manifest_digest(&self) -> Digest {
        Digest::of(&self.manifest_bytes)
    }
}

/// The file, and where in it we are.
#[derive(Debug)]
struct Reader {
    file: File,
    path: PathBuf,
    at: u64,
}

impl Reader {
    fn damaged(&self, at: u64, reason: impl Into<String>) -> RegistryError {
        RegistryError::BundleDamaged {
            path: self.path.clone(),
            at,
            reason: reason.into(),
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged(self.at, "it ends too early"),
            _ => RegistryError::io("read", &self.path)(error),
        })?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Reads the header of an entry, which can only be one.
    fn header(&mut self, entry: &Entry) -> Result<()> {
        let at = self.at;
        let mut block = [0; BLOCK_BYTES];
        self.fill(&mut block)?;
        if block == frame::header(&frame::entry(&entry.path), entry.bytes) {
            return Ok(());
        }
        Err(self.damaged(
            at,
            format!("the header of `{}` is not the one that the index implies", entry.path),
        ))
    }

    /// Reads a small entry whole, with its padding. Its length was held against a limit.
    fn content(&mut self, digest: &Digest, bytes: u64, bytes_in_file: u64) -> Result<Vec<u8>> {
        let at = self.at;
        if bytes > bytes_in_file.saturating_sub(at) {
            return Err(self.damaged(at, "it ends too early"));
        }
        let mut content = vec![0; usize::try_from(bytes).unwrap_or_default()];
        self.fill(&mut content)?;
        let found = Digest::of(&content);
        if found != *digest {
            return Err(self.damaged(at, format!("the entry there hashes to `{found}` instead of `{digest}`")));
        }
        self.zeros(frame::padding(bytes))?;
        Ok(content)
    }

    fn zeros(&mut self, count: u64) -> Result<()> {
        let at = self.at;
        let mut block = [0; frame::END_BYTES as usize];
        let count = usize::try_from(count).unwrap_or(block.len()).min(block.len());
        self.fill(&mut block[..count])?;
        match block[..count].iter().position(|byte| *byte != 0) {
            None => Ok(()),
            Some(place) => Err(self.damaged(at + place as u64, "there are bytes where nothing may be")),
        }
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        let place = self.at.saturating_add(bytes);
        self.file
            .seek(SeekFrom::Start(place))
            .map_err(RegistryError::io("read", &self.path))?;
        self.at = place;
        Ok(())
    }

    /// Copies a blob into the store.
    fn blob(&mut self, registry: &Registry, entry: &Entry, step: &mut dyn FnMut(u64) -> Result<()>) -> Result<Lease> {
        let at = self.at;
        let mut writer = registry.begin_blob(Some(entry.digest), Some(entry.bytes))?;
        let mut left = entry.bytes;
        while left > 0 {
            let read = writer.append_from(&mut (&mut self.file).take(left), &self.path)?;
            if read == 0 {
                return Err(self.damaged(self.at, "it ends too early"));
            }
            left -= read;
            self.at += read;
            step(read)?;
        }
        match writer.commit() {
            Ok(stored) => Ok(stored.lease),
            Err(RegistryError::DigestMismatch { found, .. }) => {
                let reason = format!("the bytes of `{}` hash to `{found}`", entry.path);
                Err(self.damaged(at, reason))
            }
            Err(error) => Err(error),
        }
    }
}
