//! Writing one safetensors file: the head first, then the data as a stream.
//!
//! The head is padded with spaces so that the data starts at a multiple of 8, as other writers do.
//! **Invariant:** a [`Body`] that finishes has written exactly the bytes its head promises.

use std::{
    collections::{BTreeMap, HashSet},
    io::Write,
};

use serde_json::{Map, json};

use super::{DIMENSIONS_MAX, HEADER_BYTES_MAX, NAME_BYTES_MAX, TENSORS_MAX};
use crate::body::{self, Body, Planned};
use crate::{Dtype, FormatError, Result, tensor::bytes_of};

const OUTPUT: &str = "the safetensors file being written";
/// The format puts tensors next to each other.
const UNALIGNED: u64 = 1;

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
            .map_err(|error| body::write_failed(OUTPUT, error))?;
        sink.write_all(&head)
            .map_err(|error| body::write_failed(OUTPUT, error))?;
        let planned = self
            .tensors
            .into_iter()
            .map(|tensor| Planned {
                name: tensor.name,
                bytes: tensor.bytes,
            })
            .collect();
        Body::begin(OUTPUT, sink, planned, UNALIGNED)
    }
}

fn refuse(what: &str, expected: &str, found: &str) -> FormatError {
    body::refuse(OUTPUT, what, expected, found)
}
