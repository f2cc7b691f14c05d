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

    /// Returns those of each sequence, to be changed.
    pub fn split(&mut self) -> Vec<&mut [f32]> {
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.sort_unstable_by_key(|sequence| self.rows[*sequence].start);
        let mut parts: Vec<&mut [f32]> = Vec::new();
        parts.resize_with(order.len(), Default::default);
        let (mut rest, mut at) = (&mut self.numbers[..], 0);
        for sequence in order {
            let rows = &self.rows[sequence];
            if !rows.is_empty() {
                rest = &mut rest[(rows.start - at) * self.vocab_size..];
                parts[sequence] = rest.split_off_mut(..rows.len() * self.vocab_size).unwrap_or_default();
                at = rows.end;
            }
        }
        parts
    }

    /// Forgets all, and takes rows of so many numbers from now on.
    pub fn restart(&mut self, vocab_size: usize) {
        self.vocab_size = vocab_size;
        self.rows.clear();
    }

    /// Takes the rows of one more sequence from elsewhere, `[n, vocab]`.
    ///
    /// # Panics
    /// If they are no whole rows.
    pub fn push(&mut self, rows: &[f32]) {
        assert!(rows.len().is_multiple_of(self.vocab_size.max(1)), "whole rows");
        let start = self.rows.iter().map(|rows| rows.end).max().unwrap_or(0);
        self.rows.push(start..start + rows.len() / self.vocab_size.max(1));
        self.numbers.truncate(start * self.vocab_size);
        self.numbers.extend_from_slice(rows);
    }

    /// Returns those of a sequence row by row.
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
        let len = n_rows * vocab_size;
        if self.numbers.len() < len {
            self.numbers.resize(len, 0.0);
        }
        &mut self.numbers[..len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: rows come back with their sequence, in whatever order they lie, and memory of a larger batch before is no part of a smaller one.
    #[test]
    fn each_sequence_has_its_own_rows() {
        let mut logits = Logits::default();
        logits.lay_out(1, 3, 4, [(0, 0..4)].into_iter()).fill(7.0);
        let wanted = [(0, 2..3), (2, 0..2)];
        let all = logits.lay_out(3, 3, 3, wanted.into_iter());
        all.iter_mut()
            .enumerate()
            .for_each(|(index, number)| *number = index as f32);
        assert_eq!(logits.of(0), [6.0, 7.0, 8.0]);
        assert!(logits.of(1).is_empty());
        assert_eq!(logits.rows(2).nth(1), Some(&[3.0, 4.0, 5.0][..]));
        let copies: Vec<Vec<f32>> = (0..3).map(|sequence| logits.of(sequence).to_vec()).collect();
        assert_eq!(logits.split(), copies);
        logits.restart(2);
        for rows in [&[1.0, 2.0][..], &[], &[3.0, 4.0, 5.0, 6.0]] {
            logits.push(rows);
        }
        assert_eq!(logits.split(), [&[1.0, 2.0][..], &[], &[3.0, 4.0, 5.0, 6.0]]);
    }
}
