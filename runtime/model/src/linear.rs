//! `y = x W^T + b`, behind one trait: plain and quantized weights.
//!
//! Arithmetic is f32, in [`witness_kernels`]. Plain weights stay in the type of the file and are widened where they are multiplied, because multiplying in their own
//! type would round the activations. Products with quantized weights round activations to 8 bits a block of 32: once for all layers that take the same input
//! ([`Input`]).
//!
//! **Invariant:** what a token gets does not depend on the tokens beside it, the threads or the instructions, bit for bit.

use witness_kernels::{Activations, PackedMatrix, PlainMatrix, Pool};

use crate::error::{ModelError, Result};
use crate::pointwise::add_bias;
use crate::weight::{Values, Weight};

/// What layers are given: some tokens, and their rounded form once a layer has asked for it.
pub struct Input<'a> {
    rows: &'a [f32],
    n_columns: usize,
    rounded: &'a mut Activations,
    is_rounded: bool,
    pool: &'a Pool,
}

impl<'a> Input<'a> {
    /// Wraps `rows`, `[n_tokens, n_columns]` f32. `rounded` lends its memory; what it holds is replaced. Layers compute on `pool`.
    ///
    /// # Errors
    /// If there are no whole rows.
    pub fn new(rows: &'a [f32], n_columns: usize, rounded: &'a mut Activations, pool: &'a Pool) -> Result<Self> {
        if n_columns == 0 || !rows.len().is_multiple_of(n_columns) {
            return Err(ModelError::Batch("inputs that are not whole rows"));
        }
        Ok(Self {
            rows,
            n_columns,
            rounded,
            is_rounded: false,
            pool,
        })
    }

    /// Returns the numbers, `[n_tokens, n_columns]` f32.
    pub fn rows(&self) -> &'a [f32] {
        self.rows
    }

    /// Returns the length of a row.
    pub fn n_columns(&self) -> usize {
        self.n_columns
    }

    /// Returns the number of rows.
    pub fn n_tokens(&self) -> usize {
        self.rows.len() / self.n_columns
    }

    /// Returns the threads to compute on.
    pub fn pool(&self) -> &'a Pool {
        self.pool
    }

    /// Returns the rows rounded to 8 bits a block; rounds them when first asked.
    ///
    /// # Errors
    /// If a row is not whole blocks.
    pub fn rounded(&mut self) -> Result<&Activations> {
        if !self.is_rounded {
            self.rounded.requantize(self.rows, self.n_columns, self.pool)?;
            self.is_rounded = true;
        }
        Ok(self.rounded)
    }

    /// Returns some of the tokens by themselves.
    pub(crate) fn part(&mut self, tokens: std::ops::Range<usize>) -> Input<'_> {
        self.is_rounded = false;
        Input {
            rows: &self.rows[tokens.start * self.n_columns..tokens.end * self.n_columns],
            n_columns: self.n_columns,
            rounded: self.rounded,
            is_rounded: false,
            pool: self.pool,
        }
    }
}

/// A linear layer.
pub trait Linear: Send + Sync {
    /// Computes `y`, `[n_tokens, out]` f32, from `[n_tokens, in]` f32. With few tokens it allocates nothing once its memory is warm.
    ///
    /// # Errors
    /// If the input or `y` has another shape.
    fn forward(&self, x: &mut Input<'_>, y: &mut [f32]) -> Result<()>;
    /// Writes row `index` of the weight, `[in]` f32.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not as long as a row.
    fn row(&self, index: usize, out: &mut [f32]);
    /// Returns the bias, `[out]` f32.
    fn bias(&self) -> Option<&[f32]>;
    /// Returns `(out, in)`.
    fn shape(&self) -> (usize, usize);
    /// Returns the bytes of weights that this layer alone holds.
    fn bytes(&self) -> u64;
}

/// Plain weights, `[out, in]`.
pub(crate) struct Dense {
    weight: PlainMatrix,
    bias: Option<Vec<f32>>,
}

/// Quantized weights, `[out, in]`.
pub(crate) struct Quantized {
    weight: PackedMatrix,
    bias: Option<Vec<f32>>,
}

/// Makes the layer for a weight `[out, in]`, with an f32 bias `[out]`.
pub(crate) fn linear(weight: &Weight, bias: Option<Vec<f32>>) -> Box<dyn Linear> {
    match &weight.values {
        Values::Plain(matrix) => Box::new(Dense {
            weight: matrix.clone(),
            bias,
        }),
        Values::Blocks(matrix) => Box::new(Quantized {
            weight: matrix.clone(),
            bias,
        }),
    }
}

fn bias_bytes(bias: Option<&Vec<f32>>) -> u64 {
    bias.map_or(0, |bias| size_of_val::<[f32]>(bias) as u64)
}

impl Linear for Dense {
    fn forward(&self, x: &mut Input<'_>, y: &mut [f32]) -> Result<()> {
        // So many numbers could be whole rows of another length, too.
        if x.n_columns() != self.weight.n_columns() {
            return Err(ModelError::Batch("a product of shapes that do not fit"));
        }
        self.weight.multiply(x.rows(), y, x.pool())?;
        if let Some(bias) = &self.bias {
            add_bias(y, bias, x.pool());
        }
        Ok(())
    }

    fn row(&self, index: usize, out: &mut [f32]) {
        self.weight.row(index, out);
    }

    fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    fn shape(&self) -> (usize, usize) {
        (self.weight.n_rows(), self.weight.n_columns())
    }

    fn bytes(&self) -> u64 {
        self.weight.bytes().len() as u64 + bias_bytes(self.bias.as_ref())
    }
}

impl Linear for Quantized {
    fn forward(&self, x: &mut Input<'_>, y: &mut [f32]) -> Result<()> {
        let pool = x.pool();
        self.weight.multiply(x.rounded()?, y, pool)?;
        if let Some(bias) = &self.bias {
            add_bias(y, bias, pool);
        }
        Ok(())
    }

    fn row(&self, index: usize, out: &mut [f32]) {
        self.weight.row(index, out);
    }

    fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    fn shape(&self) -> (usize, usize) {
        (self.weight.n_rows(), self.weight.n_columns())
    }

    fn bytes(&self) -> u64 {
        self.weight.packed_bytes().len() as u64 + bias_bytes(self.bias.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use witness_formats::gguf::GgmlType;

    use super::*;

    /// Within the rounding of a scale.
    fn close(found: &[f32], wanted: &[f32]) -> bool {
        found.len() == wanted.len() && found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-3)
    }

    /// Goal: an input is rounded once for all layers, and a part of it by itself; shapes that do not fit are errors.
    #[test]
    fn layers_share_an_input_and_refuse_what_does_not_fit() {
        let pool = Pool::new(1);
        let blocks: Vec<u8> = [[0x00, 0x3c].as_slice(), &[3; 32], &[0x00, 0x3c], &[1; 32]].concat();
        let matrix = PackedMatrix::pack(GgmlType::Q8_0, 2, 32, &blocks, &pool).expect("two sound rows");
        let quantized = Quantized {
            weight: matrix,
            bias: Some(vec![1.0, 2.0]),
        };
        let rows: Vec<f32> = (0..96).map(|at| (at / 32) as f32).collect();
        let mut rounded = Activations::new();
        let mut input = Input::new(&rows, 32, &mut rounded, &pool).expect("three rows");
        let mut y = [0.0; 6];
        for _ in 0..2 {
            quantized.forward(&mut input, &mut y).expect("shapes that fit");
            assert!(close(&y, &[1.0, 2.0, 97.0, 34.0, 193.0, 66.0]), "{y:?}");
        }
        let mut part = [0.0; 2];
        quantized
            .forward(&mut input.part(2..3), &mut part)
            .expect("shapes that fit");
        assert!(part == y[4..], "{part:?}");
        quantized.forward(&mut input, &mut y).expect("shapes that fit");
        assert!(close(&y[..4], &[1.0, 2.0, 97.0, 34.0]), "{y:?}");
        assert!(quantized.forward(&mut input, &mut part).is_err());
        let ones = Weight::of_numbers(&[1.0; 64], &[2, 32]).expect("two rows");
        let dense = linear(&ones, None);
        assert!(dense.forward(&mut input, &mut part).is_err());
        dense.forward(&mut input, &mut y).expect("shapes that fit");
        assert_eq!(y, [0.0, 0.0, 32.0, 32.0, 64.0, 64.0]);
        assert!(Input::new(&rows[..95], 32, &mut rounded, &pool).is_err());
    }
}
