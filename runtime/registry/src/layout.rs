//! Where things lie. The only place that joins paths of the store; every variable component is a checked [`Digest`] or [`ModelName`].

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::digest::Digest;
use crate::error::RegistryError;
use crate::name::ModelName;
use crate::publish;

/// Paths of one store.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) models: PathBuf,
    pub(crate) blobs: PathBuf,
    pub(crate) manifests: PathBuf,
    pub(crate) private: PathBuf,
    /// Files on their way into `blobs`; in the same file system as it.
    pub(crate) blob_staging: PathBuf,
    /// Files on their way into `manifests`; in the same file system as it.
    pub(crate) manifest_staging: PathBuf,
}

impl Layout {
    pub(crate) fn new(models: &Path) -> Self {
        let private = models.join(".witness");
        Self {
            blobs: models.join("blobs"),
            manifests: models.join("manifests"),
            blob_staging: private.join("tmp"),
            manifest_staging: private.join("tmp"),
            private,
            models: models.to_owned(),
        }
    }

    /// Makes the directories that are missing, durably: Ollama's own with the usual mode, ours for this user only.
    pub(crate) fn create(&self) -> Result<()> {
        let is_new = !self.blobs.is_dir() || !self.manifests.is_dir();
        for dir in [&self.models, &self.blobs, &self.manifests] {
            fs::create_dir_all(dir).map_err(RegistryError::io("create", dir))?;
        }
        create_private(&self.private)?;
        create_private(&self.private.join("tmp"))?;
        if is_new {
            publish::sync_directory(&self.models)?;
            // The directory above may be one that this user can only pass through.
            let _ = self.models.parent().map(publish::sync_directory);
        }
        Ok(())
    }

    /// Moves a staging directory beside its target where `blobs` or `manifests` lies on another file system (people link them to
    /// a second disk), for a rename works only within one.
    pub(crate) fn settle_staging(&mut self) -> Result<()> {
        let device = |path: &Path| {
            fs::metadata(path)
                .map(|metadata| metadata.dev())
                .map_err(RegistryError::io("look at", path))
        };
        let own = device(&self.private.join("tmp"))?;
        if device(&self.blobs)? != own {
            self.blob_staging = self.blobs.join(".witness-tmp");
            create_private(&self.blob_staging)?;
        }
        if device(&self.manifests)? != own {
            self.manifest_staging = self.manifests.join(".witness-tmp");
            create_private(&self.manifest_staging)?;
        }
        Ok(())
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.private.join("lock")
    }

    pub(crate) fn linked(&self) -> PathBuf {
        self.private.join("linked")
    }

    /// Returns where plugins keep what they made of blobs; in the same file system as `blobs`, where there is room for things of that size.
    pub(crate) fn packed(&self) -> PathBuf {
        match self.blob_staging.parent() {
            Some(dir) if *dir != self.private => dir.join(".witness-packed"),
            _ => self.private.join("packed"),
        }
    }

    /// Returns where damaged blobs are moved; in the same file system as `blobs`.
    pub(crate) fn blob_quarantine(&self) -> PathBuf {
        self.quarantine_beside(&self.blob_staging)
    }

    /// Returns where damaged manifests are moved; in the same file system as `manifests`.
    pub(crate) fn manifest_quarantine(&self) -> PathBuf {
        self.quarantine_beside(&self.manifest_staging)
    }

    fn quarantine_beside(&self, staging: &Path) -> PathBuf {
        match staging.parent() {
            Some(dir) if *dir != self.private => dir.join(".witness-quarantine"),
            _ => self.private.join("quarantine"),
        }
    }

    /// Returns where a blob is published.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.file_name())
    }

    /// Returns where an old Ollama put a blob.
    pub(crate) fn blob_old(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.as_str())
    }

    /// Returns where a blob is: under its usual name, or under the old one if only that exists.
    pub(crate) fn find_blob(&self, digest: &Digest) -> io::Result<Option<(PathBuf, fs::Metadata)>> {
        for path in [self.blob(digest), self.blob_old(digest)] {
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => return Ok(Some((path, metadata))),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Returns where the manifest of exactly this spelling lies.
    pub(crate) fn manifest(&self, name: &ModelName) -> PathBuf {
        self.manifests.join(name.relative_path())
    }

    /// Returns where the manifest of this name lies, whatever its case on disk; where none exists, where it would be written, with
    /// directories that do exist in the case that they have.
    pub(crate) fn resolve_manifest(&self, name: &ModelName) -> PathBuf {
        let exact = self.manifest(name);
        if exact.is_file() {
            return exact;
        }
        name.parts().iter().fold(self.manifests.clone(), |dir, part| {
            let same = dir.join(part);
            if same.exists() {
                return same;
            }
            let other_case = fs::read_dir(&dir).into_iter().flatten().flatten().find(|entry| {
                entry
                    .file_name()
                    .to_str()
                    .is_some_and(|on_disk| on_disk.eq_ignore_ascii_case(part))
            });
            other_case.map_or(same, |entry| entry.path())
        })
    }
}

/// Makes a directory for this user only; an existing one is left as it is.
pub(crate) fn create_private(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(RegistryError::io("create", dir))
}
