//! One tensor of a model: how it came from a file and how it lies in memory. Everything is checked here, before the tensor library
//! sees it (which asserts alignment and multiplies unchecked shapes).

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};
use witness_formats::gguf::GgmlType;
use witness_formats::gguf::rows::{RowOrder, reorder};

use crate::error::{ModelError, Result};

/// How a tensor's numbers are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Plain numbers: f32, f16 or bf16.
    Plain(DType),
    /// Blocks of a quantized type.
    Blocks(GgmlDType),
    /// Blocks of a type that the tensor library does not know, held as Q8_0.
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
    /// Quantized blocks.
    Blocks(Arc<QTensor>),
}

impl Storage {
    /// Returns the number of bytes of `count` numbers in rows of `row`, or nothing when rows hold no whole blocks or it overflows.
    fn bytes(&self, row: u64, count: u64) -> Option<u64> {
        match self {
            Storage::Plain(dtype) => count.checked_mul(dtype.size_in_bytes() as u64),
            Storage::Blocks(dtype) => {
                let block = dtype.block_size() as u64;
                if row.checked_rem(block)? != 0 {
                    return None;
                }
                (count / block).checked_mul(dtype.type_size() as u64)
            }
            Storage::Widened(kind) => kind.row_bytes(row as usize)?.checked_mul(count.checked_div(row)?),
            Storage::Other(_) => None,
        }
    }
}

/// Returns the bytes that candle takes beside `bytes` of a quantized weight: it keeps a second copy, laid out for the CPU's dot products,
/// from the first product on. Exact for x86-64 with AVX2 or better (tiles of 16 rows in candle-core 0.11); an upper bound elsewhere.
pub fn repacked_bytes(storage: &Storage, bytes: u64) -> u64 {
    let per_hundred = match storage {
        // 3072 bytes of tile for 2304 of blocks.
        Storage::Blocks(GgmlDType::Q4K) => 134,
        // 5120 for 3360.
        Storage::Blocks(GgmlDType::Q6K) => 153,
        Storage::Blocks(GgmlDType::Q8_0) => 100,
        // Twice a block of Q8_0, 34 bytes for 32 numbers, beside the bytes of the file, which are not kept.
        Storage::Widened(kind) => {
            let wide = kind.block_bytes().zip(kind.block_elements());
            wide.map_or(0, |(bytes, numbers)| {
                (6_800 * numbers as u64).div_ceil(32 * bytes as u64) - 100
            })
        }
        Storage::Blocks(GgmlDType::Q4_0 | GgmlDType::Q5K) if cfg!(target_arch = "aarch64") => 100,
        _ => 0,
    };
    bytes / 100 * per_hundred
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
            Storage::Widened(kind) => {
                let wide = witness_quantization::widen(*kind, bytes).map_err(|error| ModelError::Damaged {
                    name: name.to_owned(),
                    detail: error.to_string(),
                })?;
                let storage = aligned(&wide, |bytes| {
                    QStorage::from_data(bytes.into(), &Device::Cpu, GgmlDType::Q8_0)
                })?;
                Ok(Weight::Blocks(Arc::new(QTensor::new(storage, expected)?)))
            }
            Storage::Blocks(dtype) => {
                let storage = aligned(bytes, |bytes| QStorage::from_data(bytes.into(), &Device::Cpu, *dtype))?;
                Ok(Weight::Blocks(Arc::new(QTensor::new(storage, expected)?)))
            }
            Storage::Other(found) => Err(ModelError::Storage {
                name: name.to_owned(),
                found: found.clone(),
            }),
        }
    }
}

/// Hands `bytes` on at an address that every block type accepts.
fn aligned<T>(bytes: &[u8], f: impl FnOnce(&[u8]) -> T) -> T {
    /// Largest alignment of a block type's fields (f32).
    const ALIGNMENT: usize = 8;
    if bytes.as_ptr().align_offset(ALIGNMENT) == 0 {
        return f(bytes);
    }
    let mut copy = vec![0u8; bytes.len() + ALIGNMENT];
    let start = copy.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    copy[start..start + bytes.len()].copy_from_slice(bytes);
    f(&copy[start..start + bytes.len()])
}

impl Weight {
    /// Returns the shape.
    pub fn dims(&self) -> &[usize] {
        match self {
            Weight::Plain(tensor) => tensor.dims(),
            Weight::Blocks(tensor) => tensor.shape().dims(),
        }
    }

    /// Returns the bytes held.
    pub fn bytes(&self) -> u64 {
        match self {
            Weight::Plain(tensor) => (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64,
            Weight::Blocks(tensor) => tensor.storage_size_in_bytes() as u64,
        }
    }

    /// Returns all numbers as f32, same shape.
    pub(crate) fn to_f32(&self) -> Result<Tensor> {
        Ok(match self {
            Weight::Plain(tensor) => tensor.to_dtype(DType::F32)?,
            Weight::Blocks(tensor) => tensor.dequantize(&Device::Cpu)?,
        })
    }

    /// Returns the rows `ids` of `[rows, columns]` as `[ids, columns]` f32. Ids must be below the number of rows.
    pub(crate) fn lookup(&self, ids: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Weight::Plain(tensor) => tensor.index_select(ids, 0)?.to_dtype(DType::F32)?,
            Weight::Blocks(tensor) => tensor.embedding(ids)?,
        })
    }
}
