//! Remembers the tokens of words that were seen before: prose repeats itself, and merging a word costs ten look-ups or more.
//!
//! Bounded in words and in bytes. One encoding at a time uses the cache; a second one at the same moment works without it, so that
//! encodings never wait for each other.

use crate::hash::SeededState;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

/// Words longer than this are worked out afresh each time; they hardly ever repeat.
const WORD_BYTES_MAX: usize = 64;

/// Words that the cache holds before it starts over: a few megabytes at most.
const WORDS_MAX: usize = 32_768;

type Words = HashMap<Box<[u8]>, Box<[u32]>, SeededState>;

/// The tokens of words that were seen before.
#[derive(Debug, Default)]
pub(crate) struct WordCache(Mutex<Words>);

/// The cache as one encoding sees it.
pub(crate) struct Session<'a>(Option<MutexGuard<'a, Words>>);

impl WordCache {
    /// Takes the cache for one encoding, when no other has it.
    pub(crate) fn session(&self) -> Session<'_> {
        Session(self.0.try_lock().ok())
    }
}

impl Session<'_> {
    /// Appends the tokens of `word`, worked out by `make` when they are not known.
    pub(crate) fn tokens(&mut self, word: &str, out: &mut Vec<u32>, make: impl FnOnce(&mut Vec<u32>)) {
        let Some(words) = self.0.as_mut().filter(|_| word.len() <= WORD_BYTES_MAX) else {
            return make(out);
        };
        if let Some(tokens) = words.get(word.as_bytes()) {
            return out.extend_from_slice(tokens);
        }
        let start = out.len();
        make(out);
        if words.len() >= WORDS_MAX {
            words.clear();
        }
        words.insert(word.as_bytes().into(), out[start..].into());
    }
}
