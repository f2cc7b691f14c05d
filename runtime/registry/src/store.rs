//! The store as its callers see it: open, read, write, list, copy, delete.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use witness_diagnostics::near_misses;

use crate::Result;
use crate::blob::{BlobWriter, StoredBlob};
use crate::bundle;
use crate::digest::Digest;
use crate::error::{Damage, RegistryError};
use crate::fsck::{self, FsckOptions, FsckReport};
use crate::gc::{self, GcOptions, GcReport};
use crate::generation::Generation;
use crate::import::{self, ImportOptions};
use crate::layout::Layout;
use crate::lease::{Lease, LeaseTable};
use crate::linked::Linked;
use crate::list::{self, BlobLooks, ListEntry, ManifestCache, Suspects};
use crate::lock::StoreLock;
use crate::manifest::{self, MANIFEST_BYTES_MAX, Manifest};
use crate::name::ModelName;
use crate::packed::{self, PackedPlace};
use crate::publish;
use crate::space;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Make the directories when they are missing.
    pub create: bool,
    /// What the process is, for the message of whoever finds the store locked.
    pub purpose: String,
}

impl OpenOptions {
    /// Makes options that create what is missing.
    pub fn new(purpose: impl Into<String>) -> Self {
        Self {
            create: true,
            purpose: purpose.into(),
        }
    }
}

/// A model as it is stored.
#[derive(Clone, Debug)]
pub struct StoredManifest {
    /// Its name, in the case that it has on disk.
    pub name: ModelName,
    /// What it is made of.
    pub manifest: Manifest,
    /// Digest of the manifest's bytes: what Ollama shows as the digest of a model.
    pub digest: Digest,
    /// When it was written.
    pub modified: SystemTime,
}

/// An open store. Clones share it; the lock is released when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) layout: Layout,
    /// Nothing when the store may only be read.
    lock: Option<StoreLock>,
    pub(crate) leases: Arc<LeaseTable>,
    pub(crate) linked: Linked,
    pub(crate) suspects: Suspects,
    /// Held while manifests change and while gc decides and removes: what gc reads stays true until it is done.
    names: Mutex<()>,
    pub(crate) generation: Generation,
    cache: ManifestCache,
    /// What was staged before is left over.
    pub(crate) opened_at: SystemTime,
}

impl Inner {
    pub(crate) fn writable(&self) -> Result<()> {
        match self.lock {
            Some(_) => Ok(()),
            None => Err(RegistryError::ReadOnly {
                path: self.layout.models.clone(),
            }),
        }
    }

    pub(crate) fn hold_names(&self) -> MutexGuard<'_, ()> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops what is remembered of a manifest that changes.
    pub(crate) fn changed(&self, manifest: &Path) {
        self.cache.forget(manifest);
        self.generation.bump();
    }
}

/// A directory for files that become blobs; removed when dropped.
#[derive(Debug)]
pub struct WorkingDirectory(tempfile::TempDir);

impl WorkingDirectory {
    /// Returns where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves it there, as a process does that is killed.
    #[cfg(test)]
    pub(crate) fn keep(self) -> PathBuf {
        self.0.keep()
    }
}

impl Registry {
    /// Opens the store in `models` and takes its lock.
    ///
    /// A store that this user may not write to is opened for reading only, without a lock: Ollama's own on a shared machine.
    ///
    /// # Errors
    /// [`RegistryError::Locked`] names the holder, [`RegistryError::NoStore`] when it is missing and was not to be made.
    pub fn open(models: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        let models = models.as_ref();
        let mut layout = Layout::new(models);
        if !options.create && !models.is_dir() {
            return Err(RegistryError::NoStore {
                path: models.to_owned(),
            });
        }
        let lock = match layout
            .create()
            .and_then(|()| StoreLock::take(models, &layout.lock(), &options.purpose))
        {
            Ok(lock) => Some(lock),
            Err(error) if models.is_dir() && is_denied(&error) => None,
            Err(error) => return Err(error),
        };
        if lock.is_some() {
            layout.settle_staging()?;
            publish::clear_staging(&layout.blob_staging);
            publish::clear_staging(&layout.manifest_staging);
            packed::clear_parts(&layout);
        }
        let inner = Inner {
            linked: Linked::open(&layout),
            suspects: Suspects::default(),
            layout,
            lock,
            leases: Arc::default(),
            names: Mutex::new(()),
            generation: Generation::new(),
            cache: ManifestCache::default(),
            opened_at: SystemTime::now(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns the store's directory.
    pub fn models_dir(&self) -> &Path {
        &self.inner.layout.models
    }

    /// Returns whether the store was opened for reading only.
    pub fn is_read_only(&self) -> bool {
        self.inner.lock.is_none()
    }

    /// Returns where a blob lies, or would lie. To use the file, take a [`Registry::lease`] first and keep it.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let found = self.inner.layout.find_blob(digest).ok().flatten();
        found.map_or_else(|| self.inner.layout.blob(digest), |(path, _)| path)
    }

    /// Returns the length of a blob that is there.
    pub fn has_blob(&self, digest: &Digest) -> Option<u64> {
        let found = self.inner.layout.find_blob(digest).ok().flatten();
        found.map(|(_, metadata)| metadata.len())
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// [`RegistryError::BlobNotFound`], [`RegistryError::Io`].
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => RegistryError::BlobNotFound { digest: *digest },
            _ => RegistryError::io("read", &path)(error),
        })
    }

    /// Reads a small blob (a template, parameters, a configuration) whole.
    ///
    /// # Errors
    /// [`RegistryError::BlobNotFound`], or [`RegistryError::Io`] also when it is longer than `bytes_max`.
    pub fn read_blob(&self, digest: &Digest, bytes_max: u64) -> Result<Vec<u8>> {
        use std::io::Read;
        let path = self.blob_path(digest);
        let mut bytes = Vec::new();
        let mut file = self.open_blob(digest)?.take(bytes_max.saturating_add(1));
        file.read_to_end(&mut bytes).map_err(RegistryError::io("read", &path))?;
        if bytes.len() as u64 > bytes_max {
            let reason = format!("it is longer than the {bytes_max} bytes that are read whole");
            return Err(RegistryError::io("read", &path)(std::io::Error::new(
                std::io::ErrorKind::FileTooLarge,
                reason,
            )));
        }
        Ok(bytes)
    }

    /// Begins a blob. With an `expected` digest, other bytes are refused at the end; with a `size_hint`, a disk without that much
    /// space is refused at once.
    ///
    /// # Errors
    /// [`RegistryError::NoSpace`], [`RegistryError::ReadOnly`], [`RegistryError::Io`].
    pub fn begin_blob(&self, expected: Option<Digest>, size_hint: Option<u64>) -> Result<BlobWriter> {
        BlobWriter::begin(&self.inner, expected, size_hint)
    }

    /// Stores bytes that are in memory.
    ///
    /// # Errors
    /// [`RegistryError::NoSpace`], [`RegistryError::ReadOnly`], [`RegistryError::Io`].
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<StoredBlob> {
        let mut writer = self.begin_blob(None, Some(bytes.len() as u64))?;
        writer.append(bytes)?;
        writer.commit()
    }

    /// Stores a file, copied or linked.
    ///
    /// # Errors
    /// Also [`RegistryError::NotAFile`], [`RegistryError::SourceChanged`], [`RegistryError::Cancelled`].
    pub fn import_file(&self, path: impl AsRef<Path>, options: ImportOptions<'_>) -> Result<StoredBlob> {
        import::import_file(&self.inner, path.as_ref(), options)
    }

    /// Makes a directory in the store's file system for files that become blobs: whole models are written there and then [moved](ImportOptions::takes) in. It is
    /// removed with everything in it when the value is dropped; what a killed process left is removed at the next open. `size_hint` is how much will be written: a
    /// disk without that much space is refused at once.
    ///
    /// # Errors
    /// [`RegistryError::NoSpace`], [`RegistryError::ReadOnly`], [`RegistryError::Io`].
    pub fn working_directory(&self, size_hint: u64) -> Result<WorkingDirectory> {
        self.inner.writable()?;
        let staging = &self.inner.layout.blob_staging;
        space::check(staging, size_hint)?;
        tempfile::Builder::new()
            .prefix("working-")
            .tempdir_in(staging)
            .map(WorkingDirectory)
            .map_err(space::write_error("create a directory in", staging, 0))
    }

    /// Keeps gc from removing these blobs while the lease lives.
    pub fn lease(&self, digests: &[Digest]) -> Lease {
        self.inner.leases.lease(digests.iter().copied())
    }

    /// Names a model. Replaces one of that name (in any case) at once: readers see the old or the new manifest, whole.
    /// Returns the digest of the manifest.
    ///
    /// # Errors
    /// [`RegistryError::BlobNotFound`] and [`RegistryError::LayerLength`] when a layer's blob is not there as it says.
    pub fn write_manifest(&self, name: &ModelName, manifest: &Manifest) -> Result<Digest> {
        let bytes = manifest.to_bytes();
        self.write_manifest_bytes(name, manifest, &bytes)
    }

    pub(crate) fn write_manifest_bytes(&self, name: &ModelName, manifest: &Manifest, bytes: &[u8]) -> Result<Digest> {
        let inner = &*self.inner;
        inner.writable()?;
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(RegistryError::ManifestTooLong {
                name: name.to_string(),
                bytes: bytes.len() as u64,
                bytes_max: MANIFEST_BYTES_MAX,
            });
        }
        let _names = inner.hold_names();
        // Leased first, looked for second: between the two nothing can take them away.
        let _lease = inner.leases.lease(manifest.digests());
        for layer in manifest.all_layers() {
            match self.has_blob(&layer.digest) {
                None => return Err(RegistryError::BlobNotFound { digest: layer.digest }),
                Some(bytes) if bytes == layer.size => {}
                Some(bytes_found) => {
                    return Err(RegistryError::LayerLength {
                        digest: layer.digest,
                        bytes_expected: layer.size,
                        bytes_found,
                    });
                }
            }
        }
        let path = inner.layout.resolve_manifest(name);
        let dir = path.parent().unwrap_or(&inner.layout.manifests);
        publish::create_directories(&inner.layout.manifests, dir)?;
        let published = publish::publish_bytes(&inner.layout.manifest_staging, &path, bytes);
        inner.changed(&path);
        published.map(|()| Digest::of(bytes))
    }

    /// Returns the model of that name (in any case), after a look at its blobs: each is there, in its length.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] with near misses, [`RegistryError::Damaged`] with what is wrong.
    pub fn manifest(&self, name: &ModelName) -> Result<StoredManifest> {
        let inner = &*self.inner;
        let path = inner.layout.resolve_manifest(name);
        let metadata = fs::metadata(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => self.not_found(name),
            _ => RegistryError::io("read", &path)(error),
        })?;
        let name = self.on_disk(&path).unwrap_or_else(|| name.clone());
        let damaged = |damage: Damage| RegistryError::Damaged {
            name: name.to_string(),
            damage: Box::new(damage),
        };
        let (manifest, digest) = manifest::read(&path).map_err(damaged)?;
        if let Some(damage) = BlobLooks::new(inner).damage(&manifest) {
            return Err(damaged(damage));
        }
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(StoredManifest {
            name,
            manifest,
            digest,
            modified,
        })
    }

    /// Returns the bytes of a model's manifest as they lie on disk, with the fields that we do not know.
    ///
    /// # Errors
    /// As [`Registry::manifest`], but its blobs are not looked at.
    pub fn manifest_bytes(&self, name: &ModelName) -> Result<Vec<u8>> {
        let path = self.inner.layout.resolve_manifest(name);
        manifest::read_bytes(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => self.not_found(name),
            _ => RegistryError::io("read", &path)(error),
        })
    }

    /// Writes a model into one file, a [bundle]. `manifest` is that of a stored model, or one made of its layers. Returns the file's length in bytes.
    ///
    /// # Errors
    /// [`RegistryError::Exists`], [`RegistryError::Damaged`] when a blob is not what its name says, [`RegistryError::BlobNotFound`],
    /// [`RegistryError::NoSpace`], [`RegistryError::Cancelled`], [`RegistryError::Io`].
    pub fn pack(
        &self,
        manifest: &[u8],
        target: &Path,
        options: &bundle::PackOptions<'_>,
        watch: bundle::Watch<'_>,
    ) -> Result<u64> {
        bundle::pack(self, manifest, target, options, watch)
    }

    /// Returns where blobs are staged, for the question of how much room is left.
    pub(crate) fn blob_staging(&self) -> &Path {
        &self.inner.layout.blob_staging
    }

    /// Returns where what a plugin makes of a blob may be kept, about `bytes` long. Files like it that were not used for longest make room, for together they may take
    /// `bytes_max`; a part of the disk stays free. Nothing where it cannot be kept.
    pub fn packed_place(&self, blob: &Digest, bytes: u64, bytes_max: u64) -> Option<PackedPlace> {
        packed::place(&self.inner, blob, bytes, bytes_max)
    }

    /// Returns the bytes on disk of what plugins made of blobs.
    pub fn packed_bytes(&self) -> u64 {
        packed::bytes(&self.inner.layout)
    }

    /// Lists every model, ordered by name. One that is damaged says so; the others are not affected.
    ///
    /// # Errors
    /// None today; reading a directory may fail in a future version.
    pub fn list(&self) -> Result<Vec<ListEntry>> {
        Ok(list::list(&self.inner, &self.inner.cache))
    }

    /// Removes a model's name, then the blobs that only it named. Blobs that are leased stay until a later gc.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] with near misses, [`RegistryError::ReadOnly`], [`RegistryError::Io`].
    pub fn delete(&self, name: &ModelName) -> Result<GcReport> {
        let inner = &*self.inner;
        inner.writable()?;
        let _names = inner.hold_names();
        let path = inner.layout.resolve_manifest(name);
        if !path.is_file() {
            return Err(self.not_found(name));
        }
        let digests = match manifest::read(&path) {
            Ok((manifest, _)) => manifest.digests(),
            Err(_) => manifest::read_bytes(&path)
                .map(|bytes| manifest::digests_in_text(&bytes))
                .unwrap_or_default(),
        };
        fs::remove_file(&path).map_err(RegistryError::io("remove", &path))?;
        inner.changed(&path);
        self.prune_directories(&path)?;
        gc::run(
            inner,
            GcOptions {
                grace: std::time::Duration::ZERO,
                only: Some(digests),
            },
            SystemTime::now(),
        )
    }

    /// Gives a model a second name. The manifest's bytes are the same, so are its digest and its fields that we do not know.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], [`RegistryError::Damaged`], and those of [`Registry::write_manifest`].
    pub fn copy(&self, source: &ModelName, target: &ModelName) -> Result<Digest> {
        let stored = self.manifest(source)?;
        let path = self.inner.layout.resolve_manifest(source);
        let bytes = manifest::read_bytes(&path).map_err(RegistryError::io("read", &path))?;
        match Manifest::from_bytes(&bytes) {
            Ok(manifest) => self.write_manifest_bytes(target, &manifest, &bytes),
            // Replaced between the two reads by something else.
            Err(_) => self.write_manifest(target, &stored.manifest),
        }
    }

    /// Removes blobs that nobody names, leases or has just uploaded.
    ///
    /// # Errors
    /// [`RegistryError::ReadOnly`], [`RegistryError::Io`].
    pub fn gc(&self) -> Result<GcReport> {
        self.gc_with(GcOptions::default())
    }

    /// Removes blobs as [`Registry::gc`] does, within limits of the caller's.
    ///
    /// # Errors
    /// [`RegistryError::ReadOnly`], [`RegistryError::Io`].
    pub fn gc_with(&self, options: GcOptions) -> Result<GcReport> {
        self.inner.writable()?;
        let _names = self.inner.hold_names();
        gc::run(&self.inner, options, SystemTime::now())
    }

    /// Hashes every blob and checks everything; with `repair`, also restores what it can and moves the rest aside.
    ///
    /// # Errors
    /// [`RegistryError::Cancelled`], and for repairs [`RegistryError::ReadOnly`], [`RegistryError::Io`].
    pub fn fsck(&self, options: FsckOptions<'_>) -> Result<FsckReport> {
        fsck::run(&self.inner, options)
    }

    /// Returns a stamp that changes when a model or a blob comes, goes or changes, whoever did it. Two atomic loads most of the
    /// time; another program's change is seen within a quarter of a second.
    pub fn generation(&self) -> u64 {
        self.inner.generation.current(&self.inner.layout)
    }

    fn on_disk(&self, manifest: &Path) -> Option<ModelName> {
        ModelName::from_relative_path(manifest.strip_prefix(&self.inner.layout.manifests).ok()?)
    }

    fn not_found(&self, name: &ModelName) -> RegistryError {
        let files = list::walk(&self.inner.layout).files;
        let known: Vec<String> = files
            .into_iter()
            .filter_map(|file| file.name)
            .map(|name| name.display_typed())
            .collect();
        let near = near_misses(&name.display_typed(), known.iter().map(String::as_str));
        RegistryError::NotFound {
            name: name.to_string(),
            near: near.into_iter().map(str::to_owned).collect(),
        }
    }

    /// Makes the removal of a manifest durable and removes directories that it left empty.
    fn prune_directories(&self, manifest: &Path) -> Result<()> {
        let root = &self.inner.layout.manifests;
        for dir in manifest.ancestors().skip(1).take_while(|dir| *dir != root) {
            if fs::remove_dir(dir).is_err() {
                return publish::sync_directory(dir);
            }
        }
        publish::sync_directory(root)
    }
}

fn is_denied(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Io { source, .. }
        if matches!(source.kind(), std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem))
}
