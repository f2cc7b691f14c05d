//! One tensor of a model: how it came from a file and how it lies in memory. Everything is checked here, before anything is computed with it.

use std::borrow::Cow;
use std::sync::Arc;

use half::{bf16, f16};
use witness_formats::gguf::GgmlType;
use witness_formats::gguf::rows::{RowOrder, reorder};
use witness_kernels::{KernelError, PackedMatrix, PlainMatrix, Pool, Watch};

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

/// A tensor in memory. Cloning shares the numbers.
#[derive(Clone, Debug)]
pub struct Weight {
    pub(crate) values: Values,
    /// Row-major.
    shape: Vec<usize>,
}

/// The numbers of a tensor, with the last dimension as rows: plain ones as stored, quantized ones packed for products.
#[derive(Clone, Debug)]
pub(crate) enum Values {
    Plain(PlainMatrix),
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

    fn kind(self) -> GgmlType {
        match self {
            PlainType::F32 => GgmlType::F32,
            PlainType::F16 => GgmlType::F16,
            PlainType::BF16 => GgmlType::BF16,
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
pub(crate) fn rows_and_columns(shape: &[usize]) -> (usize, usize) {
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
            Storage::Plain(kind) => {
                let (n_rows, n_columns) = rows_and_columns(expected);
                // A vector is soon widened and gone; memory shared with the matrices would not come back.
                let matrix = match expected.len() {
                    0 | 1 => owned(kind.kind(), n_rows, n_columns, bytes.to_vec())?,
                    _ => PlainMatrix::copied(kind.kind(), n_rows, n_columns, bytes)?,
                };
                Ok(Weight {
                    values: Values::Plain(matrix),
                    shape: expected.to_vec(),
                })
            }
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

/// Takes bytes in memory of their own, which goes when they do.
fn owned(kind: GgmlType, n_rows: usize, n_columns: usize, bytes: Vec<u8>) -> Result<PlainMatrix> {
    let range = 0..bytes.len();
    Ok(PlainMatrix::new(kind, n_rows, n_columns, Arc::new(bytes), range)?)
}

/// Keeps numbers `[n_rows, n_columns]` in 16 bits if every one of them is a bf16 or every one an f16, and as they are otherwise; in memory of their own.
///
/// # Errors
/// If they do not make up the shape.
pub(crate) fn narrowest(numbers: &[f32], n_rows: usize, n_columns: usize) -> Result<PlainMatrix> {
    let all = || numbers.iter();
    let (kind, bytes) = if all().all(|&number| bf16::from_f32(number).to_f32() == number) {
        let bytes = all().flat_map(|&number| bf16::from_f32(number).to_le_bytes());
        (GgmlType::BF16, bytes.collect())
    } else if all().all(|&number| f16::from_f32(number).to_f32() == number) {
        let bytes = all().flat_map(|&number| f16::from_f32(number).to_le_bytes());
        (GgmlType::F16, bytes.collect())
    } else {
        (GgmlType::F32, all().flat_map(|number| number.to_le_bytes()).collect())
    };
    owned(kind, n_rows, n_columns, bytes)
}

/// Returns all numbers of a matrix as f32, row-major.
pub(crate) fn widened(matrix: &PlainMatrix) -> Vec<f32> {
    let mut numbers = vec![0.0; matrix.n_rows() * matrix.n_columns()];
    if !numbers.is_empty() {
        let rows = numbers.chunks_exact_mut(matrix.n_columns()).enumerate();
        rows.for_each(|(index, row)| matrix.row(index, row));
    }
    numbers
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
    /// # Errors
    /// If they do not make up the shape.
    pub(crate) fn of_numbers(numbers: &[f32], shape: &[usize]) -> Result<Self> {
        let (n_rows, n_columns) = rows_and_columns(shape);
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Ok(Self {
            values: Values::Plain(owned(GgmlType::F32, n_rows, n_columns, bytes)?),
            shape: shape.to_vec(),
        })
    }

    /// Wraps a matrix whose rows are the last dimension of `shape`.
    pub(crate) fn of_values(values: Values, shape: &[usize]) -> Self {
        Self {
            values,
            shape: shape.to_vec(),
        }
    }

    /// Returns the type of the numbers as they lie in memory.
    pub(crate) fn kind(&self) -> GgmlType {
        match &self.values {
            Values::Plain(matrix) => matrix.kind(),
            Values::Blocks(matrix) => matrix.kind(),
        }
    }

    /// Returns the numbers as they lie in memory.
    pub(crate) fn held(&self) -> &[u8] {
        match &self.values {
            Values::Plain(matrix) => matrix.bytes(),
            Values::Blocks(matrix) => matrix.packed_bytes(),
        }
    }

    /// Copies bytes that were lent to memory of their own, for all clones. Returns whether they are there now.
    ///
    /// # Errors
    /// If there is no memory.
    pub(crate) fn take_over(&self, watch: &mut dyn Watch) -> Result<bool> {
        Ok(match &self.values {
            Values::Plain(matrix) => matrix.take_over(watch)?,
            Values::Blocks(matrix) => matrix.take_over(watch)?,
        })
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
        self.held().len() as u64
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
            Values::Plain(matrix) => matrix.row(index, out),
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
            let kept = narrowest(&numbers, 1, numbers.len()).expect("numbers of the shape");
            assert_eq!((kept.bytes().len(), kept.n_columns()), (bytes, numbers.len()));
            assert_eq!(widened(&kept), numbers);
        }
        assert!(narrowest(&[1.0; 5], 2, 3).is_err());
    }

    /// Goal: the head of a tied model multiplies with the very bytes that the embedding looks up.
    #[test]
    fn clones_share_their_bytes() {
        let bytes = [[0x00, 0x3c], [0x00, 0xc0]].concat();
        let raw = RawTensor {
            storage: Storage::Plain(PlainType::F16),
            shape: vec![2, 1],
            bytes: Cow::Borrowed(&bytes),
        };
        let weight = raw.load("table", &[2, 1], None).expect("two sound rows");
        let (Values::Plain(first), Values::Plain(second)) = (&weight.values, &weight.clone().values) else {
            panic!("plain numbers");
        };
        assert_eq!(first.bytes().as_ptr(), second.bytes().as_ptr());
        assert_eq!((weight.bytes(), weight.to_f32()), (4, vec![1.0, -2.0]));
        assert_eq!(held_bytes(&raw.storage, &raw.shape, 4), weight.bytes());
    }
}
