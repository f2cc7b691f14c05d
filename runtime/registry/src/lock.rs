//! One process has a store open for writing: an operating system's lock, so that a killed process leaves none behind.
//!
//! The file also says who holds it. That text is for people only; whether the lock is held is decided by the operating system.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::RegistryError;

/// What the holder wrote is one short line; more is not read.
const HOLDER_BYTES_MAX: u64 = 4096;

/// Who said to hold the lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// What it was started for, such as `witness serve`.
    pub purpose: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} (`{}`)", self.pid, self.purpose)
    }
}

/// The lock, held while this lives. The file stays; a lock file that is removed could be held twice.
#[derive(Debug)]
pub(crate) struct StoreLock {
    _file: File,
}

impl StoreLock {
    /// Takes the lock or says who has it. Never waits.
    pub(crate) fn take(store: &Path, lock: &Path, purpose: &str) -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(lock)
            .map_err(RegistryError::io("open", lock))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(RegistryError::Locked {
                    path: store.to_owned(),
                    holder: read_holder(&mut file),
                });
            }
            Err(TryLockError::Error(source)) => return Err(RegistryError::io("lock", lock)(source)),
        }
        let holder = Holder {
            pid: std::process::id(),
            purpose: purpose.to_owned(),
        };
        // Not fsynced and not renamed: the text is worth nothing once the process is gone.
        let text = serde_json::to_vec(&holder).expect("a holder is plain JSON");
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(&text));
        match written {
            Ok(()) => {}
            // A full disk must not keep anyone from opening the store to free space.
            Err(error) if crate::space::is_full(&error) => {}
            Err(error) => return Err(RegistryError::io("write", lock)(error)),
        }
        Ok(Self { _file: file })
    }
}

fn read_holder(file: &mut File) -> Option<Holder> {
    let mut text = Vec::new();
    file.take(HOLDER_BYTES_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}
