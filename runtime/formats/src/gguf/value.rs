//! One metadata value: borrowed from the file as it is read, or owned as it is written.

use serde_json::json;

use super::array::Array;

/// The type of a metadata value; the discriminant is the number in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is the name of the type")]
#[repr(u32)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [ValueType; 13] = [
        ValueType::U8,
        ValueType::I8,
        ValueType::U16,
        ValueType::I16,
        ValueType::U32,
        ValueType::I32,
        ValueType::F32,
        ValueType::Bool,
        ValueType::String,
        ValueType::Array,
        ValueType::U64,
        ValueType::I64,
        ValueType::F64,
    ];

    /// Returns the type with this number.
    pub fn from_id(id: u32) -> Option<ValueType> {
        ValueType::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// Returns how many bytes a value takes, for types of one fixed size.
    pub fn fixed_bytes(self) -> Option<usize> {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => Some(1),
            ValueType::U16 | ValueType::I16 => Some(2),
            ValueType::U32 | ValueType::I32 | ValueType::F32 => Some(4),
            ValueType::U64 | ValueType::I64 | ValueType::F64 => Some(8),
            ValueType::String | ValueType::Array => None,
        }
    }

    /// Returns the name shown in errors.
    pub fn name(self) -> &'static str {
        match self {
            ValueType::U8 => "u8",
            ValueType::I8 => "i8",
            ValueType::U16 => "u16",
            ValueType::I16 => "i16",
            ValueType::U32 => "u32",
            ValueType::I32 => "i32",
            ValueType::F32 => "f32",
            ValueType::Bool => "bool",
            ValueType::String => "string",
            ValueType::Array => "array",
            ValueType::U64 => "u64",
            ValueType::I64 => "i64",
            ValueType::F64 => "f64",
        }
    }
}

/// A metadata value, borrowed from the mapping of its file.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each variant is the name of the type")]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Str(&'a str),
    /// A string that is not UTF-8; some vocabularies hold such pieces.
    Bytes(&'a [u8]),
    Array(Array<'a>),
}

impl<'a> Value<'a> {
    /// Decodes a value of a fixed size or the bytes of a string; `bytes` has been proven to be exactly its payload.
    ///
    /// Returns nothing for arrays and for payloads of the wrong length.
    pub(super) fn scalar(kind: ValueType, bytes: &'a [u8]) -> Option<Value<'a>> {
        Some(match kind {
            ValueType::U8 => Value::U8(u8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U64 => Value::U64(u64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::Bool => Value::Bool(u8::from_le_bytes(bytes.try_into().ok()?) != 0),
            ValueType::String => match std::str::from_utf8(bytes) {
                Ok(text) => Value::Str(text),
                Err(_) => Value::Bytes(bytes),
            },
            ValueType::Array => return None,
        })
    }

    /// Returns the type of this value.
    pub fn kind(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F32(_) => ValueType::F32,
            Value::F64(_) => ValueType::F64,
            Value::Bool(_) => ValueType::Bool,
            Value::Str(_) | Value::Bytes(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
        }
    }

    /// Returns any integer that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U64(value) => Some(value),
            _ => self.as_i64().and_then(|value| u64::try_from(value).ok()),
        }
    }

    /// Returns any integer that fits.
    pub fn as_i64(&self) -> Option<i64> {
        Some(match *self {
            Value::U8(value) => i64::from(value),
            Value::I8(value) => i64::from(value),
            Value::U16(value) => i64::from(value),
            Value::I16(value) => i64::from(value),
            Value::U32(value) => i64::from(value),
            Value::I32(value) => i64::from(value),
            Value::I64(value) => value,
            Value::U64(value) => i64::try_from(value).ok()?,
            _ => return None,
        })
    }

    /// Returns any number.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::F32(value) => Some(f64::from(value)),
            Value::F64(value) => Some(value),
            Value::U64(value) => Some(value as f64),
            _ => self.as_i64().map(|value| value as f64),
        }
    }

    /// Returns a string of UTF-8.
    pub fn as_str(&self) -> Option<&'a str> {
        match *self {
            Value::Str(value) => Some(value),
            _ => None,
        }
    }

    /// Returns a truth value.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// Returns an array.
    pub fn as_array(&self) -> Option<Array<'a>> {
        match *self {
            Value::Array(value) => Some(value),
            _ => None,
        }
    }

    /// Shows the value as JSON; of an array at most `elements_max` elements, and nothing (`null`) when it has more.
    pub fn to_json(&self, elements_max: usize) -> serde_json::Value {
        match *self {
            Value::F32(value) => json!(value),
            Value::F64(value) => json!(value),
            Value::U64(value) => json!(value),
            Value::Bool(value) => json!(value),
            Value::Str(value) => json!(value),
            Value::Bytes(value) => json!(String::from_utf8_lossy(value)),
            Value::Array(array) if array.len() > elements_max => serde_json::Value::Null,
            Value::Array(array) => array.iter().map(|value| value.to_json(elements_max)).collect(),
            _ => json!(self.as_i64()),
        }
    }

    /// Copies the value out of the file. A string that is not UTF-8 becomes lossy; [`super::Writer::set_value`] copies it exactly.
    pub fn to_owned(&self) -> OwnedValue {
        match *self {
            Value::U8(value) => OwnedValue::U8(value),
            Value::I8(value) => OwnedValue::I8(value),
            Value::U16(value) => OwnedValue::U16(value),
            Value::I16(value) => OwnedValue::I16(value),
            Value::U32(value) => OwnedValue::U32(value),
            Value::I32(value) => OwnedValue::I32(value),
            Value::U64(value) => OwnedValue::U64(value),
            Value::I64(value) => OwnedValue::I64(value),
            Value::F32(value) => OwnedValue::F32(value),
            Value::F64(value) => OwnedValue::F64(value),
            Value::Bool(value) => OwnedValue::Bool(value),
            Value::Str(value) => OwnedValue::String(value.to_owned()),
            Value::Bytes(value) => OwnedValue::String(String::from_utf8_lossy(value).into_owned()),
            Value::Array(array) => OwnedValue::Array(
                array.element_type(),
                array.iter().map(|value| value.to_owned()).collect(),
            ),
        }
    }
}

/// A metadata value to be written.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is the name of the type")]
pub enum OwnedValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    /// The elements and their type, which an empty array needs too.
    Array(ValueType, Vec<OwnedValue>),
}

impl OwnedValue {
    /// Returns the type of this value.
    pub fn kind(&self) -> ValueType {
        match self {
            OwnedValue::U8(_) => ValueType::U8,
            OwnedValue::I8(_) => ValueType::I8,
            OwnedValue::U16(_) => ValueType::U16,
            OwnedValue::I16(_) => ValueType::I16,
            OwnedValue::U32(_) => ValueType::U32,
            OwnedValue::I32(_) => ValueType::I32,
            OwnedValue::U64(_) => ValueType::U64,
            OwnedValue::I64(_) => ValueType::I64,
            OwnedValue::F32(_) => ValueType::F32,
            OwnedValue::F64(_) => ValueType::F64,
            OwnedValue::Bool(_) => ValueType::Bool,
            OwnedValue::String(_) => ValueType::String,
            OwnedValue::Array(..) => ValueType::Array,
        }
    }
}

macro_rules! owned_from {
    ($($rust:ty => $variant:ident),* $(,)?) => {$(
        impl From<$rust> for OwnedValue {
            fn from(value: $rust) -> OwnedValue {
                OwnedValue::$variant(value)
            }
        }

        impl From<Vec<$rust>> for OwnedValue {
            fn from(values: Vec<$rust>) -> OwnedValue {
                OwnedValue::Array(ValueType::$variant, values.into_iter().map(OwnedValue::$variant).collect())
            }
        }
    )*};
}

owned_from!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, u64 => U64, i64 => I64, f32 => F32, f64 => F64, bool => Bool, String => String);

impl From<&str> for OwnedValue {
    fn from(value: &str) -> OwnedValue {
        OwnedValue::String(value.to_owned())
    }
}
