//! One tensor of a model: how it came from a file and how it lies in memory. Everything is checked here, before anything is computed with it.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use witness_formats::gguf::GgmlType;
use witness_formats::gguf::rows::{RowOrder, reorder};
use witness_kernels::{KernelError, PackedMatrix, Pool};

use crate::error::{ModelError, Result};

/// Types of plain numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainType {
    /// IEEE 754 in 32 bits.
    F32,
    /// IEEE 754 in 16 bits.
    F16,
    /// The upper half of an f32.
    BF16,
}

/// How a tensor's numbers are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Plain numbers.
    Plain(PlainType),
    /// Blocks of a quantized type that there are kernels for.
    Blocks(GgmlType),
    /// Blocks of a type that there is no kernel for, held as Q8_0.
    Widened(GgmlType),
    /// A type that cannot be computed with, by its name in the file.
    Other(String),
}

/// A tensor in a file: borrowed, unchecked.
#[derive(Clone, Debug)]
pub struct RawTensor<'a> {
    /// How its numbers are stored.
    pub storage: Storage,
    /// Shape, row-major.
    pub shape: Vec<usize>,
    /// Its bytes, little-endian; its own where the file has another form of them.
    pub bytes: Cow<'a, [u8]>,
}

/// Plain numbers, kept as stored. Cloning shares them.
#[derive(Clone, Debug)]
pub(crate) enum Numbers {
    F32(Arc<[f32]>),
    F16(Arc<[f16]>),
    BF16(Arc<[bf16]>),
}

/// A tensor in memory. Cloning shares the numbers.
#[derive(Clone, Debug)]
pub struct Weight {
    pub(crate) values: Values,
    /// Row-major.
    shape: Vec<usize>,
}

/// The numbers of a tensor: quantized ones are packed for products, with the last dimension as rows.
#[derive(Clone, Debug)]
pub(crate) enum Values {
    Plain(Numbers),
    Blocks(PackedMatrix),
}

impl PlainType {
    /// Returns the bytes of a number.
    pub fn size_in_bytes(self) -> usize {
        match self {
            PlainType::F32 => 4,
            PlainType::F16 | PlainType::BF16 => 2,
        }
    }
}

impl Numbers {
    /// Reads little-endian bytes.
    fn read(kind: PlainType, bytes: &[u8]) -> Self {
        let (fours, twos) = (bytes.as_chunks::<4>().0, bytes.as_chunks::<2>().0);
        match kind {
            PlainType::F32 => Numbers::F32(fours.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
            PlainType::F16 => Numbers::F16(twos.iter().map(|bytes| f16::from_le_bytes(*bytes)).collect()),
            PlainType::BF16 => Numbers::BF16(twos.iter().map(|bytes| bf16::from_le_bytes(*bytes)).collect()),
        }
    }

    /// Keeps numbers in 16 bits if every one of them is a bf16 or every one an f16, and as they are otherwise.
    pub(crate) fn narrowest(numbers: Vec<f32>) -> Self {
        if numbers.iter().all(|&number| bf16::from_f32(number).to_f32() == number) {
            return Numbers::BF16(numbers.into_iter().map(bf16::from_f32).collect());
        }
        if numbers.iter().all(|&number| f16::from_f32(number).to_f32() == number) {
            return Numbers::F16(numbers.into_iter().map(f16::from_f32).collect());
        }
        Numbers::F32(numbers.into())
    }

    /// Returns how many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Numbers::F32(numbers) => numbers.len(),
            Numbers::F16(numbers) => numbers.len(),
            Numbers::BF16(numbers) => numbers.len(),
        }
    }

    /// Returns one number.
    pub(crate) fn at(&self, index: usize) -> f32 {
        match self {
            Numbers::F32(numbers) => numbers[index],
            Numbers::F16(numbers) => numbers[index].to_f32(),
            Numbers::BF16(numbers) => numbers[index].to_f32(),
        }
    }

    /// Returns the bytes held.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Numbers::F32(numbers) => size_of_val::<[f32]>(numbers),
            Numbers::F16(numbers) => size_of_val::<[f16]>(numbers),
            Numbers::BF16(numbers) => size_of_val::<[bf16]>(numbers),
        }
    }

    /// Writes a run of numbers as f32.
    ///
    /// # Panics
    /// If there are not as many as `out` holds.
    pub(crate) fn widen(&self, run: Range<usize>, out: &mut [f32]) {
        assert_eq!(run.len(), out.len(), "room for the numbers");
        match self {
            Numbers::F32(numbers) => out.copy_from_slice(&numbers[run]),
            Numbers::F16(numbers) => numbers[run].convert_to_f32_slice(out),
            Numbers::BF16(numbers) => numbers[run].convert_to_f32_slice(out),
        }
    }
}

impl Storage {
    /// Returns the number of bytes of `count` numbers in rows of `row`, or nothing when rows hold no whole blocks or it overflows.
    fn bytes(&self, row: u64, count: u64) -> Option<u64> {
        match self {
            Storage::Plain(kind) => count.checked_mul(kind.size_in_bytes() as u64),
            Storage::Blocks(kind) | Storage::Widened(kind) => {
                let row_bytes = kind.row_bytes(usize::try_from(row).ok()?)?;
                row_bytes.checked_mul(count.checked_div(row)?)
            }
            Storage::Other(_) => None,
        }
    }
}

/// Returns the bytes that a tensor of `shape`, which takes `bytes` in its file, takes in memory: packed blocks have their rows rounded up to whole tiles.
pub fn held_bytes(storage: &Storage, shape: &[usize], bytes: u64) -> u64 {
    let kind = match storage {
        Storage::Blocks(kind) => *kind,
        Storage::Widened(_) => GgmlType::Q8_0,
        Storage::Plain(_) | Storage::Other(_) => return bytes,
    };
    let (n_rows, n_columns) = rows_and_columns(shape);
    PackedMatrix::packed_len(kind, n_rows, n_columns).map_or(bytes, |len| len as u64)
}

/// Returns the shape of a tensor as a matrix whose rows are its last dimension.
fn rows_and_columns(shape: &[usize]) -> (usize, usize) {
    match shape.split_last() {
        Some((&n_columns, rows)) => (rows.iter().fold(1, |all, dim| all.saturating_mul(*dim)), n_columns),
        None => (1, 1),
    }
}

impl RawTensor<'_> {
    /// Checks the tensor against the shape that the configuration calls for and copies it into memory.
    /// `interleaved_heads`: the rows are those of so many heads in interleaved order, and are brought to half split.
    pub(crate) fn load(&self, name: &str, expected: &[usize], interleaved_heads: Option<usize>) -> Result<Weight> {
        if self.shape != expected {
            let (found, expected) = (self.shape.clone(), expected.to_vec());
            return Err(ModelError::Shape {
                name: name.to_owned(),
                found,
                expected,
            });
        }
        let wanted: Vec<u64> = expected.iter().map(|&dim| dim as u64).collect();
        let count = wanted.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
        let row = wanted.last().copied().unwrap_or(1);
        let bytes = match &self.storage {
            Storage::Other(found) => {
                return Err(ModelError::Storage {
                    name: name.to_owned(),
                    found: found.clone(),
                });
            }
            storage => count.and_then(|count| storage.bytes(row, count)),
        };
        if bytes != Some(self.bytes.len() as u64) {
            return Err(ModelError::Damaged {
                name: name.to_owned(),
                detail: format!(
                    "{} bytes for shape {:?} of {:?}, expected {}",
                    self.bytes.len(),
                    self.shape,
                    self.storage,
                    bytes.map_or_else(|| "rows of whole blocks".to_owned(), |bytes| bytes.to_string())
                ),
            });
        }
        let permuted = match interleaved_heads {
            Some(n_heads) => {
                let n_rows = expected.first().copied().unwrap_or(1);
                Some(reorder(
                    &self.bytes,
                    n_rows,
                    n_heads,
                    RowOrder::Interleaved,
                    RowOrder::Halves,
                )?)
            }
            None => None,
        };
        let bytes = permuted.as_deref().unwrap_or(&self.bytes);
        match &self.storage {
            Storage::Plain(kind) => Ok(Weight {
                values: Values::Plain(Numbers::read(*kind, bytes)),
                shape: expected.to_vec(),
            }),
            Storage::Blocks(kind) => packed(*kind, name, expected, bytes),
            Storage::Widened(kind) => {
                let wide = witness_quantization::widen(*kind, bytes).map_err(|error| ModelError::Damaged {
                    name: name.to_owned(),
                    detail: error.to_string(),
                })?;
                packed(GgmlType::Q8_0, name, expected, &wide)
            }
            Storage::Other(found) => Err(ModelError::Storage {
                name: name.to_owned(),
                found: found.clone(),
            }),
        }
    }
}

/// Packs the blocks of a tensor.
fn packed(kind: GgmlType, name: &str, shape: &[usize], bytes: &[u8]) -> Result<Weight> {
    let (n_rows, n_columns) = rows_and_columns(shape);
    let matrix = PackedMatrix::pack(kind, n_rows, n_columns, bytes, &Pool::current());
    let matrix = matrix.map_err(|error| match error {
        error @ KernelError::Memory { .. } => ModelError::from(error),
        error => ModelError::Damaged {
            name: name.to_owned(),
            detail: error.to_string(),
        },
    })?;
    Ok(Weight {
        values: Values::Blocks(matrix),
        shape: shape.to_vec(),
    })
}

impl Weight {
    /// Wraps numbers that are there already.
    ///
    /// # Panics
    /// If they do not make up the shape.
    pub(crate) fn of_numbers(numbers: Vec<f32>, shape: &[usize]) -> Self {
        assert_eq!(numbers.len(), shape.iter().product::<usize>(), "numbers of a shape");
        Self {
            values: Values::Plain(Numbers::F32(numbers.into())),
            shape: shape.to_vec(),
        }
    }

    /// Returns the shape.
    pub fn dims(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the shape as that of a matrix: `(rows, columns)`.
    pub(crate) fn matrix_shape(&self) -> (usize, usize) {
        rows_and_columns(&self.shape)
    }

    /// Returns the bytes held.
    pub fn bytes(&self) -> u64 {
        match &self.values {
            Values::Plain(numbers) => numbers.bytes() as u64,
            Values::Blocks(matrix) => matrix.packed_bytes().len() as u64,
        }
    }

    /// Returns all numbers as f32, row-major.
    pub(crate) fn to_f32(&self) -> Vec<f32> {
        let (n_rows, n_columns) = self.matrix_shape();
        let mut numbers = vec![0.0; n_rows * n_columns];
        if n_columns > 0 {
            let rows = numbers.chunks_exact_mut(n_columns).enumerate();
            rows.for_each(|(index, row)| self.row(index, row));
        }
        numbers
    }

    /// Writes row `index` as f32.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not as long as a row.
    pub(crate) fn row(&self, index: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.matrix_shape().1, "a row's length");
        match &self.values {
            Values::Plain(numbers) => numbers.widen(index * out.len()..(index + 1) * out.len(), out),
            Values::Blocks(matrix) => matrix.row(index, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: 16 bits are taken only where every number comes back as it was.
    #[test]
    fn numbers_are_kept_in_the_fewest_bits_that_hold_them() {
        let (small, fine, finest) = (
            vec![1.0, -0.5, (1u128 << 100) as f32, 0.0],
            vec![1.0, 1.0 + 1.0 / 1024.0],
            vec![1.0, 0.1],
        );
        for (numbers, bytes) in [(small, 8), (fine, 4), (finest, 8)] {
            let kept = Numbers::narrowest(numbers.clone());
            assert_eq!((kept.bytes(), kept.len()), (bytes, numbers.len()));
            let mut back = vec![0.0; numbers.len()];
            kept.widen(0..numbers.len(), &mut back);
            assert_eq!(back, numbers);
            assert_eq!((0..numbers.len()).map(|at| kept.at(at)).collect::<Vec<_>>(), numbers);
        }
    }
}
