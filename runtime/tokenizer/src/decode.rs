//! From tokens back to text, one token at a time.
//!
//! Every token stands for bytes, worked out once when the tokenizer is loaded ([`Pieces`]). A stream joins the bytes of its tokens and
//! hands out whole characters only. **Invariant:** what `push` and `finish` return, joined, is the lossy UTF-8 reading of all bytes,
//! however the characters lie across tokens. Cost: O(bytes) for each token, no look at earlier ones.

use crate::bytelevel;
use crate::vocabulary::{TokenKind, Vocabulary, byte_of};
use std::collections::HashMap;
use std::sync::Arc;

/// How the stored text of a token becomes text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// The byte alphabet of GPT-2.
    ByteLevel,
    /// `marker` is read as `space`, `<0x0A>` is a byte; a text drops up to `leading` spaces at its start.
    Marked {
        marker: String,
        space: String,
        bytes: bool,
        leading: usize,
    },
    /// `marker` is a space, and the first token of a text drops its markers.
    Metaspace { marker: char, first_drops: bool },
    /// A token that does not begin with `prefix` begins a word.
    WordPiece { prefix: String, cleanup: bool },
    /// Tokens are joined with a space.
    Spaced,
}

impl Scheme {
    /// Appends the bytes of a token that stands inside a text.
    fn append(&self, text: &str, kind: TokenKind, out: &mut Vec<u8>) {
        match self {
            Scheme::ByteLevel => bytelevel::decode_into(text, out),
            Scheme::Marked {
                marker, space, bytes, ..
            } => match byte_of(text).filter(|_| *bytes && kind != TokenKind::UserDefined) {
                Some(byte) => out.push(byte),
                None if marker.is_empty() => out.extend(text.bytes()),
                None => out.extend(text.replace(marker.as_str(), space).bytes()),
            },
            Scheme::Metaspace { marker, .. } => out.extend(text.replace(*marker, " ").bytes()),
            Scheme::WordPiece { prefix, cleanup } => {
                let spaced = match text.strip_prefix(prefix.as_str()) {
                    Some(rest) => rest.to_owned(),
                    None => format!(" {text}"),
                };
                out.extend(if *cleanup { clean_up(&spaced) } else { spaced }.bytes());
            }
            Scheme::Spaced => {
                out.push(b' ');
                out.extend(text.bytes());
            }
        }
    }

    /// Appends the bytes of the first token of a text, where they differ from those inside one. Returns whether they do.
    fn append_first(&self, text: &str, out: &mut Vec<u8>) -> bool {
        match self {
            Scheme::Metaspace {
                marker,
                first_drops: true,
            } => out.extend(text.replace(*marker, "").bytes()),
            Scheme::WordPiece { cleanup, .. } if *cleanup => out.extend(clean_up(text).bytes()),
            Scheme::WordPiece { .. } | Scheme::Spaced => out.extend(text.bytes()),
            _ => return false,
        }
        true
    }
}

/// Takes back the spaces that cutting at punctuation left, within one token.
fn clean_up(text: &str) -> String {
    const REPLACED: [(&str, &str); 11] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    REPLACED
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// The bytes of every token, end to end.
#[derive(Debug)]
pub(crate) struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    scheme: Scheme,
}

impl Pieces {
    /// Works out the bytes of every token.
    ///
    /// Tokens that are `raw` stand for their text as it is; `texts` holds what to decode where that is not the token's own text.
    pub(crate) fn new(
        vocabulary: &Vocabulary,
        scheme: Scheme,
        texts: &HashMap<u32, String>,
        raw: impl Fn(u32) -> bool,
    ) -> Self {
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(vocabulary.len());
        for id in 0..vocabulary.len() as u32 {
            let kind = vocabulary.kind(id);
            let text = texts.get(&id).map_or(vocabulary.text(id), String::as_str);
            if raw(id) {
                bytes.extend_from_slice(text.as_bytes());
            } else if kind != TokenKind::Absent {
                scheme.append(text, kind, &mut bytes);
            }
            // A scheme at most adds a byte to a token, and texts are limited far below 4 GiB.
            ends.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        Self { bytes, ends, scheme }
    }

    /// Returns the bytes of a token inside a text; none for an id outside the vocabulary.
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        self.bytes.get(start as usize..*end as usize).unwrap_or(&[])
    }
}

/// What a stream needs to know of its tokenizer.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) pieces: Pieces,
    pub(crate) vocabulary: Vocabulary,
}

impl Decoder {
    /// Says whether a token is left out of a text that shows no special tokens.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        matches!(self.vocabulary.kind(id), TokenKind::Control | TokenKind::Unknown)
    }
}

/// Turns the tokens of one text into text while they arrive.
///
/// Dropping a stream loses only the bytes of a character that is not whole yet.
#[derive(Clone, Debug)]
pub struct DecodeStream {
    decoder: Arc<Decoder>,
    skip_special: bool,
    /// Nothing was decoded yet, and the text starts here.
    at_start: bool,
    /// Spaces still to drop at the start of the text.
    leading: usize,
    /// The first bytes of a character whose rest is still to come: three at most.
    held: Vec<u8>,
}

impl DecodeStream {
    pub(crate) fn new(decoder: Arc<Decoder>, skip_special: bool, at_start: bool) -> Self {
        let leading = match decoder.pieces.scheme {
            Scheme::Marked { leading, .. } if at_start => leading,
            _ => 0,
        };
        Self {
            decoder,
            skip_special,
            at_start,
            leading,
            held: Vec::new(),
        }
    }

    /// Takes the next token and returns the characters that it completes.
    pub fn push(&mut self, id: u32) -> String {
        let decoder = Arc::clone(&self.decoder);
        let kind = decoder.vocabulary.kind(id);
        if kind == TokenKind::Absent || (self.skip_special && decoder.is_special(id)) {
            return String::new();
        }
        let start = self.held.len();
        let first = std::mem::replace(&mut self.at_start, false);
        let text = decoder.vocabulary.text(id);
        if !(first && decoder.pieces.scheme.append_first(text, &mut self.held)) {
            self.held.extend_from_slice(decoder.pieces.bytes(id));
        }
        while self.leading > 0 && start < self.held.len() {
            if self.held[start] == b' ' {
                self.held.remove(start);
                self.leading -= 1;
            } else {
                self.leading = 0;
            }
        }
        self.take_whole()
    }

    /// Ends the text and returns what is left of a character that never became whole.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.held).into_owned();
        self.held.clear();
        rest
    }

    /// Moves everything out of `held` but the beginning of a character that may still become whole.
    fn take_whole(&mut self) -> String {
        let mut out = String::new();
        let mut at = 0;
        loop {
            match std::str::from_utf8(&self.held[at..]) {
                Ok(text) => {
                    out.push_str(text);
                    self.held.clear();
                    return out;
                }
                Err(error) => {
                    let valid = at + error.valid_up_to();
                    out.push_str(&String::from_utf8_lossy(&self.held[at..valid]));
                    let Some(invalid) = error.error_len() else {
                        self.held.drain(..valid);
                        return out;
                    };
                    out.push('\u{fffd}');
                    at = valid + invalid;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream over tokens with the given texts; a text in angle brackets is a control token, unless it is a byte.
    fn stream(scheme: Scheme, texts: &[&str], skip_special: bool, at_start: bool) -> DecodeStream {
        let tokens = texts.iter().map(|text| {
            let kind = match text {
                text if byte_of(text).is_some() => TokenKind::Byte,
                text if text.starts_with('<') => TokenKind::Control,
                _ => TokenKind::Normal,
            };
            (*text, kind)
        });
        let vocabulary = Vocabulary::new(texts.len(), tokens, Vec::new()).unwrap();
        let pieces = Pieces::new(&vocabulary, scheme, &HashMap::new(), |_| false);
        DecodeStream::new(Arc::new(Decoder { pieces, vocabulary }), skip_special, at_start)
    }

    fn steps(stream: &mut DecodeStream, tokens: &[u32]) -> Vec<String> {
        let mut steps: Vec<String> = tokens.iter().map(|id| stream.push(*id)).collect();
        steps.push(stream.finish());
        steps
    }

    fn marked(leading: usize) -> Scheme {
        Scheme::Marked {
            marker: "▁".to_owned(),
            space: " ".to_owned(),
            bytes: true,
            leading,
        }
    }

    const BYTES: &[&str] = &["<0xF0>", "<0x9F>", "<0x9A>", "<0x80>", "a", "<0xC3>", "<0xFF>"];

    #[test]
    fn a_character_comes_out_when_its_last_byte_is_there() {
        let mut whole = stream(marked(0), BYTES, true, false);
        assert_eq!(steps(&mut whole, &[0, 1, 2, 3, 4]), ["", "", "", "🚀", "a", ""]);
    }

    #[test]
    fn broken_bytes_come_out_once_they_are_proven_broken_or_at_the_end() {
        let mut cut = stream(marked(0), BYTES, true, false);
        assert_eq!(steps(&mut cut, &[0, 1, 4]), ["", "", "\u{fffd}a", ""]);
        let mut unfinished = stream(marked(0), BYTES, true, false);
        assert_eq!(steps(&mut unfinished, &[4, 5]), ["a", "", "\u{fffd}"]);
        let mut impossible = stream(marked(0), BYTES, true, false);
        assert_eq!(steps(&mut impossible, &[6, 5, 4]), ["\u{fffd}", "", "\u{fffd}a", ""]);
    }

    /// Whatever the order of bytes, the joined steps are the lossy reading of all of them.
    #[test]
    fn any_run_of_bytes_reads_as_a_whole_would() {
        for first in 0..7u32 {
            for rest in 0..343u32 {
                let tokens = [first, rest % 7, rest / 7 % 7, rest / 49];
                let bytes: Vec<u8> = tokens
                    .iter()
                    .map(|id| byte_of(BYTES[*id as usize]).unwrap_or(b'a'))
                    .collect();
                let mut stream = stream(marked(0), BYTES, true, false);
                assert_eq!(steps(&mut stream, &tokens).concat(), String::from_utf8_lossy(&bytes));
            }
        }
    }

    #[test]
    fn a_leading_space_is_dropped_only_where_a_text_begins() {
        let texts = ["▁a", "<s>", "▁", "b"];
        let run = |at_start, tokens: &[u32]| steps(&mut stream(marked(1), &texts, true, at_start), tokens).concat();
        assert_eq!(run(true, &[0, 0]), "a a");
        assert_eq!(run(false, &[0, 0]), " a a");
        assert_eq!(run(true, &[1, 0]), "a");
        assert_eq!(run(true, &[2, 2, 3]), " b");
        assert_eq!(run(true, &[3, 0]), "b a");
    }

    #[test]
    fn special_tokens_show_only_on_demand_and_strangers_never() {
        let texts = ["<s>", "Ġa"];
        let run = |skip| steps(&mut stream(Scheme::ByteLevel, &texts, skip, true), &[0, 1, 77]).concat();
        assert_eq!(run(true), " a");
        assert_eq!(run(false), "<s> a");
    }

    #[test]
    fn words_are_joined_as_their_scheme_says() {
        let texts = ["he", "##llo", "'s", ".", "▁x"];
        let run = |scheme, tokens: &[u32]| steps(&mut stream(scheme, &texts, true, true), tokens).concat();
        let word_piece = |cleanup| Scheme::WordPiece {
            prefix: "##".to_owned(),
            cleanup,
        };
        assert_eq!(run(word_piece(true), &[0, 1, 2, 3]), "hello's.");
        assert_eq!(run(word_piece(false), &[0, 1, 2, 3]), "hello 's .");
        assert_eq!(run(Scheme::Spaced, &[0, 3]), "he .");
        let metaspace = |first_drops| Scheme::Metaspace {
            marker: '▁',
            first_drops,
        };
        assert_eq!(run(metaspace(true), &[4, 4]), "x x");
        assert_eq!(run(metaspace(false), &[4, 4]), " x x");
    }
}
