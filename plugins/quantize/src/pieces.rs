//! The tensors of a GGUF file that is to be written, wherever their numbers come from: blocks of another file as they lie, or rows that a conversion or a merge makes.
//!
//! A piece is a matrix of rows of its last dimension; experts lie one after the other in it. Rows are asked for some at a time, from many threads.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use witness_conversion::OutputTensor;
use witness_formats::decode_f32;
use witness_formats::gguf::{GgmlType, Gguf, TensorInfo};

use crate::error::Result;

/// One tensor of the file.
pub(crate) struct Piece {
    /// Its GGUF name.
    pub(crate) name: String,
    /// Row-major; rows are of the last dimension.
    pub(crate) shape: Vec<usize>,
    /// The type that it has, and keeps where nothing is said.
    pub(crate) kind: GgmlType,
    source: Source,
}

enum Source {
    /// Where it lies in a file.
    Stored(Arc<Gguf>, TensorInfo),
    /// Made as it is asked for.
    Made(OutputTensor),
}

impl Piece {
    /// Takes a tensor of a file.
    pub(crate) fn stored(gguf: &Arc<Gguf>, tensor: &TensorInfo) -> Piece {
        Piece {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            kind: tensor.ggml_type,
            source: Source::Stored(Arc::clone(gguf), tensor.clone()),
        }
    }

    /// Takes a tensor of a conversion. `file` is the dense type of the file's matrices; vectors are F32, as llama.cpp's converter has it.
    pub(crate) fn made(tensor: OutputTensor, file: GgmlType) -> Piece {
        Piece {
            name: tensor.name.clone(),
            shape: tensor.described.shape.clone(),
            kind: tensor.stored_as(file),
            source: Source::Made(tensor),
        }
    }

    /// Returns the length of a row.
    pub(crate) fn n_columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Returns the number of rows, over all experts.
    pub(crate) fn n_rows(&self) -> usize {
        let leading = self.shape.len().saturating_sub(1);
        self.shape[..leading].iter().product()
    }

    /// Returns the number of numbers.
    pub(crate) fn n_numbers(&self) -> u64 {
        self.n_rows() as u64 * self.n_columns() as u64
    }

    /// Returns the bytes that it takes in a type; nothing where rows are not whole blocks of it.
    pub(crate) fn bytes_as(&self, kind: GgmlType) -> Option<u64> {
        kind.row_bytes(self.n_columns())?.checked_mul(self.n_rows() as u64)
    }

    /// Returns rows as `f32`.
    pub(crate) fn rows_f32(&self, rows: Range<usize>) -> Result<Vec<f32>> {
        match &self.source {
            Source::Made(tensor) if tensor.described.shape.len() > 1 => Ok(tensor.rows_f32(rows)?),
            // A vector is one row here and as many of one number there.
            Source::Made(tensor) => Ok(tensor.rows_f32(0..tensor.described.n_rows())?),
            Source::Stored(gguf, tensor) => {
                let bytes = self.stored_rows(gguf, tensor, &rows)?;
                if let Some(dtype) = tensor.ggml_type.dense() {
                    return Ok(decode_f32(dtype, bytes)?);
                }
                let mut values = vec![0.0; rows.len() * self.n_columns()];
                witness_quantization::decode(tensor.ggml_type, bytes, &mut values)?;
                Ok(values)
            }
        }
    }

    /// Returns rows in the type that the piece has, bit for bit where that is how they lie.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Result<Cow<'_, [u8]>> {
        match &self.source {
            Source::Stored(gguf, tensor) => Ok(Cow::Borrowed(self.stored_rows(gguf, tensor, &rows)?)),
            Source::Made(tensor) => {
                let dtype = self.kind.dense().unwrap_or(tensor.described.dtype);
                let rows = match tensor.described.shape.len() > 1 {
                    true => rows,
                    false => 0..tensor.described.n_rows(),
                };
                Ok(tensor.rows_as(dtype, rows)?)
            }
        }
    }

    /// Gives back what rows that are done with took of the resident memory.
    pub(crate) fn release(&self, rows: Range<usize>) {
        match &self.source {
            Source::Made(tensor) => tensor.release(rows),
            Source::Stored(gguf, tensor) => {
                let row_bytes = self.kind.row_bytes(self.n_columns()).unwrap_or(0) as usize;
                gguf.release(tensor, rows.start * row_bytes..rows.end * row_bytes);
            }
        }
    }

    fn stored_rows<'a>(&self, gguf: &'a Gguf, tensor: &TensorInfo, rows: &Range<usize>) -> Result<&'a [u8]> {
        let bytes = gguf.tensor_data(tensor)?;
        // A type without a known block is refused by `tensor_data` itself.
        let row_bytes = bytes.len() / self.n_rows().max(1);
        Ok(&bytes[rows.start * row_bytes..rows.end * row_bytes])
    }
}
