//! Products of a few tokens with f16 or bf16 weights: `y[t, o] = sum_i w[o, i] * x[t, i]`.
//!
//! A row of weights is widened to f32 once, into a buffer that stays in the first-level cache, and multiplied with every token; rows are
//! spread over the threads. One token reads 2 bytes a weight and does one multiplication and one addition with it, so memory is the
//! limit: `bytes / bandwidth`. With more than [`TOKENS_MAX`] tokens a matrix product over widened bands is faster.
//!
//! Instructions are chosen at run time: `half` widens with F16C where the processor has it, `pulp` compiles the loops for each level.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

/// Most tokens for which this beats a matrix product.
pub(crate) const TOKENS_MAX: usize = 16;
/// Rows that a thread takes at a time: 64 rows of 2048 f16 are 256 KiB, enough to hide the cost of handing them out.
const ROWS_PER_TASK: usize = 64;
/// Running sums of a dot product. Independent, so that they fill the widest registers, and summed in a fixed order.
const LANES: usize = 64;

/// A 16-bit float that can be widened a row at a time.
pub(crate) trait Narrow: Copy + Send + Sync {
    /// Writes `row` as f32. Both have one length.
    fn widen(row: &[Self], out: &mut [f32]);
}

impl Narrow for f16 {
    fn widen(row: &[Self], out: &mut [f32]) {
        row.convert_to_f32_slice(out);
    }
}

impl Narrow for bf16 {
    #[inline(always)]
    fn widen(row: &[Self], out: &mut [f32]) {
        for (out, number) in out.iter_mut().zip(row) {
            *out = f32::from_bits(u32::from(number.to_bits()) << 16);
        }
    }
}

/// Computes `[n_tokens, rows]` f32, row-major, from weights `[rows, columns]` and `x` `[n_tokens, columns]`, both row-major.
///
/// # Panics
/// If the lengths are not those of the shapes, or `columns` is 0.
pub(crate) fn product<T: Narrow>(weights: &[T], x: &[f32], columns: usize) -> Vec<f32> {
    let (rows, n_tokens) = (weights.len() / columns, x.len() / columns);
    assert!(
        weights.len() == rows * columns && x.len() == n_tokens * columns,
        "slices hold whole rows"
    );
    // By row first, because a task owns rows; turned round at the end, where it is a few numbers a row.
    let mut by_row = vec![0.0; rows * n_tokens];
    by_row
        .par_chunks_mut((ROWS_PER_TASK * n_tokens).max(1))
        .zip((0..rows.div_ceil(ROWS_PER_TASK)).into_par_iter())
        .for_each(|(out, task)| {
            let mut widened = vec![0.0; columns];
            let first = task * ROWS_PER_TASK;
            let taken = out.len() / n_tokens;
            let rows = weights[first * columns..(first + taken) * columns].chunks_exact(columns);
            pulp::Arch::new().dispatch(|| {
                for (row, out) in rows.zip(out.chunks_exact_mut(n_tokens)) {
                    T::widen(row, &mut widened);
                    for (token, out) in x.chunks_exact(columns).zip(out) {
                        *out = dot(&widened, token);
                    }
                }
            });
        });
    if n_tokens <= 1 {
        return by_row;
    }
    (0..n_tokens * rows)
        .map(|at| by_row[at % rows * n_tokens + at / rows])
        .collect()
}

/// Sum of products of two slices of one length.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: equal to a plain f64 sum within the rounding of f32, for shapes around every block size.
    #[test]
    fn it_equals_the_plain_sum() {
        for (rows, columns, n_tokens) in [
            (1, 1, 1),
            (3, 63, 1),
            (64, 64, 2),
            (65, 65, 3),
            (130, 200, 16),
            (5, 1000, 1),
        ] {
            let number = |index: usize| ((index * 7919 % 2003) as f32 - 1001.0) / 1001.0;
            let x: Vec<f32> = (0..n_tokens * columns).map(|index| number(index + 5)).collect();
            let weights: Vec<f32> = (0..rows * columns).map(number).collect();
            check(
                &weights.iter().map(|&w| f16::from_f32(w)).collect::<Vec<_>>(),
                f16::to_f32,
                &x,
                columns,
            );
            check(
                &weights.iter().map(|&w| bf16::from_f32(w)).collect::<Vec<_>>(),
                bf16::to_f32,
                &x,
                columns,
            );
        }
    }

    fn check<T: Narrow>(weights: &[T], widen: impl Fn(T) -> f32, x: &[f32], columns: usize) {
        let rows = weights.len() / columns;
        let found = product(weights, x, columns);
        assert_eq!(found.len(), rows * x.len() / columns);
        for (at, found) in found.into_iter().enumerate() {
            let (token, row) = (
                &x[at / rows * columns..][..columns],
                &weights[at % rows * columns..][..columns],
            );
            let products = || token.iter().zip(row).map(|(&x, &w)| f64::from(x) * f64::from(widen(w)));
            let (wanted, size): (f64, f64) = (products().sum(), products().map(f64::abs).sum());
            // Each of the sums rounds at most `columns` times.
            let tolerance = size * columns as f64 * f64::from(f32::EPSILON) + 1e-12;
            assert!(
                (f64::from(found) - wanted).abs() <= tolerance,
                "{found} for {wanted} at {at}"
            );
        }
    }
}
