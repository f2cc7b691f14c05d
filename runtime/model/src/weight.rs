//! One tensor of a model: how it came from a file and how it lies in memory. Everything is checked here, before the tensor library
//! sees it (which multiplies unchecked shapes).

use std::borrow::Cow;

use candle_core::{DType, Device, Tensor};
use witness_formats::gguf::GgmlType;
use witness_formats::gguf::rows::{RowOrder, reorder};
use witness_kernels::{KernelError, PackedMatrix, Pool};

use crate::error::{ModelError, Result};

/// How a tensor's numbers are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Plain numbers: f32, f16 or bf16.
    Plain(DType),
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
pub enum Weight {
    /// f32, f16 or bf16, kept as stored.
    Plain(Tensor),
    /// Quantized blocks, packed for products: the last dimension is a row.
    Blocks {
        /// The numbers.
        matrix: PackedMatrix,
        /// Shape, row-major.
        shape: Vec<usize>,
    },
}

impl Storage {
    /// Returns the number of bytes of `count` numbers in rows of `row`, or nothing when rows hold no whole blocks or it overflows.
    fn bytes(&self, row: u64, count: u64) -> Option<u64> {
        match self {
            Storage::Plain(dtype) => count.checked_mul(dtype.size_in_bytes() as u64),
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
            Storage::Plain(dtype) => Ok(Weight::Plain(Tensor::from_raw_buffer(
                bytes,
                *dtype,
                expected,
                &Device::Cpu,
            )?)),
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
    Ok(Weight::Blocks {
        matrix,
        shape: shape.to_vec(),
    })
}

impl Weight {
    /// Returns the shape.
    pub fn dims(&self) -> &[usize] {
        match self {
            Weight::Plain(tensor) => tensor.dims(),
            Weight::Blocks { shape, .. } => shape,
        }
    }

    /// Returns the bytes held.
    pub fn bytes(&self) -> u64 {
        match self {
            Weight::Plain(tensor) => (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64,
            Weight::Blocks { matrix, .. } => matrix.packed_bytes().len() as u64,
        }
    }

    /// Returns all numbers as f32, same shape.
    pub(crate) fn to_f32(&self) -> Result<Tensor> {
        Ok(match self {
            Weight::Plain(tensor) => tensor.to_dtype(DType::F32)?,
            Weight::Blocks { matrix, shape } => {
                Tensor::from_vec(rows(matrix, 0..matrix.n_rows()), shape.as_slice(), &Device::Cpu)?
            }
        })
    }

    /// Returns the rows `ids` of `[rows, columns]` as `[ids, columns]` f32. Ids must be below the number of rows.
    pub(crate) fn lookup(&self, ids: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Weight::Plain(tensor) => tensor.index_select(ids, 0)?.to_dtype(DType::F32)?,
            Weight::Blocks { matrix, .. } => {
                let ids = ids.to_vec1::<u32>()?;
                if ids.iter().any(|id| *id as usize >= matrix.n_rows()) {
                    return Err(ModelError::Batch("a token without an embedding"));
                }
                let n_ids = ids.len();
                let numbers = rows(matrix, ids.into_iter().map(|id| id as usize));
                Tensor::from_vec(numbers, (n_ids, matrix.n_columns()), &Device::Cpu)?
            }
        })
    }
}

/// Returns rows as numbers, one behind the other.
pub(crate) fn rows(matrix: &PackedMatrix, indices: impl ExactSizeIterator<Item = usize>) -> Vec<f32> {
    let mut numbers = vec![0.0; indices.len() * matrix.n_columns()];
    for (row, index) in numbers.chunks_exact_mut(matrix.n_columns()).zip(indices) {
        matrix.row(index, row);
    }
    numbers
}
