//! AdamW with decoupled decay and clipping by the global norm, in torch's order of operations.
//!
//! ```text
//! p *= 1 - lr decay      m += (g - m)(1 - b1)      v = v b2 + (1 - b2) g g
//! p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
//! ```
//! Sources: arXiv 1711.05101; torch's single-tensor AdamW and `clip_grad_norm_`, whose rounding the order above shares. Memory: two numbers a trained weight.

use rayon::prelude::*;

use crate::error::{Result, TrainingError};
use crate::kernels::{TASK_ELEMENTS, dot, scale, vectorised};
use crate::parameters::{Gradients, Parameters};
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

/// The moments of one trained parameter.
#[derive(Clone, Debug)]
pub(crate) struct Moments<T> {
    /// m.
    pub(crate) first: Vec<T>,
    /// v.
    pub(crate) second: Vec<T>,
}

/// The moments of all trained parameters, in their order.
#[derive(Clone, Debug)]
pub(crate) struct AdamWState<T> {
    pub(crate) moments: Vec<Moments<T>>,
    /// Steps made.
    pub(crate) n_steps: u64,
}

impl AdamW {
    pub(crate) fn check(&self) -> Result<()> {
        for (key, beta) in [("adam_beta1", self.beta1), ("adam_beta2", self.beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(TrainingError::setting(key, beta, "a number from 0 to below 1"));
            }
        }
        for (key, value) in [("adam_epsilon", self.epsilon), ("weight_decay", self.weight_decay)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(TrainingError::setting(key, value, "a number from 0"));
            }
        }
        Ok(())
    }
}

impl<T: Real> AdamWState<T> {
    pub(crate) fn new(parameters: &Parameters<T>) -> AdamWState<T> {
        let zeros = |n: usize| vec![T::ZERO; n];
        let moments = parameters.trained().map(|parameter| Moments {
            first: zeros(parameter.values.len()),
            second: zeros(parameter.values.len()),
        });
        AdamWState {
            moments: moments.collect(),
            n_steps: 0,
        }
    }

    /// Moves every trained parameter by one step of rate `rate`.
    pub(crate) fn step(
        &mut self,
        adamw: &AdamW,
        rate: f64,
        parameters: &mut Parameters<T>,
        gradients: &mut Gradients<T>,
    ) {
        self.n_steps += 1;
        let t = self.n_steps as f64;
        let step_size = T::from_f64(rate / (1.0 - adamw.beta1.powf(t)));
        let root = T::from_f64((1.0 - adamw.beta2.powf(t)).sqrt());
        let (toward, epsilon) = (T::from_f64(1.0 - adamw.beta1), T::from_f64(adamw.epsilon));
        let (keep, take) = (T::from_f64(adamw.beta2), T::from_f64(1.0 - adamw.beta2));
        for ((parameter, gradient), moments) in parameters.trained_with(gradients).zip(&mut self.moments) {
            let decay = match parameter.is_decayed {
                true => T::from_f64(1.0 - rate * adamw.weight_decay),
                false => T::ONE,
            };
            let tasks = parameter.values.par_chunks_mut(TASK_ELEMENTS);
            let tasks = tasks.zip(gradient.par_chunks(TASK_ELEMENTS));
            let tasks = tasks.zip(moments.first.par_chunks_mut(TASK_ELEMENTS));
            let tasks = tasks.zip(moments.second.par_chunks_mut(TASK_ELEMENTS));
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
}

/// Returns the norm of all gradients together, and scales them so that it is at most `norm_max`, where one is given.
pub(crate) fn clip<T: Real>(gradients: &mut Gradients<T>, norm_max: Option<f64>) -> f64 {
    let square: f64 = gradients.iter().map(square_of).sum();
    let norm = square.sqrt();
    if let Some(norm_max) = norm_max {
        let factor = (norm_max / (norm + 1e-6)).min(1.0);
        if factor < 1.0 {
            for gradient in gradients.iter_mut() {
                scale(gradient, T::from_f64(factor));
            }
        }
    }
    norm
}

/// Sums squares by blocks whose sums are added in f64, in one order whatever the threads.
fn square_of<T: Real>(values: &[T]) -> f64 {
    values
        .chunks(1_024)
        .map(|block| {
            vectorised(
                #[inline(always)]
                || dot(block, block),
            )
            .to_f64()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::Parameter;

    fn parameters(is_decayed: bool) -> Parameters<f64> {
        let mut parameters = Parameters::default();
        parameters.add(Parameter {
            name: "w".to_owned(),
            shape: vec![2],
            values: vec![1.0, -2.0],
            stored: None,
            is_trained: true,
            is_decayed,
        });
        parameters
    }

    fn with_gradient(parameters: &Parameters<f64>, values: [f64; 2]) -> Gradients<f64> {
        let mut gradients = Gradients::new(parameters);
        gradients
            .iter_mut()
            .for_each(|gradient| gradient.copy_from_slice(&values));
        gradients
    }

    // In the first step m / (1 - b1) is the gradient and v / (1 - b2) its square, so a weight moves by the rate, against the gradient's sign.
    #[test]
    fn the_first_step_is_the_rate_after_the_decay() {
        let adamw = AdamW {
            weight_decay: 0.1,
            ..AdamW::default()
        };
        for (is_decayed, kept) in [(true, 1.0 - 0.5 * 0.1), (false, 1.0)] {
            let mut parameters = parameters(is_decayed);
            let mut gradients = with_gradient(&parameters, [3.0, -4.0]);
            let mut state = AdamWState::new(&parameters);
            state.step(&adamw, 0.5, &mut parameters, &mut gradients);
            let values = parameters.trained().next().unwrap().values.clone();
            for (value, wanted) in values.iter().zip([kept - 0.5, -2.0 * kept + 0.5]) {
                assert!((value - wanted).abs() < 1e-8, "{value} {wanted}");
            }
        }
    }

    // A rate of 0, the first step of every warm-up, moves no weight and still fills the moments.
    #[test]
    fn a_rate_of_zero_moves_nothing() {
        let mut parameters = parameters(true);
        let mut gradients = with_gradient(&parameters, [3.0, -4.0]);
        let mut state = AdamWState::new(&parameters);
        state.step(&AdamW::default(), 0.0, &mut parameters, &mut gradients);
        assert_eq!(parameters.trained().next().unwrap().values, [1.0, -2.0]);
        assert!((state.moments[0].first[0] - 0.3).abs() < 1e-12);
        assert!((state.moments[0].second[1] - 0.016).abs() < 1e-12);
    }

    #[test]
    fn clipping_scales_only_what_is_too_long() {
        let parameters = parameters(true);
        let clipped = |norm_max| {
            let mut gradients = with_gradient(&parameters, [3.0, -4.0]);
            let norm = clip(&mut gradients, norm_max);
            assert_eq!(norm, 5.0);
            gradients.iter().next().unwrap().to_vec()
        };
        let factor = 1.0 / (5.0 + 1e-6);
        assert_eq!(clipped(Some(1.0)), [3.0 * factor, -4.0 * factor]);
        assert_eq!(clipped(Some(5.1)), [3.0, -4.0]);
        assert_eq!(clipped(None), [3.0, -4.0]);
    }
}
