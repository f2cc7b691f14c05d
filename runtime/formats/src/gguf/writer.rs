//! Writing GGUF v3: metadata and tensor records first, then the data as a stream, so that a model of any size needs no memory.
//!
//! The order is: metadata, then every tensor's name, shape and type, then [`Writer::begin`], then the bytes in the same order.
//! **Invariant:** a [`Body`] that finishes has written exactly the bytes its head promises, each tensor aligned.

use std::{collections::HashSet, io::Write};

use super::{
    ALIGNMENT_DEFAULT, ALIGNMENT_MAX, ARRAY_DEPTH_MAX, DIMENSIONS_MAX, ENTRIES_MAX, KEY_BYTES_MAX, MAGIC,
    NAME_BYTES_MAX, TENSORS_MAX,
    types::GgmlType,
    value::{OwnedValue, Value, ValueType},
};
use crate::body::{self, Body, Planned};
use crate::{FormatError, Result, tensor::elements_of};

const OUTPUT: &str = "the GGUF file being written";

/// The head of a file: metadata and tensor records.
#[derive(Debug)]
pub struct Writer {
    alignment: u32,
    keys: HashSet<String>,
    entries: Vec<u8>,
    tensors: Vec<Declared>,
    names: HashSet<String>,
}

#[derive(Debug)]
struct Declared {
    name: String,
    shape: Vec<usize>,
    ggml_type: GgmlType,
    bytes: u64,
}

impl Default for Writer {
    fn default() -> Writer {
        Writer::new()
    }
}

impl Writer {
    /// Starts an empty file with the usual alignment.
    pub fn new() -> Writer {
        Writer {
            alignment: ALIGNMENT_DEFAULT,
            keys: HashSet::new(),
            entries: Vec::new(),
            tensors: Vec::new(),
            names: HashSet::new(),
        }
    }

    /// Adds a metadata entry after those already there. `general.alignment` also changes the alignment.
    pub fn set(&mut self, key: &str, value: impl Into<OwnedValue>) -> Result<()> {
        let value = value.into();
        if key == "general.alignment" {
            let alignment = match value {
                OwnedValue::U32(alignment) if alignment.is_power_of_two() && alignment <= ALIGNMENT_MAX => alignment,
                _ => {
                    return Err(refuse(
                        key,
                        &format!("a u32 power of two up to {ALIGNMENT_MAX}"),
                        &format!("{value:?}"),
                    ));
                }
            };
            self.alignment = alignment;
        }
        let mut bytes = Vec::new();
        encode(&value, 0, key, &mut bytes)?;
        self.entry(key, value.kind(), &bytes)
    }

    /// Adds a metadata entry copied from a file, byte for byte.
    pub fn set_value(&mut self, key: &str, value: Value<'_>) -> Result<()> {
        match value {
            Value::Array(array) => {
                let mut bytes = Vec::with_capacity(array.raw().len() + 12);
                bytes.extend((array.element_type() as u32).to_le_bytes());
                bytes.extend((array.len() as u64).to_le_bytes());
                bytes.extend(array.raw());
                self.entry(key, ValueType::Array, &bytes)
            }
            Value::Bytes(text) => {
                let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
                bytes.extend(text);
                self.entry(key, ValueType::String, &bytes)
            }
            scalar => self.set(key, scalar.to_owned()),
        }
    }

    /// Sets the alignment of tensor data: a power of two. Adds `general.alignment`.
    pub fn alignment(&mut self, alignment: u32) -> Result<()> {
        self.set("general.alignment", alignment)
    }

    /// Declares the next tensor. `shape` is row-major, `[out, in]` for a weight.
    pub fn tensor(&mut self, name: &str, shape: &[usize], ggml_type: GgmlType) -> Result<()> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !self.names.insert(name.to_owned()) {
            return Err(refuse(
                name,
                &format!("a new name of 1 to {NAME_BYTES_MAX} bytes"),
                "another",
            ));
        }
        if shape.len() > DIMENSIONS_MAX || self.tensors.len() == TENSORS_MAX {
            return Err(refuse(
                name,
                "at most 4 dimensions and 1,000,000 tensors",
                &format!("{shape:?}"),
            ));
        }
        let row = shape.last().copied().unwrap_or(1);
        let bytes = ggml_type.row_bytes(row).and_then(|row_bytes| {
            let n_rows = elements_of(shape)?.checked_div(row as u64).unwrap_or(0);
            row_bytes.checked_mul(n_rows)
        });
        let bytes = bytes.ok_or_else(|| {
            refuse(
                name,
                &format!("a shape of whole {} blocks", ggml_type.name()),
                &format!("{shape:?}"),
            )
        })?;
        self.tensors.push(Declared {
            name: name.to_owned(),
            shape: shape.to_vec(),
            ggml_type,
            bytes,
        });
        Ok(())
    }

    /// Writes the head and returns the stream for the data.
    pub fn begin<W: Write>(self, mut sink: W) -> Result<Body<W>> {
        let mut head = Vec::with_capacity(self.entries.len() + 24);
        head.extend(MAGIC);
        head.extend(3u32.to_le_bytes());
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend((self.keys.len() as u64).to_le_bytes());
        head.extend(&self.entries);
        let alignment = u64::from(self.alignment);
        let mut offset = 0u64;
        for tensor in &self.tensors {
            put_string(tensor.name.as_bytes(), &mut head);
            head.extend((tensor.shape.len() as u32).to_le_bytes());
            for dim in tensor.shape.iter().rev() {
                head.extend((*dim as u64).to_le_bytes());
            }
            head.extend(tensor.ggml_type.id().to_le_bytes());
            head.extend(offset.to_le_bytes());
            offset = offset
                .checked_add(tensor.bytes)
                .and_then(|end| end.checked_next_multiple_of(alignment))
                .ok_or_else(|| refuse(&tensor.name, "data below 2^64 bytes", "more"))?;
        }
        head.resize(head.len().next_multiple_of(self.alignment as usize), 0);
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
        Body::begin(OUTPUT, sink, planned, alignment)
    }

    fn entry(&mut self, key: &str, kind: ValueType, value: &[u8]) -> Result<()> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX || self.keys.len() == ENTRIES_MAX {
            return Err(refuse(
                key,
                "a key of 1 to 65535 bytes, and at most 65536 of them",
                "another",
            ));
        }
        if !self.keys.insert(key.to_owned()) {
            return Err(refuse(key, "every metadata key once", "it twice"));
        }
        put_string(key.as_bytes(), &mut self.entries);
        self.entries.extend((kind as u32).to_le_bytes());
        self.entries.extend(value);
        Ok(())
    }
}

fn encode(value: &OwnedValue, depth: usize, key: &str, out: &mut Vec<u8>) -> Result<()> {
    match value {
        OwnedValue::U8(value) => out.push(*value),
        OwnedValue::I8(value) => out.extend(value.to_le_bytes()),
        OwnedValue::U16(value) => out.extend(value.to_le_bytes()),
        OwnedValue::I16(value) => out.extend(value.to_le_bytes()),
        OwnedValue::U32(value) => out.extend(value.to_le_bytes()),
        OwnedValue::I32(value) => out.extend(value.to_le_bytes()),
        OwnedValue::U64(value) => out.extend(value.to_le_bytes()),
        OwnedValue::I64(value) => out.extend(value.to_le_bytes()),
        OwnedValue::F32(value) => out.extend(value.to_le_bytes()),
        OwnedValue::F64(value) => out.extend(value.to_le_bytes()),
        OwnedValue::Bool(value) => out.push(u8::from(*value)),
        OwnedValue::String(value) => put_string(value.as_bytes(), out),
        OwnedValue::Array(element_type, elements) => {
            if depth == ARRAY_DEPTH_MAX {
                return Err(refuse(
                    key,
                    &format!("arrays nested at most {ARRAY_DEPTH_MAX} deep"),
                    "deeper ones",
                ));
            }
            out.extend((*element_type as u32).to_le_bytes());
            out.extend((elements.len() as u64).to_le_bytes());
            for element in elements {
                if element.kind() != *element_type {
                    return Err(refuse(
                        key,
                        &format!("elements of type {}", element_type.name()),
                        element.kind().name(),
                    ));
                }
                encode(element, depth + 1, key, out)?;
            }
        }
    }
    Ok(())
}

fn put_string(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

fn refuse(what: &str, expected: &str, found: &str) -> FormatError {
    body::refuse(OUTPUT, what, expected, found)
}
