//! Adafactor: AdamW's second moment of a matrix as the product of the means of its rows and of its columns, so that hardly anything is remembered.
//!
//! ```text
//! b = 1 - t^decay      u = g g + e1      row = row b + (1 - b) mean(u)      column likewise      (a vector keeps v = v b + (1 - b) u)
//! d = g / sqrt(row/mean(row) column)     or g / sqrt(v)
//! d = lr d / max(1, rms(d) / clip)       lr is multiplied by max(e2, rms(p)) where it is relative to the weights
//! d = m = m b1 + (1 - b1) d, with a first moment      p -= decay lr p      p -= d
//! ```
//! Source: arXiv 1804.04235 as Transformers 5 computes it, with a rate that is given (`relative_step=False`, which its trainer sets). Sums are taken in f64 by
//! rows, where torch takes them in f32: the two agree to about 1e-6.

use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::{TASK_ELEMENTS, rows_of_a_task, vectorised};
use crate::optimizer::{Array, ArraySource, FIRST_MOMENT, SECOND_MOMENT, Values, check_from_zero, check_shares};
use crate::parameters::Parameter;
use crate::real::Real;

/// The constants of Adafactor; the defaults are those of Transformers' trainer, without decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adafactor {
    /// Added to every squared gradient.
    pub epsilon_gradient: f64,
    /// The least size of a weight, where the rate is relative to it.
    pub epsilon_weight: f64,
    /// The root of the mean square that a step may have, over the rate.
    pub clip_threshold: f64,
    /// The power of the step's number by which the second moment forgets; below 0.
    pub decay_rate: f64,
    /// Decay of a first moment, where one is kept.
    pub beta1: Option<f64>,
    /// Share of a weight that a step of rate 1 takes away.
    pub weight_decay: f64,
    /// Whether the rate is multiplied by the size of the weights.
    pub scale_parameter: bool,
}

impl Default for Adafactor {
    fn default() -> Self {
        Adafactor {
            epsilon_gradient: 1e-30,
            epsilon_weight: 1e-3,
            clip_threshold: 1.0,
            decay_rate: -0.8,
            beta1: None,
            weight_decay: 0.0,
            scale_parameter: false,
        }
    }
}

impl Adafactor {
    pub(super) fn check(&self) -> Result<()> {
        check_shares(&[("adafactor_beta1", self.beta1.unwrap_or(0.0))])?;
        check_from_zero(&[
            ("adafactor_epsilon_gradient", self.epsilon_gradient),
            ("adafactor_epsilon_weight", self.epsilon_weight),
            ("adafactor_clip_threshold", self.clip_threshold),
            ("adafactor_decay_rate, negated,", -self.decay_rate),
            ("weight_decay", self.weight_decay),
        ])
    }
}

const ROW: &str = "second_moment_row";
const COLUMN: &str = "second_moment_column";

/// The second moment of a parameter.
#[derive(Clone, Debug)]
enum Second<T> {
    /// Of a matrix.
    Factored { row: Vec<T>, column: Vec<T> },
    /// Of anything else.
    Whole(Vec<T>),
}

/// What is remembered of one parameter.
#[derive(Clone, Debug)]
pub(super) struct Factors<T> {
    second: Second<T>,
    first: Option<Vec<T>>,
}

impl<T: Real> Factors<T> {
    pub(super) fn make(adafactor: &Adafactor, shape: &[usize], source: &dyn ArraySource<T>) -> Result<Factors<T>> {
        let first = adafactor.beta1.map(|_| source.real(FIRST_MOMENT, shape));
        Ok(Factors {
            second: match shape {
                [n_rows, n_columns] => Second::Factored {
                    row: source.real(ROW, &[*n_rows])?,
                    column: source.real(COLUMN, &[*n_columns])?,
                },
                _ => Second::Whole(source.real(SECOND_MOMENT, shape)?),
            },
            first: first.transpose()?,
        })
    }

    pub(super) fn arrays(&self, shape: &[usize]) -> Vec<Array<'_, T>> {
        fn array<'a, T>(kind: &'static str, shape: &[usize], values: &'a [T]) -> Array<'a, T> {
            Array {
                kind,
                shape: shape.to_vec(),
                values: Values::Real(values),
            }
        }
        let mut arrays = match &self.second {
            Second::Factored { row, column } => {
                vec![array(ROW, &[row.len()], row), array(COLUMN, &[column.len()], column)]
            }
            Second::Whole(second) => vec![array(SECOND_MOMENT, shape, second)],
        };
        if let Some(first) = &self.first {
            arrays.push(array(FIRST_MOMENT, shape, first));
        }
        arrays
    }

    pub(super) fn update(
        &mut self,
        adafactor: &Adafactor,
        rate: f64,
        step: u64,
        parameter: &mut Parameter<T>,
        gradient: &mut [T],
    ) {
        let n = gradient.len() as f64;
        let keep = 1.0 - (step as f64).powf(adafactor.decay_rate);
        let rate = match adafactor.scale_parameter {
            true => {
                rate * (sum_of_squares(&parameter.values) / n)
                    .sqrt()
                    .max(adafactor.epsilon_weight)
            }
            false => rate,
        };
        self.second.direct(keep, adafactor.epsilon_gradient, gradient);
        let size = (sum_of_squares(gradient) / n).sqrt();
        let divisor = T::from_f64((size / adafactor.clip_threshold).max(1.0));
        let decay = if parameter.is_decayed {
            adafactor.weight_decay
        } else {
            0.0
        };
        let (decay, rate) = (T::from_f64(-decay * rate), T::from_f64(rate));
        each(gradient, |direction| *direction = *direction / divisor * rate);
        if let (Some(first), Some(beta1)) = (&mut self.first, adafactor.beta1) {
            let (keep, take) = (T::from_f64(beta1), T::from_f64(1.0 - beta1));
            each_with(first, gradient, |moment, direction| {
                *moment = *moment * keep + take * direction
            });
            gradient.copy_from_slice(first);
        }
        each_with(&mut parameter.values, gradient, |value, direction| {
            *value += *value * decay;
            *value -= direction;
        });
    }
}

impl<T: Real> Second<T> {
    /// Takes in a gradient and divides it by the root of the moment.
    fn direct(&mut self, keep: f64, epsilon: f64, gradient: &mut [T]) {
        let (old, new) = (T::from_f64(keep), T::from_f64(1.0 - keep));
        match self {
            Second::Whole(second) => {
                let epsilon = T::from_f64(epsilon);
                each_with(second, gradient, |v, g| *v = *v * old + new * (g * g + epsilon));
                each_with(gradient, second, |g, v| *g *= T::ONE / v.sqrt());
            }
            Second::Factored { row, column } => {
                let width = column.len();
                let of_rows = row_sums(gradient, width);
                let of_columns = column_sums(gradient, width);
                let take = |moments: &mut [T], sums: &[f64], n: usize| {
                    for (moment, sum) in moments.iter_mut().zip(sums) {
                        *moment = *moment * old + new * T::from_f64(sum / n as f64 + epsilon);
                    }
                };
                take(row, &of_rows, width);
                take(column, &of_columns, row.len());
                let mean = row.iter().map(|value| value.to_f64()).sum::<f64>() / row.len() as f64;
                let mean = T::from_f64(mean);
                let rows: Vec<T> = row.iter().map(|value| T::ONE / (*value / mean).sqrt()).collect();
                let columns: Vec<T> = column.iter().map(|value| T::ONE / value.sqrt()).collect();
                let n_rows = rows_of_a_task(width);
                let tasks = gradient
                    .par_chunks_mut(n_rows * width.max(1))
                    .zip(rows.par_chunks(n_rows));
                tasks.for_each(|(gradient, rows)| {
                    vectorised(
                        #[inline(always)]
                        || {
                            for (gradient, row) in gradient.chunks_exact_mut(width).zip(rows) {
                                for (g, column) in gradient.iter_mut().zip(&columns) {
                                    *g = *row * *column * *g;
                                }
                            }
                        },
                    );
                });
            }
        }
    }
}

/// Sums the squares of every row of `values`, `[n, width]`.
fn row_sums<T: Real>(values: &[T], width: usize) -> Vec<f64> {
    values.par_chunks(width.max(1)).map(squares).collect()
}

/// Sums the squares of every column of `values`, `[n, width]`, in the order of rows.
fn column_sums<T: Real>(values: &[T], width: usize) -> Vec<f64> {
    const TASK_COLUMNS: usize = 256;
    let mut sums = vec![0.0; width];
    sums.par_chunks_mut(TASK_COLUMNS).enumerate().for_each(|(task, sums)| {
        let first = task * TASK_COLUMNS;
        vectorised(
            #[inline(always)]
            || {
                for row in values.chunks_exact(width) {
                    for (sum, value) in sums.iter_mut().zip(&row[first..]) {
                        *sum += value.to_f64() * value.to_f64();
                    }
                }
            },
        );
    });
    sums
}

fn sum_of_squares<T: Real>(values: &[T]) -> f64 {
    let parts: Vec<f64> = values.par_chunks(TASK_ELEMENTS).map(squares).collect();
    parts.into_iter().sum()
}

/// Sums squares in 8 running sums.
fn squares<T: Real>(values: &[T]) -> f64 {
    vectorised(
        #[inline(always)]
        || {
            let mut sums = [0.0f64; 8];
            for chunk in values.chunks(8) {
                for (sum, value) in sums.iter_mut().zip(chunk) {
                    *sum += value.to_f64() * value.to_f64();
                }
            }
            sums.iter().sum()
        },
    )
}

fn each<T: Real>(values: &mut [T], change: impl Fn(&mut T) + Sync) {
    values.par_chunks_mut(TASK_ELEMENTS).for_each(|values| {
        vectorised(
            #[inline(always)]
            || values.iter_mut().for_each(&change),
        );
    });
}

fn each_with<T: Real>(values: &mut [T], others: &[T], change: impl Fn(&mut T, T) + Sync) {
    let tasks = values
        .par_chunks_mut(TASK_ELEMENTS)
        .zip(others.par_chunks(TASK_ELEMENTS));
    tasks.for_each(|(values, others)| {
        vectorised(
            #[inline(always)]
            || {
                for (value, other) in values.iter_mut().zip(others) {
                    change(value, *other);
                }
            },
        );
    });
}
