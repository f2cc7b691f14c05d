//! Hash tables for the two lookups that tokenizing lives on: text to token id, and pair of symbols to merge.
//!
//! Both are open-addressing tables at a load of at most one half, filled once and then read only. The seed is drawn per table from
//! the process's random state, so a vocabulary made to collide cannot turn loading or encoding quadratic.
//! Cost: one multiply per 8 bytes of text and about one cache miss per lookup.

use std::hash::{BuildHasher, Hasher};

/// The multiplier of the hash: odd, with bits spread evenly (the golden ratio in 64 bits).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Draws a seed that the author of a file cannot know.
fn random_seed() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish() | 1
}

/// Multiplies into 128 bits and folds the halves, so that every input bit reaches every output bit.
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide as u64) ^ ((wide >> 64) as u64)
}

/// Returns the seeded hash of `bytes`.
pub(crate) fn hash_bytes(seed: u64, bytes: &[u8]) -> u64 {
    let mut hash = seed ^ (bytes.len() as u64);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = [0u8; 8];
        word.copy_from_slice(chunk);
        hash = fold(hash ^ u64::from_le_bytes(word), MULTIPLIER ^ seed.rotate_left(32));
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let mut word = [0u8; 8];
        word[..rest.len()].copy_from_slice(rest);
        hash = fold(hash ^ u64::from_le_bytes(word), MULTIPLIER ^ seed.rotate_left(32));
    }
    fold(hash, MULTIPLIER)
}

/// A [`Hasher`] over [`hash_bytes`] for the standard map that caches words.
#[derive(Clone, Debug)]
pub(crate) struct SeededState(u64);

impl Default for SeededState {
    fn default() -> Self {
        Self(random_seed())
    }
}

impl BuildHasher for SeededState {
    type Hasher = SeededHasher;

    fn build_hasher(&self) -> SeededHasher {
        SeededHasher { seed: self.0, hash: 0 }
    }
}

/// The running state of [`SeededState`].
pub(crate) struct SeededHasher {
    seed: u64,
    hash: u64,
}

impl Hasher for SeededHasher {
    fn finish(&self) -> u64 {
        self.hash
    }

    fn write(&mut self, bytes: &[u8]) {
        self.hash = hash_bytes(self.seed ^ self.hash.rotate_left(17), bytes);
    }
}

/// Slot of a table that holds nothing.
const EMPTY: u32 = u32::MAX;

/// Finds the number of a text among texts that are stored elsewhere.
///
/// **Invariant:** the closure given to `insert` and `get` returns, for every number inserted, the same text each time.
#[derive(Debug)]
pub(crate) struct TextIndex {
    slots: Vec<u32>,
    seed: u64,
}

impl TextIndex {
    /// Makes an index with room for `count` texts.
    pub(crate) fn with_capacity(count: usize) -> Self {
        let slots = (count.max(8) * 2).next_power_of_two();
        Self {
            slots: vec![EMPTY; slots],
            seed: random_seed(),
        }
    }

    /// Adds `number` under its text; the first number of a text stays. Returns the number that the text now has.
    pub(crate) fn insert<'a>(&mut self, number: u32, text_of: impl Fn(u32) -> &'a [u8]) -> u32 {
        let text = text_of(number);
        let mask = self.slots.len() - 1;
        let mut slot = hash_bytes(self.seed, text) as usize & mask;
        loop {
            match self.slots[slot] {
                EMPTY => {
                    self.slots[slot] = number;
                    return number;
                }
                present if text_of(present) == text => return present,
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    /// Returns the number of `text`.
    pub(crate) fn get<'a>(&self, text: &[u8], text_of: impl Fn(u32) -> &'a [u8]) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let mut slot = hash_bytes(self.seed, text) as usize & mask;
        loop {
            match self.slots[slot] {
                EMPTY => return None,
                present if text_of(present) == text => return Some(present),
                _ => slot = (slot + 1) & mask,
            }
        }
    }
}

/// What a pair of symbols merges into, and how early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Merge {
    /// Lower merges first.
    pub(crate) rank: u32,
    /// The symbol that the pair becomes.
    pub(crate) merged: u32,
}

/// Maps a pair of symbols to their merge.
#[derive(Debug)]
pub(crate) struct PairTable {
    entries: Vec<(u64, Merge)>,
    seed: u64,
}

/// The key of an entry that holds nothing; no symbol has the number `u32::MAX`.
const NO_PAIR: u64 = u64::MAX;

impl PairTable {
    /// Makes a table with room for `count` pairs.
    pub(crate) fn with_capacity(count: usize) -> Self {
        let slots = (count.max(8) * 2).next_power_of_two();
        Self {
            entries: vec![(NO_PAIR, Merge { rank: 0, merged: 0 }); slots],
            seed: random_seed(),
        }
    }

    fn slot(&self, key: u64) -> usize {
        fold(key ^ self.seed, MULTIPLIER) as usize & (self.entries.len() - 1)
    }

    /// Adds a merge; the first merge of a pair stays.
    pub(crate) fn insert(&mut self, left: u32, right: u32, merge: Merge) {
        let key = u64::from(left) << 32 | u64::from(right);
        let mut slot = self.slot(key);
        while self.entries[slot].0 != NO_PAIR {
            if self.entries[slot].0 == key {
                return;
            }
            slot = (slot + 1) & (self.entries.len() - 1);
        }
        self.entries[slot] = (key, merge);
    }

    /// Returns the merge of a pair.
    pub(crate) fn get(&self, left: u32, right: u32) -> Option<Merge> {
        let key = u64::from(left) << 32 | u64::from(right);
        if key == NO_PAIR {
            return None;
        }
        let mut slot = self.slot(key);
        loop {
            let (present, merge) = self.entries[slot];
            if present == key {
                return Some(merge);
            }
            if present == NO_PAIR {
                return None;
            }
            slot = (slot + 1) & (self.entries.len() - 1);
        }
    }
}
