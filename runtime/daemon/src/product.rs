//! Files that a plugin made: whether they lie where they may, and their way into the store. Blocking.

use std::io;
use std::path::{Path, PathBuf};

use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::FileRef;
use witness_registry::{ImportOptions, Lease, Registry};

/// Follows every link of a path; nothing when it leads out of `root`.
pub(crate) fn resolve_inside(root: &Path, path: &Path) -> io::Result<Option<PathBuf>> {
    let resolved = path.canonicalize()?;
    Ok(resolved.starts_with(root.canonicalize()?).then_some(resolved))
}

/// Stores a file. Returns it under a name, with what keeps it there until a manifest names it.
pub(crate) fn store(
    registry: &Registry,
    name: &str,
    path: &Path,
    options: ImportOptions<'_>,
) -> Result<(FileRef, Lease), Diagnostic> {
    let blob = registry.import_file(path, options)?;
    let file = FileRef {
        name: name.to_owned(),
        path: registry.blob_path(&blob.digest),
        digest: blob.digest.as_str().to_owned(),
        size: blob.size,
    };
    Ok((file, blob.lease))
}

/// Refuses what a plugin, `who`, says that it made.
pub(crate) fn refuse(who: &str, cause: String) -> Diagnostic {
    Diagnostic::new(
        "witness::daemon::no_product",
        Kind::Plugin,
        format!("what {who} says that it made cannot be taken over"),
    )
    .cause(cause)
    .hint("report it to the plugin's author")
}
