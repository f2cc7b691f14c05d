//! Stop texts across token borders.
//!
//! Text arrives in pieces that end anywhere. A [`StopMatcher`] passes on what can no longer be part of a stop text, holds back the longest
//! end that still can, and ends at the first stop text that is complete.
//!
//! **Invariant:** what is emitted does not depend on where the pieces end: the stop text whose last byte comes first wins, the longest of
//! those that end there. **Invariant:** nothing of that stop text is emitted.
//!
//! One Knuth-Morris-Pratt state a stop text: each byte of text costs an amortised constant for each stop text, whatever the texts are.

use crate::SamplingError;

/// Most stop texts of one request. An API client sends a handful; each costs a step for every byte.
pub const STOPS_MAX: usize = 256;

/// Longest stop text in bytes. It bounds how much is held back.
pub const STOP_BYTES_MAX: usize = 4096;

/// What one piece of text led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Emit {
    /// Text that may be shown now; may be empty.
    pub text: String,
    /// A stop text is complete: nothing more will come.
    pub stopped: bool,
}

/// Looks for stop texts in a stream of text.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    held: String,
    matched: Option<usize>,
}

#[derive(Clone, Debug)]
struct Pattern {
    text: String,
    /// `fallback[i]`: length of the longest proper prefix of `text[..=i]` that is also its suffix.
    fallback: Vec<usize>,
    /// How many bytes of `text` the stream ends with now.
    n_matched: usize,
}

impl StopMatcher {
    /// Prepares to look for these texts. Empty ones are ignored: they would end every answer before it begins.
    ///
    /// # Errors
    /// [`SamplingError::StopLimit`] beyond [`STOPS_MAX`] or [`STOP_BYTES_MAX`].
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Result<Self, SamplingError> {
        if stops.len() > STOPS_MAX {
            return Err(SamplingError::StopLimit {
                what: "the number of stop texts",
                value: stops.len(),
                limit: STOPS_MAX,
            });
        }
        let mut patterns = Vec::new();
        for text in stops.iter().map(AsRef::as_ref).filter(|text| !text.is_empty()) {
            if text.len() > STOP_BYTES_MAX {
                return Err(SamplingError::StopLimit {
                    what: "the length in bytes of a stop text",
                    value: text.len(),
                    limit: STOP_BYTES_MAX,
                });
            }
            patterns.push(Pattern::new(text));
        }
        Ok(Self {
            patterns,
            held: String::new(),
            matched: None,
        })
    }

    /// Takes the next piece and returns what may be shown. After a stop everything is swallowed.
    pub fn push(&mut self, piece: &str) -> Emit {
        if self.matched.is_some() {
            return Emit {
                text: String::new(),
                stopped: true,
            };
        }
        if self.patterns.is_empty() {
            return Emit {
                text: piece.to_owned(),
                stopped: false,
            };
        }
        let n_held = self.held.len();
        self.held.push_str(piece);
        for (offset, &byte) in piece.as_bytes().iter().enumerate() {
            for pattern in &mut self.patterns {
                pattern.advance(byte);
            }
            let complete = self
                .patterns
                .iter()
                .enumerate()
                .filter(|(_, pattern)| pattern.is_complete());
            if let Some((index, pattern)) = complete.max_by_key(|(_, pattern)| pattern.text.len()) {
                self.matched = Some(index);
                let mut text = std::mem::take(&mut self.held);
                text.truncate(n_held + offset + 1 - pattern.text.len());
                return Emit { text, stopped: true };
            }
        }
        // A stop text begins with the first byte of a character, so what is held back does too.
        let n_possible = self.patterns.iter().map(|pattern| pattern.n_matched).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - n_possible);
        Emit {
            text: std::mem::replace(&mut self.held, rest),
            stopped: false,
        }
    }

    /// Returns what is still held back: the stream ended, so it was no stop text. Empty after a stop.
    pub fn finish(&mut self) -> String {
        for pattern in &mut self.patterns {
            pattern.n_matched = 0;
        }
        std::mem::take(&mut self.held)
    }

    /// Returns the stop text that ended the stream.
    pub fn matched(&self) -> Option<&str> {
        self.matched.map(|index| self.patterns[index].text.as_str())
    }
}

impl Pattern {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut fallback = vec![0; bytes.len()];
        let mut length = 0;
        for i in 1..bytes.len() {
            while length > 0 && bytes[i] != bytes[length] {
                length = fallback[length - 1];
            }
            if bytes[i] == bytes[length] {
                length += 1;
            }
            fallback[i] = length;
        }
        Self {
            text: text.to_owned(),
            fallback,
            n_matched: 0,
        }
    }

    /// Takes one byte. Never called on a complete pattern: the matcher ends there.
    fn advance(&mut self, byte: u8) {
        let bytes = self.text.as_bytes();
        while self.n_matched > 0 && bytes[self.n_matched] != byte {
            self.n_matched = self.fallback[self.n_matched - 1];
        }
        if bytes[self.n_matched] == byte {
            self.n_matched += 1;
        }
    }

    fn is_complete(&self) -> bool {
        self.n_matched == self.text.len()
    }
}
