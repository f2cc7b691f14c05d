//! WordPiece vocabularies (`tokenizer.ggml.model = bert`): whole words first, then the longest token that fits.
//!
//! In GGUF a token that begins a word is written with `▁` before it and one that continues a word without; text is normalised
//! (decomposed, accents and control characters dropped, lower case), then cut at white space, punctuation and ideographs.
//! Cost: one look-up for each length up to the longest token, at each place of a word; a word that cannot be written costs one pass.

use crate::vocabulary::Vocabulary;
use std::sync::LazyLock;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// No real token is longer; longer ones are not looked for, which bounds the work at each place.
const TOKEN_BYTES_MAX: usize = 256;

/// How words become tokens, longest first.
#[derive(Debug)]
pub(crate) struct WordPiece {
    unknown: Option<u32>,
    lowercase: bool,
    strip_accents: bool,
}

impl WordPiece {
    /// Makes the engine; nothing is worked out beforehand.
    pub(crate) fn new(unknown: Option<u32>, lowercase: bool, strip_accents: bool) -> Self {
        Self {
            unknown,
            lowercase,
            strip_accents,
        }
    }

    /// Appends the tokens of `text`.
    pub(crate) fn encode(&self, vocabulary: &Vocabulary, text: &str, out: &mut Vec<u32>) {
        let mut word = String::from("▁");
        let mut flush = |word: &mut String| {
            if word.len() > "▁".len() {
                self.encode_word(vocabulary, word, out);
                word.truncate("▁".len());
            }
        };
        let mut take = |character: char| {
            if character.is_whitespace() {
                flush(&mut word);
            } else if self.is_dropped(character) {
            } else if is_ideograph(character) || is_punctuation(character) {
                flush(&mut word);
                word.push(character);
                flush(&mut word);
            } else if self.lowercase {
                word.extend(character.to_lowercase());
            } else {
                word.push(character);
            }
        };
        if self.strip_accents {
            text.nfd().for_each(&mut take);
        } else {
            text.chars().for_each(&mut take);
        }
        flush(&mut word);
    }

    fn encode_word(&self, vocabulary: &Vocabulary, word: &str, out: &mut Vec<u32>) {
        let longest = vocabulary.token_bytes_max().min(TOKEN_BYTES_MAX);
        let start = out.len();
        let mut at = 0;
        while at < word.len() {
            let found = (at + 1..=word.len().min(at + longest))
                .rev()
                .filter(|end| word.is_char_boundary(*end))
                .find_map(|end| vocabulary.id(&word.as_bytes()[at..end]).map(|token| (token, end)));
            let Some((token, end)) = found else {
                out.truncate(start);
                out.extend(self.unknown);
                return;
            };
            out.push(token);
            at = end;
        }
    }

    /// Says whether a character leaves no trace: control characters, and accents where they are stripped.
    fn is_dropped(&self, character: char) -> bool {
        matches!(character, '\0' | '\u{fffd}')
            || is_control(character)
            || (self.strip_accents && is_combining_mark(character))
    }
}

/// The punctuation of Unicode.
static PUNCTUATION: LazyLock<Option<regex::Regex>> = LazyLock::new(|| regex::Regex::new(r"^\p{P}$").ok());

/// Says whether a character is a word of its own: punctuation, and the symbols of ASCII.
fn is_punctuation(character: char) -> bool {
    if character.is_ascii() {
        return character.is_ascii_punctuation();
    }
    let mut buffer = [0u8; 4];
    let text = character.encode_utf8(&mut buffer);
    !character.is_alphanumeric()
        && PUNCTUATION
            .as_ref()
            .is_some_and(|punctuation| punctuation.is_match(text))
}

/// Says whether a character is of the kinds that are dropped: control and format characters.
fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0001}' | '\u{e0020}'..='\u{e007f}' | '\u{e000}'..='\u{f8ff}')
}

/// Says whether a character is written without spaces between words and so stands as a word of its own.
fn is_ideograph(character: char) -> bool {
    matches!(u32::from(character), 0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x20000..=0x2a6df | 0x2a700..=0x2b73f
        | 0x2b740..=0x2b81f | 0x2b920..=0x2ceaf | 0xf900..=0xfaff | 0x2f800..=0x2fa1f)
}
