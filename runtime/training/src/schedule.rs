//! The learning rate of every step, as the schedules of Transformers compute it.
//!
//! Step `k` counts optimizer steps from 0; with warm-up the first one has rate 0 and moves nothing.

/// The shape after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// Straight down to 0 at the last step.
    Linear,
    /// Half a cosine wave down to 0.
    Cosine,
    /// None.
    Constant,
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
    /// Returns the rate that step `step` uses.
    pub fn rate(&self, step: u64) -> f64 {
        let factor = if step < self.warmup_steps {
            step as f64 / self.warmup_steps.max(1) as f64
        } else {
            let rest = self.n_steps.saturating_sub(self.warmup_steps).max(1) as f64;
            match self.decay {
                Decay::Constant => 1.0,
                Decay::Linear => self.n_steps.saturating_sub(step) as f64 / rest,
                Decay::Cosine => {
                    let progress = (step - self.warmup_steps) as f64 / rest;
                    (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
                }
            }
        };
        self.learning_rate * factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The first and last rates of each shape, worked out by hand.
    #[test]
    fn shapes_begin_and_end_where_they_should() {
        let schedule = |decay, warmup_steps| Schedule {
            learning_rate: 2.0,
            decay,
            warmup_steps,
            n_steps: 10,
        };
        let rates = |decay, warmup_steps| {
            let schedule = schedule(decay, warmup_steps);
            [0, 1, 2, 6, 9, 10].map(|step| schedule.rate(step))
        };
        assert_eq!(rates(Decay::Linear, 2), [0.0, 1.0, 2.0, 1.0, 0.25, 0.0]);
        assert_eq!(rates(Decay::Linear, 0), [2.0, 1.8, 1.6, 0.8, 0.2, 0.0]);
        assert_eq!(rates(Decay::Constant, 2), [0.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
        let cosine = rates(Decay::Cosine, 2);
        assert_eq!(cosine[..3], [0.0, 1.0, 2.0]);
        assert!((cosine[3] - 1.0).abs() < 1e-12 && cosine[5] == 0.0, "{cosine:?}");
        // A warm-up longer than the run only ever rises.
        assert_eq!(schedule(Decay::Linear, 100).rate(9), 0.18);
    }
}
