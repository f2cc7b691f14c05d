//! Candidates in order of their logits, found without sorting the vocabulary.
//!
//! The order is total: larger logit first, lower id first among equals. [`Descending`] finds the next few by one pass over the logits with a
//! bounded heap, then a few more by the next pass (each batch eight times the last), and sorts everything only when most of it is wanted.
//! Cost: the first k of n take n comparisons, a vector of them at once, and about k ln(n / k) heap updates.

use std::cell::Cell;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::SamplingError;

/// Logits that are passed over together where none of them is wanted.
const RUN: usize = 64;
/// Maxima that are taken side by side.
const LANES: usize = 16;

/// A token and its logit. Greater = comes earlier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) token: u32,
    pub(crate) logit: f32,
}

impl Eq for Candidate {}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        // -0.0 and 0.0 are the same logit; adding 0.0 makes them the same bits.
        (self.logit + 0.0)
            .total_cmp(&(other.logit + 0.0))
            .then(other.token.cmp(&self.token))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Refuses NaN and positive infinity.
pub(crate) fn check(logits: &[f32]) -> Result<(), SamplingError> {
    let is_refused = |logit: &f32| logit.is_nan() || *logit == f32::INFINITY;
    for (run, logits) in logits.chunks(RUN).enumerate() {
        // Each is looked at, whatever the one before it was: so a vector of them is at once.
        if logits.iter().fold(false, |any, logit| any | is_refused(logit))
            && let Some(token) = logits.iter().position(is_refused)
        {
            return Err(SamplingError::NotFinite {
                token: (run * RUN + token) as u32,
                value: logits[token],
            });
        }
    }
    Ok(())
}

/// Returns the candidates of a run of logits that begins at token `first`.
pub(crate) fn candidates(first: usize, logits: &[f32]) -> impl Iterator<Item = Candidate> {
    logits.iter().enumerate().map(move |(index, &logit)| Candidate {
        token: (first + index) as u32,
        logit,
    })
}

/// Returns the runs of logits that hold one above `least`, which may rise meanwhile, each with the token that it begins at.
fn runs_above<'a>(logits: &'a [f32], least: &Cell<f32>) -> impl Iterator<Item = (usize, &'a [f32])> {
    let runs = logits.chunks(RUN).enumerate().map(|(run, logits)| (run * RUN, logits));
    runs.filter(|(_, logits)| {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let (whole, rest) = logits.as_chunks::<LANES>();
        for logits in whole {
            for (lane, logit) in lanes.iter_mut().zip(logits) {
                *lane = if *logit > *lane { *logit } else { *lane };
            }
        }
        lanes.iter().chain(rest).any(|logit| *logit > least.get())
    })
}

/// Returns the largest logit, with the lowest id on ties.
pub(crate) fn best(logits: &[f32]) -> Option<Candidate> {
    let least = Cell::new(f32::NEG_INFINITY);
    let mut best = None;
    for (first, logits) in runs_above(logits, &least) {
        for candidate in candidates(first, logits).filter(|candidate| candidate.logit > least.get()) {
            least.set(candidate.logit);
            best = Some(candidate);
        }
    }
    best
}

/// Iterates over the possible candidates from the most to the least likely.
pub(crate) struct Descending<'a> {
    logits: &'a [f32],
    batch: std::vec::IntoIter<Candidate>,
    batch_size: usize,
    last: Option<Candidate>,
}

impl<'a> Descending<'a> {
    /// Starts at the most likely; `first` is how many will surely be wanted.
    pub(crate) fn new(logits: &'a [f32], first: usize) -> Self {
        Self {
            logits,
            batch: Vec::new().into_iter(),
            batch_size: first.max(1),
            last: None,
        }
    }

    fn find_batch(&self) -> Vec<Candidate> {
        let is_left = |candidate: &Candidate| self.last.is_none_or(|last| *candidate < last);
        if self.batch_size >= self.logits.len() / 8 {
            let possible = candidates(0, self.logits).filter(|candidate| candidate.logit > f32::NEG_INFINITY);
            let mut all: Vec<Candidate> = possible.filter(is_left).collect();
            all.sort_unstable_by(|a, b| b.cmp(a));
            return all;
        }
        let mut heap: BinaryHeap<Reverse<Candidate>> = BinaryHeap::with_capacity(self.batch_size + 1);
        // Ids ascend, so a candidate equal to the least one of a full heap comes after it and is not taken.
        let least = Cell::new(f32::NEG_INFINITY);
        for (first, logits) in runs_above(self.logits, &least) {
            let above = candidates(first, logits).filter(|candidate| candidate.logit > least.get());
            for candidate in above.filter(is_left) {
                heap.push(Reverse(candidate));
                if heap.len() > self.batch_size {
                    heap.pop();
                }
                if heap.len() == self.batch_size {
                    least.set(heap.peek().map_or(f32::NEG_INFINITY, |least| least.0.logit));
                }
            }
        }
        heap.into_sorted_vec()
            .into_iter()
            .map(|Reverse(candidate)| candidate)
            .collect()
    }
}

impl Iterator for Descending<'_> {
    type Item = Candidate;

    fn next(&mut self) -> Option<Candidate> {
        let next = match self.batch.next() {
            Some(next) => next,
            None => {
                self.batch = self.find_batch().into_iter();
                self.batch_size = self.batch_size.saturating_mul(8);
                self.batch.next()?
            }
        };
        self.last = Some(next);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_of_any_size_give_the_order_of_a_full_sort() {
        // Few distinct values, so that ties cross the borders of batches; zeros of both signs are one value.
        let logits: Vec<f32> = (0..5000u32)
            .map(|i| match i.wrapping_mul(2_654_435_761) >> 24 {
                0..=20 => f32::NEG_INFINITY,
                21..=40 => -0.0,
                41..=60 => 0.0,
                byte => (byte % 13) as f32 - 6.0,
            })
            .collect();
        let mut sorted: Vec<u32> = (0..5000u32)
            .filter(|&i| logits[i as usize] > f32::NEG_INFINITY)
            .collect();
        sorted.sort_by(|&a, &b| {
            logits[b as usize]
                .partial_cmp(&logits[a as usize])
                .expect("no NaN")
                .then(a.cmp(&b))
        });
        for first in [1, 2, 7, 40, 624, 625, 5000] {
            let found: Vec<u32> = Descending::new(&logits, first)
                .map(|candidate| candidate.token)
                .collect();
            assert_eq!(found, sorted, "first batch of {first}");
        }
        assert_eq!(best(&logits).map(|best| best.token), sorted.first().copied());
    }
}
