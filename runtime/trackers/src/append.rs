//! A new file that grows by whole records.
//!
//! **Invariant:** the file holds what was appended without an error, to the byte; beyond that nothing, or if even taking back failed, the torn end of one record.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{Result, TrackerError};

/// A file that is only appended to.
#[derive(Debug)]
pub(crate) struct Appender {
    file: File,
    path: PathBuf,
    n_bytes: u64,
}

impl Appender {
    /// Makes a file that must not be there yet.
    pub(crate) fn create(path: &Path) -> io::Result<Appender> {
        let file = OpenOptions::new().append(true).create_new(true).open(path)?;
        Ok(Appender {
            file,
            path: path.to_owned(),
            n_bytes: 0,
        })
    }

    /// Returns the length of the file.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Adds bytes, which are with the system when this returns, so that they outlive the process. Takes them back where not all could be written.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes);
        if let Err(source) = written {
            // The error to tell is the one above.
            let _ = self.file.set_len(self.n_bytes);
            return Err(self.failed(source));
        }
        self.n_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Waits until all is on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> TrackerError {
        TrackerError::Io {
            path: self.path.clone(),
            verb: "written",
            source,
        }
    }
}
