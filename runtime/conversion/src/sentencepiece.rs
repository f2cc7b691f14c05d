//! `tokenizer.model`: the pieces of a SentencePiece vocabulary, read from its protocol buffer without a code generator.
//!
//! Only four things are needed: the pieces with score and type, whether merges or probabilities chose them, and whether a space is put before text.
//!
//! **Invariant:** no length in the file is believed before it was shown to lie inside it.

use crate::{ConversionError, Result};

/// The largest file that is read; Gemma's, among the largest, has 4.7 MB.
pub(crate) const BYTES_MAX: u64 = 256 << 20;

/// One piece.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) score: f32,
    /// 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte: the numbers of GGUF too.
    pub(crate) kind: u64,
}

/// What the file says.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) pieces: Vec<Piece>,
    /// Whether text gets a space before it.
    pub(crate) adds_space: bool,
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Float(f32),
    Other,
}

/// Walks the fields of one message.
struct Message<'a> {
    bytes: &'a [u8],
}

impl<'a> Message<'a> {
    fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(usize::try_from(count).ok()?)?;
        self.bytes = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let key = self.number()?;
        let wire = match key & 7 {
            0 => Wire::Number(self.number()?),
            1 => {
                self.take(8)?;
                Wire::Other
            }
            2 => {
                let length = self.number()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Float(f32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((key >> 3, wire))
    }

    /// Hands every field to `each`; nothing when the message is damaged.
    fn read(mut self, mut each: impl FnMut(u64, Wire<'a>) -> Option<()>) -> Option<()> {
        while !self.bytes.is_empty() {
            let (number, wire) = self.field()?;
            each(number, wire)?;
        }
        Some(())
    }
}

/// Reads a file; `label` is what errors call it.
pub(crate) fn read(label: &str, bytes: &[u8]) -> Result<Model> {
    const UNIGRAM: u64 = 1;
    let mut model = Model {
        adds_space: true,
        ..Model::default()
    };
    // As in SentencePiece itself, a file that does not say how it was trained was trained as unigram.
    let mut kind = UNIGRAM;
    let read = Message { bytes }.read(|number, wire| {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => model.pieces.push(piece(bytes)?),
            (2, Wire::Bytes(bytes)) => Message { bytes }.read(|number, wire| {
                if let (3, Wire::Number(value)) = (number, wire) {
                    kind = value;
                }
                Some(())
            })?,
            (3, Wire::Bytes(bytes)) => Message { bytes }.read(|number, wire| {
                if let (3, Wire::Number(value)) = (number, wire) {
                    model.adds_space = value != 0;
                }
                Some(())
            })?,
            _ => {}
        }
        Some(())
    });
    if read.is_none() || model.pieces.is_empty() {
        return Err(ConversionError::malformed(
            label,
            "its fields",
            "a SentencePiece model",
            "something else",
        ));
    }
    if kind == UNIGRAM {
        return Err(ConversionError::unsupported(
            label,
            "its pieces were chosen by probability (unigram), and GGUF's `llama` vocabularies merge by score",
            "models whose tokenizer.model was trained as BPE are converted",
        ));
    }
    Ok(model)
}

fn piece(bytes: &[u8]) -> Option<Piece> {
    let mut piece = Piece {
        text: String::new(),
        score: 0.0,
        kind: 1,
    };
    Message { bytes }.read(|number, wire| {
        match (number, wire) {
            (1, Wire::Bytes(text)) => piece.text = std::str::from_utf8(text).ok()?.to_owned(),
            (2, Wire::Float(score)) => piece.score = score,
            (3, Wire::Number(kind)) => piece.kind = kind,
            _ => {}
        }
        Some(())
    })?;
    Some(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_and_damage_is_refused() {
        // piece {text "ab", score -1, type control}; trainer {3: 2}; normalizer {3: 0}
        let good = b"\x0a\x0b\x0a\x02ab\x15\x00\x00\x80\xbf\x18\x03\x12\x02\x18\x02\x1a\x02\x18\x00";
        let model = read("m", good).unwrap();
        assert_eq!(
            model.pieces,
            [Piece {
                text: "ab".to_owned(),
                score: -1.0,
                kind: 3
            }]
        );
        assert!(!model.adds_space);
        for end in 1..good.len() - 4 {
            // A cut either breaks a field or loses the training, and unigram is refused.
            if end != 17 {
                assert!(read("m", &good[..end]).is_err(), "{end}");
            }
        }
        assert!(read("m", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").is_err());
        assert!(read("m", b"not a model").is_err());
    }
}
