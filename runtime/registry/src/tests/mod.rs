//! Goal of the suite: nothing named is lost, whatever happens and whenever.
//!
//! Stores lie in memory (`/dev/shm`) where there is such a thing: what is tested is order and atomicity, which a disk cannot add to.

mod crash;
mod damage;
mod gc;
mod import;
mod names;
mod ollama;
mod space;
mod store;

use std::path::Path;

use tempfile::TempDir;

use crate::{Digest, Layer, Manifest, ModelName, OpenOptions, Registry, media};

fn dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    tempfile::tempdir_in(memory)
        .or_else(|_| tempfile::tempdir())
        .expect("a temporary directory")
}

pub(crate) fn open(dir: &Path) -> Registry {
    Registry::open(dir, &OpenOptions::new("test")).expect("the store opens")
}

pub(crate) fn store() -> (TempDir, Registry) {
    let dir = dir();
    let registry = open(dir.path());
    (dir, registry)
}

pub(crate) fn name(text: &str) -> ModelName {
    ModelName::parse(text).expect("a name")
}

/// Stores a model of one weights blob with these bytes; its configuration is the same for all.
pub(crate) fn put_model(registry: &Registry, model: &str, weights: &[u8]) -> Manifest {
    let config = registry.put_bytes(br#"{"model_format":"gguf"}"#).unwrap();
    let weights = registry.put_bytes(weights).unwrap();
    let manifest = Manifest::new(
        Layer::of(media::CONFIG, &config),
        vec![Layer::of(media::MODEL, &weights)],
    );
    registry.write_manifest(&name(model), &manifest).unwrap();
    manifest
}

/// Asserts that a model is listed, whole, and that every byte of it is what its digest says.
pub(crate) fn assert_whole(registry: &Registry, model: &str) -> Manifest {
    let stored = registry
        .manifest(&name(model))
        .unwrap_or_else(|error| panic!("{model}: {error:?}"));
    for layer in stored.manifest.all_layers() {
        let bytes = std::fs::read(registry.blob_path(&layer.digest)).unwrap();
        assert_eq!(
            (Digest::of(&bytes), bytes.len() as u64),
            (layer.digest, layer.size),
            "{model}"
        );
    }
    stored.manifest
}

pub(crate) fn files(dir: &Path) -> Vec<String> {
    let mut files: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    files
}

/// A small generator with a seed, so that a failure can be repeated.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}
