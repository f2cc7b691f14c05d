//! Repairing what a check found. Restores first, then moves damaged files aside; what a model names is never deleted.
//!
//! Where right bytes can still be: in a blob that lies under a wrong name, in the quarantine, in a file that a killed process left,
//! in a file of another program in `blobs`. Those are hashed only when something is missing.

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
use crate::publish::{self, Mode};
use crate::store::Inner;
use crate::{manifest, packed};

pub(crate) fn run(inner: &Inner, report: &mut FsckReport) -> Result<()> {
    let _names = inner.hold_names();
    let mut sources = sources(inner, report);
    // Everything wrong moves out of the way first, so that what one blob lacks can come from under another's name; leftovers are
    // removed last, for they can be what is restored from.
    for finding in &mut report.findings {
        finding.action = set_aside(inner, finding, &mut sources)?;
    }
    for finding in &mut report.findings {
        if let Some(action) = restore(inner, finding, &mut sources)? {
            finding.action = action;
        }
    }
    for finding in &mut report.findings {
        if finding.action == Action::Nothing && finding.path.exists() {
            finding.action = tidy(inner, finding)?;
        }
    }
    inner.generation.bump();
    Ok(())
}

/// Files that may hold the bytes of a digest, by the digest that they have.
fn sources(inner: &Inner, report: &FsckReport) -> BTreeMap<Digest, PathBuf> {
    if !report
        .findings
        .iter()
        .any(|finding| is_lost(&finding.problem) && !finding.models.is_empty())
    {
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

/// Moves a damaged file to the quarantine, if it still is damaged.
fn set_aside(inner: &Inner, finding: &Finding, sources: &mut BTreeMap<Digest, PathBuf>) -> Result<Action> {
    if !finding.path.exists() {
        return Ok(Action::Nothing);
    }
    match &finding.problem {
        Problem::BlobCorrupt { found } if !is_whole_again(finding) => {
            let aside = quarantine(&inner.layout.blob_quarantine(), &finding.path)?;
            if let Some(digest) = digest_of(&finding.path) {
                packed::forget(&inner.layout, &digest)?;
            }
            if sources.get(found) == Some(&finding.path) {
                sources.insert(*found, aside.clone());
            }
            Ok(Action::Quarantined(aside))
        }
        Problem::BlobUnreadable { .. } => {
            quarantine(&inner.layout.blob_quarantine(), &finding.path).map(Action::Quarantined)
        }
        Problem::ManifestUnreadable { .. } if !finding.models.is_empty() && manifest::read(&finding.path).is_err() => {
            inner.changed(&finding.path);
            quarantine(&inner.layout.manifest_quarantine(), &finding.path).map(Action::Quarantined)
        }
        _ => Ok(Action::Nothing),
    }
}

/// Returns the digest that a blob's name says it has.
fn digest_of(blob: &Path) -> Option<Digest> {
    Digest::parse(blob.file_name()?.to_str()?).ok()
}

/// Does what is left to do where nothing is damaged. A half download that its program can continue, a foreign file, a blob that gc
/// takes in its time and a wrong length in a manifest stay: no repair of those loses nothing.
fn tidy(inner: &Inner, finding: &Finding) -> Result<Action> {
    match finding.problem {
        Problem::BlobOldName => rename_old(&inner.layout, finding),
        Problem::StrayFile if is_ours(inner, &finding.path) => {
            fs::remove_file(&finding.path).map_err(RegistryError::io("remove", &finding.path))?;
            Ok(Action::Removed)
        }
        _ => Ok(Action::Nothing),
    }
}

/// Returns whether a model lacks a blob because of it.
fn is_lost(problem: &Problem) -> bool {
    matches!(
        problem,
        Problem::BlobMissing | Problem::BlobCorrupt { .. } | Problem::BlobUnreadable { .. }
    )
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
    publish::publish_existing(&source, &inner.layout.blob(&digest), Mode::Usual)?;
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
    publish::publish_existing(&finding.path, &target, Mode::Untouched)?;
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
    publish::publish_existing(path, &target, Mode::Untouched)?;
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
