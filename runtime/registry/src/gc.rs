//! Removing blobs that nobody names, leases or is writing. The decision is a pure function; the shell around it carries it out.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::Result;
use crate::digest::Digest;
use crate::error::RegistryError;
use crate::layout::Layout;
use crate::store::Inner;
use crate::{list, manifest, packed, publish};

/// A blob that was uploaded but not named yet belongs to a `create` that is still under way, or was just given up.
const GRACE: Duration = Duration::from_secs(3600);

/// What gc may take.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// Blobs younger than this stay: a client uploads blobs first and names them in a later request.
    pub grace: Duration,
    /// Only these blobs are considered; nothing means all.
    pub only: Option<BTreeSet<Digest>>,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self {
            grace: GRACE,
            only: None,
        }
    }
}

/// A blob on disk as gc sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobFile {
    /// Its digest, from its name.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
    /// How long ago it was written.
    pub age: Duration,
    /// Where it lies.
    pub path: PathBuf,
}

/// Everything that the decision depends on.
#[derive(Clone, Debug, Default)]
pub struct GcInput {
    /// What is there.
    pub blobs: Vec<BlobFile>,
    /// What manifests name, also those in quarantine.
    pub named: BTreeSet<Digest>,
    /// What is in use.
    pub leased: BTreeSet<Digest>,
    /// Manifests that could not be read, so that nobody knows what they name.
    pub unreadable: Vec<PathBuf>,
    /// What may be taken.
    pub options: GcOptions,
}

/// What to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcPlan {
    /// Blobs to remove.
    pub remove: Vec<BlobFile>,
    /// Why nothing is removed although something could be: manifests that cannot be read.
    pub blocked_by: Vec<PathBuf>,
}

impl GcPlan {
    /// Decides. **Invariant:** removes nothing that is named or leased, and nothing at all while a manifest is unreadable.
    pub fn new(input: GcInput) -> Self {
        let GcInput {
            blobs,
            named,
            leased,
            unreadable,
            options,
        } = input;
        let remove: Vec<BlobFile> = blobs
            .into_iter()
            .filter(|blob| !named.contains(&blob.digest) && !leased.contains(&blob.digest))
            .filter(|blob| blob.age >= options.grace)
            .filter(|blob| options.only.as_ref().is_none_or(|only| only.contains(&blob.digest)))
            .collect();
        match (remove.is_empty(), unreadable.is_empty()) {
            (true, _) => Self::default(),
            (false, true) => Self {
                remove,
                blocked_by: Vec::new(),
            },
            (false, false) => Self {
                remove: Vec::new(),
                blocked_by: unreadable,
            },
        }
    }
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Blobs that are gone.
    pub removed: Vec<Digest>,
    /// Files with what plugins had made of blobs that are gone now, or in a layout that is out of use.
    pub packed_removed: Vec<PathBuf>,
    /// Bytes that became free; a hard-linked blob's only when its other name goes too.
    pub bytes_freed: u64,
    /// Manifests that kept gc from removing anything; repair or delete those models first.
    pub blocked_by: Vec<PathBuf>,
}

/// Plans and removes. The caller holds the mutex on names, so no manifest appears meanwhile.
pub(crate) fn run(inner: &Inner, options: GcOptions, now: SystemTime) -> Result<GcReport> {
    let (mut named, unreadable) = named(&inner.layout);
    named.extend(quarantined(&inner.layout));
    let input = GcInput {
        blobs: blobs(&inner.layout, now)?,
        named,
        leased: inner.leases.leased(),
        unreadable,
        options,
    };
    let only = input.options.only.clone();
    let plan = GcPlan::new(input);
    let mut report = GcReport {
        blocked_by: plan.blocked_by,
        ..GcReport::default()
    };
    for blob in &plan.remove {
        // The lease table is asked again: a lease may have been taken since the plan was made.
        match inner.leases.unless_leased(&blob.digest, || fs::remove_file(&blob.path)) {
            None => {}
            Some(Ok(())) => {
                inner.linked.forget(&blob.digest);
                report.removed.push(blob.digest);
                report.bytes_freed = report.bytes_freed.saturating_add(blob.bytes);
            }
            Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
            Some(Err(error)) => return Err(RegistryError::io("remove", &blob.path)(error)),
        }
    }
    if !report.removed.is_empty() {
        publish::sync_directory(&inner.layout.blobs)?;
        inner.generation.bump();
    }
    for (path, bytes) in packed::collect(inner, only.as_ref(), now)? {
        report.packed_removed.push(path);
        report.bytes_freed = report.bytes_freed.saturating_add(bytes);
    }
    Ok(report)
}

/// Returns every digest that a manifest names, and the manifests that cannot be read. Every file below `manifests` counts, also
/// one whose path is no model's name: another program may know what it is.
pub(crate) fn named(layout: &Layout) -> (BTreeSet<Digest>, Vec<PathBuf>) {
    let walk = list::walk(layout);
    let mut unreadable = walk.unreadable;
    let mut named = BTreeSet::new();
    for file in walk.files {
        match manifest::read(&file.path) {
            Ok((manifest, _)) => named.extend(manifest.digests()),
            // It was deleted by another program since the walk.
            Err(_) if !file.path.exists() => {}
            Err(_) => unreadable.push(file.path),
        }
    }
    (named, unreadable)
}

/// Returns what manifests in quarantine still seem to name: their models may be restored by hand.
fn quarantined(layout: &Layout) -> BTreeSet<Digest> {
    let files = fs::read_dir(layout.manifest_quarantine())
        .into_iter()
        .flatten()
        .flatten();
    files
        .filter(|entry| {
            entry
                .metadata()
                .is_ok_and(|metadata| metadata.len() <= manifest::MANIFEST_BYTES_MAX)
        })
        .filter_map(|entry| fs::read(entry.path()).ok())
        .flat_map(|bytes| manifest::digests_in_text(&bytes))
        .collect()
}

/// Returns every blob on disk, under its usual or its old name. Other files in `blobs` are not ours to remove.
pub(crate) fn blobs(layout: &Layout, now: SystemTime) -> Result<Vec<BlobFile>> {
    let entries = match fs::read_dir(&layout.blobs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(RegistryError::io("read", &layout.blobs)(error)),
    };
    let mut blobs = Vec::new();
    for entry in entries {
        let entry = entry.map_err(RegistryError::io("read", &layout.blobs))?;
        let digest = entry.file_name().to_str().and_then(|name| Digest::parse(name).ok());
        let (Some(digest), Ok(metadata)) = (digest, fs::metadata(entry.path())) else {
            continue;
        };
        if !metadata.is_file() {
            continue;
        }
        // A time in the future is a clock that was set back; such a blob is taken to be new.
        let age = metadata
            .modified()
            .ok()
            .and_then(|modified| now.duration_since(modified).ok())
            .unwrap_or_default();
        blobs.push(BlobFile {
            digest,
            bytes: metadata.len(),
            age,
            path: entry.path(),
        });
    }
    blobs.sort_by_key(|blob| blob.digest);
    Ok(blobs)
}
