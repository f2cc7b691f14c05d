//! The first exchange with a worker: what it shall open and under which limits, and what it found.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use witness_plugin_protocol::Descriptor;

/// Which file a path named when it was looked at. Any change of content or permissions changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_s: i64,
    modified_ns: i64,
    changed_s: i64,
    changed_ns: i64,
}

impl Identity {
    /// Returns the identity of an open or looked-up file.
    pub(crate) fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified_s: metadata.mtime(),
            modified_ns: metadata.mtime_nsec(),
            changed_s: metadata.ctime(),
            changed_ns: metadata.ctime_nsec(),
        }
    }

    /// Returns what makes two names one file.
    pub(crate) fn file(&self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

/// What a worker is told before anything else.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Boot {
    /// The plugin's file.
    pub(crate) path: PathBuf,
    /// Which file it must be; nothing = whichever is there, and its digest is computed.
    pub(crate) identity: Option<Identity>,
    /// Read the descriptor and stop there, without `init`.
    pub(crate) describe_only: bool,
    /// Bytes of private memory that the process may have.
    pub(crate) memory_bytes: Option<u64>,
    /// Run behind everything else on the machine.
    pub(crate) is_background: bool,
    /// The host's process id: a worker whose parent is another one already has outlived its host.
    pub(crate) parent: u32,
    /// The plugin's settings.
    pub(crate) settings: Map<String, Value>,
}

/// What a worker found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Booted {
    /// The plugin's account of itself.
    pub(crate) descriptor: Descriptor,
    /// ABI version of its tables, major and minor.
    pub(crate) abi: (u32, u32),
    /// Which file was opened.
    pub(crate) identity: Identity,
    /// `sha256:<hex>` of the opened file; nothing when an identity was given.
    pub(crate) sha256: Option<String>,
}
