//! Unigram vocabularies (`tokenizer.ggml.model = t5`): of all ways to write a word, the one whose scores add up highest.
//!
//! Text is first normalised by the file's character map (run by the `tokenizers` crate, fenced), spaces are written `▁`, and a character
//! that no token begins with becomes the unknown token; neighbouring unknown characters become one. Cost: one walk of the tree of
//! tokens at each place of a text.

use crate::cache::WordCache;
use crate::error::TokenizerError;
use crate::hf::{check_charsmap_table, fenced};
use crate::sentencepiece::{MARKER, first_word, never_crosses_words};
use crate::trie::{Entry, Trie};
use crate::vocabulary::{TokenKind, Vocabulary, check_limit};
use tokenizers::normalizers::Precompiled;
use tokenizers::{NormalizedString, Normalizer};

/// How much worse an unknown character is than the worst token.
const UNKNOWN_PENALTY: f64 = 10.0;

/// The longest character map; published ones have about 300 KB.
pub(crate) const CHARSMAP_BYTES_MAX: usize = 16 << 20;

/// How white space is treated before words are looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spacing {
    /// A space goes before each text.
    pub(crate) prefix: bool,
    /// Runs of spaces become one, and those at the ends none.
    pub(crate) collapse: bool,
}

/// How text becomes tokens by the best sum of scores.
#[derive(Debug)]
pub(crate) struct Unigram {
    tokens: Trie,
    normalizer: Option<Precompiled>,
    spacing: Spacing,
    unknown: Option<u32>,
    unknown_score: f64,
    by_words: bool,
    cache: WordCache,
}

/// The best way to write a text up to some place.
#[derive(Clone, Copy, Debug)]
struct Best {
    score: f64,
    start: u32,
    token: Option<u32>,
}

impl Unigram {
    /// Builds the tree of tokens; `charsmap` is empty where the file has none.
    pub(crate) fn new(
        vocabulary: &Vocabulary,
        unknown: Option<u32>,
        spacing: Spacing,
        charsmap: &[u8],
    ) -> Result<Self, TokenizerError> {
        const PART: &str = "tokenizer.ggml.precompiled_charsmap";
        check_limit(
            "length of its character map in bytes",
            charsmap.len(),
            CHARSMAP_BYTES_MAX,
        )?;
        let normalizer = if charsmap.is_empty() {
            None
        } else {
            let announced = charsmap
                .first_chunk()
                .map_or(u64::MAX, |head| u64::from(u32::from_le_bytes(*head)));
            check_charsmap_table(PART, announced, charsmap.len() as u64)?;
            let map =
                fenced(|| Precompiled::from(charsmap)).map_err(|problem| TokenizerError::damaged(PART, problem))?;
            Some(map.map_err(|error| TokenizerError::damaged(PART, error.to_string()))?)
        };
        let mut tokens = Trie::new();
        let mut worst = 0.0f64;
        for id in 0..vocabulary.len() as u32 {
            let score = f64::from(vocabulary.score(id));
            if !score.is_finite() {
                return Err(TokenizerError::damaged(
                    "tokenizer.ggml.scores",
                    "a score is not a finite number",
                ));
            }
            if matches!(vocabulary.kind(id), TokenKind::Normal | TokenKind::Unused) {
                worst = worst.min(score);
                let entry = Entry {
                    id,
                    control: false,
                    takes_space_after: false,
                };
                tokens.insert(vocabulary.bytes(id), entry);
            }
        }
        Ok(Self {
            tokens,
            normalizer,
            spacing,
            unknown,
            unknown_score: worst - UNKNOWN_PENALTY,
            by_words: never_crosses_words(vocabulary),
            cache: WordCache::default(),
        })
    }

    /// Appends the tokens of `text`.
    pub(crate) fn encode(&self, vocabulary: &Vocabulary, text: &str, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let spaced = self.prepare(text)?;
        let mut cache = self.cache.session();
        let mut rest = spaced.as_str();
        while !rest.is_empty() {
            let word = if self.by_words { first_word(rest) } else { rest };
            cache.tokens(word, out, |out| self.encode_word(vocabulary, word, out));
            rest = &rest[word.len()..];
        }
        Ok(())
    }

    /// Normalises a text and writes its spaces as tokens write them.
    fn prepare(&self, text: &str) -> Result<String, TokenizerError> {
        let normal = match &self.normalizer {
            None => text.to_owned(),
            Some(map) => {
                let run = || {
                    let mut normal = NormalizedString::from(text);
                    map.normalize(&mut normal).map(|()| normal.get().to_owned())
                };
                fenced(run)
                    .map_err(|problem| TokenizerError::Encode { problem })?
                    .map_err(|error| TokenizerError::Encode {
                        problem: error.to_string(),
                    })?
            }
        };
        let normal = if self.spacing.collapse {
            normal
                .split(' ')
                .filter(|word| !word.is_empty())
                .collect::<Vec<_>>()
                .join(" ")
        } else {
            normal
        };
        let mut spaced = String::with_capacity(normal.len() + 3);
        if self.spacing.prefix && !normal.is_empty() {
            spaced.push_str(MARKER);
        }
        spaced.push_str(&normal.replace(' ', MARKER));
        Ok(spaced)
    }

    fn encode_word(&self, vocabulary: &Vocabulary, word: &str, out: &mut Vec<u32>) {
        let nothing = Best {
            score: f64::NEG_INFINITY,
            start: 0,
            token: None,
        };
        let mut best = vec![nothing; word.len() + 1];
        best[0].score = 0.0;
        let improve = |end: usize, candidate: Best, best: &mut [Best]| {
            if candidate.score > best[end].score {
                best[end] = candidate;
            }
        };
        for (at, character) in word.char_indices() {
            let before = best[at].score;
            let mut covered = false;
            self.tokens.prefixes(&word.as_bytes()[at..], |entry, len| {
                covered |= len == character.len_utf8();
                let candidate = Best {
                    score: before + f64::from(vocabulary.score(entry.id)),
                    start: at as u32,
                    token: Some(entry.id),
                };
                improve(at + len, candidate, &mut best);
            });
            if !covered {
                let candidate = Best {
                    score: before + self.unknown_score,
                    start: at as u32,
                    token: None,
                };
                improve(at + character.len_utf8(), candidate, &mut best);
            }
        }
        let first = out.len();
        let mut at = word.len();
        let mut after_unknown = false;
        while at > 0 {
            let step = best[at];
            match step.token {
                Some(token) => out.push(token),
                None if !after_unknown => out.extend(self.unknown),
                None => {}
            }
            after_unknown = step.token.is_none();
            at = step.start as usize;
        }
        out[first..].reverse();
    }
}
