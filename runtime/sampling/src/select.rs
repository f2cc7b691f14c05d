//! Candidates in order of their logits, found without sorting the vocabulary.
//!
//! The order is total: larger logit first, lower id first among equals. [`Descending`] finds the next few by one pass over the logits with a
//! bounded heap, then a few more by the next pass (each batch eight times the last), and sorts everything only when most of it is wanted.
//! Cost: the first k of n take n comparisons and about k ln(n / k) heap updates.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::SamplingError;

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
    match logits
        .iter()
        .position(|&logit| logit.is_nan() || logit == f32::INFINITY)
    {
        None => Ok(()),
        Some(token) => Err(SamplingError::NotFinite {
            token: token as u32,
            value: logits[token],
        }),
    }
}

/// Returns the possible candidates, those above negative infinity.
fn candidates(logits: &[f32]) -> impl Iterator<Item = Candidate> {
    logits
        .iter()
        .enumerate()
        .filter(|(_, logit)| **logit > f32::NEG_INFINITY)
        .map(|(token, &logit)| Candidate {
            token: token as u32,
            logit,
        })
}

/// Returns the largest logit, with the lowest id on ties.
pub(crate) fn best(logits: &[f32]) -> Option<Candidate> {
    let mut best: Option<Candidate> = None;
    for (token, &logit) in logits.iter().enumerate() {
        if logit > best.map_or(f32::NEG_INFINITY, |best| best.logit) {
            best = Some(Candidate {
                token: token as u32,
                logit,
            });
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
        let rest = candidates(self.logits).filter(|candidate| self.last.is_none_or(|last| *candidate < last));
        if self.batch_size >= self.logits.len() / 8 {
            let mut all: Vec<Candidate> = rest.collect();
            all.sort_unstable_by(|a, b| b.cmp(a));
            return all;
        }
        let mut heap: BinaryHeap<Reverse<Candidate>> = BinaryHeap::with_capacity(self.batch_size + 1);
        let mut least = f32::NEG_INFINITY;
        for candidate in rest {
            if heap.len() < self.batch_size {
                heap.push(Reverse(candidate));
            } else if candidate.logit > least {
                // Ids ascend, so a candidate equal to the least one comes after it and is not taken.
                heap.push(Reverse(candidate));
                heap.pop();
            } else {
                continue;
            }
            if heap.len() == self.batch_size {
                least = heap.peek().map_or(f32::NEG_INFINITY, |least| least.0.logit);
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
