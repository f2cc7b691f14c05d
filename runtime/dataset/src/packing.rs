//! Several short rows in one training sequence, so that nothing is spent on padding. Pure: lengths in, row numbers out.
//!
//! Best-fit decreasing: rows by falling length, each into the fullest sequence that still has room. At most 11/9 of the best possible
//! number of sequences, plus 4 (Johnson et al., 1974); O(n log n). Rows are never cut: attention stays inside each row, whose positions
//! begin again at 0.

use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Rows shared out over sequences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packing {
    /// The sequences, in the order in which they were begun.
    pub sequences: Vec<Pack>,
    /// Rows longer than a sequence, in the order given. They are in no sequence.
    pub over_long: Vec<u32>,
    /// Rows without a token, in the order given. They are in no sequence.
    pub empty: Vec<u32>,
}

/// The rows of one sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pack {
    /// Row numbers, longest first.
    pub rows: Vec<u32>,
    /// Tokens of all of them.
    pub n_tokens: usize,
}

/// Where each row of a sequence lies, and at which position each token stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Position of each token inside its own row. `[n_tokens]`
    pub positions: Vec<u32>,
    /// Where each row begins, and the end of the last: row `i` is `boundaries[i]..boundaries[i + 1]`. `[n_rows + 1]`
    pub boundaries: Vec<usize>,
}

/// Packs rows into sequences of at most `tokens_max` tokens. `order` gives the rows and breaks ties between equal lengths, so that
/// a shuffled order packs differently every epoch. Rows that `lengths` does not know count as empty.
pub fn pack(order: &[u32], lengths: &[usize], tokens_max: usize) -> Packing {
    let length = |row: u32| lengths.get(row as usize).copied().unwrap_or(0);
    let mut packing = Packing::default();
    let mut sorted = Vec::with_capacity(order.len());
    for &row in order {
        match length(row) {
            0 => packing.empty.push(row),
            n if n > tokens_max => packing.over_long.push(row),
            _ => sorted.push(row),
        }
    }
    sorted.sort_by_key(|&row| Reverse(length(row)));
    // (room left, sequence): the first one that is large enough is the fullest, and of equals the oldest.
    let mut rooms: BTreeSet<(usize, usize)> = BTreeSet::new();
    for row in sorted {
        let needed = length(row);
        let room = rooms.range((needed, 0)..).next().copied();
        let (left, sequence) = room.unwrap_or_else(|| {
            packing.sequences.push(Pack::default());
            (tokens_max, packing.sequences.len() - 1)
        });
        rooms.remove(&(left, sequence));
        if left > needed {
            rooms.insert((left - needed, sequence));
        }
        let pack = &mut packing.sequences[sequence];
        pack.rows.push(row);
        pack.n_tokens += needed;
    }
    packing
}

impl Pack {
    /// Returns where the rows of this sequence lie. `lengths` are those that it was packed with.
    pub fn layout(&self, lengths: &[usize]) -> Layout {
        let mut positions = Vec::with_capacity(self.n_tokens);
        let mut boundaries = vec![0];
        for &row in &self.rows {
            let n = lengths.get(row as usize).copied().unwrap_or(0);
            positions.extend((0..n).map(|position| position as u32));
            boundaries.push(positions.len());
        }
        Layout { positions, boundaries }
    }
}

impl Packing {
    /// Returns the tokens that are no padding as a share of `tokens_max` times the sequences; 1 without sequences.
    pub fn fill(&self, tokens_max: usize) -> f64 {
        let tokens: usize = self.sequences.iter().map(|pack| pack.n_tokens).sum();
        let room = self.sequences.len().saturating_mul(tokens_max);
        if room == 0 { 1.0 } else { tokens as f64 / room as f64 }
    }
}

/// Rows longer than a context, and what cutting them would lose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverLong {
    /// Row number and its tokens, in row order.
    pub rows: Vec<(u32, usize)>,
    /// Tokens beyond the limit, in all.
    pub n_tokens_beyond: usize,
}

/// Finds the rows of more than `tokens_max` tokens.
pub fn over_long(lengths: &[usize], tokens_max: usize) -> OverLong {
    let rows = lengths.iter().enumerate().filter(|(_, n)| **n > tokens_max);
    let rows: Vec<(u32, usize)> = rows.map(|(row, n)| (row as u32, *n)).collect();
    let n_tokens_beyond = rows
        .iter()
        .fold(0usize, |sum, (_, n)| sum.saturating_add(n - tokens_max));
    OverLong { rows, n_tokens_beyond }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::TorchGenerator;

    /// The slow obvious version: looks at every sequence for every row.
    fn pack_slowly(order: &[u32], lengths: &[usize], tokens_max: usize) -> Vec<Pack> {
        let fits = |row: &&u32| (1..=tokens_max).contains(&lengths[**row as usize]);
        let mut sorted: Vec<u32> = order.iter().filter(fits).copied().collect();
        sorted.sort_by_key(|&row| Reverse(lengths[row as usize]));
        let mut sequences: Vec<Pack> = Vec::new();
        for row in sorted {
            let n = lengths[row as usize];
            let open = sequences.iter_mut().filter(|pack| pack.n_tokens + n <= tokens_max);
            let fullest = open.min_by_key(|pack| tokens_max - pack.n_tokens);
            match fullest {
                Some(pack) => {
                    pack.rows.push(row);
                    pack.n_tokens += n;
                }
                None => sequences.push(Pack {
                    rows: vec![row],
                    n_tokens: n,
                }),
            }
        }
        sequences
    }

    fn random_lengths(seed: u64, n: usize, max: u32) -> Vec<usize> {
        let mut generator = TorchGenerator::seeded(seed);
        (0..n).map(|_| (generator.word() % (max + 1)) as usize).collect()
    }

    #[test]
    fn it_packs_as_the_slow_version_does() {
        for seed in 0..60 {
            let n = (seed * 7 % 200) as usize;
            let lengths = random_lengths(seed, n, 40 + seed as u32);
            let order = TorchGenerator::seeded(seed + 1000).permutation(n);
            for tokens_max in [1, 17, 64, 100] {
                let packing = pack(&order, &lengths, tokens_max);
                assert_eq!(
                    packing.sequences,
                    pack_slowly(&order, &lengths, tokens_max),
                    "seed {seed}"
                );
            }
        }
    }

    // Each row is in exactly one place, no sequence overflows, and no two sequences could be one.
    #[test]
    fn nothing_is_lost_and_nothing_overflows() {
        for seed in 0..40 {
            let lengths = random_lengths(seed, 300, 90);
            let order = TorchGenerator::seeded(seed).permutation(300);
            let packing = pack(&order, &lengths, 64);
            let mut seen: Vec<u32> = packing.sequences.iter().flat_map(|pack| pack.rows.clone()).collect();
            seen.extend(&packing.over_long);
            seen.extend(&packing.empty);
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..300));
            for pack in &packing.sequences {
                assert!((1..=64).contains(&pack.n_tokens));
                assert_eq!(
                    pack.n_tokens,
                    pack.rows.iter().map(|&row| lengths[row as usize]).sum::<usize>()
                );
            }
            let mut tokens: Vec<usize> = packing.sequences.iter().map(|pack| pack.n_tokens).collect();
            tokens.sort_unstable();
            assert!(
                tokens.len() < 2 || tokens[0] + tokens[1] > 64,
                "two sequences fit into one"
            );
            assert!(packing.over_long.iter().all(|&row| lengths[row as usize] > 64));
            assert!(packing.empty.iter().all(|&row| lengths[row as usize] == 0));
        }
    }

    // Against the bound that no packing can beat: all tokens divided by the room of a sequence.
    #[test]
    fn chats_of_common_lengths_fill_their_sequences() {
        let lengths: Vec<usize> = random_lengths(3, 2000, 600).iter().map(|n| n + 50).collect();
        let order = TorchGenerator::seeded(3).permutation(2000);
        let packing = pack(&order, &lengths, 2048);
        assert!(packing.fill(2048) > 0.98, "{}", packing.fill(2048));
        let best = lengths.iter().sum::<usize>().div_ceil(2048);
        assert!(packing.sequences.len() <= best + best / 50 + 1);
    }

    #[test]
    fn positions_begin_again_with_each_row() {
        let lengths = [3, 1, 2];
        let packing = pack(&[0, 1, 2], &lengths, 6);
        assert_eq!(packing.sequences[0].rows, [0, 2, 1]);
        let layout = packing.sequences[0].layout(&lengths);
        assert_eq!(layout.positions, [0, 1, 2, 0, 1, 0]);
        assert_eq!(layout.boundaries, [0, 3, 5, 6]);
        assert_eq!(Pack::default().layout(&lengths).boundaries, [0]);
    }

    #[test]
    fn over_long_rows_are_told_with_what_is_lost() {
        let told = over_long(&[3, 10, 5, 12], 9);
        assert_eq!(told.rows, [(1, 10), (3, 12)]);
        assert_eq!(told.n_tokens_beyond, 4);
        assert_eq!(over_long(&[usize::MAX, usize::MAX], 0).n_tokens_beyond, usize::MAX);
        assert_eq!(pack(&[0], &[5], 0).over_long, [0]);
    }

    #[test]
    fn the_order_decides_between_equal_lengths() {
        let lengths = [4; 6];
        assert_ne!(
            pack(&[0, 1, 2, 3, 4, 5], &lengths, 8),
            pack(&[5, 2, 0, 1, 3, 4], &lengths, 8)
        );
    }
}
