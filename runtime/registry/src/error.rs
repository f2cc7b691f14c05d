//! What can go wrong in a store, and how to get out of it.

use std::io;
use std::path::{Path, PathBuf};

use witness_diagnostics::{Diagnostic, Kind};

use crate::digest::Digest;
use crate::lock::Holder;

/// Files of a missing base that a message names; the first few tell which base it is.
const BASE_FILES_TOLD_MAX: usize = 3;

/// What is wrong with one stored model. Other models are not affected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The manifest cannot be read or parsed.
    #[error("its manifest `{}` cannot be read: {reason}", path.display())]
    ManifestUnreadable {
        /// The manifest.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A blob is not there.
    #[error("blob `{digest}` ({media_type}) is missing")]
    BlobMissing {
        /// The blob.
        digest: Digest,
        /// What it was.
        media_type: String,
    },
    /// A blob has another length than the manifest says.
    #[error("blob `{digest}` has {bytes_found} bytes instead of {bytes_expected}")]
    BlobLength {
        /// The blob.
        digest: Digest,
        /// What the manifest says.
        bytes_expected: u64,
        /// What is there.
        bytes_found: u64,
    },
    /// A blob's bytes are not those that its name promises.
    #[error("blob `{digest}` does not match its digest: its bytes hash to `{found}`")]
    BlobCorrupt {
        /// The blob.
        digest: Digest,
        /// What its bytes hash to.
        found: Box<Digest>,
    },
    /// A blob shares its bytes with a file outside the store (`--link`), and that file was changed.
    #[error("blob `{digest}` is hard-linked to `{}`, which was changed after it was imported", source_path.display())]
    LinkedFileChanged {
        /// The blob.
        digest: Digest,
        /// The file that it was imported from.
        source_path: PathBuf,
    },
}

/// Why a call on the store failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A text is no digest.
    #[error("`{text}` is no digest")]
    InvalidDigest {
        /// The text, cut to a readable length.
        text: String,
    },
    /// A text is no model name.
    #[error("`{text}` is no model name: {reason}")]
    InvalidName {
        /// The text, cut to a readable length.
        text: String,
        /// Which part, and why.
        reason: String,
    },
    /// No model of that name.
    #[error("model `{name}` is not here")]
    NotFound {
        /// The name as asked for.
        name: String,
        /// Names close to it.
        near: Vec<String>,
    },
    /// No blob of that digest.
    #[error("blob `{digest}` is not here")]
    BlobNotFound {
        /// The blob.
        digest: Digest,
    },
    /// A stored model is damaged.
    #[error("model `{name}` is damaged")]
    Damaged {
        /// The model.
        name: String,
        /// What is wrong with it.
        #[source]
        damage: Box<Damage>,
    },
    /// Bytes that were stored do not have the digest that was promised.
    #[error("{bytes} bytes were stored with digest `{found}` instead of `{expected}`")]
    DigestMismatch {
        /// What was promised.
        expected: Digest,
        /// What came.
        found: Box<Digest>,
        /// How much came.
        bytes: u64,
    },
    /// A manifest to be written gives another length than the blob has.
    #[error("blob `{digest}` has {bytes_found} bytes, but the manifest says {bytes_expected}")]
    LayerLength {
        /// The blob.
        digest: Digest,
        /// What the manifest says.
        bytes_expected: u64,
        /// What is there.
        bytes_found: u64,
    },
    /// A manifest to be written is longer than one may be.
    #[error("the manifest of `{name}` would have {bytes} bytes, more than the {bytes_max} allowed")]
    ManifestTooLong {
        /// The model.
        name: String,
        /// Its length.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// Another process has the store open.
    #[error("the store `{}` is in use by {}", path.display(), holder.as_ref().map_or("another process".to_owned(), Holder::to_string))]
    Locked {
        /// The store.
        path: PathBuf,
        /// Who said to hold it, when that could be read.
        holder: Option<Holder>,
    },
    /// There is no store, and none was to be made.
    #[error("there is no model store at `{}`", path.display())]
    NoStore {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The store may be read but not written.
    #[error("the store `{}` is read-only for this user", path.display())]
    ReadOnly {
        /// The store.
        path: PathBuf,
    },
    /// Not enough space.
    #[error("`{}` has {bytes_free} bytes free, but {bytes_needed} are needed", path.display())]
    NoSpace {
        /// The store.
        path: PathBuf,
        /// What is (still) needed, at least.
        bytes_needed: u64,
        /// What is free for this user.
        bytes_free: u64,
    },
    /// A file to import is no plain file.
    #[error("`{}` is not a plain file", path.display())]
    NotAFile {
        /// The path as given.
        path: PathBuf,
    },
    /// A file was changed while it was imported.
    #[error("`{}` was changed while it was imported", path.display())]
    SourceChanged {
        /// The file.
        path: PathBuf,
    },
    /// A file that would be written is there already.
    #[error("`{}` is there already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file is no bundle.
    #[error("`{}` is no bundle of a model", path.display())]
    NotABundle {
        /// The file.
        path: PathBuf,
    },
    /// A bundle of a version that is not read.
    #[error("`{}` is a bundle of format version {found}; this program reads version {known}", path.display())]
    BundleVersion {
        /// The bundle.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A bundle is not as one is written, or lies.
    #[error("the bundle `{}` is damaged", path.display())]
    BundleDamaged {
        /// The bundle.
        path: PathBuf,
        /// The place, in bytes from its beginning.
        at: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A bundle that was made without its base, which the store lacks.
    #[error("the bundle `{}` was made without its base `{base}`, and that is not here", path.display())]
    BundleBase {
        /// The bundle.
        path: PathBuf,
        /// What the base was called where the bundle was made.
        base: String,
        /// The files that are not here, by their names in the model.
        missing: Vec<(String, Digest)>,
    },
    /// The caller asked to stop.
    #[error("stopped before it was done")]
    Cancelled,
    /// The operating system refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl RegistryError {
    /// Makes a converter for a failed call: names what was tried on which path.
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| RegistryError::Io { action, path, source }
    }
}

impl From<RegistryError> for Diagnostic {
    fn from(error: RegistryError) -> Self {
        let message = error.to_string();
        let new = |name: &str, kind| Diagnostic::new(format!("witness::registry::{name}"), kind, message);
        match error {
            RegistryError::InvalidDigest { .. } => new("invalid_digest", Kind::Invalid)
                .hint("a digest is `sha256:` and 64 hexadecimal digits"),
            RegistryError::InvalidName { .. } => {
                new("invalid_name", Kind::Invalid).hint("a name is `[host/][namespace/]name[:tag]`, such as `llama3:8b`")
            }
            RegistryError::NotFound { near, .. } => {
                let diagnostic = new("not_found", Kind::NotFound);
                match near.as_slice() {
                    [] => diagnostic.hint("`witness list` shows what is here; `witness create` makes a model"),
                    near => diagnostic.hint(format!("did you mean `{}`?", near.join("` or `"))),
                }
            }
            RegistryError::BlobNotFound { .. } => {
                new("blob_not_found", Kind::NotFound).hint("upload the blob first; `witness create` does so by itself")
            }
            RegistryError::Damaged { name, damage } => {
                let code = match *damage {
                    Damage::ManifestUnreadable { .. } => "manifest_unreadable",
                    Damage::BlobMissing { .. } => "blob_missing",
                    Damage::BlobLength { .. } | Damage::BlobCorrupt { .. } => "blob_corrupt",
                    Damage::LinkedFileChanged { .. } => "linked_file_changed",
                };
                let diagnostic = new(code, Kind::Damaged).cause(damage.to_string());
                let diagnostic = match *damage {
                    Damage::LinkedFileChanged { .. } => {
                        diagnostic.hint("create the model again, without `--link` if its files are going to change")
                    }
                    _ => diagnostic,
                };
                diagnostic.hint(format!(
                    "`witness fsck --repair` restores what it can; else create `{name}` again; other models are not affected"
                ))
            }
            RegistryError::DigestMismatch { .. } => {
                new("digest_mismatch", Kind::Invalid).hint("send the file again; nothing was stored")
            }
            RegistryError::LayerLength { .. } => {
                new("layer_length", Kind::Damaged).hint("`witness fsck` checks every blob; upload this one again")
            }
            RegistryError::ManifestTooLong { .. } => {
                new("manifest_too_long", Kind::Invalid).hint("make the model of fewer files")
            }
            RegistryError::Locked { .. } => new("locked", Kind::Conflict)
                .hint("stop that process first, or name another store with `--models` or `WITNESS_MODELS`"),
            RegistryError::NoStore { .. } => {
                new("no_store", Kind::NotFound).hint("name the store's directory with `--models` or `WITNESS_MODELS`")
            }
            RegistryError::ReadOnly { .. } => new("read_only", Kind::Forbidden)
                .hint("make the directory writable for this user, or name another with `--models` or `WITNESS_MODELS`"),
            RegistryError::NoSpace { .. } => new("no_space", Kind::Environment)
                .hint("free space, for example with `witness rm`, or use another disk (`WITNESS_MODELS` names the store's); nothing was lost"),
            RegistryError::NotAFile { .. } => new("not_a_file", Kind::Invalid).hint("name one file at a time"),
            RegistryError::SourceChanged { .. } => {
                new("source_changed", Kind::Conflict).hint("import it again when nothing writes to it any more")
            }
            RegistryError::Exists { .. } => {
                new("exists", Kind::Conflict).hint("name another file, or say `\"force\": true` (`--force`)")
            }
            RegistryError::NotABundle { .. } => new("not_a_bundle", Kind::Invalid)
                .hint("`witness export NAME FILE --to bundle` writes one; a GGUF file or a folder becomes a model by `witness create`"),
            RegistryError::BundleVersion { .. } => new("bundle_version", Kind::Unsupported)
                .hint("update this program, or write the bundle again with the version that is here"),
            RegistryError::BundleDamaged { at, reason, .. } => new("bundle_damaged", Kind::Damaged)
                .cause(format!("at byte {at}: {reason}"))
                .hint("copy the file again, or export it again where the model is; nothing was changed here"),
            RegistryError::BundleBase { base, missing, .. } => {
                let told = missing.iter().take(BASE_FILES_TOLD_MAX);
                let diagnostic = told.fold(new("bundle_base", Kind::NotFound), |diagnostic, (name, digest)| {
                    diagnostic.cause(format!("`{}` is needed: {digest}", name.escape_debug()))
                });
                let diagnostic = match missing.len().saturating_sub(BASE_FILES_TOLD_MAX) {
                    0 => diagnostic,
                    more => diagnostic.cause(format!("and {more} more files")),
                };
                diagnostic.hint(format!(
                    "make or import `{}` here first, of the same files, or export the bundle without `--without-base`",
                    base.escape_debug()
                ))
            }
            RegistryError::Cancelled => new("cancelled", Kind::Cancelled),
            RegistryError::Io { source, .. } => {
                let kind = if source.kind() == io::ErrorKind::NotFound { Kind::NotFound } else { Kind::Environment };
                let diagnostic = new("io", kind).cause(source.to_string());
                match source.kind() {
                    io::ErrorKind::PermissionDenied => diagnostic.hint("check who owns the path and its permissions"),
                    io::ErrorKind::NotFound => diagnostic.hint("check the path"),
                    _ => diagnostic.hint("check the disk; `witness fsck` checks the store"),
                }
            }
        }
    }
}
