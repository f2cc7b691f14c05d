//! The byte alphabet of GPT-2: every byte is written as one printable character, so that a vocabulary is plain text.
//!
//! Bytes that are printable in Latin-1 stand for themselves; the other 68 take the code points from U+0100 upwards in order.

use std::sync::LazyLock;

/// The number of bytes that do not stand for themselves.
const SHIFTED: usize = 68;

struct Alphabet {
    chars: [char; 256],
    shifted: [u8; SHIFTED],
}

static ALPHABET: LazyLock<Alphabet> = LazyLock::new(|| {
    let mut chars = ['\0'; 256];
    let mut shifted = [0u8; SHIFTED];
    let mut next = 0u32;
    for byte in 0..=255u8 {
        chars[usize::from(byte)] = if is_itself(byte) {
            char::from(byte)
        } else {
            shifted[next as usize] = byte;
            next += 1;
            char::from_u32(0x100 + next - 1).unwrap_or('\0')
        };
    }
    Alphabet { chars, shifted }
});

fn is_itself(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// Returns the character that stands for `byte`.
pub(crate) fn char_of(byte: u8) -> char {
    ALPHABET.chars[usize::from(byte)]
}

/// Returns the byte that `character` stands for.
pub(crate) fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    match u8::try_from(code) {
        Ok(byte) => is_itself(byte).then_some(byte),
        Err(_) => ALPHABET.shifted.get((code - 0x100) as usize).copied(),
    }
}

/// Appends the bytes that `text` stands for; text outside the alphabet stands for itself.
pub(crate) fn decode_into(text: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for character in text.chars() {
        let Some(byte) = byte_of(character) else {
            out.truncate(start);
            out.extend_from_slice(text.as_bytes());
            return;
        };
        out.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        for byte in 0..=255u8 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(0xff)), ('Ġ', 'Ċ', 'ÿ'));
        assert_eq!(char_of(0xad), 'Ń');
        assert_eq!((byte_of(' '), byte_of('▁'), byte_of('ń')), (None, None, None));
        let mut out = Vec::new();
        decode_into("Ġa", &mut out);
        decode_into("Ġ b", &mut out);
        assert_eq!(out, " aĠ b".as_bytes());
    }
}
