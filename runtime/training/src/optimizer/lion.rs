//! Lion: every weight moves by the rate, along the sign of an interpolated moment.
//!
//! ```text
//! p = p (1 - lr decay) - lr sign(m b1 + (1 - b1) g)      m = m b2 + (1 - b2) g
//! ```
//! Source: arXiv 2302.06675, and bitsandbytes 0.50 for the order. Its rates are 3 to 10 times smaller than AdamW's, its decay as much larger.

use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::{TASK_ELEMENTS, vectorised};
use crate::optimizer::{check_from_zero, check_shares, kept};
use crate::parameters::Parameter;
use crate::real::Real;

/// The constants of Lion; the defaults are its authors', without decay. Transformers gives it AdamW's betas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lion {
    /// Share of the moment in the direction of a step.
    pub beta1: f64,
    /// Decay of the moment.
    pub beta2: f64,
    /// Share of a weight that a step of rate 1 takes away.
    pub weight_decay: f64,
}

impl Default for Lion {
    fn default() -> Self {
        Lion {
            beta1: 0.9,
            beta2: 0.99,
            weight_decay: 0.0,
        }
    }
}

impl Lion {
    pub(super) fn check(&self) -> Result<()> {
        check_shares(&[("adam_beta1", self.beta1), ("adam_beta2", self.beta2)])?;
        check_from_zero(&[("weight_decay", self.weight_decay)])
    }

    pub(super) fn update<T: Real>(&self, rate: f64, moment: &mut [T], parameter: &mut Parameter<T>, gradient: &[T]) {
        let (keep_now, take_now) = (T::from_f64(self.beta1), T::from_f64(1.0 - self.beta1));
        let (keep, take) = (T::from_f64(self.beta2), T::from_f64(1.0 - self.beta2));
        let decay = kept(parameter, rate, self.weight_decay);
        let rate = T::from_f64(rate);
        let tasks = parameter.values.par_chunks_mut(TASK_ELEMENTS);
        let tasks = tasks.zip(gradient.par_chunks(TASK_ELEMENTS));
        tasks
            .zip(moment.par_chunks_mut(TASK_ELEMENTS))
            .for_each(|((values, gradient), moment)| {
                vectorised(
                    #[inline(always)]
                    || {
                        for ((value, g), m) in values.iter_mut().zip(gradient).zip(moment) {
                            let direction = *m * keep_now + *g * take_now;
                            let up = if direction > T::ZERO { rate } else { T::ZERO };
                            let down = if direction < T::ZERO { rate } else { T::ZERO };
                            *value = *value * decay - (up - down);
                            *m = *m * keep + take * *g;
                        }
                    },
                );
            });
    }
}
