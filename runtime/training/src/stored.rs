//! Frozen matrices in the form that they lie in: bf16, f16, NF4 or blocks of a quantized file, decoded row by row when a product needs them.
//!
//! A product reads such a matrix once a pass and decodes a part of it at a time, so the memory of a frozen base is that of its stored form. What a row decodes to
//! is exact (bf16 and f16 are subsets of f32; blocks have one meaning), and so is every gradient that flows through it.

mod gguf;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use half::bf16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use witness_formats::gguf::GgmlType;
use witness_formats::{Dtype, TensorRef};
use witness_quantization::{Decode, Nf4Matrix, decoder};

use crate::kernels::{TASK_ELEMENTS, rows_of_a_task, vectorised};

pub use gguf::GgufWeights;

/// A matrix, `[n_rows, n_columns]`, that gives its rows as f32.
pub trait Rows: Debug + Send + Sync {
    /// Returns the number of rows: what a module puts out.
    fn n_rows(&self) -> usize;
    /// Returns the number of columns: what a module takes in.
    fn n_columns(&self) -> usize;
    /// Decodes some rows to `out`, `[rows, n_columns]`, row-major.
    ///
    /// # Panics
    /// If a row lies outside the matrix or `out` has another length.
    fn decode(&self, rows: Range<usize>, out: &mut [f32]);
    /// Returns how much memory the matrix takes.
    fn bytes(&self) -> usize;
    /// Returns the numbers themselves where they are bf16: little-endian, row-major.
    fn as_bf16(&self) -> Option<&[u8]> {
        None
    }
    /// Says whether the matrix is in NF4, so that quantizing it again would only lose more.
    fn is_nf4(&self) -> bool {
        false
    }
}

/// A matrix that is kept in another form than plain f32. A clone shares it.
pub type Stored = Arc<dyn Rows>;

/// How the frozen matrices of a base are kept. Trained ones and vectors are always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BaseStorage {
    /// As the source has them; plain f32 becomes bf16 where the products are computed in bf16, which gives the same products.
    #[default]
    AsIs,
    /// As f32: 4 bytes a weight, the quickest for products in f32.
    F32,
    /// Rounded to bf16: 2 bytes a weight.
    Bf16,
    /// The layers' matrices in NF4, about half a byte a weight, as QLoRA keeps them; embedding and output matrix as by [`BaseStorage::AsIs`]. A source that has them
    /// in NF4 is used as it lies.
    Nf4 {
        /// Whether the scales are quantized too.
        double: bool,
    },
}

/// Numbers that were rounded to bf16.
#[derive(Debug)]
pub(crate) struct Bf16Rows {
    values: Vec<bf16>,
    n_columns: usize,
}

impl Bf16Rows {
    /// Rounds to nearest, ties to even.
    pub(crate) fn round(values: &[f32], n_columns: usize) -> Bf16Rows {
        let mut rounded = vec![bf16::ZERO; values.len()];
        let tasks = rounded
            .par_chunks_mut(TASK_ELEMENTS)
            .zip(values.par_chunks(TASK_ELEMENTS));
        tasks.for_each(|(rounded, values)| rounded.convert_from_f32_slice(values));
        Bf16Rows {
            values: rounded,
            n_columns,
        }
    }
}

impl Rows for Bf16Rows {
    fn n_rows(&self) -> usize {
        self.values.len() / self.n_columns
    }

    fn n_columns(&self) -> usize {
        self.n_columns
    }

    fn decode(&self, rows: Range<usize>, out: &mut [f32]) {
        let values = &self.values[rows.start * self.n_columns..rows.end * self.n_columns];
        assert_eq!(values.len(), out.len());
        vectorised(
            #[inline(always)]
            || {
                for (out, value) in out.iter_mut().zip(values) {
                    *out = f32::from_bits(u32::from(value.to_bits()) << 16);
                }
            },
        );
    }

    fn bytes(&self) -> usize {
        self.values.len() * size_of::<bf16>()
    }

    fn as_bf16(&self) -> Option<&[u8]> {
        cfg!(target_endian = "little").then(|| bytemuck::cast_slice(self.values.reinterpret_cast()))
    }
}

impl Rows for Nf4Matrix {
    fn n_rows(&self) -> usize {
        self.n_out()
    }

    fn n_columns(&self) -> usize {
        self.n_in()
    }

    fn decode(&self, rows: Range<usize>, out: &mut [f32]) {
        self.dequantize_rows(rows, out);
    }

    fn bytes(&self) -> usize {
        Nf4Matrix::bytes(self)
    }

    fn is_nf4(&self) -> bool {
        true
    }
}

/// A dense tensor of two bytes a number, where it lies in its file.
#[derive(Debug)]
pub(crate) struct DenseRows {
    tensor: TensorRef,
    decode: Decode,
    shape: [usize; 2],
}

impl DenseRows {
    /// Takes a matrix of bf16 or f16; nothing for any other tensor.
    pub(crate) fn of(tensor: &TensorRef) -> Option<Stored> {
        let decode = match tensor.dtype() {
            Dtype::BF16 => decoder(GgmlType::BF16)?,
            Dtype::F16 => decoder(GgmlType::F16)?,
            _ => return None,
        };
        let shape: [usize; 2] = tensor.shape().try_into().ok()?;
        let tensor = tensor.clone();
        Some(Arc::new(DenseRows { tensor, decode, shape }))
    }
}

impl Rows for DenseRows {
    fn n_rows(&self) -> usize {
        self.shape[0]
    }

    fn n_columns(&self) -> usize {
        self.shape[1]
    }

    fn decode(&self, rows: Range<usize>, out: &mut [f32]) {
        let row_bytes = 2 * self.shape[1];
        (self.decode)(&self.tensor.bytes()[rows.start * row_bytes..rows.end * row_bytes], out);
    }

    fn bytes(&self) -> usize {
        self.tensor.bytes().len()
    }

    fn as_bf16(&self) -> Option<&[u8]> {
        (self.tensor.dtype() == Dtype::BF16).then(|| self.tensor.bytes())
    }
}

/// Decodes a whole matrix, on all threads.
pub(crate) fn decode_all(rows: &dyn Rows) -> Vec<f32> {
    let width = rows.n_columns();
    let mut values = vec![0.0; rows.n_rows() * width];
    let step = rows_of_a_task(width);
    let tasks = values.par_chunks_mut(step * width.max(1)).enumerate();
    tasks.for_each(|(task, out)| rows.decode(task * step..task * step + out.len() / width, out));
    values
}

/// Says whether every number of a matrix is finite.
pub(crate) fn is_finite(rows: &dyn Rows) -> bool {
    let step = rows_of_a_task(rows.n_columns());
    let n_tasks = rows.n_rows().div_ceil(step);
    (0..n_tasks).into_par_iter().all(|task| {
        let range = task * step..rows.n_rows().min((task + 1) * step);
        let mut out = vec![0.0; range.len() * rows.n_columns()];
        rows.decode(range, &mut out);
        out.iter().all(|value| value.is_finite())
    })
}
