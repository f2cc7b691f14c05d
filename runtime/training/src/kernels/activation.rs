//! The gated activation of the feed-forward block: `a = silu(g) * u` with `silu(g) = g / (1 + e^-g)`. Source: arXiv 2002.05202.

use rayon::prelude::*;

use super::{TASK_ELEMENTS, vectorised};
use crate::numbers::Numbers;
use crate::real::Real;

/// Computes `a` from the gate and the up projection.
pub(crate) fn swiglu<T: Real>(gate: &[T], up: &[T]) -> Numbers<T> {
    let mut activated = Numbers::stale(gate.len());
    let tasks = activated
        .par_chunks_mut(TASK_ELEMENTS)
        .zip(gate.par_chunks(TASK_ELEMENTS));
    tasks
        .zip(up.par_chunks(TASK_ELEMENTS))
        .for_each(|((activated, gate), up)| {
            vectorised(
                #[inline(always)]
                || {
                    for ((activated, gate), up) in activated.iter_mut().zip(gate).zip(up) {
                        *activated = *gate * sigmoid(*gate) * *up;
                    }
                },
            );
        });
    activated
}

/// Turns `gate` and `up` into their gradients, given that of `a`.
///
/// `du = da silu(g)`, `dg = da u s (1 + g (1 - s))` with `s` the logistic function of `g`.
pub(crate) fn swiglu_backward<T: Real>(gate: &mut [T], up: &mut [T], dactivated: &[T]) {
    let tasks = gate.par_chunks_mut(TASK_ELEMENTS).zip(up.par_chunks_mut(TASK_ELEMENTS));
    tasks
        .zip(dactivated.par_chunks(TASK_ELEMENTS))
        .for_each(|((gate, up), dactivated)| {
            vectorised(
                #[inline(always)]
                || {
                    for ((gate, up), da) in gate.iter_mut().zip(up.iter_mut()).zip(dactivated) {
                        let (g, u, s) = (*gate, *up, sigmoid(*gate));
                        *up = *da * g * s;
                        *gate = *da * u * s * (T::ONE + g * (T::ONE - s));
                    }
                },
            );
        });
}

#[inline(always)]
fn sigmoid<T: Real>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}
