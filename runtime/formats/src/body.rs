//! The data of a file that is being written, behind a head that declared it. One for every format.

use std::io::{self, Write};

use crate::error::excerpt;
use crate::{FormatError, Result};

/// A tensor whose bytes are still to come.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

/// The data of a file: the tensors' bytes, in the order in which they were declared.
#[derive(Debug)]
pub struct Body<W> {
    /// What is being written, for messages.
    output: &'static str,
    sink: W,
    tensors: Vec<Planned>,
    alignment: u64,
    /// The tensor that the next byte belongs to, and how much of it is written.
    next: usize,
    written: u64,
}

impl<W: Write> Body<W> {
    /// Begins the data behind a head that is written. Each tensor is padded to `alignment`.
    pub(crate) fn begin(output: &'static str, sink: W, tensors: Vec<Planned>, alignment: u64) -> Result<Body<W>> {
        let mut body = Body {
            output,
            sink,
            tensors,
            alignment,
            next: 0,
            written: 0,
        };
        body.close_full_tensors()?;
        Ok(body)
    }

    /// Writes the next bytes; they may end anywhere in a tensor and span several.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let Some(tensor) = self.tensors.get(self.next) else {
                return Err(self.refuse(
                    "the data",
                    "no more bytes: every tensor is written",
                    &format!("{} more", bytes.len()),
                ));
            };
            let left = usize::try_from(tensor.bytes - self.written).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(left));
            self.sink
                .write_all(now)
                .map_err(|error| write_failed(self.output, error))?;
            self.written += now.len() as u64;
            bytes = later;
            self.close_full_tensors()?;
        }
        Ok(())
    }

    /// Writes the next tensor whole; its name proves that the order is the declared one.
    pub fn tensor(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        // An empty tensor was closed as soon as it was reached.
        if bytes.is_empty()
            && self.tensors[..self.next]
                .iter()
                .any(|tensor| tensor.name == name && tensor.bytes == 0)
        {
            return Ok(());
        }
        match self.tensors.get(self.next) {
            Some(tensor) if self.written == 0 && tensor.name == name && tensor.bytes == bytes.len() as u64 => {
                self.write(bytes)
            }
            Some(tensor) => Err(self.refuse(
                name,
                &format!("{} bytes of tensor `{}`", tensor.bytes - self.written, tensor.name),
                &format!("{} bytes", bytes.len()),
            )),
            None => Err(self.refuse(name, "no more tensors", "one more")),
        }
    }

    /// Proves that everything declared was written, flushes and returns the sink.
    pub fn finish(mut self) -> Result<W> {
        if let Some(tensor) = self.tensors.get(self.next) {
            return Err(self.refuse(
                &tensor.name,
                &format!("{} bytes", tensor.bytes),
                &format!("{} written", self.written),
            ));
        }
        self.sink.flush().map_err(|error| write_failed(self.output, error))?;
        Ok(self.sink)
    }

    fn close_full_tensors(&mut self) -> Result<()> {
        while let Some(tensor) = self.tensors.get(self.next)
            && tensor.bytes == self.written
        {
            let padding = self.written.next_multiple_of(self.alignment) - self.written;
            io::copy(&mut io::Read::take(io::repeat(0), padding), &mut self.sink)
                .map_err(|error| write_failed(self.output, error))?;
            self.next += 1;
            self.written = 0;
        }
        Ok(())
    }

    fn refuse(&self, what: &str, expected: &str, found: &str) -> FormatError {
        refuse(self.output, what, expected, found)
    }
}

pub(crate) fn refuse(output: &'static str, what: &str, expected: &str, found: &str) -> FormatError {
    FormatError::malformed(output, format!("`{}`", excerpt(what)), expected, found)
}

pub(crate) fn write_failed(output: &'static str, source: io::Error) -> FormatError {
    FormatError::io(output, "write", source)
}
