//! torch's CPU generator, as far as `manual_seed`, `randperm` and the seeds that samplers draw go.
//!
//! Source: orders recorded from torch 2.13 (see `tests/`). torch keeps only the low 32 bits of a seed. Its permutation takes the next word
//! modulo the rows that are left, for fewer rows than 2^32 / 20; [`ROWS_MAX`] lies below that.

use super::mt19937::Mt19937;
use crate::limits::ROWS_MAX;

/// torch's CPU generator.
#[derive(Clone)]
pub struct TorchGenerator {
    twister: Mt19937,
}

impl TorchGenerator {
    /// Seeds as `torch.manual_seed(seed)` and `Generator().manual_seed(seed)` do.
    pub fn seeded(seed: u64) -> Self {
        Self {
            twister: Mt19937::from_word(seed as u32),
        }
    }

    /// Returns the next word, which every draw is made of.
    pub fn word(&mut self) -> u32 {
        self.twister.next_u32()
    }

    /// Returns what `torch.empty((), dtype=torch.int64).random_().item()` gives: the seed that a sampler without a generator draws for
    /// each epoch. 63 bits, the high word first.
    pub fn sampler_seed(&mut self) -> u64 {
        let high = u64::from(self.word());
        let low = u64::from(self.word());
        ((high << 32) | low) & (u64::MAX >> 1)
    }

    /// Returns the rows as they stand.
    pub(crate) fn identity(n: usize) -> Vec<u32> {
        assert!(n <= ROWS_MAX, "{n} rows are above ROWS_MAX");
        (0..n as u32).collect()
    }

    /// Leaves the generator where [`TorchGenerator::permutation`] would.
    pub(crate) fn skip_permutation(&mut self, n: usize) {
        for _ in 1..n {
            self.word();
        }
    }

    /// Returns `torch.randperm(n)`.
    ///
    /// # Panics
    /// If `n` is above [`ROWS_MAX`], which no data set that was read has.
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut rows = Self::identity(n);
        for i in 0..n.saturating_sub(1) {
            let left = (n - i) as u32;
            let chosen = i + (self.word() % left) as usize;
            rows.swap(i, chosen);
        }
        rows
    }
}
