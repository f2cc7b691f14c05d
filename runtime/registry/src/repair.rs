//! Repairing what a check found. Restores first, then moves damaged files aside; what a model names is never deleted.
//!
//! Where right bytes can still be: in a blob that lies under a wrong name, in the quarantine, in a file that a killed process left,
//! in a file of another program in `blobs`. Only files of the wanted length are hashed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::Result;
use crate::digest::Digest;
use crate::error::RegistryError;
use crate::fsck::{Action, Finding, FsckReport, Problem, hash_file};
use crate::hash::BUFFER_BYTES;
use crate::layout::{Layout, create_private};
use crate::manifest;
use crate::publish;
use crate::store::Inner;

pub(crate) fn run(inner: &Inner, report: &mut FsckReport) -> Result<()> {
    let _names = inner.hold_names();
    let mut sources = sources(inner, report);
    for finding in &mut report.findings {
        finding.action = repair(inner, finding, &mut sources)?;
    }
    // A blob that was moved aside above may hold what a blob before it in the list lacked.
    for finding in report
        .findings
        .iter_mut()
        .filter(|finding| finding.problem == Problem::BlobMissing)
    {
        if finding.action == Action::Nothing {
            finding.action = restore(inner, finding, &mut sources)?.unwrap_or(Action::Nothing);
        }
    }
    inner.changed(&inner.layout.manifests);
    Ok(())
}

/// Files that may hold the bytes of a digest, by the digest that they have.
fn sources(inner: &Inner, report: &FsckReport) -> BTreeMap<Digest, PathBuf> {
    let is_wanted = |finding: &&Finding| {
        matches!(
            finding.problem,
            Problem::BlobMissing | Problem::BlobCorrupt { .. } | Problem::BlobUnreadable { .. }
        ) && !finding.models.is_empty()
    };
    if !report.findings.iter().any(|finding| is_wanted(&finding)) {
        return BTreeMap::new();
    }
    let mut sources = BTreeMap::new();
    for finding in &report.findings {
        if let Problem::BlobCorrupt { found } = finding.problem {
            sources.insert(found, finding.path.clone());
        }
    }
    let quarantined = fs::read_dir(inner.layout.blob_quarantine())
        .into_iter()
        .flatten()
        .flatten();
    let strays = report
        .findings
        .iter()
        .filter(|finding| finding.problem == Problem::StrayFile);
    let paths = quarantined
        .map(|entry| entry.path())
        .chain(strays.map(|finding| finding.path.clone()));
    let mut buffer = vec![0; BUFFER_BYTES];
    for path in paths {
        if let Ok(digest) = hash_file(&path, &mut buffer, |_| true) {
            sources.insert(digest, path);
        }
    }
    sources
}

fn repair(inner: &Inner, finding: &Finding, sources: &mut BTreeMap<Digest, PathBuf>) -> Result<Action> {
    if !finding.path.exists() && finding.problem != Problem::BlobMissing {
        // Deleted, or already used to restore another blob.
        return Ok(Action::Nothing);
    }
    match &finding.problem {
        Problem::BlobMissing => Ok(restore(inner, finding, sources)?.unwrap_or(Action::Nothing)),
        Problem::BlobCorrupt { found } => {
            if is_whole_again(finding) {
                return Ok(Action::Nothing);
            }
            let aside = quarantine(&inner.layout.blob_quarantine(), &finding.path)?;
            if sources.get(found) == Some(&finding.path) {
                sources.insert(*found, aside.clone());
            }
            Ok(restore(inner, finding, sources)?.unwrap_or(Action::Quarantined(aside)))
        }
        Problem::BlobUnreadable { .. } => {
            let aside = quarantine(&inner.layout.blob_quarantine(), &finding.path)?;
            Ok(restore(inner, finding, sources)?.unwrap_or(Action::Quarantined(aside)))
        }
        Problem::ManifestUnreadable { .. } if !finding.models.is_empty() => {
            if manifest::read(&finding.path).is_ok() {
                return Ok(Action::Nothing);
            }
            quarantine(&inner.layout.manifest_quarantine(), &finding.path).map(Action::Quarantined)
        }
        Problem::BlobOldName => rename_old(&inner.layout, finding),
        Problem::StrayFile if is_ours(inner, &finding.path) => {
            fs::remove_file(&finding.path).map_err(RegistryError::io("remove", &finding.path))?;
            Ok(Action::Removed)
        }
        // A half download that its program can continue, a foreign file, a blob that gc takes in its time, a manifest of a wrong
        // length whose blob is whole: no repair that loses nothing.
        _ => Ok(Action::Nothing),
    }
}

/// Returns whether a blob that was found corrupt has been replaced meanwhile by an upload.
fn is_whole_again(finding: &Finding) -> bool {
    let mut buffer = vec![0; BUFFER_BYTES];
    hash_file(&finding.path, &mut buffer, |_| true).ok() == finding.digest
}

fn restore(inner: &Inner, finding: &Finding, sources: &mut BTreeMap<Digest, PathBuf>) -> Result<Option<Action>> {
    let Some(digest) = finding.digest.filter(|_| !finding.models.is_empty()) else {
        return Ok(None);
    };
    let Some(source) = sources.remove(&digest) else {
        return Ok(None);
    };
    if !source.exists() {
        return Ok(None);
    }
    publish::publish_existing(&source, &inner.layout.blob(&digest))?;
    inner.linked.forget(&digest);
    Ok(Some(Action::Restored(source)))
}

fn rename_old(layout: &Layout, finding: &Finding) -> Result<Action> {
    let Some(target) = finding
        .digest
        .map(|digest| layout.blob(&digest))
        .filter(|target| !target.exists())
    else {
        return Ok(Action::Nothing);
    };
    publish::publish_existing(&finding.path, &target)?;
    Ok(Action::Renamed(target))
}

/// Moves a file aside under a name that tells where it was and when it was moved.
fn quarantine(dir: &Path, path: &Path) -> Result<PathBuf> {
    create_private(dir)?;
    let name = path
        .iter()
        .rev()
        .take(4)
        .map(|part| part.to_string_lossy())
        .collect::<Vec<_>>();
    let name = match path.parent().is_some_and(|parent| parent.ends_with("blobs")) {
        true => name[0].to_string(),
        false => name.into_iter().rev().collect::<Vec<_>>().join("+"),
    };
    let now_s = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let target = (0..u32::MAX)
        .map(|copy| dir.join(format!("{name}.{now_s}.{copy}")))
        .find(|target| !target.exists())
        .unwrap_or_else(|| dir.join(&name));
    publish::publish_existing(path, &target)?;
    Ok(target)
}

/// Returns whether a stray file is a leftover that nobody can continue: in our staging directory, or a temporary file of an upload
/// to Ollama. Its `-partial` files are downloads that it would continue.
fn is_ours(inner: &Inner, path: &Path) -> bool {
    let is_staged = path.starts_with(&inner.layout.blob_staging) || path.starts_with(&inner.layout.manifest_staging);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_upload = name
        .strip_prefix("sha256-")
        .is_some_and(|rest| !rest.is_empty() && rest.len() < 20 && rest.bytes().all(|byte| byte.is_ascii_digit()));
    is_staged || is_upload
}
