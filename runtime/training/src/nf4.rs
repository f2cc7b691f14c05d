//! The quantization of a frozen matrix in NF4 on all threads; the codec is [`Nf4Matrix`]'s.

use rayon::prelude::*;
use witness_quantization::{NF4_BLOCK, Nf4Matrix, encode_nf4};

use crate::kernels::TASK_ELEMENTS;

/// Quantizes a matrix, `[n_out, n_in]`, row-major; the same as [`Nf4Matrix::quantize`] to the bit.
pub(crate) fn quantize(values: &[f32], n_out: usize, n_in: usize, double: bool) -> Nf4Matrix {
    const { assert!(TASK_ELEMENTS.is_multiple_of(NF4_BLOCK)) };
    Nf4Matrix::quantize_by(values, n_out, n_in, double, |values, packed, scales| {
        let tasks = values
            .par_chunks(TASK_ELEMENTS)
            .zip(packed.par_chunks_mut(TASK_ELEMENTS / 2));
        tasks
            .zip(scales.par_chunks_mut(TASK_ELEMENTS / NF4_BLOCK))
            .for_each(|((values, packed), scales)| encode_nf4(values, packed, scales));
    })
}
