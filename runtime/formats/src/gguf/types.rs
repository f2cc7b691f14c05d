//! The tensor types of ggml: number, name, and how many bytes hold how many elements.
//!
//! Source: the type list and block structs of ggml (`ggml.h`, `ggml-common.h`), confirmed against the size table of the PyPI `gguf`
//! package 0.19.0. That table gives Q8_1 40 bytes (two f32); ggml's struct has had two f16, so 36, since 2024. The type is
//! never stored in files.

use crate::Dtype;

/// A tensor type of ggml.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(non_camel_case_types, missing_docs, reason = "the names are ggml's own")]
pub enum GgmlType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ2_XXS,
    IQ2_XS,
    IQ3_XXS,
    IQ1_S,
    IQ4_NL,
    IQ3_S,
    IQ2_S,
    IQ4_XS,
    I8,
    I16,
    I32,
    I64,
    F64,
    IQ1_M,
    BF16,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
    Q1_0,
    /// A number that this program does not know. The rest of the file stays usable.
    Unknown(u32),
}

struct Row {
    kind: GgmlType,
    id: u32,
    name: &'static str,
    block_elements: usize,
    block_bytes: usize,
}

const fn row(kind: GgmlType, id: u32, name: &'static str, block_elements: usize, block_bytes: usize) -> Row {
    Row {
        kind,
        id,
        name,
        block_elements,
        block_bytes,
    }
}

static TABLE: [Row; 34] = [
    row(GgmlType::F32, 0, "F32", 1, 4),
    row(GgmlType::F16, 1, "F16", 1, 2),
    row(GgmlType::Q4_0, 2, "Q4_0", 32, 18),
    row(GgmlType::Q4_1, 3, "Q4_1", 32, 20),
    row(GgmlType::Q5_0, 6, "Q5_0", 32, 22),
    row(GgmlType::Q5_1, 7, "Q5_1", 32, 24),
    row(GgmlType::Q8_0, 8, "Q8_0", 32, 34),
    row(GgmlType::Q8_1, 9, "Q8_1", 32, 36),
    row(GgmlType::Q2_K, 10, "Q2_K", 256, 84),
    row(GgmlType::Q3_K, 11, "Q3_K", 256, 110),
    row(GgmlType::Q4_K, 12, "Q4_K", 256, 144),
    row(GgmlType::Q5_K, 13, "Q5_K", 256, 176),
    row(GgmlType::Q6_K, 14, "Q6_K", 256, 210),
    row(GgmlType::Q8_K, 15, "Q8_K", 256, 292),
    row(GgmlType::IQ2_XXS, 16, "IQ2_XXS", 256, 66),
    row(GgmlType::IQ2_XS, 17, "IQ2_XS", 256, 74),
    row(GgmlType::IQ3_XXS, 18, "IQ3_XXS", 256, 98),
    row(GgmlType::IQ1_S, 19, "IQ1_S", 256, 50),
    row(GgmlType::IQ4_NL, 20, "IQ4_NL", 32, 18),
    row(GgmlType::IQ3_S, 21, "IQ3_S", 256, 110),
    row(GgmlType::IQ2_S, 22, "IQ2_S", 256, 82),
    row(GgmlType::IQ4_XS, 23, "IQ4_XS", 256, 136),
    row(GgmlType::I8, 24, "I8", 1, 1),
    row(GgmlType::I16, 25, "I16", 1, 2),
    row(GgmlType::I32, 26, "I32", 1, 4),
    row(GgmlType::I64, 27, "I64", 1, 8),
    row(GgmlType::F64, 28, "F64", 1, 8),
    row(GgmlType::IQ1_M, 29, "IQ1_M", 256, 56),
    row(GgmlType::BF16, 30, "BF16", 1, 2),
    row(GgmlType::TQ1_0, 34, "TQ1_0", 256, 54),
    row(GgmlType::TQ2_0, 35, "TQ2_0", 256, 66),
    row(GgmlType::MXFP4, 39, "MXFP4", 32, 17),
    row(GgmlType::NVFP4, 40, "NVFP4", 64, 36),
    row(GgmlType::Q1_0, 41, "Q1_0", 128, 18),
];

impl GgmlType {
    /// Returns the type with this number; every number has one.
    pub fn from_id(id: u32) -> GgmlType {
        TABLE
            .iter()
            .find(|row| row.id == id)
            .map_or(GgmlType::Unknown(id), |row| row.kind)
    }

    /// Returns the type of a name, in any case; nothing for a name that ggml does not have.
    pub fn from_name(name: &str) -> Option<GgmlType> {
        let row = TABLE.iter().find(|row| row.name.eq_ignore_ascii_case(name));
        row.map(|row| row.kind)
    }

    /// Returns every type this program knows the layout of.
    pub fn all() -> impl Iterator<Item = GgmlType> {
        TABLE.iter().map(|row| row.kind)
    }

    /// Returns the number in the file.
    pub fn id(self) -> u32 {
        match self {
            GgmlType::Unknown(id) => id,
            known => known.row().map_or(0, |row| row.id),
        }
    }

    /// Returns ggml's name, such as `Q4_K`, or `unknown type 99`.
    pub fn name(self) -> String {
        match self.row() {
            Some(row) => row.name.to_owned(),
            None => format!("unknown type {}", self.id()),
        }
    }

    /// Returns how many consecutive elements of a row share one block; 1 for dense types, nothing for unknown ones.
    pub fn block_elements(self) -> Option<usize> {
        self.row().map(|row| row.block_elements)
    }

    /// Returns how many bytes one block takes; nothing for unknown types.
    pub fn block_bytes(self) -> Option<usize> {
        self.row().map(|row| row.block_bytes)
    }

    /// Returns the bytes of a row of so many elements; nothing when the type is unknown, the blocks do not fit or it overflows.
    pub fn row_bytes(self, elements: usize) -> Option<u64> {
        let row = self.row()?;
        if !elements.is_multiple_of(row.block_elements) {
            return None;
        }
        ((elements / row.block_elements) as u64).checked_mul(row.block_bytes as u64)
    }

    /// Returns the plain element type, for types where every element stands for itself.
    pub fn dense(self) -> Option<Dtype> {
        Some(match self {
            GgmlType::F32 => Dtype::F32,
            GgmlType::F16 => Dtype::F16,
            GgmlType::BF16 => Dtype::BF16,
            GgmlType::F64 => Dtype::F64,
            GgmlType::I8 => Dtype::I8,
            GgmlType::I16 => Dtype::I16,
            GgmlType::I32 => Dtype::I32,
            GgmlType::I64 => Dtype::I64,
            _ => return None,
        })
    }

    /// Returns the type of plain elements that can be weights: F32, F16 and BF16; nothing for any other.
    pub fn of_weights(dtype: Dtype) -> Option<GgmlType> {
        match dtype {
            Dtype::F32 => Some(GgmlType::F32),
            Dtype::F16 => Some(GgmlType::F16),
            Dtype::BF16 => Some(GgmlType::BF16),
            _ => None,
        }
    }

    /// Says whether elements are stored in blocks.
    pub fn is_quantized(self) -> bool {
        self.block_elements().is_some_and(|elements| elements > 1)
    }

    fn row(self) -> Option<&'static Row> {
        TABLE.iter().find(|row| row.kind == self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_come_back() {
        for kind in GgmlType::all() {
            assert_eq!(GgmlType::from_id(kind.id()), kind);
            assert_eq!(format!("{kind:?}"), kind.name());
            assert_eq!(GgmlType::from_name(&kind.name().to_lowercase()), Some(kind));
        }
        assert_eq!(GgmlType::from_id(99), GgmlType::Unknown(99));
        assert_eq!(GgmlType::Unknown(99).name(), "unknown type 99");
        assert_eq!(GgmlType::from_name("Q4_K_M"), None);
        assert_eq!(GgmlType::Unknown(99).row_bytes(32), None);
        assert_eq!(GgmlType::Q4_K.row_bytes(512), Some(288));
        assert_eq!(GgmlType::Q4_K.row_bytes(100), None);
        assert_eq!(GgmlType::F64.row_bytes(usize::MAX), None);
    }
}
