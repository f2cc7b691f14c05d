//! The metadata of a GGUF file: ordered, indexed, decoded when asked for.
//!
//! **Invariant:** each entry's range was walked when the file was opened; keys are unique.

use std::{collections::HashMap, ops::Range, sync::Arc};

use super::{
    ENTRIES_MAX, KEY_BYTES_MAX,
    array::Array,
    cursor::Cursor,
    value::{Value, ValueType},
};
use crate::{FormatError, Mmap, Result, error::excerpt};

/// Every key and value of a file's metadata, in the order of the file.
#[derive(Clone, Debug)]
pub struct Metadata {
    file: Arc<str>,
    bytes: Mmap,
    entries: Vec<Entry>,
    index: HashMap<Arc<str>, usize>,
}

#[derive(Clone, Debug)]
struct Entry {
    key: Arc<str>,
    kind: ValueType,
    /// The payload: for strings without their length, for arrays with their head.
    payload: Range<usize>,
}

impl Metadata {
    /// Walks `count` entries. `count` is only believed as far as entries follow.
    pub(super) fn read(cursor: &mut Cursor<'_>, bytes: &Mmap, count: u64) -> Result<Metadata> {
        if count > ENTRIES_MAX as u64 {
            return Err(FormatError::limit(
                cursor.file,
                "the number of metadata entries",
                count,
                ENTRIES_MAX as u64,
            ));
        }
        let mut metadata = Metadata {
            file: cursor.file.into(),
            bytes: bytes.clone(),
            entries: Vec::new(),
            index: HashMap::new(),
        };
        for _ in 0..count {
            let key: Arc<str> = cursor.name("a metadata key", KEY_BYTES_MAX)?.into();
            let at = cursor.at;
            let id = cursor.u32("the type of a metadata value")?;
            let kind = ValueType::from_id(id)
                .ok_or_else(|| cursor.malformed(at, "the type of a metadata value, 0 to 12", &id.to_string()))?;
            let what = format!("metadata `{}`", excerpt(&key));
            let payload = match kind {
                ValueType::Array => {
                    let start = cursor.at;
                    Array::read(cursor, &what, 1)?;
                    start..cursor.at
                }
                ValueType::String => {
                    let length = cursor.string(&what)?.len();
                    cursor.at - length..cursor.at
                }
                fixed => {
                    let length = cursor.take(fixed.fixed_bytes().unwrap_or(8) as u64, &what)?.len();
                    cursor.at - length..cursor.at
                }
            };
            if metadata
                .index
                .insert(Arc::clone(&key), metadata.entries.len())
                .is_some()
            {
                return Err(cursor.malformed(at, "every metadata key once", &format!("`{}` twice", excerpt(&key))));
            }
            metadata.entries.push(Entry { key, kind, payload });
        }
        Ok(metadata)
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Says whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns all entries in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.entries
            .iter()
            .filter_map(|entry| Some((&*entry.key, self.decode(entry)?)))
    }

    /// Returns the value of a key.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.decode(self.entries.get(*self.index.get(key)?)?)
    }

    fn decode(&self, entry: &Entry) -> Option<Value<'_>> {
        let payload = self.bytes.get(entry.payload.clone())?;
        match entry.kind {
            ValueType::Array => {
                let mut cursor = Cursor {
                    file: "",
                    bytes: payload,
                    at: 0,
                };
                // The walk in `read` proved this range; walking a string array again costs about 1 ns an element.
                Array::read(&mut cursor, "", 1).ok().map(Value::Array)
            }
            scalar => Value::scalar(scalar, payload),
        }
    }

    /// Converts a value, or says which type was wanted and which is there.
    fn typed<'a, T>(&'a self, key: &str, wanted: &str, convert: impl Fn(Value<'a>) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => {
                let shown = match value {
                    Value::Array(array) => format!("an array of {} {}", array.len(), array.element_type().name()),
                    Value::Bytes(_) => "a string that is not UTF-8".to_owned(),
                    _ => format!("{} {}", value.kind().name(), excerpt(&value.to_json(0).to_string())),
                };
                Err(FormatError::malformed(
                    &*self.file,
                    format!("metadata `{key}`"),
                    wanted,
                    shown,
                ))
            }
        }
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| FormatError::missing(&*self.file, format!("metadata `{key}`")))
    }

    /// Returns a string, if the key is there.
    pub fn opt_str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |value| value.as_str())
    }

    /// Returns an integer that is not negative, if the key is there.
    pub fn opt_u64(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "an integer that is not negative", |value| value.as_u64())
    }

    /// Returns an integer from 0 to 2^32 - 1, if the key is there.
    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "an integer from 0 to 2^32 - 1", |value| {
            u32::try_from(value.as_u64()?).ok()
        })
    }

    /// Returns a number, if the key is there.
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a number", |value| value.as_f64().map(|value| value as f32))
    }

    /// Returns a number, if the key is there.
    pub fn opt_f64(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", |value| value.as_f64())
    }

    /// Returns a truth value, if the key is there.
    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a truth value", |value| value.as_bool())
    }

    /// Returns an array, if the key is there.
    pub fn opt_array(&self, key: &str) -> Result<Option<Array<'_>>> {
        self.typed(key, "an array", |value| value.as_array())
    }

    /// Returns a string.
    pub fn str(&self, key: &str) -> Result<&str> {
        self.required(key, self.opt_str(key)?)
    }

    /// Returns an integer that is not negative.
    pub fn u64(&self, key: &str) -> Result<u64> {
        self.required(key, self.opt_u64(key)?)
    }

    /// Returns an integer from 0 to 2^32 - 1.
    pub fn u32(&self, key: &str) -> Result<u32> {
        self.required(key, self.opt_u32(key)?)
    }

    /// Returns a number.
    pub fn f32(&self, key: &str) -> Result<f32> {
        self.required(key, self.opt_f32(key)?)
    }

    /// Returns a number.
    pub fn f64(&self, key: &str) -> Result<f64> {
        self.required(key, self.opt_f64(key)?)
    }

    /// Returns a truth value.
    pub fn bool(&self, key: &str) -> Result<bool> {
        self.required(key, self.opt_bool(key)?)
    }

    /// Returns an array.
    pub fn array(&self, key: &str) -> Result<Array<'_>> {
        self.required(key, self.opt_array(key)?)
    }
}
