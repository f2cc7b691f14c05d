//! Stochastic gradient descent, with momentum where it is wanted.
//!
//! ```text
//! g += decay p      b = momentum b + g      p -= lr b
//! ```
//! Source: torch's SGD without dampening. Its decay is part of the gradient, not decoupled from it.

use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::{TASK_ELEMENTS, vectorised};
use crate::optimizer::{check_from_zero, check_shares};
use crate::parameters::Parameter;
use crate::real::Real;

/// The constants of SGD; by default there is neither momentum nor decay.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sgd {
    /// How much of the last step's direction stays.
    pub momentum: f64,
    /// How much of a weight is added to its gradient.
    pub weight_decay: f64,
}

impl Sgd {
    pub(super) fn check(&self) -> Result<()> {
        check_shares(&[("momentum", self.momentum)])?;
        check_from_zero(&[("weight_decay", self.weight_decay)])
    }

    pub(super) fn update<T: Real>(
        &self,
        rate: f64,
        momentum: Option<&mut Vec<T>>,
        parameter: &mut Parameter<T>,
        gradient: &mut [T],
    ) {
        let decay = if parameter.is_decayed { self.weight_decay } else { 0.0 };
        let (decay, keep, rate) = (T::from_f64(decay), T::from_f64(self.momentum), T::from_f64(rate));
        let tasks = parameter.values.par_chunks_mut(TASK_ELEMENTS);
        let tasks = tasks.zip(gradient.par_chunks_mut(TASK_ELEMENTS));
        let descend = |values: &mut [T], direction: &[T]| {
            for (value, direction) in values.iter_mut().zip(direction) {
                *value -= rate * *direction;
            }
        };
        let decayed = |values: &[T], gradient: &mut [T]| {
            for (g, value) in gradient.iter_mut().zip(values) {
                *g += decay * *value;
            }
        };
        match momentum {
            Some(momentum) => {
                tasks
                    .zip(momentum.par_chunks_mut(TASK_ELEMENTS))
                    .for_each(|((values, gradient), momentum)| {
                        vectorised(
                            #[inline(always)]
                            || {
                                decayed(values, gradient);
                                for (b, g) in momentum.iter_mut().zip(gradient) {
                                    *b = *b * keep + *g;
                                }
                                descend(values, momentum);
                            },
                        );
                    })
            }
            None => tasks.for_each(|(values, gradient)| {
                vectorised(
                    #[inline(always)]
                    || {
                        decayed(values, gradient);
                        descend(values, gradient);
                    },
                );
            }),
        }
    }
}
