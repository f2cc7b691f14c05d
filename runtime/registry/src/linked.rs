//! What a hard-linked blob looked like when it was imported.
//!
//! The hazard: a hard-linked blob is the user's own file under a second name. Whoever writes to that file in place writes to the
//! blob, and no permission of ours prevents it. So each one has a record of its inode, length and time of change; every load and
//! every listing compares it, which costs no more than the `stat` that they do anyway, and fsck hashes the bytes as always.
//! A program that replaces the file (writes a new one and renames it) does no harm: the blob keeps the old bytes.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::digest::Digest;
use crate::layout::{Layout, create_private};
use crate::publish;

/// A record is one short line of JSON.
const RECORD_BYTES_MAX: u64 = 64 << 10;

/// The state of a linked file at import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LinkRecord {
    inode: u64,
    bytes: u64,
    modified_s: i64,
    modified_ns: i64,
    pub(crate) source_path: PathBuf,
}

impl LinkRecord {
    pub(crate) fn new(metadata: &Metadata, source_path: &Path) -> Self {
        Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified_s: metadata.mtime(),
            modified_ns: metadata.mtime_nsec(),
            source_path: source_path.to_owned(),
        }
    }

    /// Returns whether the blob's file is still the one that was hashed, unwritten. Another inode is a copy that replaced it.
    pub(crate) fn is_unchanged(&self, metadata: &Metadata) -> bool {
        metadata.ino() != self.inode || Self::new(metadata, &self.source_path) == *self
    }
}

/// All records of a store, in memory and on disk.
#[derive(Debug)]
pub(crate) struct Linked {
    dir: PathBuf,
    staging: PathBuf,
    records: Mutex<HashMap<Digest, LinkRecord>>,
}

impl Linked {
    /// Reads the records. One that cannot be read is left out: fsck hashes its blob like any other.
    pub(crate) fn open(layout: &Layout) -> Self {
        let dir = layout.linked();
        let mut records = HashMap::new();
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let digest = entry
                .file_name()
                .to_str()
                .and_then(|hex| Digest::parse(&format!("sha256:{hex}")).ok());
            let is_short = entry
                .metadata()
                .is_ok_and(|metadata| metadata.len() <= RECORD_BYTES_MAX);
            let record = digest.filter(|_| is_short).and_then(|digest| {
                let record = serde_json::from_slice(&fs::read(entry.path()).ok()?).ok()?;
                Some((digest, record))
            });
            records.extend(record);
        }
        Self {
            dir,
            staging: layout.private.join("tmp"),
            records: Mutex::new(records),
        }
    }

    /// Records a link, durably, before the blob is published.
    pub(crate) fn remember(&self, digest: &Digest, record: LinkRecord) -> Result<()> {
        create_private(&self.dir)?;
        let bytes = serde_json::to_vec(&record).expect("a record is plain JSON");
        publish::publish_bytes(&self.staging, &self.dir.join(digest.hex()), &bytes)?;
        self.records().insert(*digest, record);
        Ok(())
    }

    /// Drops a record whose blob was replaced or removed.
    pub(crate) fn forget(&self, digest: &Digest) {
        if self.records().remove(digest).is_some() {
            // A record that stays names another inode than the blob has from now on, and so says nothing.
            let _ = fs::remove_file(self.dir.join(digest.hex()));
        }
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<LinkRecord> {
        self.records().get(digest).cloned()
    }

    fn records(&self) -> MutexGuard<'_, HashMap<Digest, LinkRecord>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
