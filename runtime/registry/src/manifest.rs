//! Manifests as they lie on disk: Ollama's JSON shape, in its order of fields, and ours where we add one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::blob::StoredBlob;
use crate::digest::Digest;
use crate::error::Damage;
use crate::media;

/// A manifest names a few dozen layers; a sharded model directory a few hundred. Anything beyond this is not one.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// One blob as a manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    /// What the bytes are, see [`media`].
    pub media_type: String,
    /// Which blob.
    pub digest: Digest,
    /// Its length in bytes.
    #[serde(rename = "size")]
    pub size: u64,
    /// The model that the layer was taken from, as Ollama notes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// OCI annotations.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl Layer {
    /// Makes a layer of a blob that was just stored.
    pub fn of(media_type: &str, blob: &StoredBlob) -> Self {
        Self::new(media_type, blob.digest, blob.size)
    }

    /// Makes a layer without annotations.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            from: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Adds an annotation.
    #[must_use]
    pub fn with(mut self, annotation: &str, value: impl Into<String>) -> Self {
        self.annotations.insert(annotation.to_owned(), value.into());
        self
    }

    /// Returns an annotation.
    pub fn annotation(&self, annotation: &str) -> Option<&str> {
        self.annotations.get(annotation).map(String::as_str)
    }
}

/// What a model is made of. Fields that we do not know are ignored when read; [`crate::Registry::copy`] keeps them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Always [`media::MANIFEST`] in ours.
    #[serde(default)]
    pub media_type: String,
    /// The model's configuration.
    pub config: Layer,
    /// Everything else, in order.
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<Layer>,
    /// OCI annotations.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Makes a manifest of our version.
    pub fn new(config: Layer, layers: Vec<Layer>) -> Self {
        Self {
            schema_version: 2,
            media_type: media::MANIFEST.to_owned(),
            config,
            layers,
            annotations: BTreeMap::new(),
        }
    }

    /// Returns every layer, the configuration first.
    pub fn all_layers(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    /// Returns the layers of one media type, in order.
    pub fn layers_of<'a>(&'a self, media_type: &'a str) -> impl Iterator<Item = &'a Layer> {
        self.layers.iter().filter(move |layer| layer.media_type == media_type)
    }

    /// Returns the sum of all layers in bytes, as listings show it.
    pub fn total_bytes(&self) -> u64 {
        self.all_layers().fold(0, |sum, layer| sum.saturating_add(layer.size))
    }

    /// Returns the digests of all layers.
    pub fn digests(&self) -> BTreeSet<Digest> {
        self.all_layers().map(|layer| layer.digest).collect()
    }

    /// Returns the bytes that go to disk.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest holds nothing that JSON lacks")
    }

    /// Reads the bytes of a manifest.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| match bytes {
            [] => "it is empty".to_owned(),
            _ => error.to_string(),
        })?;
        match manifest.schema_version {
            2 => Ok(manifest),
            version => Err(format!("its schema version is {version}, and only 2 is known")),
        }
    }
}

fn null_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a manifest file whole, up to the limit.
pub(crate) fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is longer than the {MANIFEST_BYTES_MAX} bytes that a manifest may have"),
        ));
    }
    Ok(bytes)
}

/// Reads and parses a manifest file.
pub(crate) fn read(path: &Path) -> Result<(Manifest, Digest), Damage> {
    let unreadable = |reason: String| Damage::ManifestUnreadable {
        path: path.to_owned(),
        reason,
    };
    let bytes = read_bytes(path).map_err(|error| unreadable(error.to_string()))?;
    let manifest = Manifest::from_bytes(&bytes).map_err(unreadable)?;
    Ok((manifest, Digest::of(&bytes)))
}

/// Finds everything in a text that looks like a digest: what a manifest that cannot be parsed may still name.
pub(crate) fn digests_in_text(bytes: &[u8]) -> BTreeSet<Digest> {
    const DIGEST_BYTES: usize = 71;
    bytes
        .windows(DIGEST_BYTES)
        .filter(|window| window.starts_with(b"sha256"))
        .filter_map(|window| std::str::from_utf8(window).ok())
        .filter_map(|text| Digest::parse(text).ok())
        .collect()
}
