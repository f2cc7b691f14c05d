//! In which order an epoch visits the rows, and how it is cut into steps. Pure: a seed and lengths in, row numbers out.
//!
//! **Invariant:** every order is a permutation: each row once an epoch.

use std::cmp::Reverse;

use crate::random::TorchGenerator;

/// How the rows of an epoch are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochOrder {
    /// As they stand, every epoch.
    AsGiven,
    /// A fresh generator each epoch, seeded `seed + epoch`: what Transformers' `Trainer` does through accelerate's seedable sampler.
    SeedPlusEpoch,
    /// One generator seeded once, which goes on from epoch to epoch: a `RandomSampler` that was given a generator. It draws a second
    /// permutation at the end of each epoch, of which it takes nothing; so do we.
    OneGenerator,
    /// Each epoch seeds a generator with a number that the global generator draws: a `RandomSampler` without a generator, after
    /// `torch.manual_seed(seed)` and with nothing else drawing from it.
    DrawnSeeds,
}

impl EpochOrder {
    /// Returns the order of `n_rows` rows in epoch `epoch` (from 0).
    ///
    /// Cost: one permutation; for [`EpochOrder::OneGenerator`], the draws of two for each epoch before.
    ///
    /// # Panics
    /// If `n_rows` is above [`crate::limits::ROWS_MAX`].
    pub fn rows(self, seed: u64, n_rows: usize, epoch: u64) -> Vec<u32> {
        match self {
            EpochOrder::AsGiven => TorchGenerator::identity(n_rows),
            EpochOrder::SeedPlusEpoch => TorchGenerator::seeded(seed.wrapping_add(epoch)).permutation(n_rows),
            EpochOrder::OneGenerator => {
                let mut generator = TorchGenerator::seeded(seed);
                for _ in 0..epoch.saturating_mul(2) {
                    generator.skip_permutation(n_rows);
                }
                generator.permutation(n_rows)
            }
            EpochOrder::DrawnSeeds => {
                let mut global = TorchGenerator::seeded(seed);
                for _ in 0..epoch {
                    global.sampler_seed();
                }
                TorchGenerator::seeded(global.sampler_seed()).permutation(n_rows)
            }
        }
    }
}

/// The rows of one optimizer step: its micro-batches, in order. The last ones of an epoch can be smaller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// Rows of each micro-batch; none is empty.
    pub micro_batches: Vec<&'a [u32]>,
}

impl Step<'_> {
    /// Returns how many rows the step sees.
    pub fn n_rows(&self) -> usize {
        self.micro_batches.iter().map(|rows| rows.len()).sum()
    }
}

/// Cuts an epoch into steps of `accumulation` micro-batches of `micro_batch` rows, as Transformers does: what is left over at the end
/// still steps. Zeros count as one.
pub fn steps(order: &[u32], micro_batch: usize, accumulation: usize) -> Vec<Step<'_>> {
    let micro_batches: Vec<&[u32]> = order.chunks(micro_batch.max(1)).collect();
    let steps = micro_batches.chunks(accumulation.max(1));
    steps
        .map(|group| Step {
            micro_batches: group.to_vec(),
        })
        .collect()
}

/// Returns how many steps [`steps`] gives, without making them.
pub fn n_steps(n_rows: usize, micro_batch: usize, accumulation: usize) -> usize {
    n_rows.div_ceil(micro_batch.max(1)).div_ceil(accumulation.max(1))
}

/// Most batches that one group of [`group_by_length`] spans.
const GROUPED_BATCHES_MAX: usize = 50;

/// Orders rows so that a batch holds rows of like length: groups of up to 50 batches in the given random order, each group sorted by
/// falling length, and the longest row of all moved to the front so that too little memory shows at once.
///
/// The same as Transformers' `LengthGroupedSampler` when `order` is `randperm` of its generator and `batch` counts the rows of a step.
/// Equal lengths keep their random order. Rows that `lengths` does not know count as length 0.
pub fn group_by_length(order: &[u32], lengths: &[usize], batch: usize) -> Vec<u32> {
    let batch = batch.max(1);
    let length = |row: u32| lengths.get(row as usize).copied().unwrap_or(0);
    let batches = (order.len() / batch.saturating_mul(4)).clamp(1, GROUPED_BATCHES_MAX);
    let mut rows = order.to_vec();
    let group_rows = batches.saturating_mul(batch);
    for group in rows.chunks_mut(group_rows) {
        group.sort_by_key(|&row| Reverse(length(row)));
    }
    // The first of the longest, should several groups begin with one.
    let starts = (0..rows.len()).step_by(group_rows);
    if let Some(longest) = starts.min_by_key(|&start| Reverse(length(rows[start]))) {
        rows.swap(0, longest);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_permutation(rows: &[u32], n: usize) -> bool {
        let mut sorted = rows.to_vec();
        sorted.sort_unstable();
        sorted.into_iter().eq(0..n as u32)
    }

    const ORDERS: [EpochOrder; 4] = [
        EpochOrder::AsGiven,
        EpochOrder::SeedPlusEpoch,
        EpochOrder::OneGenerator,
        EpochOrder::DrawnSeeds,
    ];

    #[test]
    fn every_order_visits_each_row_once() {
        for order in ORDERS {
            for n in [0, 1, 2, 3, 623, 624, 625, 5000] {
                for epoch in 0..3 {
                    assert!(is_permutation(&order.rows(42, n, epoch), n), "{order:?} {n} {epoch}");
                }
            }
        }
    }

    #[test]
    fn epochs_differ_and_seeds_repeat() {
        for order in &ORDERS[1..] {
            assert_ne!(order.rows(42, 100, 0), order.rows(42, 100, 1));
            assert_ne!(order.rows(42, 100, 0), order.rows(43, 100, 0));
            assert_eq!(order.rows(7, 100, 2), order.rows(7, 100, 2));
        }
    }

    // Skipping what earlier epochs drew must leave the generator where drawing it does.
    #[test]
    fn one_generator_goes_on_from_epoch_to_epoch() {
        let mut generator = TorchGenerator::seeded(5);
        for epoch in 0..4 {
            assert_eq!(EpochOrder::OneGenerator.rows(5, 77, epoch), generator.permutation(77));
            generator.permutation(77);
        }
    }

    #[test]
    fn a_short_last_group_still_steps() {
        let order: Vec<u32> = (0..19).collect();
        for (batch, accumulation) in [(4, 4), (1, 1), (3, 2), (100, 7), (0, 0)] {
            let steps = steps(&order, batch, accumulation);
            assert_eq!(steps.len(), n_steps(19, batch, accumulation));
            let rows: Vec<u32> = steps.iter().flat_map(|step| step.micro_batches.concat()).collect();
            assert_eq!(rows, order, "batch {batch} accumulation {accumulation}");
        }
        assert_eq!(super::steps(&order, 4, 4)[1].n_rows(), 3);
        assert_eq!(n_steps(0, 4, 4), 0);
    }

    #[test]
    fn grouping_keeps_every_row_sorts_groups_and_starts_with_the_longest() {
        for n in [0, 1, 5, 64, 999] {
            let order = TorchGenerator::seeded(n as u64).permutation(n);
            let mut generator = TorchGenerator::seeded(9);
            let lengths: Vec<usize> = (0..n).map(|_| (generator.word() % 50) as usize).collect();
            for batch in [1, 4, 16] {
                let grouped = group_by_length(&order, &lengths, batch);
                assert!(is_permutation(&grouped, n));
                let longest = lengths.iter().max().copied().unwrap_or(0);
                assert!(grouped.first().is_none_or(|&row| lengths[row as usize] == longest));
            }
        }
    }

    // Within a batch the lengths must be closer together than chance makes them.
    #[test]
    fn grouping_saves_padding() {
        let order = TorchGenerator::seeded(1).permutation(1000);
        let mut generator = TorchGenerator::seeded(2);
        let lengths: Vec<usize> = (0..1000).map(|_| 1 + (generator.word() % 500) as usize).collect();
        let padded = |rows: &[u32]| -> usize {
            let batches = rows.chunks(8);
            batches
                .map(|batch| batch.len() * batch.iter().map(|&row| lengths[row as usize]).max().unwrap_or(0))
                .sum()
        };
        let grouped = group_by_length(&order, &lengths, 8);
        let needed: usize = lengths.iter().sum();
        assert!(padded(&grouped) - needed < (padded(&order) - needed) / 5);
    }
}
