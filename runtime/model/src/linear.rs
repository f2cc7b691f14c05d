//! `y = x W^T + b`, behind one trait: dense and quantized weights, and [`crate::lora`]'s wrapper over either.
//!
//! Arithmetic is f32. Weights stay in the type of the file: f16 and bf16 are widened a row ([`crate::few`]) or a band of rows at a time,
//! because multiplying in their own type would round the activations. Quantized weights go through [`witness_kernels`], which rounds activations to 8
//! bits a block of 32; what a token gets does not depend on the tokens beside it.

use std::cell::RefCell;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use witness_kernels::{Activations, PackedMatrix, Pool};

use crate::error::{ModelError, Result};
use crate::few;
use crate::weight::{Weight, rows};

/// Rows that are widened at a time: 256 rows of 4096 numbers are 4 MiB, which stays in a second-level cache or close to it.
const BAND_ROWS: usize = 256;

/// A linear layer.
pub trait Linear: Send + Sync {
    /// Computes `[n_tokens, in]` f32 -> `[n_tokens, out]` f32.
    fn forward(&self, x: &Tensor) -> Result<Tensor>;
    /// Returns the weight as numbers, `[out, in]` f32; a copy, for what is reckoned once.
    fn weight(&self) -> Result<Tensor>;
    /// Returns the bias, `[out]` f32.
    fn bias(&self) -> Option<&Tensor>;
    /// Returns `(out, in)`.
    fn shape(&self) -> (usize, usize);
    /// Returns the bytes of weights that this layer alone holds.
    fn bytes(&self) -> u64;
}

/// Plain weights, `[out, in]`.
pub(crate) struct Dense {
    weight: Tensor,
    bias: Option<Tensor>,
}

/// Quantized weights, `[out, in]`.
pub(crate) struct Quantized {
    weight: PackedMatrix,
    bias: Option<Tensor>,
}

thread_local! {
    /// Rounded inputs, kept so that their memory is.
    static ROUNDED: RefCell<Activations> = RefCell::new(Activations::new());
}

/// Makes the layer for a weight, with an f32 bias `[out]`.
pub(crate) fn linear(weight: &Weight, bias: Option<Tensor>) -> Result<Box<dyn Linear>> {
    Ok(match weight {
        Weight::Plain(weight) => Box::new(Dense {
            weight: weight.clone(),
            bias,
        }),
        Weight::Blocks { matrix, .. } => Box::new(Quantized {
            weight: matrix.clone(),
            bias,
        }),
    })
}

fn add_bias(y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    Ok(match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    })
}

impl Dense {
    /// As [`Linear::forward`] without the bias, for 16-bit weights and at most [`few::TOKENS_MAX`] tokens.
    fn few_tokens(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, columns) = self.weight.dims2()?;
        let n_tokens = x.dim(0)?;
        let x = x.flatten_all()?.to_vec1::<f32>()?;
        let weight = self.weight.contiguous()?;
        let (storage, layout) = weight.storage_and_layout();
        let numbers = layout.start_offset()..layout.start_offset() + rows * columns;
        let y = match &*storage {
            Storage::Cpu(CpuStorage::F16(weights)) => few::product(&weights[numbers], &x, columns),
            Storage::Cpu(CpuStorage::BF16(weights)) => few::product(&weights[numbers], &x, columns),
            _ => return Err(ModelError::Batch("plain weights that are not 16 bits wide")),
        };
        Ok(Tensor::from_vec(y, (n_tokens, rows), &Device::Cpu)?)
    }
}

impl Linear for Dense {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = if self.weight.dtype() == DType::F32 {
            x.matmul(&self.weight.t()?)?
        } else if x.dim(0)? <= few::TOKENS_MAX {
            self.few_tokens(x)?
        } else {
            let rows = self.weight.dim(0)?;
            let bands = (0..rows)
                .step_by(BAND_ROWS)
                .map(|start| {
                    let band = self
                        .weight
                        .narrow(0, start, BAND_ROWS.min(rows - start))?
                        .to_dtype(DType::F32)?;
                    x.matmul(&band.t()?)
                })
                .collect::<candle_core::Result<Vec<_>>>()?;
            Tensor::cat(&bands, 1)?
        };
        add_bias(y, self.bias.as_ref())
    }

    fn weight(&self) -> Result<Tensor> {
        Ok(self.weight.to_dtype(DType::F32)?)
    }

    fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    fn shape(&self) -> (usize, usize) {
        self.weight.dims2().unwrap_or_default()
    }

    fn bytes(&self) -> u64 {
        let bias = self.bias.as_ref().map_or(0, Tensor::elem_count) * size_of::<f32>();
        (self.weight.elem_count() * self.weight.dtype().size_in_bytes() + bias) as u64
    }
}

impl Linear for Quantized {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let n_tokens = x.dim(0)?;
        let x = x.contiguous()?;
        let (storage, layout) = x.storage_and_layout();
        let numbers = match (&*storage, layout.contiguous_offsets()) {
            (Storage::Cpu(CpuStorage::F32(numbers)), Some((start, end))) => &numbers[start..end],
            _ => return Err(ModelError::Batch("inputs that are not f32 in memory")),
        };
        let pool = Pool::current();
        let mut y = vec![0.0; n_tokens * self.weight.n_rows()];
        ROUNDED.with_borrow_mut(|rounded| {
            rounded.requantize(numbers, self.weight.n_columns(), &pool)?;
            self.weight.multiply(rounded, &mut y, &pool)
        })?;
        let y = Tensor::from_vec(y, (n_tokens, self.weight.n_rows()), &Device::Cpu)?;
        add_bias(y, self.bias.as_ref())
    }

    fn weight(&self) -> Result<Tensor> {
        let numbers = rows(&self.weight, 0..self.weight.n_rows());
        Ok(Tensor::from_vec(numbers, self.shape(), &Device::Cpu)?)
    }

    fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    fn shape(&self) -> (usize, usize) {
        (self.weight.n_rows(), self.weight.n_columns())
    }

    fn bytes(&self) -> u64 {
        let bias = self.bias.as_ref().map_or(0, Tensor::elem_count) * size_of::<f32>();
        (self.weight.packed_bytes().len() + bias) as u64
    }
}
