//! What a forward pass gives.

use std::ops::Range;

/// Logits of a batch, `[n, vocab]` f32 in one piece. Kept and given to [`crate::Model::forward_into`] again, its memory is used again.
#[derive(Clone, Debug, Default)]
pub struct Logits {
    numbers: Vec<f32>,
    vocab_size: usize,
    /// Rows of each sequence.
    rows: Vec<Range<usize>>,
}

impl Logits {
    /// Returns the logits of a sequence of the batch, `[n_logits, vocab]`: of its last tokens, in order; empty where none were asked for.
    ///
    /// # Panics
    /// If the batch had no such sequence.
    pub fn of(&self, sequence: usize) -> &[f32] {
        let rows = &self.rows[sequence];
        &self.numbers[rows.start * self.vocab_size..rows.end * self.vocab_size]
    }

    /// Returns the same, row by row.
    ///
    /// # Panics
    /// If the batch had no such sequence.
    pub fn rows(&self, sequence: usize) -> impl ExactSizeIterator<Item = &[f32]> {
        self.of(sequence).chunks_exact(self.vocab_size.max(1))
    }

    /// Makes room for `n_rows` rows of a batch of `n_sequences`; `wanted` says which are whose. Returns all of them, undefined.
    pub(crate) fn lay_out(
        &mut self,
        n_sequences: usize,
        vocab_size: usize,
        n_rows: usize,
        wanted: impl Iterator<Item = (usize, Range<usize>)>,
    ) -> &mut [f32] {
        self.vocab_size = vocab_size;
        self.rows.clear();
        self.rows.resize(n_sequences, 0..0);
        wanted.for_each(|(sequence, rows)| self.rows[sequence] = rows);
        self.numbers.resize(n_rows * vocab_size, 0.0);
        &mut self.numbers
    }
}
