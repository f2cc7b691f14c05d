//! What a bundle holds, as its first entry says; and whether that can be.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{ENTRIES_MAX, FORMAT_VERSION, frame};
use crate::digest::Digest;
use crate::manifest::{Layer, Manifest};
use crate::media;
use crate::name::ModelName;

/// Path of the manifest in a bundle.
const MANIFEST_PATH: &str = "manifest.json";

/// The index. An unknown field is refused: what a later version adds comes with a later number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Index {
    pub(super) format_version: u32,
    /// The program that wrote it, with its version.
    pub(super) program: String,
    /// Name of the model.
    pub(super) name: ModelName,
    /// What is to be found elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) base: Option<BaseReference>,
    /// The manifest, then every blob of the bundle, in order.
    pub(super) entries: Vec<Entry>,
}

/// A base that is not in the bundle: whoever imports it must have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseReference {
    /// What it is called where the bundle was made.
    pub name: String,
    /// Its files by the names that they have inside the model, each under its digest.
    pub files: Vec<Entry>,
}

/// A file: where it is, what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Path in the bundle, or name inside the model.
    pub path: String,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    #[serde(rename = "size")]
    pub bytes: u64,
}

impl Entry {
    fn of_blob(layer: &Layer) -> Self {
        Self {
            path: blob_path(&layer.digest),
            digest: layer.digest,
            bytes: layer.size,
        }
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}", digest.file_name())
}

/// Tells the layers that a base consists of.
fn is_base(layer: &Layer) -> bool {
    [media::MODEL, media::WITNESS_MODEL_FILE, media::PROJECTOR].contains(&layer.media_type.as_str())
}

impl Index {
    /// Makes the index of a model. With `base_name`, the base is left out and called so.
    pub(super) fn new(
        name: &ModelName,
        program: &str,
        (bytes, manifest): (&[u8], &Manifest),
        base_name: Option<&str>,
    ) -> Self {
        let mut entries = vec![Entry {
            path: MANIFEST_PATH.to_owned(),
            digest: Digest::of(bytes),
            bytes: bytes.len() as u64,
        }];
        let mut files = Vec::new();
        let mut seen = BTreeSet::new();
        // A blob that is also something else than a part of the base is needed all the same.
        let is_inside = |layer: &&Layer| base_name.is_none() || !is_base(layer);
        let inside = manifest.all_layers().filter(is_inside).map(|layer| layer.digest);
        let inside: BTreeSet<Digest> = inside.collect();
        for layer in manifest.all_layers() {
            if !seen.insert(layer.digest) {
                continue;
            }
            if inside.contains(&layer.digest) {
                entries.push(Entry::of_blob(layer));
            } else {
                let title = layer.annotation(media::TITLE);
                files.push(Entry {
                    path: title.map_or_else(|| layer.digest.file_name(), str::to_owned),
                    ..Entry::of_blob(layer)
                });
            }
        }
        Self {
            format_version: FORMAT_VERSION,
            program: program.to_owned(),
            name: name.clone(),
            base: base_name.map(|name| BaseReference {
                name: name.to_owned(),
                files,
            }),
            entries,
        }
    }

    /// Returns the bytes that go into the bundle.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("an index holds nothing that JSON lacks");
        bytes.push(b'\n');
        bytes
    }

    /// Reads an index and checks what can be checked without the manifest.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let index: Self =
            serde_json::from_slice(bytes).map_err(|error| format!("its index does not parse: {error}"))?;
        if index.format_version != FORMAT_VERSION {
            return Err("its index is of another version than its entries".to_owned());
        }
        if index.entries.len() > ENTRIES_MAX {
            let count = index.entries.len();
            return Err(format!("it has {count} entries, more than the {ENTRIES_MAX} allowed"));
        }
        let Some((manifest, blobs)) = index.entries.split_first() else {
            return Err("its index names no entries".to_owned());
        };
        if manifest.path != MANIFEST_PATH {
            return Err(format!("its first entry is not `{MANIFEST_PATH}`"));
        }
        let mut seen = BTreeSet::new();
        for entry in blobs {
            if entry.path != blob_path(&entry.digest) {
                return Err(format!(
                    "the path `{}` is not that of blob `{}`",
                    entry.path.escape_debug(),
                    entry.digest
                ));
            }
            if !seen.insert(entry.digest) {
                return Err(format!("it has the blob `{}` twice", entry.digest));
            }
        }
        Ok(index)
    }

    pub(super) fn manifest(&self) -> &Entry {
        &self.entries[0]
    }

    pub(super) fn blobs(&self) -> &[Entry] {
        &self.entries[1..]
    }

    /// Returns the bytes of all blobs.
    pub(super) fn blob_bytes(&self) -> u64 {
        self.blobs()
            .iter()
            .fold(0, |sum, entry| sum.saturating_add(entry.bytes))
    }

    /// Returns the length of a bundle with this index, whose own length is `index_bytes`; nothing when no file is that long.
    pub(super) fn file_bytes(&self, index_bytes: u64) -> Option<u64> {
        let entries = self.entries.iter().map(|entry| entry.bytes);
        let mut lengths = std::iter::once(index_bytes).chain(entries);
        lengths.try_fold(frame::END_BYTES, |sum, bytes| sum.checked_add(frame::framed(bytes)?))
    }

    /// Checks that the bundle holds what the manifest names, or leaves it to the base, and nothing else.
    pub(super) fn matches(&self, manifest: &Manifest) -> Result<(), String> {
        let mut named: BTreeMap<Digest, (u64, bool)> = BTreeMap::new();
        for layer in manifest.all_layers() {
            let known = named.entry(layer.digest).or_insert((layer.size, true));
            known.1 &= is_base(layer);
            if known.0 != layer.size {
                return Err(format!("its manifest gives blob `{}` two lengths", layer.digest));
            }
        }
        let left_out = self.base.iter().flat_map(|base| &base.files);
        let all = self.blobs().iter().map(|entry| (entry, false));
        for (entry, is_left_out) in all.chain(left_out.map(|entry| (entry, true))) {
            let digest = &entry.digest;
            match named.remove(digest) {
                Some((bytes, _)) if bytes != entry.bytes => {
                    return Err(format!(
                        "its index and its manifest differ on the length of blob `{digest}`"
                    ));
                }
                Some((_, false)) if is_left_out => {
                    return Err(format!("it lacks blob `{digest}`, which is no part of a base"));
                }
                Some(_) => {}
                None => return Err(format!("its manifest does not name the blob `{digest}`")),
            }
        }
        match named.keys().next() {
            None => Ok(()),
            Some(digest) => Err(format!("its manifest names the blob `{digest}`, which it lacks")),
        }
    }
}
