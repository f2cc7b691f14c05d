//! Everything that is not a matrix product, forward and backward, as fused loops over rows.
//!
//! Letters: `n` tokens of a batch, `d` width of the residual stream, `f` width of the feed-forward block. All matrices are row-major. Each loop passes once over
//! its operands, which are memory-bound: together they move about `n * (30 d + 10 f)` numbers a layer, some hundredths of what the products cost.
//! Loops run on all threads by rows, and as the widest vector code the processor has, chosen at run time.

mod activation;
mod cross_entropy;
mod norm;

use rayon::prelude::*;

use crate::real::Real;

pub(crate) use activation::{swiglu, swiglu_backward};
pub(crate) use cross_entropy::cross_entropy_rows;
pub(crate) use norm::{rms_norm, rms_norm_backward, rms_statistics};

pub(crate) use witness_instructions::vectorised;

/// How many elements one task takes: large enough that starting it (about a microsecond) is nothing, small enough to share out.
pub(crate) const TASK_ELEMENTS: usize = 16_384;

/// Returns how many rows of a width one task takes.
pub(crate) fn rows_of_a_task(width: usize) -> usize {
    (TASK_ELEMENTS / width.max(1)).max(1)
}

/// Adds `addend` to `target`.
pub(crate) fn add<T: Real>(target: &mut [T], addend: &[T]) {
    assert_eq!(target.len(), addend.len());
    let chunks = target
        .par_chunks_mut(TASK_ELEMENTS)
        .zip(addend.par_chunks(TASK_ELEMENTS));
    chunks.for_each(|(target, addend)| {
        vectorised(
            #[inline(always)]
            || {
                for (target, addend) in target.iter_mut().zip(addend) {
                    *target += *addend;
                }
            },
        );
    });
}

/// Multiplies `target` by a number.
pub(crate) fn scale<T: Real>(target: &mut [T], factor: T) {
    target.par_chunks_mut(TASK_ELEMENTS).for_each(|target| {
        vectorised(
            #[inline(always)]
            || {
                for value in target {
                    *value *= factor;
                }
            },
        );
    });
}

/// Adds `row` to every row of `target`.
pub(crate) fn add_row<T: Real>(target: &mut [T], row: &[T]) {
    let width = row.len();
    target
        .par_chunks_mut(rows_of_a_task(width) * width.max(1))
        .for_each(|rows| {
            vectorised(
                #[inline(always)]
                || {
                    for target in rows.chunks_exact_mut(width) {
                        for (target, value) in target.iter_mut().zip(row) {
                            *target += *value;
                        }
                    }
                },
            );
        });
}

/// Multiplies every row of `target` by `row`, element by element.
pub(crate) fn scale_columns<T: Real>(target: &mut [T], row: &[T]) {
    let width = row.len();
    target
        .par_chunks_mut(rows_of_a_task(width) * width.max(1))
        .for_each(|rows| {
            vectorised(
                #[inline(always)]
                || {
                    for target in rows.chunks_exact_mut(width) {
                        for (target, value) in target.iter_mut().zip(row) {
                            *target *= *value;
                        }
                    }
                },
            );
        });
}

/// Adds the sums of the columns of `rows`, `[n, width]`, to `target`, `[width]`. Sums in the order of rows, whatever the threads.
pub(crate) fn add_column_sums<T: Real>(target: &mut [T], rows: &[T]) {
    let width = target.len();
    for row in rows.chunks_exact(width) {
        vectorised(
            #[inline(always)]
            || {
                for (target, value) in target.iter_mut().zip(row) {
                    *target += *value;
                }
            },
        );
    }
}

/// Returns the sum of products, in 16 running sums so that it vectorises.
#[inline(always)]
pub(crate) fn dot<T: Real>(left: &[T], right: &[T]) -> T {
    let mut sums = [T::ZERO; 16];
    let (lefts, rights) = (left.chunks_exact(16), right.chunks_exact(16));
    let rest = lefts.remainder().iter().zip(rights.remainder());
    let mut total = T::ZERO;
    for (a, b) in rest {
        total += *a * *b;
    }
    for (left, right) in lefts.zip(rights) {
        for ((sum, a), b) in sums.iter_mut().zip(left).zip(right) {
            *sum += *a * *b;
        }
    }
    for sum in sums {
        total += sum;
    }
    total
}

/// Returns the largest value; negative infinity for none.
#[inline(always)]
pub(crate) fn largest<T: Real>(values: &[T]) -> T {
    let mut lanes = [T::from_f64(f64::NEG_INFINITY); 16];
    let chunks = values.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    let all = lanes.iter().chain(rest);
    all.fold(lanes[0], |most, value| if *value > most { *value } else { most })
}

/// Replaces every value by `e^(value - shift)` and returns their sum.
#[inline(always)]
pub(crate) fn exponentials<T: Real>(values: &mut [T], shift: T) -> T {
    let mut sums = [T::ZERO; 16];
    let mut total = T::ZERO;
    let mut chunks = values.chunks_exact_mut(16);
    for chunk in &mut chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *value = (*value - shift).exp();
            *sum += *value;
        }
    }
    for value in chunks.into_remainder() {
        *value = (*value - shift).exp();
        total += *value;
    }
    for sum in sums {
        total += sum;
    }
    total
}
