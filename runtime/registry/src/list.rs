//! Walking the manifests, and the listing made of it. One damaged model is one damaged entry.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::digest::Digest;
use crate::error::Damage;
use crate::layout::Layout;
use crate::manifest::{self, Manifest};
use crate::name::ModelName;
use crate::store::Inner;

/// Host, namespace, name, tag, and one level that newer Ollama versions use for other kinds of things; the rest is slack.
const DEPTH_MAX: usize = 8;

/// One model of a listing.
#[derive(Clone, Debug)]
pub struct ListEntry {
    /// Its name.
    pub name: ModelName,
    /// Its manifest and that manifest's digest, or what is wrong with it.
    pub result: Result<(Manifest, Digest), Damage>,
    /// When the manifest was written.
    pub modified: SystemTime,
    /// Bytes of all its layers as the manifest says; 0 when that cannot be read.
    pub size: u64,
}

/// A file below `manifests`.
#[derive(Clone, Debug)]
pub(crate) struct ManifestFile {
    pub(crate) path: PathBuf,
    pub(crate) relative_path: PathBuf,
    /// The model that its path names; nothing when the path is no model's.
    pub(crate) name: Option<ModelName>,
    pub(crate) modified: SystemTime,
    pub(crate) state: FileState,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileState {
    inode: u64,
    bytes: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl FileState {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified_s: metadata.mtime(),
            modified_ns: metadata.mtime_nsec(),
        }
    }
}

/// Every file below `manifests`, ordered by path, and what could not be looked into.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    pub(crate) files: Vec<ManifestFile>,
    pub(crate) unreadable: Vec<PathBuf>,
}

pub(crate) fn walk(layout: &Layout) -> Walk {
    let mut walk = Walk::default();
    if layout.manifests.exists() {
        walk_directory(&layout.manifests, &layout.manifests, 0, &mut walk);
    }
    walk.files.sort_by(|a, b| a.relative_path.cmp(&b.relative_path));
    walk
}

fn walk_directory(root: &Path, dir: &Path, depth: usize, walk: &mut Walk) {
    let Ok(entries) = fs::read_dir(dir) else {
        walk.unreadable.push(dir.to_owned());
        return;
    };
    for entry in entries {
        let Ok(entry) = entry else {
            walk.unreadable.push(dir.to_owned());
            continue;
        };
        let path = entry.path();
        // No part of a name begins with a dot; what does is ours or a desktop's.
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() && depth < DEPTH_MAX => walk_directory(root, &path, depth + 1, walk),
            Ok(metadata) if metadata.is_file() => {
                let relative_path = path.strip_prefix(root).unwrap_or(&path).to_owned();
                walk.files.push(ManifestFile {
                    name: ModelName::from_relative_path(&relative_path),
                    relative_path,
                    modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                    state: FileState::of(&metadata),
                    path,
                });
            }
            // Gone since the directory was read: it was deleted meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {}
            Ok(_) | Err(_) => walk.unreadable.push(path),
        }
    }
}

type Parsed = Arc<Result<(Manifest, Digest), Damage>>;

/// Parsed manifests by path, each valid while its file's state stays.
#[derive(Debug, Default)]
pub(crate) struct ManifestCache {
    parsed: Mutex<HashMap<PathBuf, (FileState, Parsed)>>,
}

impl ManifestCache {
    /// Forgets a manifest that this process is about to change: a new file can have the old one's inode, length and time.
    pub(crate) fn forget(&self, path: &Path) {
        self.parsed.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
    }

    fn take_all(&self) -> HashMap<PathBuf, (FileState, Parsed)> {
        std::mem::take(&mut *self.parsed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put_all(&self, parsed: HashMap<PathBuf, (FileState, Parsed)>) {
        *self.parsed.lock().unwrap_or_else(PoisonError::into_inner) = parsed;
    }
}

/// Blobs that a check found corrupt and left in place: their models are damaged until the file is another one.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    found: Mutex<HashMap<Digest, (FileState, Digest)>>,
}

impl Suspects {
    /// Notes the verdict on the file as it was when it was hashed.
    pub(crate) fn note(&self, digest: Digest, state: FileState, found: Digest) {
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(digest, (state, found));
    }

    fn get(&self, digest: &Digest, metadata: &Metadata) -> Option<Digest> {
        let suspects = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        suspects
            .get(digest)
            .filter(|(state, _)| *state == FileState::of(metadata))
            .map(|(_, found)| *found)
    }
}

pub(crate) fn list(inner: &Inner, cache: &ManifestCache) -> Vec<ListEntry> {
    let mut blobs = BlobLooks::new(inner);
    let mut known = cache.take_all();
    let mut kept = HashMap::new();
    let mut entries = Vec::new();
    for file in walk(&inner.layout).files {
        let Some(name) = file.name else { continue };
        let parsed = match known.remove(&file.path) {
            Some((state, parsed)) if state == file.state => parsed,
            _ => Arc::new(manifest::read(&file.path)),
        };
        let result = (*parsed)
            .clone()
            .and_then(|(manifest, digest)| match blobs.damage(&manifest) {
                None => Ok((manifest, digest)),
                Some(damage) => Err(damage),
            });
        let size = (*parsed).as_ref().map_or(0, |(manifest, _)| manifest.total_bytes());
        kept.insert(file.path, (file.state, parsed));
        entries.push(ListEntry {
            name,
            result,
            modified: file.modified,
            size,
        });
    }
    cache.put_all(kept);
    entries
}

/// Looks at blobs, each once however many manifests share it.
pub(crate) struct BlobLooks<'a> {
    inner: &'a Inner,
    looks: HashMap<Digest, Look>,
}

#[derive(Clone)]
enum Look {
    Missing,
    Bytes(u64),
    Corrupt(Digest),
    LinkedFileChanged(PathBuf),
}

impl<'a> BlobLooks<'a> {
    pub(crate) fn new(inner: &'a Inner) -> Self {
        Self {
            inner,
            looks: HashMap::new(),
        }
    }

    /// Returns what is wrong with the blobs of a manifest, as far as one can see without reading them.
    pub(crate) fn damage(&mut self, manifest: &Manifest) -> Option<Damage> {
        manifest.all_layers().find_map(|layer| {
            let digest = layer.digest;
            match self.looks.entry(digest).or_insert_with(|| look(self.inner, &digest)) {
                Look::Missing => Some(Damage::BlobMissing {
                    digest,
                    media_type: layer.media_type.clone(),
                }),
                Look::Bytes(bytes) if *bytes == layer.size => None,
                Look::Bytes(bytes_found) => Some(Damage::BlobLength {
                    digest,
                    bytes_expected: layer.size,
                    bytes_found: *bytes_found,
                }),
                Look::Corrupt(found) => Some(Damage::BlobCorrupt {
                    digest,
                    found: Box::new(*found),
                }),
                Look::LinkedFileChanged(source_path) => Some(Damage::LinkedFileChanged {
                    digest,
                    source_path: source_path.clone(),
                }),
            }
        })
    }
}

fn look(inner: &Inner, digest: &Digest) -> Look {
    let Ok(Some((_, metadata))) = inner.layout.find_blob(digest) else {
        return Look::Missing;
    };
    if let Some(record) = inner
        .linked
        .get(digest)
        .filter(|record| !record.is_unchanged(&metadata))
    {
        return Look::LinkedFileChanged(record.source_path);
    }
    match inner.suspects.get(digest, &metadata) {
        Some(found) => Look::Corrupt(found),
        None => Look::Bytes(metadata.len()),
    }
}
