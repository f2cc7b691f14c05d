//! Writing one safetensors file: the head first, then the data as a stream.
//!
//! The head is padded with spaces so that the data starts at a multiple of 8, as other writers do.
//! **Invariant:** a [`Body`] that finishes has written exactly the bytes its head promises.

use std::{
    collections::{BTreeMap, HashSet},
    io::{self, Write},
};

use serde_json::{Map, json};

use super::{DIMENSIONS_MAX, HEADER_BYTES_MAX, NAME_BYTES_MAX, TENSORS_MAX};
use crate::{Dtype, FormatError, Result, error::excerpt, tensor::bytes_of};

const OUTPUT: &str = "the safetensors file being written";

/// The head of a file: tensors in the order of their data, and free text.
#[derive(Debug, Default)]
pub struct Writer {
    metadata: BTreeMap<String, String>,
    tensors: Vec<Declared>,
    names: HashSet<String>,
}

#[derive(Debug)]
struct Declared {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: u64,
}

impl Writer {
    /// Starts an empty file.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// Adds free text, such as `format: pt`, which transformers asks for.
    pub fn metadata(&mut self, key: &str, value: &str) {
        self.metadata.insert(key.to_owned(), value.to_owned());
    }

    /// Declares the next tensor, row-major.
    pub fn tensor(&mut self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<()> {
        let is_new = !name.is_empty()
            && name.len() <= NAME_BYTES_MAX
            && name != "__metadata__"
            && self.tensors.len() < TENSORS_MAX
            && self.names.insert(name.to_owned());
        if !is_new {
            return Err(refuse(
                name,
                &format!("a new name of 1 to {NAME_BYTES_MAX} bytes"),
                "another",
            ));
        }
        let bytes = bytes_of(dtype, shape).filter(|_| shape.len() <= DIMENSIONS_MAX);
        let bytes = bytes.ok_or_else(|| {
            refuse(
                name,
                &format!("a shape of whole bytes of {}", dtype.name()),
                &format!("{shape:?}"),
            )
        })?;
        self.tensors.push(Declared {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            bytes,
        });
        Ok(())
    }

    /// Writes the head and returns the stream for the data.
    pub fn begin<W: Write>(self, mut sink: W) -> Result<Body<W>> {
        let mut head = Map::new();
        if !self.metadata.is_empty() {
            head.insert("__metadata__".to_owned(), json!(self.metadata));
        }
        let mut at = 0u64;
        for tensor in &self.tensors {
            let end = at
                .checked_add(tensor.bytes)
                .ok_or_else(|| refuse(&tensor.name, "data below 2^64 bytes", "more"))?;
            let entry = json!({"dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [at, end]});
            head.insert(tensor.name.clone(), entry);
            at = end;
        }
        let mut head = serde_json::Value::Object(head).to_string().into_bytes();
        head.resize(head.len().next_multiple_of(8), b' ');
        if head.len() as u64 > HEADER_BYTES_MAX {
            return Err(FormatError::limit(
                OUTPUT,
                "the length of the head in bytes",
                head.len(),
                HEADER_BYTES_MAX,
            ));
        }
        sink.write_all(&(head.len() as u64).to_le_bytes())
            .map_err(write_failed)?;
        sink.write_all(&head).map_err(write_failed)?;
        let mut body = Body {
            sink,
            tensors: self.tensors,
            next: 0,
            written: 0,
        };
        body.close_full_tensors();
        Ok(body)
    }
}

/// The data of a file: the tensors' bytes, in the order in which they were declared.
#[derive(Debug)]
pub struct Body<W> {
    sink: W,
    tensors: Vec<Declared>,
    next: usize,
    written: u64,
}

impl<W: Write> Body<W> {
    /// Writes the next bytes; they may end anywhere in a tensor and span several.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let Some(tensor) = self.tensors.get(self.next) else {
                return Err(refuse(
                    "the data",
                    "no more bytes: every tensor is written",
                    &format!("{} more", bytes.len()),
                ));
            };
            let left = usize::try_from(tensor.bytes - self.written).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(left));
            self.sink.write_all(now).map_err(write_failed)?;
            self.written += now.len() as u64;
            bytes = later;
            self.close_full_tensors();
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
            Some(tensor) => Err(refuse(
                name,
                &format!("{} bytes of tensor `{}`", tensor.bytes - self.written, tensor.name),
                &format!("{} bytes", bytes.len()),
            )),
            None => Err(refuse(name, "no more tensors", "one more")),
        }
    }

    /// Proves that everything declared was written, flushes and returns the sink.
    pub fn finish(mut self) -> Result<W> {
        if let Some(tensor) = self.tensors.get(self.next) {
            return Err(refuse(
                &tensor.name,
                &format!("{} bytes", tensor.bytes),
                &format!("{} written", self.written),
            ));
        }
        self.sink.flush().map_err(write_failed)?;
        Ok(self.sink)
    }

    fn close_full_tensors(&mut self) {
        while self
            .tensors
            .get(self.next)
            .is_some_and(|tensor| tensor.bytes == self.written)
        {
            self.next += 1;
            self.written = 0;
        }
    }
}

fn refuse(what: &str, expected: &str, found: &str) -> FormatError {
    FormatError::malformed(OUTPUT, format!("`{}`", excerpt(what)), expected, found)
}

fn write_failed(source: io::Error) -> FormatError {
    FormatError::io(OUTPUT, "write", source)
}
