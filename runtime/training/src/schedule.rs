//! The learning rate of every step, as the schedules of Transformers compute it.
//!
//! Step `k` counts optimizer steps from 0; with warm-up the first one has rate 0 and moves nothing.

use std::f64::consts::PI;

use crate::error::{Result, TrainingError};

/// The shape after the warm-up. Ratios are shares of the highest rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decay {
    /// None. Transformers calls it `constant_with_warmup` where there is a warm-up; its `constant` ignores one.
    Constant,
    /// Straight down to 0 at the last step.
    Linear,
    /// Half a cosine wave down to 0.
    Cosine,
    /// Half a cosine wave down to a share of the highest rate: `cosine_with_min_lr`.
    CosineToMinimum {
        /// That share, `min_lr_rate`; or `min_lr` over the highest rate.
        min_ratio: f64,
    },
    /// So many half waves, each from the highest rate down to 0: `cosine_with_restarts`.
    CosineWithRestarts {
        /// How many, `num_cycles`; 1 by default.
        n_cycles: u32,
    },
    /// A power of the share of steps that is left: `polynomial`.
    Polynomial {
        /// The power, 1 by default.
        power: f64,
        /// The rate at the end, `lr_end`, 1e-7 by default. Below the highest rate.
        end_rate: f64,
    },
    /// One over the root of the step: `inverse_sqrt`.
    InverseSqrt {
        /// The step at which the root is 1 without a warm-up. By default the warm-up's steps, or 10,000 where there are none.
        timescale: Option<u64>,
    },
    /// The highest rate until the last steps: `warmup_stable_decay`.
    WarmupStableDecay {
        /// How many steps the decay takes, `num_decay_steps`.
        decay_steps: u64,
        /// How many steps lie between warm-up and decay, `num_stable_steps`. By default all that are left.
        stable_steps: Option<u64>,
        /// The shape of the decay, `decay_type`; a cosine by default.
        shape: DecayShape,
        /// The share at which the warm-up begins and the decay ends, `min_lr_ratio`; 0 by default.
        min_ratio: f64,
    },
}

/// The shape of the last part of [`Decay::WarmupStableDecay`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DecayShape {
    /// `linear`.
    Linear,
    /// `cosine`, half a wave.
    #[default]
    Cosine,
    /// `1-sqrt`: one less the root of the share of steps that is done.
    OneMinusSqrt,
}

/// A schedule of learning rates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The highest rate.
    pub learning_rate: f64,
    /// The shape.
    pub decay: Decay,
    /// Steps of linear rise from 0.
    pub warmup_steps: u64,
    /// Steps of the whole run.
    pub n_steps: u64,
}

impl Schedule {
    /// Returns how many steps of warm-up a share of a run is, as Transformers rounds it: up.
    pub fn warmup_steps_of_ratio(ratio: f64, n_steps: u64) -> u64 {
        // A cast to a whole number keeps to its range; a ratio that is no number gives 0.
        (n_steps as f64 * ratio).ceil() as u64
    }

    /// Returns the rate that step `step` uses.
    pub fn rate(&self, step: u64) -> f64 {
        self.learning_rate * self.factor(step)
    }

    fn factor(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            let factor = step as f64 / self.warmup_steps.max(1) as f64;
            return match self.decay {
                Decay::WarmupStableDecay { min_ratio, .. } => above(min_ratio, factor),
                _ => factor,
            };
        }
        let (done, rest) = (step - self.warmup_steps, self.n_steps.saturating_sub(self.warmup_steps));
        let progress = done as f64 / rest.max(1) as f64;
        match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => self.n_steps.saturating_sub(step) as f64 / rest.max(1) as f64,
            Decay::Cosine => half_wave(progress).max(0.0),
            Decay::CosineToMinimum { min_ratio } => above(min_ratio, half_wave(progress)).max(0.0),
            Decay::CosineWithRestarts { .. } if progress >= 1.0 => 0.0,
            Decay::CosineWithRestarts { n_cycles } => half_wave((f64::from(n_cycles) * progress) % 1.0).max(0.0),
            Decay::Polynomial { end_rate, .. } if step > self.n_steps => end_rate / self.learning_rate,
            Decay::Polynomial { power, end_rate } => {
                let range = self.learning_rate - end_rate;
                (range * (1.0 - progress).powf(power) + end_rate) / self.learning_rate
            }
            Decay::InverseSqrt { timescale } => {
                let default = if self.warmup_steps == 0 {
                    10_000
                } else {
                    self.warmup_steps
                };
                let timescale = timescale.unwrap_or(default) as f64;
                let shifted = step as f64 + (timescale - self.warmup_steps as f64);
                1.0 / (shifted / timescale).sqrt()
            }
            Decay::WarmupStableDecay {
                decay_steps,
                stable_steps,
                shape,
                min_ratio,
            } => {
                let stable_steps = stable_steps.unwrap_or(rest.saturating_sub(decay_steps));
                match done.checked_sub(stable_steps) {
                    None => 1.0,
                    Some(decayed) if decayed < decay_steps => {
                        let progress = decayed as f64 / decay_steps as f64;
                        let factor = match shape {
                            DecayShape::Linear => 1.0 - progress,
                            DecayShape::Cosine => half_wave(progress),
                            DecayShape::OneMinusSqrt => 1.0 - progress.sqrt(),
                        };
                        above(min_ratio, factor).max(0.0)
                    }
                    Some(_) => min_ratio,
                }
            }
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let rate = self.learning_rate;
        if !(rate.is_finite() && rate >= 0.0) {
            return Err(TrainingError::setting("learning_rate", rate, "a number from 0"));
        }
        let share = |key, value: f64| match (0.0..=1.0).contains(&value) {
            true => Ok(()),
            false => Err(TrainingError::setting(
                key,
                value,
                "a share of the highest rate, from 0 to 1",
            )),
        };
        match self.decay {
            Decay::Constant | Decay::Linear | Decay::Cosine => Ok(()),
            Decay::CosineToMinimum { min_ratio } => share("min_lr_rate", min_ratio),
            Decay::CosineWithRestarts { n_cycles: 0 } => {
                Err(TrainingError::setting("num_cycles", 0, "a number from 1"))
            }
            Decay::CosineWithRestarts { .. } => Ok(()),
            Decay::Polynomial { power, .. } if !(power.is_finite() && power > 0.0) => {
                Err(TrainingError::setting("power", power, "a number above 0"))
            }
            Decay::Polynomial { end_rate, .. } if !(end_rate >= 0.0 && end_rate < rate) => Err(TrainingError::setting(
                "lr_end",
                end_rate,
                format!("a number from 0 to below the learning rate of {rate}"),
            )),
            Decay::Polynomial { .. } => Ok(()),
            Decay::InverseSqrt { timescale: Some(0) } => Err(TrainingError::setting("timescale", 0, "a number from 1")),
            Decay::InverseSqrt { .. } => Ok(()),
            Decay::WarmupStableDecay { min_ratio, .. } => share("min_lr_ratio", min_ratio),
        }
    }
}

/// Half a cosine wave: from 1 at 0 to 0 at 1, and up again beyond.
fn half_wave(progress: f64) -> f64 {
    0.5 * (1.0 + (PI * progress).cos())
}

/// Lifts a factor from 0..1 to minimum..1.
fn above(minimum: f64, factor: f64) -> f64 {
    factor * (1.0 - minimum) + minimum
}

#[cfg(test)]
mod tests;
