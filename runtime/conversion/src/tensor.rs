//! One tensor of the result: what it is called, what it is made of, and its rows when they are asked for.

use std::{borrow::Cow, ops::Range, sync::Arc};

use half::{bf16, f16};
use witness_formats::{
    Dtype, decode_f32,
    gguf::{
        GgmlType,
        rows::{RowOrder, source_row},
    },
};

use crate::{ConversionError, Result, weights::Described, weights::Weights};

/// A tensor of a model that is being converted. Nothing is read before rows are asked for.
#[derive(Clone)]
pub struct OutputTensor {
    /// Its name in the result.
    pub name: String,
    /// Type and shape, as [`OutputTensor::rows`] yields it.
    pub described: Described,
    source: Source,
}

#[derive(Clone)]
enum Source {
    Stored {
        weights: Arc<dyn Weights>,
        name: String,
        /// Rows of a head and the order that the result wants, where rows are turned in pairs.
        turned: Option<(usize, RowOrder)>,
        shift: f32,
    },
    Made(Arc<[u8]>),
}

impl std::fmt::Debug for OutputTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {}{:?}",
            self.name,
            self.described.dtype.name(),
            self.described.shape
        )
    }
}

impl OutputTensor {
    /// Takes a tensor as it is, under another name.
    pub(crate) fn stored(weights: &Arc<dyn Weights>, name: &str, output: String) -> Result<OutputTensor> {
        Ok(OutputTensor {
            name: output,
            described: weights.require(name)?,
            source: Source::Stored {
                weights: Arc::clone(weights),
                name: name.to_owned(),
                turned: None,
                shift: 0.0,
            },
        })
    }

    /// Takes numbers that follow from the configuration.
    pub(crate) fn made(name: String, values: &[f32]) -> OutputTensor {
        OutputTensor {
            name,
            described: Described {
                dtype: Dtype::F32,
                shape: vec![values.len()],
            },
            source: Source::Made(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        }
    }

    /// Brings the rows of `n_heads` heads into another order.
    pub(crate) fn turned(mut self, n_heads: usize, to: RowOrder) -> Result<OutputTensor> {
        let n_rows = self.described.n_rows();
        let fits = n_heads > 0 && n_rows.is_multiple_of(n_heads) && (n_rows / n_heads).is_multiple_of(2) && n_rows > 0;
        if let Source::Stored {
            turned, name, weights, ..
        } = &mut self.source
        {
            if !fits {
                return Err(ConversionError::tensor(
                    weights.label(),
                    name,
                    format!("an even number of rows in each of {n_heads} heads"),
                    format!("{n_rows} rows"),
                ));
            }
            *turned = Some((n_rows / n_heads, to));
        }
        Ok(self)
    }

    /// Adds a number to every element. BF16 becomes F32, where the sum is exact; F16 stays and is rounded, as torch does it.
    pub(crate) fn shifted(mut self, by: f32) -> OutputTensor {
        if let Source::Stored { shift, .. } = &mut self.source {
            *shift = by;
            if self.described.dtype != Dtype::F16 {
                self.described.dtype = Dtype::F32;
            }
        }
        self
    }

    /// Returns rows as little-endian elements of the tensor's type. Reads no more than those rows.
    pub fn rows(&self, rows: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let described = &self.described;
        if rows.start > rows.end || rows.end > described.n_rows() {
            return Err(ConversionError::tensor(
                "the result",
                &self.name,
                format!("rows {rows:?}"),
                format!("{} rows", described.n_rows()),
            ));
        }
        match &self.source {
            Source::Made(bytes) => Ok(Cow::Borrowed(&bytes[rows.start * 4..rows.end * 4])),
            Source::Stored {
                weights,
                name,
                turned,
                shift,
            } => {
                let bytes = match turned {
                    None => weights.rows(name, rows)?,
                    Some((head_rows, to)) => Cow::Owned(turn(weights.as_ref(), name, rows, *head_rows, *to)?),
                };
                if *shift == 0.0 {
                    return Ok(bytes);
                }
                let values = decode_f32(weights.require(name)?.dtype, &bytes)?;
                let shifted: Vec<f32> = values.iter().map(|value| value + shift).collect();
                Ok(Cow::Owned(encode_dense(described.dtype, &shifted)))
            }
        }
    }

    /// Says that nobody looks at these rows soon. Of a tensor whose rows are turned, whole heads are meant, of which a neighbour may need one again.
    pub fn release(&self, rows: Range<usize>) {
        if let Source::Stored { weights, name, .. } = &self.source {
            weights.release(name, rows);
        }
    }

    /// Returns rows as `f32`.
    pub fn rows_f32(&self, rows: Range<usize>) -> Result<Vec<f32>> {
        Ok(decode_f32(self.described.dtype, &self.rows(rows)?)?)
    }

    /// Returns rows as F32, F16 or BF16; the bytes are untouched when that is the tensor's type, and rounded to the nearest otherwise.
    pub fn rows_as(&self, dtype: Dtype, rows: Range<usize>) -> Result<Cow<'_, [u8]>> {
        if dtype == self.described.dtype {
            return self.rows(rows);
        }
        Ok(Cow::Owned(encode_dense(dtype, &self.rows_f32(rows)?)))
    }

    /// Says whether llama.cpp keeps a tensor in F32 whatever the type of the file: vectors and all that is no weight.
    pub fn stays_f32(&self) -> bool {
        self.described.shape.len() <= 1 || self.name.ends_with("_norm.weight") || !self.name.ends_with(".weight")
    }

    /// Returns how llama.cpp's converter stores this tensor in a file of a dense type.
    pub fn stored_as(&self, file: GgmlType) -> GgmlType {
        if self.stays_f32() { GgmlType::F32 } else { file }
    }
}

/// Reads rows in the order of the result: the whole heads that they lie in, then each row from its place.
fn turn(weights: &dyn Weights, name: &str, rows: Range<usize>, head_rows: usize, to: RowOrder) -> Result<Vec<u8>> {
    let row_bytes = weights.require(name)?.row_bytes();
    let first = rows.start - rows.start % head_rows;
    let heads = weights.rows(name, first..rows.end.next_multiple_of(head_rows))?;
    let mut out = Vec::with_capacity(rows.len() * row_bytes);
    for row in rows {
        let start = (source_row(row, head_rows, to) - first) * row_bytes;
        out.extend_from_slice(&heads[start..start + row_bytes]);
    }
    Ok(out)
}

/// Writes numbers as little-endian elements; types other than F16 and BF16 are written as F32.
pub fn encode_dense(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F16 => values
            .iter()
            .flat_map(|value| f16::from_f32(*value).to_le_bytes())
            .collect(),
        Dtype::BF16 => values
            .iter()
            .flat_map(|value| bf16::from_f32(*value).to_le_bytes())
            .collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}
