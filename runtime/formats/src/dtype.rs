//! Element types of dense tensors, and their exact conversion to `f32`.
//!
//! Block-quantized types are a matter of GGUF ([`crate::gguf::GgmlType`]); here every element stands for itself.

use half::{bf16, f16};

use crate::{FormatError, Result};

/// The element type of a dense tensor; the names are those of the safetensors format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each variant is the name of the type")]
pub enum Dtype {
    Bool,
    U8,
    I8,
    F8E5M2,
    F8E4M3,
    F8E8M0,
    F8E4M3Fnuz,
    F8E5M2Fnuz,
    F4,
    F6E2M3,
    F6E3M2,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    C64,
    F64,
    I64,
    U64,
}

/// Name, bits per element.
const TABLE: [(Dtype, &str, usize); 22] = [
    (Dtype::Bool, "BOOL", 8),
    (Dtype::U8, "U8", 8),
    (Dtype::I8, "I8", 8),
    (Dtype::F8E5M2, "F8_E5M2", 8),
    (Dtype::F8E4M3, "F8_E4M3", 8),
    (Dtype::F8E8M0, "F8_E8M0", 8),
    (Dtype::F8E4M3Fnuz, "F8_E4M3FNUZ", 8),
    (Dtype::F8E5M2Fnuz, "F8_E5M2FNUZ", 8),
    (Dtype::F4, "F4", 4),
    (Dtype::F6E2M3, "F6_E2M3", 6),
    (Dtype::F6E3M2, "F6_E3M2", 6),
    (Dtype::I16, "I16", 16),
    (Dtype::U16, "U16", 16),
    (Dtype::F16, "F16", 16),
    (Dtype::BF16, "BF16", 16),
    (Dtype::I32, "I32", 32),
    (Dtype::U32, "U32", 32),
    (Dtype::F32, "F32", 32),
    (Dtype::C64, "C64", 64),
    (Dtype::F64, "F64", 64),
    (Dtype::I64, "I64", 64),
    (Dtype::U64, "U64", 64),
];

impl Dtype {
    /// Returns the type with this safetensors name.
    pub fn from_name(name: &str) -> Option<Dtype> {
        TABLE
            .iter()
            .find(|(_, known, _)| *known == name)
            .map(|(dtype, ..)| *dtype)
    }

    /// Returns the name as safetensors writes it.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Returns how many bits one element takes: below 8 for the packed types.
    pub fn bits(self) -> usize {
        self.row().2
    }

    /// Returns how many bytes a tensor of this many elements takes, or nothing on overflow or when it ends inside a byte.
    pub fn bytes_of(self, elements: u64) -> Option<u64> {
        let bits = elements.checked_mul(self.bits() as u64)?;
        (bits % 8 == 0).then_some(bits / 8)
    }

    fn row(self) -> &'static (Dtype, &'static str, usize) {
        TABLE
            .iter()
            .find(|(dtype, ..)| *dtype == self)
            .expect("the table names every type, as a test shows")
    }
}

/// Decodes little-endian elements to `f32`.
///
/// F16 and BF16 are exact; F64 and integers beyond 24 bits are rounded to the nearest. Packed, 8-bit float and complex types are refused.
pub fn decode_f32(dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>> {
    let step = dtype.bits() / 8;
    if step != 0 && !bytes.len().is_multiple_of(step) {
        return Err(FormatError::malformed(
            "tensor data",
            dtype.name(),
            format!("a multiple of {step} bytes"),
            format!("{} bytes", bytes.len()),
        ));
    }
    Ok(match dtype {
        Dtype::Bool => bytes.iter().map(|byte| f32::from(u8::from(*byte != 0))).collect(),
        Dtype::U8 => bytes.iter().map(|byte| f32::from(*byte)).collect(),
        Dtype::I8 => bytes.iter().map(|byte| f32::from(byte.cast_signed())).collect(),
        Dtype::I16 => each(bytes, |b| f32::from(i16::from_le_bytes(b))),
        Dtype::U16 => each(bytes, |b| f32::from(u16::from_le_bytes(b))),
        Dtype::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::I32 => each(bytes, |b| i32::from_le_bytes(b) as f32),
        Dtype::U32 => each(bytes, |b| u32::from_le_bytes(b) as f32),
        Dtype::F32 => each(bytes, f32::from_le_bytes),
        Dtype::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
        Dtype::I64 => each(bytes, |b| i64::from_le_bytes(b) as f32),
        Dtype::U64 => each(bytes, |b| u64::from_le_bytes(b) as f32),
        Dtype::F8E5M2
        | Dtype::F8E4M3
        | Dtype::F8E8M0
        | Dtype::F8E4M3Fnuz
        | Dtype::F8E5M2Fnuz
        | Dtype::F4
        | Dtype::F6E2M3
        | Dtype::F6E3M2
        | Dtype::C64 => {
            return Err(FormatError::unsupported(
                "tensor data",
                format!("elements of type {} cannot be read as f32", dtype.name()),
                "export the model with dtype float32, float16 or bfloat16",
            ));
        }
    })
}

fn each<const N: usize>(bytes: &[u8], decode: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (whole, _) = bytes.as_chunks::<N>();
    whole.iter().map(|chunk| decode(*chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_type_once() {
        for (dtype, name, bits) in TABLE {
            assert_eq!(Dtype::from_name(name), Some(dtype));
            assert_eq!((dtype.name(), dtype.bits()), (name, bits));
        }
        // The last variant's position proves that no variant is absent from the table.
        assert_eq!(Dtype::U64 as usize + 1, TABLE.len());
        assert_eq!(Dtype::from_name("BF17"), None);
    }

    #[test]
    fn every_readable_type_decodes_and_the_others_say_so() {
        let cases: &[(Dtype, &[u8], &[f32])] = &[
            (Dtype::Bool, &[0, 2], &[0.0, 1.0]),
            (Dtype::U8, &[255], &[255.0]),
            (Dtype::I8, &[255], &[-1.0]),
            (Dtype::I16, &[0xff, 0xff], &[-1.0]),
            (Dtype::U16, &[0xff, 0xff], &[65535.0]),
            (Dtype::F16, &[0x00, 0x3c, 0x01, 0x00], &[1.0, 5.960_464_5e-8]),
            (Dtype::BF16, &[0x80, 0x3f], &[1.0]),
            (Dtype::I32, &[0xfe, 0xff, 0xff, 0xff], &[-2.0]),
            (Dtype::U32, &[1, 0, 0, 0], &[1.0]),
            (Dtype::F32, &[0, 0, 0x20, 0x41], &[10.0]),
            (Dtype::F64, &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f], &[1.0]),
            (Dtype::I64, &[0xff; 8], &[-1.0]),
            (Dtype::U64, &[3, 0, 0, 0, 0, 0, 0, 0], &[3.0]),
        ];
        for (dtype, bytes, expected) in cases {
            assert_eq!(decode_f32(*dtype, bytes).unwrap(), *expected, "{dtype:?}");
        }
        assert!(
            decode_f32(Dtype::F32, &[0; 5])
                .unwrap_err()
                .to_string()
                .contains("multiple of 4")
        );
        assert!(decode_f32(Dtype::F4, &[0]).unwrap_err().to_string().contains("F4"));
        assert_eq!(Dtype::F4.bytes_of(3), None);
        assert_eq!(Dtype::F32.bytes_of(u64::MAX), None);
    }
}
