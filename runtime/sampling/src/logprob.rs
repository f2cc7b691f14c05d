//! Log probabilities of the model itself: the log softmax of the raw logits, before any penalty, temperature or cut.

use crate::SamplingError;
use crate::math::{ln, sum_of_exp};
use crate::select::{self, Descending};

/// The logits of one step with their normaliser computed once.
///
/// Cost: one pass with one exponential a token; then each question is a subtraction.
#[derive(Clone, Copy, Debug)]
pub struct LogProbs<'a> {
    logits: &'a [f32],
    log_sum: f64,
}

impl<'a> LogProbs<'a> {
    /// Computes the normaliser of `logits`, `[n_vocab]` as the model gave them.
    ///
    /// # Errors
    /// [`SamplingError::NotFinite`] and [`SamplingError::NoCandidate`] as for a draw.
    pub fn of(logits: &'a [f32]) -> Result<Self, SamplingError> {
        select::check(logits)?;
        let best = select::best(logits).ok_or(SamplingError::NoCandidate { n_logits: logits.len() })?;
        Ok(Self {
            logits,
            log_sum: f64::from(best.logit) + ln(sum_of_exp(logits, best.logit, 1.0)),
        })
    }

    /// Returns the log probability of one token; negative infinity when the model rules it out.
    ///
    /// # Errors
    /// [`SamplingError::UnknownToken`] for an id outside the vocabulary.
    pub fn token(&self, token: u32) -> Result<f32, SamplingError> {
        match self.logits.get(token as usize) {
            Some(&logit) => Ok((f64::from(logit) - self.log_sum) as f32),
            None => Err(SamplingError::UnknownToken {
                token,
                n_logits: self.logits.len(),
            }),
        }
    }

    /// Returns the `n` most likely tokens with their log probabilities, the most likely first, the lowest id first among equals.
    pub fn top(&self, n: usize) -> Vec<(u32, f32)> {
        Descending::new(self.logits, n.min(self.logits.len()))
            .take(n)
            .map(|candidate| (candidate.token, (f64::from(candidate.logit) - self.log_sum) as f32))
            .collect()
    }
}

/// Returns the log softmax of one token. For more than one question about the same logits use [`LogProbs`].
///
/// # Errors
/// As [`LogProbs::of`] and [`LogProbs::token`].
pub fn log_softmax_of(logits: &[f32], token: u32) -> Result<f32, SamplingError> {
    LogProbs::of(logits)?.token(token)
}

/// Returns the `n` most likely tokens with their log probabilities.
///
/// # Errors
/// As [`LogProbs::of`].
pub fn top_logprobs(logits: &[f32], n: usize) -> Result<Vec<(u32, f32)>, SamplingError> {
    Ok(LogProbs::of(logits)?.top(n))
}
