//! Byte-pair encoding: cuts text into words, then merges neighbouring symbols of a word, lowest rank first.
//!
//! ```text
//! word   -> one symbol for each byte (byte alphabet) or character (raw UTF-8)
//! queue  <- every neighbouring pair that has a merge, ordered by (rank, place)
//! pop    -> skip when either side has changed since; else join, and queue the two new pairs
//! ```
//! A merge may name parts that are no tokens; such parts are symbols above the last token id and fall apart into bytes at the end.
//! Cost: `O(n log n)` for a word of `n` symbols, whatever the text; words seen before come from a cache.

use crate::bytelevel;
use crate::cache::WordCache;
use crate::error::TokenizerError;
use crate::families::Family;
use crate::hash::{Merge, PairTable, TextIndex};
use crate::split::Splitter;
use crate::vocabulary::{MAX_TEXT_BYTES, Vocabulary, check_limit};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// The most merges that a vocabulary may bring. The largest published ones bring about 515,000.
pub(crate) const MAX_MERGES: usize = 1 << 22;

/// Merges that a thread looks up at least: fewer take less time than starting it.
const MERGES_PER_THREAD: usize = 16 << 10;

/// A symbol that is no token and part of no merge.
const NO_SYMBOL: u32 = u32::MAX;

/// The end of the chain of symbols.
const END: u32 = u32::MAX;

/// How words become tokens by merging.
#[derive(Debug)]
pub(crate) struct Bpe {
    splitter: Arc<Splitter>,
    merges: PairTable,
    /// Texts of symbols that only merges know; their numbers follow the last token id.
    extra: Extra,
    byte_symbols: Vec<u32>,
    ignore_merges: bool,
    raw_utf8: bool,
    unknown: Option<u32>,
    cache: WordCache,
}

#[derive(Debug)]
struct Extra {
    texts: Vec<Box<[u8]>>,
    index: TextIndex,
    base: u32,
}

impl Extra {
    fn id(&self, text: &[u8]) -> Option<u32> {
        self.index
            .get(text, |number| &self.texts[number as usize])
            .map(|number| number + self.base)
    }
}

/// One stretch of a word on its way to becoming a token.
#[derive(Clone, Copy, Debug)]
struct Symbol {
    id: u32,
    start: u32,
    end: u32,
    previous: u32,
    next: u32,
}

/// A merge that waits: `(rank, place of the left symbol, left id, right id, merged id)`, in the order in which merges apply.
type Waiting = Reverse<(u32, u32, u32, u32, u32)>;

/// Memory that one encoding reuses from word to word.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Waiting>,
    written: String,
}

impl Bpe {
    /// Builds the tables from merges written `left right`, in the order of their ranks.
    pub(crate) fn new<'a>(
        vocabulary: &Vocabulary,
        merges: impl ExactSizeIterator<Item = &'a str>,
        family: &Family,
        unknown: Option<u32>,
    ) -> Result<Self, TokenizerError> {
        check_limit("number of merges", merges.len(), MAX_MERGES)?;
        let merges: Vec<&str> = merges.collect();
        let mut table = PairTable::with_capacity(merges.len());
        let known = look_up(vocabulary, &merges);
        let mut extra = ExtraBuilder::new(vocabulary, known.iter().map(Known::n_strange).sum());
        for (rank, (merge, known)) in merges.iter().zip(known).enumerate() {
            let Some((left, right)) = parts(merge) else {
                return Err(TokenizerError::damaged(
                    "merges",
                    format!("merge {rank} is not written as two parts with a space between"),
                ));
            };
            let merged = match known.merged {
                NO_SYMBOL => extra.symbol(&[left, right].concat())?,
                id => id,
            };
            let mut symbol = |known, text| match known {
                NO_SYMBOL => extra.symbol(text),
                id => Ok(id),
            };
            let (left, right) = (symbol(known.left, left)?, symbol(known.right, right)?);
            let merge = Merge {
                rank: rank as u32,
                merged,
            };
            table.insert(left, right, merge);
        }
        let extra = extra.extra;
        let byte_symbols = (0..=255u8)
            .map(|byte| {
                let mut buffer = [0u8; 4];
                let text = bytelevel::char_of(byte).encode_utf8(&mut buffer).as_bytes();
                vocabulary.id(text).or_else(|| extra.id(text)).unwrap_or(NO_SYMBOL)
            })
            .collect();
        Ok(Self {
            splitter: Splitter::of(family.rules)?,
            merges: table,
            extra,
            byte_symbols,
            ignore_merges: family.ignore_merges,
            raw_utf8: family.raw_utf8,
            unknown,
            cache: WordCache::default(),
        })
    }

    /// Appends the tokens of `text`.
    pub(crate) fn encode(&self, vocabulary: &Vocabulary, text: &str, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut scratch = Scratch::default();
        let mut cache = self.cache.session();
        let spaced;
        let text = if self.raw_utf8 {
            spaced = text.replace(' ', "▁");
            &spaced
        } else {
            text
        };
        self.splitter.split(text, |range| {
            let word = &text[range];
            cache.tokens(word, out, |out| self.encode_word(vocabulary, word, &mut scratch, out));
            Ok(())
        })
    }

    fn encode_word(&self, vocabulary: &Vocabulary, word: &str, scratch: &mut Scratch, out: &mut Vec<u32>) {
        if let Some(token) = self.whole_word(vocabulary, word, scratch) {
            out.push(token);
            return;
        }
        self.fill_symbols(vocabulary, word, scratch);
        self.merge(scratch);
        let mut at = 0;
        while let Some(symbol) = scratch.symbols.get(at as usize) {
            self.emit(
                vocabulary,
                &word.as_bytes()[symbol.start as usize..symbol.end as usize],
                symbol.id,
                out,
            );
            at = symbol.next;
        }
    }

    /// Returns the token that the word is as a whole, where the family looks for one.
    fn whole_word(&self, vocabulary: &Vocabulary, word: &str, scratch: &mut Scratch) -> Option<u32> {
        if self.raw_utf8 {
            let lines = word.bytes().all(|byte| byte == b'\n');
            return lines.then(|| vocabulary.id(word.as_bytes())).flatten();
        }
        // A character of the byte alphabet has at most twice the bytes of what it stands for.
        if !self.ignore_merges || word.len() > vocabulary.token_bytes_max() {
            return None;
        }
        scratch.written.clear();
        scratch.written.extend(word.bytes().map(bytelevel::char_of));
        vocabulary.id(scratch.written.as_bytes())
    }

    fn fill_symbols(&self, vocabulary: &Vocabulary, word: &str, scratch: &mut Scratch) {
        let symbols = &mut scratch.symbols;
        symbols.clear();
        let mut push = |id: u32, start: usize, end: usize| {
            let at = symbols.len() as u32;
            symbols.push(Symbol {
                id,
                start: start as u32,
                end: end as u32,
                previous: at.wrapping_sub(1),
                next: at + 1,
            });
        };
        if self.raw_utf8 {
            for (start, character) in word.char_indices() {
                let end = start + character.len_utf8();
                let text = &word.as_bytes()[start..end];
                let id = vocabulary.id(text).or_else(|| self.extra.id(text));
                push(id.unwrap_or(NO_SYMBOL), start, end);
            }
        } else {
            for (start, byte) in word.bytes().enumerate() {
                push(self.byte_symbols[usize::from(byte)], start, start + 1);
            }
        }
        if let Some(last) = symbols.last_mut() {
            last.next = END;
        }
    }

    /// Applies every merge that the symbols allow.
    fn merge(&self, scratch: &mut Scratch) {
        let Scratch { symbols, queue, .. } = scratch;
        queue.clear();
        for left in 1..symbols.len() as u32 {
            self.wait(symbols, queue, left - 1, left);
        }
        while let Some(Reverse((_, left, left_id, right_id, merged))) = queue.pop() {
            let (id, right) = (symbols[left as usize].id, symbols[left as usize].next);
            if id != left_id || right == END || symbols[right as usize].id != right_id {
                continue;
            }
            let Symbol { end, next, .. } = symbols[right as usize];
            symbols[right as usize].id = NO_SYMBOL;
            let symbol = &mut symbols[left as usize];
            (symbol.id, symbol.end, symbol.next) = (merged, end, next);
            let previous = symbol.previous;
            if next != END {
                symbols[next as usize].previous = left;
                self.wait(symbols, queue, left, next);
            }
            if previous != END {
                self.wait(symbols, queue, previous, left);
            }
        }
    }

    fn wait(&self, symbols: &[Symbol], queue: &mut BinaryHeap<Waiting>, left: u32, right: u32) {
        let (left_id, right_id) = (symbols[left as usize].id, symbols[right as usize].id);
        if left_id == NO_SYMBOL || right_id == NO_SYMBOL {
            return;
        }
        if let Some(merge) = self.merges.get(left_id, right_id) {
            queue.push(Reverse((merge.rank, left, left_id, right_id, merge.merged)));
        }
    }

    /// Appends the token of a finished symbol, or those of its bytes when it is no token.
    fn emit(&self, vocabulary: &Vocabulary, bytes: &[u8], symbol: u32, out: &mut Vec<u32>) {
        if symbol < self.extra.base {
            out.push(symbol);
            return;
        }
        let before = out.len();
        for byte in bytes {
            let token = if self.raw_utf8 {
                vocabulary.id(format!("<0x{byte:02X}>").as_bytes())
            } else {
                Some(self.byte_symbols[usize::from(*byte)]).filter(|symbol| *symbol < self.extra.base)
            };
            out.extend(token);
        }
        if out.len() == before {
            out.extend(self.unknown);
        }
    }
}

/// The ids of a merge's texts, [`NO_SYMBOL`] for what is no token.
#[derive(Clone, Copy)]
struct Known {
    left: u32,
    right: u32,
    merged: u32,
}

impl Known {
    /// Returns how many of the texts are no tokens.
    fn n_strange(&self) -> usize {
        let ids = [self.left, self.right, self.merged];
        ids.into_iter().filter(|id| *id == NO_SYMBOL).count()
    }
}

/// Returns the two parts of a merge, written with a space between them.
fn parts(merge: &str) -> Option<(&[u8], &[u8])> {
    // The first character belongs to the left part even when it is a space.
    let space = merge.bytes().skip(1).position(|byte| byte == b' ')? + 1;
    Some((&merge.as_bytes()[..space], &merge.as_bytes()[space + 1..]))
}

/// Looks all merges' texts up, on several threads where there are many: a large vocabulary's are a million look-ups, and a model is not loaded before they are done.
fn look_up(vocabulary: &Vocabulary, merges: &[&str]) -> Vec<Known> {
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let per_thread = merges.len().div_ceil(n_threads).max(MERGES_PER_THREAD);
    let mut known = vec![
        Known {
            left: NO_SYMBOL,
            right: NO_SYMBOL,
            merged: NO_SYMBOL,
        };
        merges.len()
    ];
    let mut shares = known.chunks_mut(per_thread).zip(merges.chunks(per_thread));
    let first = shares.next();
    std::thread::scope(|scope| {
        for (known, merges) in shares {
            scope.spawn(move || look_up_some(vocabulary, merges, known));
        }
        if let Some((known, merges)) = first {
            look_up_some(vocabulary, merges, known);
        }
    });
    known
}

fn look_up_some(vocabulary: &Vocabulary, merges: &[&str], known: &mut [Known]) {
    let (mut joined, mut last) = (Vec::new(), 0);
    for (known, merge) in known.iter_mut().zip(merges) {
        let Some((left, right)) = parts(merge) else { continue };
        joined.clear();
        joined.extend_from_slice(left);
        joined.extend_from_slice(right);
        let id = |text: &[u8]| vocabulary.id(text).unwrap_or(NO_SYMBOL);
        *known = Known {
            left: id(left),
            right: id(right),
            // Vocabularies are numbered as their tokens were merged.
            merged: vocabulary.id_near(&joined, last).unwrap_or(NO_SYMBOL),
        };
        if known.merged != NO_SYMBOL {
            last = known.merged;
        }
    }
}

/// Numbers the texts that merges name.
struct ExtraBuilder<'a> {
    vocabulary: &'a Vocabulary,
    extra: Extra,
    bytes: usize,
}

impl<'a> ExtraBuilder<'a> {
    /// Makes room for so many texts that are no tokens.
    fn new(vocabulary: &'a Vocabulary, n_texts: usize) -> Self {
        Self {
            vocabulary,
            extra: Extra {
                texts: Vec::new(),
                index: TextIndex::with_capacity(n_texts),
                base: vocabulary.len() as u32,
            },
            bytes: 0,
        }
    }

    fn symbol(&mut self, text: &[u8]) -> Result<u32, TokenizerError> {
        if let Some(id) = self.vocabulary.id(text).or_else(|| self.extra.id(text)) {
            return Ok(id);
        }
        self.bytes += text.len();
        check_limit("text of merges in bytes", self.bytes, MAX_TEXT_BYTES)?;
        let number = self.extra.texts.len() as u32;
        self.extra.texts.push(text.into());
        let Extra { texts, index, base } = &mut self.extra;
        index.insert(number, |number| &texts[number as usize]);
        Ok(number + *base)
    }
}
