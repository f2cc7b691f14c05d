//! Root mean square normalisation: `y = w * x * s` with `s = 1 / sqrt(mean(x^2) + epsilon)`, one `s` a row.
//!
//! Only `s` is kept for the backward pass; `y` is made again from `x` where it is needed. Source: arXiv 1910.07467.

use rayon::prelude::*;

use super::{dot, rows_of_a_task, vectorised};
use crate::numbers::Numbers;
use crate::real::Real;

/// Computes `s` of every row of `x`, `[n, d]`.
pub(crate) fn rms_statistics<T: Real>(x: &[T], d: usize, epsilon: f64) -> Numbers<T> {
    let mut statistics = Numbers::stale(x.len() / d);
    let n_rows = rows_of_a_task(d);
    let tasks = statistics.par_chunks_mut(n_rows).zip(x.par_chunks(n_rows * d));
    tasks.for_each(|(statistics, x)| {
        vectorised(
            #[inline(always)]
            || {
                for (statistic, x) in statistics.iter_mut().zip(x.chunks_exact(d)) {
                    let mean = dot(x, x) / T::from_f64(d as f64);
                    *statistic = T::ONE / (mean + T::from_f64(epsilon)).sqrt();
                }
            },
        );
    });
    statistics
}

/// Computes `y`, `[n, d]`, from `x` and the statistics of its rows.
pub(crate) fn rms_norm<T: Real>(x: &[T], weight: &[T], statistics: &[T]) -> Numbers<T> {
    let d = weight.len();
    let mut y = Numbers::stale(x.len());
    let n_rows = rows_of_a_task(d);
    let tasks = y.par_chunks_mut(n_rows * d).zip(x.par_chunks(n_rows * d));
    tasks
        .zip(statistics.par_chunks(n_rows))
        .for_each(|((y, x), statistics)| {
            vectorised(
                #[inline(always)]
                || {
                    let rows = y.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(statistics);
                    for ((y, x), statistic) in rows {
                        for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
                            *y = *x * *statistic * *weight;
                        }
                    }
                },
            );
        });
    y
}

/// Adds the gradient with respect to `x` to `dx`, and that of the weight to `dweight` where it is trained.
///
/// With `h = x s` and `g = dy * w`: `dx = s (g - h mean(g h))`, `dw = sum over rows of dy h`.
pub(crate) fn rms_norm_backward<T: Real>(
    dx: &mut [T],
    dweight: Option<&mut [T]>,
    dy: &[T],
    x: &[T],
    weight: &[T],
    statistics: &[T],
) {
    let d = weight.len();
    if let Some(dweight) = dweight {
        let rows = dy.chunks_exact(d).zip(x.chunks_exact(d)).zip(statistics);
        for ((dy, x), statistic) in rows {
            vectorised(
                #[inline(always)]
                || {
                    for ((dweight, dy), x) in dweight.iter_mut().zip(dy).zip(x) {
                        *dweight += *dy * *x * *statistic;
                    }
                },
            );
        }
    }
    let n_rows = rows_of_a_task(d);
    let tasks = dx.par_chunks_mut(n_rows * d).zip(dy.par_chunks(n_rows * d));
    let tasks = tasks.zip(x.par_chunks(n_rows * d)).zip(statistics.par_chunks(n_rows));
    tasks.for_each(|(((dx, dy), x), statistics)| {
        vectorised(
            #[inline(always)]
            || {
                let mut g = vec![T::ZERO; d];
                let rows = dx.chunks_exact_mut(d).zip(dy.chunks_exact(d)).zip(x.chunks_exact(d));
                for (((dx, dy), x), statistic) in rows.zip(statistics) {
                    for ((g, dy), weight) in g.iter_mut().zip(dy).zip(weight) {
                        *g = *dy * *weight;
                    }
                    let mean = dot(&g, x) * *statistic / T::from_f64(d as f64);
                    for ((dx, g), x) in dx.iter_mut().zip(&g).zip(x) {
                        *dx += *statistic * (*g - *x * *statistic * mean);
                    }
                }
            },
        );
    });
}
