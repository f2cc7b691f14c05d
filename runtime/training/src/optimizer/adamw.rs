//! AdamW with decoupled decay, in torch's order of operations.
//!
//! ```text
//! p *= 1 - lr decay      m += (g - m)(1 - b1)      v = v b2 + (1 - b2) g g
//! p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
//! ```
//! Sources: arXiv 1711.05101; torch's single-tensor AdamW, whose rounding the order above shares.

use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::{TASK_ELEMENTS, vectorised};
use crate::optimizer::{check_from_zero, check_shares, kept};
use crate::parameters::Parameter;
use crate::real::Real;

/// The constants of AdamW; the defaults are torch's, without decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Keeps the quotient finite.
    pub epsilon: f64,
    /// Share of a weight that a step of rate 1 takes away.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
        }
    }
}

impl AdamW {
    pub(super) fn check(&self) -> Result<()> {
        check_shares(&[("adam_beta1", self.beta1), ("adam_beta2", self.beta2)])?;
        check_from_zero(&[("adam_epsilon", self.epsilon), ("weight_decay", self.weight_decay)])
    }
}

/// The moments of one trained parameter.
#[derive(Clone, Debug)]
pub(super) struct Moments<T> {
    /// m.
    pub(super) first: Vec<T>,
    /// v.
    pub(super) second: Vec<T>,
}

impl<T: Real> Moments<T> {
    pub(super) fn update(&mut self, adamw: &AdamW, rate: f64, step: u64, parameter: &mut Parameter<T>, gradient: &[T]) {
        let t = step as f64;
        let step_size = T::from_f64(rate / (1.0 - adamw.beta1.powf(t)));
        let root = T::from_f64((1.0 - adamw.beta2.powf(t)).sqrt());
        let (toward, epsilon) = (T::from_f64(1.0 - adamw.beta1), T::from_f64(adamw.epsilon));
        let (keep, take) = (T::from_f64(adamw.beta2), T::from_f64(1.0 - adamw.beta2));
        let decay = kept(parameter, rate, adamw.weight_decay);
        let tasks = parameter.values.par_chunks_mut(TASK_ELEMENTS);
        let tasks = tasks.zip(gradient.par_chunks(TASK_ELEMENTS));
        let tasks = tasks.zip(self.first.par_chunks_mut(TASK_ELEMENTS));
        let tasks = tasks.zip(self.second.par_chunks_mut(TASK_ELEMENTS));
        tasks.for_each(|(((values, gradient), first), second)| {
            vectorised(
                #[inline(always)]
                || {
                    let rows = values.iter_mut().zip(gradient).zip(first).zip(second);
                    for (((value, g), m), v) in rows {
                        *value *= decay;
                        *m += (*g - *m) * toward;
                        *v = *v * keep + take * *g * *g;
                        *value -= step_size * (*m / (v.sqrt() / root + epsilon));
                    }
                },
            );
        });
    }
}
