//! An array of metadata: a range of the mapped file, walked once when the file was opened and decoded while it is iterated.
//!
//! Cost: an array costs 40 bytes whatever its length; iterating the 150,000 strings of a vocabulary reads their bytes once and
//! allocates nothing.
//!
//! **Invariant:** `bytes` is exactly the payload of `len` elements, so that iteration cannot run out of it; should it do so anyway, it ends.

use super::{
    ARRAY_DEPTH_MAX,
    cursor::Cursor,
    value::{Value, ValueType},
};
use crate::{FormatError, Result};

/// An array of metadata values of one type, borrowed from its file.
#[derive(Clone, Copy, Debug)]
pub struct Array<'a> {
    element_type: ValueType,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Reads the head of an array and proves that all its elements lie inside the file.
    pub(super) fn read(cursor: &mut Cursor<'a>, what: &str, depth: usize) -> Result<Array<'a>> {
        if depth > ARRAY_DEPTH_MAX {
            return Err(FormatError::limit(
                cursor.file,
                format!("the nesting of arrays in {what}"),
                depth,
                ARRAY_DEPTH_MAX as u64,
            ));
        }
        let at = cursor.at;
        let id = cursor.u32(what)?;
        let element_type = ValueType::from_id(id)
            .ok_or_else(|| cursor.malformed(at, "the type of an array's elements, 0 to 12", &id.to_string()))?;
        let count = cursor.u64(what)?;
        let start = cursor.at;
        match element_type {
            ValueType::String => {
                enough(cursor, count, 8, what)?;
                for _ in 0..count {
                    cursor.string(what)?;
                }
            }
            ValueType::Array => {
                enough(cursor, count, 12, what)?;
                for _ in 0..count {
                    Array::read(cursor, what, depth + 1)?;
                }
            }
            fixed => {
                let each = fixed.fixed_bytes().unwrap_or(8) as u64;
                cursor.take(enough(cursor, count, each, what)?, what)?;
            }
        }
        Ok(Array {
            element_type,
            len: usize::try_from(count).map_err(|_| cursor.malformed(at, "a shorter array", &count.to_string()))?,
            bytes: &cursor.bytes[start..cursor.at],
        })
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Says whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the type of every element.
    pub fn element_type(&self) -> ValueType {
        self.element_type
    }

    /// Returns the elements as they lie in the file.
    pub(super) fn raw(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the elements one after the other.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let mut cursor = Cursor {
            file: "",
            bytes: self.bytes,
            at: 0,
        };
        let element_type = self.element_type;
        (0..self.len).map_while(move |_| match element_type {
            ValueType::Array => Array::read(&mut cursor, "", 1).ok().map(Value::Array),
            ValueType::String => Value::scalar(ValueType::String, cursor.string("").ok()?),
            fixed => Value::scalar(fixed, cursor.take(fixed.fixed_bytes()? as u64, "").ok()?),
        })
    }

    /// Returns the bytes of each string, for pieces of a vocabulary that need not be UTF-8.
    pub fn byte_strings(&self) -> Result<impl Iterator<Item = &'a [u8]> + use<'a>> {
        self.expect_type("strings", self.element_type == ValueType::String)?;
        let mut cursor = Cursor {
            file: "",
            bytes: self.bytes,
            at: 0,
        };
        Ok((0..self.len).map_while(move |_| cursor.string("").ok()))
    }

    /// Returns all strings; one that is not UTF-8 is an error that says which.
    pub fn strings(&self) -> Result<Vec<&'a str>> {
        self.byte_strings()?
            .enumerate()
            .map(|(index, bytes)| {
                std::str::from_utf8(bytes).map_err(|_| {
                    FormatError::malformed("metadata array", format!("element {index}"), "UTF-8", "other bytes")
                })
            })
            .collect()
    }

    /// Returns all elements of an array of floats.
    pub fn f32s(&self) -> Result<Vec<f32>> {
        let fits = matches!(self.element_type, ValueType::F32 | ValueType::F64);
        self.expect_type("floats", fits)?;
        Ok(self
            .iter()
            .filter_map(|value| value.as_f64())
            .map(|value| value as f32)
            .collect())
    }

    /// Returns all elements of an array of integers of any width; a u64 beyond i64 is an error.
    pub fn i64s(&self) -> Result<Vec<i64>> {
        let is_integer = !matches!(
            self.element_type,
            ValueType::F32 | ValueType::F64 | ValueType::Bool | ValueType::String | ValueType::Array
        );
        self.expect_type("integers", is_integer)?;
        let values: Vec<i64> = self.iter().filter_map(|value| value.as_i64()).collect();
        if values.len() == self.len {
            return Ok(values);
        }
        Err(FormatError::malformed(
            "metadata array",
            "its elements",
            "integers below 2^63",
            "a larger one",
        ))
    }

    /// Returns all elements of an array of truth values.
    pub fn bools(&self) -> Result<Vec<bool>> {
        self.expect_type("truth values", self.element_type == ValueType::Bool)?;
        Ok(self.iter().filter_map(|value| value.as_bool()).collect())
    }

    fn expect_type(&self, wanted: &str, holds: bool) -> Result<()> {
        if holds {
            return Ok(());
        }
        Err(FormatError::malformed(
            "metadata array",
            "its type",
            wanted,
            self.element_type.name(),
        ))
    }
}

/// Proves that `count` elements of at least `each` bytes fit what is left; returns their bytes.
fn enough(cursor: &Cursor<'_>, count: u64, each: u64, what: &str) -> Result<u64> {
    let needed = count.saturating_mul(each);
    if needed <= cursor.left() as u64 {
        return Ok(needed);
    }
    Err(FormatError::Truncated {
        file: cursor.file.to_owned(),
        what: format!("{what} ({count} elements)"),
        offset: cursor.at as u64,
        needed,
        available: cursor.bytes.len() as u64,
    })
}
