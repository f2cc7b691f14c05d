//! A checked walk over the head of a file: nothing is read that is not inside it.

use crate::{FormatError, Result, error::excerpt};

/// A position in the bytes of one file.
pub(super) struct Cursor<'a> {
    pub(super) file: &'a str,
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// Takes the next bytes; `what` names them in the error.
    pub(super) fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8]> {
        let taken = usize::try_from(count)
            .ok()
            .and_then(|count| self.at.checked_add(count))
            .and_then(|end| self.bytes.get(self.at..end))
            .ok_or_else(|| FormatError::Truncated {
                file: self.file.to_owned(),
                what: what.to_owned(),
                offset: self.at as u64,
                needed: count,
                available: self.bytes.len() as u64,
            })?;
        self.at += taken.len();
        Ok(taken)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4, what)?);
        Ok(u32::from_le_bytes(bytes))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8, what)?);
        Ok(u64::from_le_bytes(bytes))
    }

    /// Takes a string whose bytes are inside the file; they need not be UTF-8.
    pub(super) fn string(&mut self, what: &str) -> Result<&'a [u8]> {
        let length = self.u64(what)?;
        self.take(length, what)
    }

    /// Takes a name: a string of UTF-8, neither empty nor longer than `bytes_max`.
    pub(super) fn name(&mut self, what: &str, bytes_max: usize) -> Result<&'a str> {
        let at = self.at;
        let bytes = self.string(what)?;
        if bytes.len() > bytes_max {
            return Err(FormatError::limit(
                self.file,
                format!("the length of {what} at offset {at}"),
                bytes.len(),
                bytes_max as u64,
            ));
        }
        match std::str::from_utf8(bytes) {
            Ok("") => Err(self.malformed(at, what, "an empty one")),
            Ok(name) => Ok(name),
            Err(_) => Err(self.malformed(at, what, &format!("`{}`", excerpt(&String::from_utf8_lossy(bytes))))),
        }
    }

    /// An error at an offset.
    pub(super) fn malformed(&self, at: usize, expected: &str, found: &str) -> FormatError {
        FormatError::malformed(self.file, format!("offset {at}"), expected, found)
    }
}
