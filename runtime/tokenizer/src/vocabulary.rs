//! The tokens of a model: their texts, kinds and scores, and the way from a text back to its id.
//!
//! Texts lie end to end in one buffer. A vocabulary may have holes (ids without a text): they decode to nothing and are never
//! produced. It knows nothing of how text is cut into tokens.

use crate::error::TokenizerError;
use crate::hash::TextIndex;

/// The most tokens that a vocabulary may have. The largest published ones have about 260,000.
pub(crate) const MAX_TOKENS: usize = 1 << 22;

/// The most bytes that all texts of a vocabulary may have together.
pub(crate) const MAX_TEXT_BYTES: usize = 256 << 20;

/// What a token is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenKind {
    /// Part of ordinary text.
    #[default]
    Normal,
    /// Stands for text that the vocabulary cannot express.
    Unknown,
    /// Steers the model; never arises from text unless special tokens are parsed.
    Control,
    /// Added whole to the vocabulary; always matched as a whole in text.
    UserDefined,
    /// Reserved.
    Unused,
    /// One byte, written `<0x0A>`.
    Byte,
    /// No token has this id.
    Absent,
}

impl TokenKind {
    /// Returns the kind that a GGUF `tokenizer.ggml.token_type` number stands for.
    pub(crate) fn from_gguf(number: i64) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// All tokens of a model.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    text: String,
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
    scores: Vec<f32>,
    index: TextIndex,
    token_bytes_max: usize,
    /// No two tokens have the same text.
    is_unambiguous: bool,
}

impl Vocabulary {
    /// Builds a vocabulary from `(text, kind)` in the order of ids; an absent token has an empty text.
    ///
    /// `scores` is empty, or one number for each token.
    pub(crate) fn new<'a>(
        count: usize,
        tokens: impl Iterator<Item = (&'a str, TokenKind)>,
        scores: Vec<f32>,
    ) -> Result<Self, TokenizerError> {
        check_limit("number of tokens", count, MAX_TOKENS)?;
        let mut text = String::with_capacity((count * 8).min(MAX_TEXT_BYTES));
        let mut ends = Vec::with_capacity(count);
        let mut kinds = Vec::with_capacity(count);
        let mut token_bytes_max = 0;
        for (token, kind) in tokens.take(count) {
            check_limit("text of all tokens in bytes", text.len() + token.len(), MAX_TEXT_BYTES)?;
            text.push_str(token);
            token_bytes_max = token_bytes_max.max(token.len());
            ends.push(text.len() as u32);
            kinds.push(kind);
        }
        if ends.len() != count || !(scores.is_empty() || scores.len() >= count) {
            return Err(TokenizerError::damaged(
                "vocabulary",
                format!(
                    "{count} tokens announced, {} given with {} scores",
                    ends.len(),
                    scores.len()
                ),
            ));
        }
        let mut vocabulary = Self {
            index: TextIndex::with_capacity(count),
            text,
            ends,
            kinds,
            scores,
            token_bytes_max,
            is_unambiguous: true,
        };
        let mut index = TextIndex::with_capacity(count);
        for id in 0..count as u32 {
            if vocabulary.kind(id) != TokenKind::Absent && index.insert(id, |id| vocabulary.bytes(id)) != id {
                vocabulary.is_unambiguous = false;
            }
        }
        vocabulary.index = index;
        Ok(vocabulary)
    }

    /// Returns how many ids there are, holes included.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns the bytes of a token's text; empty for an id outside the vocabulary.
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        self.text(id).as_bytes()
    }

    /// Returns a token's text as stored; empty for an id outside the vocabulary.
    pub(crate) fn text(&self, id: u32) -> &str {
        let id = id as usize;
        let Some(end) = self.ends.get(id) else { return "" };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.text[start as usize..*end as usize]
    }

    /// Returns what a token is for.
    pub(crate) fn kind(&self, id: u32) -> TokenKind {
        self.kinds.get(id as usize).copied().unwrap_or(TokenKind::Absent)
    }

    /// Changes what a token is for.
    pub(crate) fn set_kind(&mut self, id: u32, kind: TokenKind) {
        if let Some(slot) = self.kinds.get_mut(id as usize) {
            *slot = kind;
        }
    }

    /// Returns a token's score; 0 when the vocabulary has none.
    pub(crate) fn score(&self, id: u32) -> f32 {
        self.scores.get(id as usize).copied().unwrap_or(0.0)
    }

    /// Returns the id of a text.
    pub(crate) fn id(&self, text: &[u8]) -> Option<u32> {
        self.index.get(text, |id| self.bytes(id))
    }

    /// As [`Vocabulary::id`], for texts that mostly come in the order of their ids: looks at `near` and at the one behind it first.
    pub(crate) fn id_near(&self, text: &[u8], near: u32) -> Option<u32> {
        let is_it = |id: &u32| self.kind(*id) != TokenKind::Absent && self.bytes(*id) == text;
        let found = [near, near.saturating_add(1)].into_iter().find(is_it);
        // Of several with one text, the first is meant.
        found.filter(|_| self.is_unambiguous).or_else(|| self.id(text))
    }

    /// Returns the bytes of the longest token.
    pub(crate) fn token_bytes_max(&self) -> usize {
        self.token_bytes_max
    }
}

/// Refuses a count beyond its limit.
pub(crate) fn check_limit(what: &'static str, found: usize, limit: usize) -> Result<(), TokenizerError> {
    if found > limit {
        return Err(TokenizerError::TooLarge {
            what,
            found: found as u64,
            limit: limit as u64,
        });
    }
    Ok(())
}

/// Returns the byte that a token such as `<0x0A>` stands for.
pub(crate) fn byte_of(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() != 2 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(hex, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_ids_lead_to_each_other_and_strangers_to_nothing() {
        let tokens = [
            ("a", TokenKind::Normal),
            ("", TokenKind::Absent),
            ("longer", TokenKind::Control),
        ];
        let vocabulary = Vocabulary::new(3, tokens.into_iter(), Vec::new()).unwrap();
        assert_eq!(vocabulary.id(b"a"), Some(0));
        assert_eq!(vocabulary.id(b"longer"), Some(2));
        assert_eq!(vocabulary.id(b""), None);
        assert_eq!(vocabulary.id(b"long"), None);
        assert_eq!((vocabulary.text(2), vocabulary.kind(2)), ("longer", TokenKind::Control));
        assert_eq!((vocabulary.text(3), vocabulary.kind(9)), ("", TokenKind::Absent));
        assert_eq!(vocabulary.token_bytes_max(), 6);
    }

    // Wherever the search begins, and of two tokens with one text always the first.
    #[test]
    fn a_text_is_found_from_anywhere() {
        for (texts, expected) in [(["a", "b", "c"], [0, 1, 2]), (["a", "b", "a"], [0, 1, 0])] {
            let tokens = texts.iter().map(|text| (*text, TokenKind::Normal));
            let vocabulary = Vocabulary::new(3, tokens, Vec::new()).unwrap();
            for near in [0, 1, 2, 3, u32::MAX] {
                for (text, expected) in texts.iter().zip(expected) {
                    assert_eq!(
                        vocabulary.id_near(text.as_bytes(), near),
                        Some(expected),
                        "{text} {near}"
                    );
                }
                assert_eq!(vocabulary.id_near(b"d", near), None);
            }
        }
    }

    #[test]
    fn only_two_hex_digits_make_a_byte_token() {
        assert_eq!(byte_of("<0x0A>"), Some(10));
        assert_eq!(byte_of("<0xff>"), Some(255));
        for text in ["<0x0>", "<0x+1>", "<0x00", "0x00>", "<0x000>", "a"] {
            assert_eq!(byte_of(text), None, "{text}");
        }
    }
}
