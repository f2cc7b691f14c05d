//! Where tensors come from: one interface over a safetensors directory, a GGUF file and a merge of an adapter into either.
//!
//! A tensor is a matrix of rows: the first dimension counts them, the rest is one row; a vector has rows of one element. Rows are asked for a
//! few at a time, so a model is converted in the memory of what is asked for and never of a tensor more than once.

use std::{borrow::Cow, ops::Range};

use witness_formats::{
    Dtype, decode_f32,
    gguf::{GgmlType, Gguf, TensorInfo},
    safetensors::SafeTensors,
};

use crate::{ConversionError, Result, error::excerpt};

/// The type and shape of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The type of an element.
    pub dtype: Dtype,
    /// Row-major; a weight is `[out, in]`.
    pub shape: Vec<usize>,
}

impl Described {
    /// Returns the number of rows: the first dimension, 1 for a single number.
    pub fn n_rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Returns the number of elements in a row.
    pub fn row_elements(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Returns the bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.row_elements() * self.dtype.bits() / 8
    }
}

/// Tensors by name, read by rows.
pub trait Weights: Send + Sync {
    /// Returns what errors call these weights.
    fn label(&self) -> &str;

    /// Returns all names, sorted.
    fn names(&self) -> Vec<String>;

    /// Returns the type and shape of a tensor, if it is there.
    fn describe(&self, name: &str) -> Option<Described>;

    /// Returns rows of a tensor as little-endian elements of its type. A range outside the tensor is an error.
    fn rows(&self, name: &str, rows: Range<usize>) -> Result<Cow<'_, [u8]>>;

    /// Says that nobody looks at these rows soon: what they took of the resident memory is given back, where that can be. The next look reads them again.
    fn release(&self, name: &str, rows: Range<usize>) {
        let _ = (name, rows);
    }

    /// Returns the type and shape of a tensor that must be there.
    fn require(&self, name: &str) -> Result<Described> {
        self.describe(name)
            .ok_or_else(|| ConversionError::missing(self.label(), format!("tensor `{}`", excerpt(name))))
    }

    /// Returns rows of a tensor as `f32`.
    fn rows_f32(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>> {
        let dtype = self.require(name)?.dtype;
        Ok(decode_f32(dtype, &self.rows(name, rows)?)?)
    }
}

/// Cuts rows out of the bytes of a whole tensor.
pub(crate) fn cut<'a>(
    label: &str,
    name: &str,
    described: &Described,
    bytes: &'a [u8],
    rows: Range<usize>,
) -> Result<&'a [u8]> {
    let row_bytes = described.row_bytes();
    let range = rows.start.checked_mul(row_bytes).zip(rows.end.checked_mul(row_bytes));
    range.and_then(|(start, end)| bytes.get(start..end)).ok_or_else(|| {
        ConversionError::tensor(
            label,
            name,
            format!("rows {rows:?}"),
            format!("{} rows", described.n_rows()),
        )
    })
}

impl Weights for SafeTensors {
    fn label(&self) -> &str {
        SafeTensors::label(self)
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|(name, _)| name.to_owned()).collect()
    }

    fn describe(&self, name: &str) -> Option<Described> {
        let tensor = self.tensor(name)?;
        Some(Described {
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
        })
    }

    fn rows(&self, name: &str, rows: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let tensor = SafeTensors::require(self, name)?;
        let described = Described {
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
        };
        cut(SafeTensors::label(self), name, &described, tensor.bytes(), rows).map(Cow::Borrowed)
    }

    fn release(&self, name: &str, rows: Range<usize>) {
        if let (Some(tensor), Some(described)) = (self.tensor(name), self.describe(name)) {
            let row_bytes = described.row_bytes();
            tensor.release_part(rows.start.saturating_mul(row_bytes)..rows.end.saturating_mul(row_bytes));
        }
    }
}

/// Decodes rows of a block-quantized type: type, stored bytes of whole rows, to one number for each element.
pub type Decode = dyn Fn(GgmlType, &[u8]) -> Result<Vec<f32>> + Send + Sync;

/// The tensors of a GGUF file under their GGUF names. Dense types stay as stored; quantized ones become F32 through a function of the caller.
pub struct GgufWeights {
    gguf: Gguf,
    decode: Box<Decode>,
}

impl GgufWeights {
    /// Takes an open file and what decodes the rows of its quantized tensors.
    pub fn new(gguf: Gguf, decode: Box<Decode>) -> GgufWeights {
        GgufWeights { gguf, decode }
    }

    /// Takes an open file whose tensors are all dense; a quantized one is refused when it is asked for.
    pub fn dense(gguf: Gguf) -> GgufWeights {
        let label = gguf.label().to_owned();
        let refuse = move |kind: GgmlType, _: &[u8]| {
            Err(ConversionError::unsupported(
                &label,
                format!(
                    "a tensor is stored as {}, and nothing was given that decodes it",
                    kind.name()
                ),
                "use a file with F32, F16 or BF16 weights here",
            ))
        };
        GgufWeights::new(gguf, Box::new(refuse))
    }

    /// Returns the file.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }
}

fn described(info: &TensorInfo) -> Described {
    Described {
        dtype: info.ggml_type.dense().unwrap_or(Dtype::F32),
        shape: info.shape.clone(),
    }
}

impl Weights for GgufWeights {
    fn label(&self) -> &str {
        self.gguf.label()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.gguf.tensors().iter().map(|info| info.name.clone()).collect();
        names.sort_unstable();
        names
    }

    fn describe(&self, name: &str) -> Option<Described> {
        self.gguf.tensor(name).map(described)
    }

    fn rows(&self, name: &str, rows: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let info = self.gguf.require_tensor(name)?;
        let bytes = self.gguf.tensor_data(info)?;
        let described = described(info);
        if info.ggml_type.dense().is_some() {
            return cut(self.label(), name, &described, bytes, rows).map(Cow::Borrowed);
        }
        let outside = || {
            ConversionError::tensor(
                self.label(),
                name,
                format!("rows {rows:?}"),
                format!("{:?}", info.shape),
            )
        };
        let row_bytes = info.ggml_type.row_bytes(described.row_elements()).ok_or_else(outside)? as usize;
        let stored = rows.start.checked_mul(row_bytes).zip(rows.end.checked_mul(row_bytes));
        let stored = stored
            .and_then(|(start, end)| bytes.get(start..end))
            .ok_or_else(outside)?;
        let values = (self.decode)(info.ggml_type, stored)?;
        if values.len() != rows.len() * described.row_elements() {
            return Err(outside());
        }
        Ok(Cow::Owned(
            values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ))
    }

    fn release(&self, name: &str, rows: Range<usize>) {
        let Some(info) = self.gguf.tensor(name) else { return };
        let row_bytes = info.ggml_type.row_bytes(described(info).row_elements()).unwrap_or(0) as usize;
        self.gguf.release(
            info,
            rows.start.saturating_mul(row_bytes)..rows.end.saturating_mul(row_bytes),
        );
    }
}
