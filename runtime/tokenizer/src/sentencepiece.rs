//! SentencePiece vocabularies with scores (`tokenizer.ggml.model = llama`): joins neighbours, best score first.
//!
//! Spaces are written `▁`; a character that is no token falls back to its bytes. Ties go to the leftmost pair.
//! Where no token holds a space after another character, joining never crosses the beginning of a word, and words are worked out one by
//! one with a cache. Cost: `O(n log n)` for `n` characters, each look-up bounded by the longest token.

use crate::cache::WordCache;
use crate::vocabulary::Vocabulary;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// The end of the chain of symbols.
const END: u32 = u32::MAX;

/// How text becomes tokens by scores.
#[derive(Debug)]
pub(crate) struct SentencePiece {
    byte_tokens: Vec<Option<u32>>,
    unknown: Option<u32>,
    /// A space goes before text that follows a special token or nothing.
    add_space_prefix: bool,
    /// No token reaches into the next word.
    by_words: bool,
    cache: WordCache,
}

/// How a space is written.
pub(crate) const MARKER: &str = "▁";

#[derive(Clone, Copy, Debug)]
struct Symbol {
    start: u32,
    /// Equal to `start` once the symbol was joined to its left neighbour.
    end: u32,
    previous: u32,
    next: u32,
}

#[derive(Debug, PartialEq)]
struct Waiting {
    score: f32,
    left: u32,
    right: u32,
    bytes: u32,
}

impl Eq for Waiting {}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl SentencePiece {
    /// Finds the byte tokens of the vocabulary.
    pub(crate) fn new(vocabulary: &Vocabulary, unknown: Option<u32>, add_space_prefix: bool) -> Self {
        let byte_tokens = (0..=255u8)
            .map(|byte| {
                vocabulary
                    .id(format!("<0x{byte:02X}>").as_bytes())
                    .or_else(|| vocabulary.id(&[byte]))
            })
            .collect();
        Self {
            byte_tokens,
            unknown,
            add_space_prefix,
            by_words: never_crosses_words(vocabulary),
            cache: WordCache::default(),
        }
    }

    /// Appends the tokens of `text`; `after_special` says that nothing or a special token comes before it.
    pub(crate) fn encode(&self, vocabulary: &Vocabulary, text: &str, after_special: bool, out: &mut Vec<u32>) {
        let mut spaced = String::with_capacity(text.len() + text.len() / 2 + 3);
        if self.add_space_prefix && after_special {
            spaced.push('▁');
        }
        for part in text.split_inclusive(' ') {
            match part.strip_suffix(' ') {
                Some(word) => spaced.extend([word, "▁"]),
                None => spaced.push_str(part),
            }
        }
        let mut cache = self.cache.session();
        let mut rest = spaced.as_str();
        while !rest.is_empty() {
            let word = if self.by_words { first_word(rest) } else { rest };
            cache.tokens(word, out, |out| self.encode_word(vocabulary, word, out));
            rest = &rest[word.len()..];
        }
    }

    fn encode_word(&self, vocabulary: &Vocabulary, word: &str, out: &mut Vec<u32>) {
        let symbols = join(vocabulary, word.as_bytes(), symbols_of(word));
        let mut at = 0;
        while let Some(symbol) = symbols.get(at as usize) {
            let bytes = &word.as_bytes()[symbol.start as usize..symbol.end as usize];
            match vocabulary.id(bytes) {
                Some(token) => out.push(token),
                None => out.extend(
                    bytes
                        .iter()
                        .filter_map(|byte| self.byte_tokens[usize::from(*byte)].or(self.unknown)),
                ),
            }
            at = symbol.next;
        }
    }
}

/// Says whether no token holds a space after another character, so that words can be worked out one by one.
pub(crate) fn never_crosses_words(vocabulary: &Vocabulary) -> bool {
    (0..vocabulary.len() as u32).all(|id| !vocabulary.text(id).trim_start_matches(MARKER).contains(MARKER))
}

/// Returns the spaces that `text` begins with and the word after them.
pub(crate) fn first_word(text: &str) -> &str {
    let spaces = text.len() - text.trim_start_matches(MARKER).len();
    let word = text[spaces..].find(MARKER).unwrap_or(text.len() - spaces);
    &text[..spaces + word]
}

fn symbols_of(text: &str) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = text
        .char_indices()
        .enumerate()
        .map(|(at, (start, character))| Symbol {
            start: start as u32,
            end: (start + character.len_utf8()) as u32,
            previous: (at as u32).wrapping_sub(1),
            next: at as u32 + 1,
        })
        .collect();
    if let Some(last) = symbols.last_mut() {
        last.next = END;
    }
    symbols
}

/// Joins neighbours whose text together is a token, best score first, until none is left.
fn join(vocabulary: &Vocabulary, text: &[u8], mut symbols: Vec<Symbol>) -> Vec<Symbol> {
    let mut queue = BinaryHeap::new();
    let wait = |symbols: &[Symbol], queue: &mut BinaryHeap<Waiting>, left: u32, right: u32| {
        let (start, end) = (symbols[left as usize].start, symbols[right as usize].end);
        let bytes = &text[start as usize..end as usize];
        if bytes.len() > vocabulary.token_bytes_max() {
            return;
        }
        if let Some(token) = vocabulary.id(bytes) {
            queue.push(Waiting {
                score: vocabulary.score(token),
                left,
                right,
                bytes: end - start,
            });
        }
    };
    for right in 1..symbols.len() as u32 {
        wait(&symbols, &mut queue, right - 1, right);
    }
    while let Some(Waiting { left, right, bytes, .. }) = queue.pop() {
        let (one, other) = (symbols[left as usize], symbols[right as usize]);
        let gone = one.start == one.end || other.start == other.end;
        if gone || other.end - one.start != bytes {
            continue;
        }
        symbols[right as usize].end = other.start;
        symbols[left as usize].end = other.end;
        symbols[left as usize].next = other.next;
        if other.next != END {
            symbols[other.next as usize].previous = left;
            wait(&symbols, &mut queue, left, other.next);
        }
        if one.previous != END {
            wait(&symbols, &mut queue, one.previous, left);
        }
    }
    symbols
}
