//! The model store: content-addressed blobs and the manifests that name them, in Ollama's layout on disk.
//!
//! ```text
//! <models>/blobs/sha256-<64 hex>                          one immutable file each, named by its SHA-256
//! <models>/manifests/<host>/<namespace>/<name>/<tag>      JSON, one model each
//! <models>/.witness/lock                                  the operating system's lock; holds who has it
//! <models>/.witness/tmp/                                  files on their way; what is found here at open is left over
//! <models>/.witness/linked/<64 hex>                       what a hard-linked blob looked like when it was imported
//! <models>/.witness/quarantine/                           what `fsck --repair` moved aside
//! ```
//! A store that Ollama wrote opens as it is, and Ollama reads ours: everything of our own is in `.witness`, where it never looks.
//!
//! What this crate does not know: model formats, HTTP, tokio. It moves bytes with blocking calls; call it from threads that may block.
//!
//! **Invariant:** blobs are immutable. **Invariant:** a visible file is whole: every one is put in place by one path of code (temporary
//! file in the same file system, hash while writing, fsync, rename, fsync of the directory). **Invariant:** a manifest is published
//! last and names only blobs that exist; deleting goes the other way round. Hence a kill at any moment leaves every name old or new.
//! **Invariant:** a digest or a name that exists is valid: both have private constructors, so no path is ever built from raw text.
//!
//! Cost: an import reads and writes each byte once, hashes it meanwhile on a second thread and starts the disk early on a third. A listing is one directory walk, one
//! `stat` a manifest and a blob, and no read for a manifest that has not changed.
//!
//! ```
//! # fn main() -> Result<(), witness_registry::RegistryError> {
//! use witness_registry::{Layer, Manifest, ModelName, OpenOptions, Registry, media};
//! # let dir = tempfile::tempdir().unwrap();
//! let registry = Registry::open(dir.path(), &OpenOptions::new("example"))?;
//! let config = registry.put_bytes(b"{}")?;
//! let weights = registry.put_bytes(b"GGUF....")?;
//! let manifest = Manifest::new(Layer::of(media::CONFIG, &config), vec![Layer::of(media::MODEL, &weights)]);
//! let name = ModelName::parse("tiny")?;
//! registry.write_manifest(&name, &manifest)?;
//! assert_eq!(registry.list()?[0].name.to_string(), "tiny:latest");
//! # Ok(()) }
//! ```

mod blob;
pub mod bundle;
mod digest;
mod error;
#[cfg(test)]
mod fault;
mod fsck;
mod gc;
mod generation;
mod hash;
mod import;
mod layout;
mod lease;
mod linked;
mod list;
mod lock;
mod manifest;
pub mod media;
mod name;
mod packed;
mod publish;
mod repair;
mod space;
mod store;
mod writeback;

pub use blob::{BlobWriter, Placement, StoredBlob};
pub use digest::{Digest, Hasher};
pub use error::{Damage, RegistryError};
pub use fsck::{Action, Finding, FsckOptions, FsckProgress, FsckReport, Problem};
pub use gc::{BlobFile, GcInput, GcOptions, GcPlan, GcReport};
pub use import::ImportOptions;
pub use lease::Lease;
pub use list::ListEntry;
pub use lock::Holder;
pub use manifest::{Layer, Manifest};
pub use name::ModelName;
pub use packed::PackedPlace;
pub use store::{OpenOptions, Registry, StoredManifest, WorkingDirectory};

/// What the calls of this crate return.
pub type Result<T, E = RegistryError> = std::result::Result<T, E>;

#[cfg(test)]
mod tests;
