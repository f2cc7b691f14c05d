//! Checking a whole store: every blob is hashed, every manifest read, everything that does not belong is named.
//!
//! Cost: one read of every blob, on up to [`THREADS_MAX`] threads. The store stays in use meanwhile: nothing is held while blobs are
//! hashed, and every verdict that would lead to a repair is reached again under the mutex on names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::SystemTime;

use serde::Serialize;

use crate::Result;
use crate::digest::{Digest, Hasher};
use crate::error::RegistryError;
use crate::gc::{self, BlobFile};
use crate::hash::BUFFER_BYTES;
use crate::layout::Layout;
use crate::list::FileState;
use crate::name::ModelName;
use crate::store::Inner;
use crate::{list, manifest, repair};

/// More readers than this make a disk slower, not faster.
const THREADS_MAX: usize = 4;

/// How to check.
#[derive(Default)]
pub struct FsckOptions<'a> {
    /// Restore what can be restored and move damaged files to the quarantine. Nothing that a model names is ever deleted.
    pub repair: bool,
    /// Called now and then while blobs are hashed.
    pub progress: Option<&'a mut dyn FnMut(FsckProgress)>,
    /// Stops the check soon after it becomes true.
    pub cancel: Option<&'a AtomicBool>,
}

/// How far a check has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FsckProgress {
    /// Bytes hashed.
    pub bytes_done: u64,
    /// Bytes to hash.
    pub bytes_total: u64,
}

/// What is wrong with one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "problem")]
pub enum Problem {
    /// A manifest cannot be read or parsed: its model cannot be used.
    ManifestUnreadable {
        /// Why.
        reason: String,
    },
    /// A file below `manifests` whose path is no model's name.
    ManifestMisplaced,
    /// A blob's bytes do not have its digest.
    BlobCorrupt {
        /// The digest that they have.
        found: Digest,
    },
    /// A blob cannot be read.
    BlobUnreadable {
        /// Why.
        reason: String,
    },
    /// A model names a blob that is not there.
    BlobMissing,
    /// A blob is whole, but a manifest gives another length.
    BlobLength {
        /// What the manifest says.
        bytes_expected: u64,
        /// What is there.
        bytes_found: u64,
    },
    /// A blob lies under the name that old Ollama versions used.
    BlobOldName,
    /// A whole blob that nobody names. Not damage: gc removes it when it is old enough.
    Orphan,
    /// A file that is no blob, or is left over from a process that was killed.
    StrayFile,
}

impl Problem {
    /// Returns whether a model may be unusable because of it.
    pub fn is_damage(&self) -> bool {
        !matches!(
            self,
            Problem::Orphan | Problem::StrayFile | Problem::BlobOldName | Problem::ManifestMisplaced
        )
    }
}

/// What was done about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "action", content = "path")]
pub enum Action {
    /// Nothing: no repair was asked for, or none is possible.
    Nothing,
    /// Moved to this place in the quarantine.
    Quarantined(PathBuf),
    /// Put back from this file, which held the right bytes.
    Restored(PathBuf),
    /// Renamed to this.
    Renamed(PathBuf),
    /// Removed: it was nobody's.
    Removed,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    #[serde(flatten)]
    pub problem: Problem,
    /// Where.
    pub path: PathBuf,
    /// Which blob, if it is about one.
    pub digest: Option<Digest>,
    /// Models that are affected.
    pub models: Vec<ModelName>,
    /// What was done.
    #[serde(flatten)]
    pub action: Action,
}

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FsckReport {
    /// Manifests looked at.
    pub manifests: usize,
    /// Blobs hashed.
    pub blobs: usize,
    /// Bytes hashed.
    pub bytes: u64,
    /// Everything found.
    pub findings: Vec<Finding>,
}

impl FsckReport {
    /// Returns whether every model is whole, or was made whole again.
    pub fn is_sound(&self) -> bool {
        let is_restored = |finding: &Finding| matches!(finding.action, Action::Restored(_));
        self.findings
            .iter()
            .all(|finding| is_restored(finding) || !finding.problem.is_damage() || finding.models.is_empty())
    }
}

/// Which models name a blob, and with which length.
#[derive(Debug, Default)]
pub(crate) struct Named {
    pub(crate) models: Vec<ModelName>,
    lengths: BTreeSet<u64>,
}

pub(crate) fn run(inner: &Inner, mut options: FsckOptions<'_>) -> Result<FsckReport> {
    if options.repair {
        inner.writable()?;
    }
    let mut report = FsckReport::default();
    let named = check_manifests(&inner.layout, &mut report);
    let blobs = gc::blobs(&inner.layout, SystemTime::now())?;
    report.blobs = blobs.len();
    report.bytes = blobs.iter().fold(0, |sum, blob| sum.saturating_add(blob.bytes));
    // What a torn manifest names is not orphaned, and nobody knows what that is.
    let is_certain = !report.findings.iter().any(|finding| finding.problem.is_damage());
    let hashed = hash_all(&blobs, report.bytes, &mut options)?;

    let mut whole = BTreeSet::new();
    for (blob, result) in blobs.iter().zip(hashed) {
        let users = named.get(&blob.digest);
        if let Some(problem) = judge(inner, blob, result, users.is_some() || !is_certain) {
            report
                .findings
                .push(finding(problem, &blob.path, Some(blob.digest), users));
        } else {
            whole.insert(blob.digest);
        }
        report
            .findings
            .extend(length_findings(blob, users).filter(|_| whole.contains(&blob.digest)));
        let is_old = blob
            .path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().contains(&b':'));
        if is_old {
            report
                .findings
                .push(finding(Problem::BlobOldName, &blob.path, Some(blob.digest), users));
        }
    }
    let there: BTreeSet<Digest> = blobs.iter().map(|blob| blob.digest).collect();
    for (digest, users) in named.iter().filter(|(digest, _)| !there.contains(digest)) {
        // Looked at again: a blob that was published after the directory was read is not missing.
        if matches!(inner.layout.find_blob(digest), Ok(None)) {
            report.findings.push(finding(
                Problem::BlobMissing,
                &inner.layout.blob(digest),
                Some(*digest),
                Some(users),
            ));
        }
    }
    report.findings.extend(stray_files(inner));
    if options.repair {
        repair::run(inner, &mut report)?;
    }
    Ok(report)
}

fn finding(problem: Problem, path: &Path, digest: Option<Digest>, users: Option<&Named>) -> Finding {
    let models = users.map(|users| users.models.clone()).unwrap_or_default();
    Finding {
        problem,
        path: path.to_owned(),
        digest,
        models,
        action: Action::Nothing,
    }
}

/// Reads every manifest; returns which blobs they name.
fn check_manifests(layout: &Layout, report: &mut FsckReport) -> BTreeMap<Digest, Named> {
    let mut named: BTreeMap<Digest, Named> = BTreeMap::new();
    let walk = list::walk(layout);
    for path in walk.unreadable {
        let problem = Problem::ManifestUnreadable {
            reason: "the operating system does not let it be read".into(),
        };
        report.findings.push(finding(problem, &path, None, None));
    }
    for file in walk.files {
        report.manifests += 1;
        match (manifest::read(&file.path), file.name) {
            (Ok((manifest, _)), Some(name)) => {
                for layer in manifest.all_layers() {
                    let users = named.entry(layer.digest).or_default();
                    users.lengths.insert(layer.size);
                    if users.models.last() != Some(&name) {
                        users.models.push(name.clone());
                    }
                }
            }
            (Ok((manifest, _)), None) => {
                // Another program may know what it is: what it names is not orphaned.
                for digest in manifest.digests() {
                    named.entry(digest).or_default();
                }
                report
                    .findings
                    .push(finding(Problem::ManifestMisplaced, &file.path, None, None));
            }
            (Err(_), None) => report
                .findings
                .push(finding(Problem::ManifestMisplaced, &file.path, None, None)),
            (Err(damage), Some(name)) => {
                let reason = match damage {
                    crate::Damage::ManifestUnreadable { reason, .. } => reason,
                    other => other.to_string(),
                };
                let mut finding = finding(Problem::ManifestUnreadable { reason }, &file.path, None, None);
                finding.models.push(name);
                report.findings.push(finding);
            }
        }
    }
    named
}

fn judge(inner: &Inner, blob: &BlobFile, hashed: io::Result<Digest>, may_be_named: bool) -> Option<Problem> {
    match hashed {
        Ok(found) if found == blob.digest => {
            let is_used = may_be_named || inner.leases.leased().contains(&blob.digest);
            (!is_used).then_some(Problem::Orphan)
        }
        Ok(found) => {
            if let Ok(metadata) = fs::metadata(&blob.path) {
                inner.suspects.note(blob.digest, FileState::of(&metadata), found);
                inner.generation.bump();
            }
            Some(Problem::BlobCorrupt { found })
        }
        // Removed by gc since the directory was read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Problem::BlobUnreadable {
            reason: error.to_string(),
        }),
    }
}

fn length_findings<'a>(blob: &'a BlobFile, users: Option<&'a Named>) -> impl Iterator<Item = Finding> + 'a {
    let lengths = users.into_iter().flat_map(|users| users.lengths.iter());
    lengths.filter(|length| **length != blob.bytes).map(move |length| {
        let problem = Problem::BlobLength {
            bytes_expected: *length,
            bytes_found: blob.bytes,
        };
        finding(problem, &blob.path, Some(blob.digest), users)
    })
}

/// Finds files in `blobs` that are none, and leftovers in our staging directories. What was staged since the store was opened is a
/// blob on its way.
fn stray_files(inner: &Inner) -> Vec<Finding> {
    let in_dir = |dir: &Path, is_stray: &dyn Fn(&Path, &fs::Metadata) -> bool| -> Vec<Finding> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let strays = entries.filter(|entry| {
            entry
                .metadata()
                .is_ok_and(|metadata| metadata.is_file() && is_stray(&entry.path(), &metadata))
        });
        strays
            .map(|entry| finding(Problem::StrayFile, &entry.path(), None, None))
            .collect()
    };
    let is_no_blob = |path: &Path, _: &fs::Metadata| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_none_or(|name| Digest::parse(name).is_err())
    };
    let is_left_over =
        |_: &Path, metadata: &fs::Metadata| metadata.modified().is_ok_and(|modified| modified < inner.opened_at);
    let mut findings = in_dir(&inner.layout.blobs, &is_no_blob);
    let staging = BTreeSet::from([&inner.layout.blob_staging, &inner.layout.manifest_staging]);
    findings.extend(staging.into_iter().flat_map(|dir| in_dir(dir, &is_left_over)));
    findings.sort_by(|a, b| a.path.cmp(&b.path));
    findings
}

/// Hashes all blobs; the results are in their order.
fn hash_all(blobs: &[BlobFile], bytes_total: u64, options: &mut FsckOptions<'_>) -> Result<Vec<io::Result<Digest>>> {
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get().min(THREADS_MAX));
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let is_cancelled = || options.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed));
    let mut progress = options.progress.take();
    let results = std::thread::scope(|scope| {
        let (report, reports) = sync_channel(2 * threads);
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let (report, next, stop) = (report.clone(), &next, &stop);
                scope.spawn(move || hash_some(blobs, next, stop, &report))
            })
            .collect();
        drop(report);
        let mut bytes_done = 0;
        for bytes in reports {
            bytes_done += bytes;
            if let Some(progress) = &mut progress {
                progress(FsckProgress {
                    bytes_done,
                    bytes_total,
                });
            }
            if is_cancelled() {
                stop.store(true, Ordering::Relaxed);
            }
        }
        let finished = workers
            .into_iter()
            .map(|worker| worker.join().expect("hashing does not panic"));
        finished.flatten().collect::<BTreeMap<_, _>>()
    });
    if is_cancelled() || results.len() != blobs.len() {
        return Err(RegistryError::Cancelled);
    }
    Ok(results.into_values().collect())
}

fn hash_some(
    blobs: &[BlobFile],
    next: &AtomicUsize,
    stop: &AtomicBool,
    report: &SyncSender<u64>,
) -> Vec<(usize, io::Result<Digest>)> {
    let mut results = Vec::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    while !stop.load(Ordering::Relaxed) {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(blob) = blobs.get(index) else { break };
        let each = |bytes| {
            // The receiver lives until every worker has ended.
            let _ = report.send(bytes);
            !stop.load(Ordering::Relaxed)
        };
        results.push((index, hash_file(&blob.path, &mut buffer, each)));
    }
    results
}

/// Hashes one file; `each` is told of every buffer and says whether to go on.
pub(crate) fn hash_file(path: &Path, buffer: &mut [u8], mut each: impl FnMut(u64) -> bool) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new();
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                if !each(read as u64) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
