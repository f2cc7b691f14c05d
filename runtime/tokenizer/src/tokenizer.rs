//! The tokenizer that callers see, whatever file it came from.

use crate::bpe::Bpe;
use crate::decode::{DecodeStream, Decoder, Pieces, Scheme};
use crate::error::TokenizerError;
use crate::hf::HfEngine;
use crate::sentencepiece::SentencePiece;
use crate::special::Specials;
use crate::trie::{Entry, Fragment, Trie};
use crate::unigram::Unigram;
use crate::vocabulary::{TokenKind, Vocabulary};
use crate::wordpiece::WordPiece;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// The longest text that one call encodes: far beyond any context, and within 32-bit places.
pub const TEXT_BYTES_MAX: usize = 64 << 20;

/// What `Tokenizer::encode` does with special tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encode {
    /// Put the tokens around the text that the model expects around a whole text, such as the beginning-of-sequence token.
    pub add_special: bool,
    /// Read the texts of special tokens as those tokens. Never for text that a stranger wrote.
    pub parse_special: bool,
}

/// How text becomes tokens.
#[derive(Debug)]
pub(crate) enum Engine {
    Bpe(Box<Bpe>),
    SentencePiece(SentencePiece),
    Unigram(Box<Unigram>),
    WordPiece(WordPiece),
    Hf(Box<HfEngine>),
}

/// A tokenizer of one model. Cloning is cheap; all clones share the vocabulary.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    shared: Arc<Shared>,
    decoder: Arc<Decoder>,
    specials: Arc<Specials>,
}

#[derive(Debug)]
struct Shared {
    engine: Engine,
    whole: Trie,
    warnings: Vec<String>,
}

/// What a loader found in a file.
pub(crate) struct Parts {
    pub(crate) vocabulary: Vocabulary,
    pub(crate) engine: Engine,
    pub(crate) scheme: Scheme,
    pub(crate) specials: Specials,
    /// Control and user-defined tokens stand for their text as it is written.
    pub(crate) specials_are_raw: bool,
    /// White space after a special token belongs to it.
    pub(crate) space_after: BTreeSet<u32>,
    /// What to decode for tokens that do not stand for their own text.
    pub(crate) decode_texts: HashMap<u32, String>,
    pub(crate) warnings: Vec<String>,
}

impl Tokenizer {
    pub(crate) fn from_parts(parts: Parts) -> Self {
        let Parts {
            vocabulary,
            engine,
            scheme,
            specials,
            specials_are_raw,
            space_after,
            decode_texts,
            warnings,
        } = parts;
        let mut whole = Trie::new();
        if !matches!(engine, Engine::Hf(_)) {
            for id in 0..vocabulary.len() as u32 {
                let kind = vocabulary.kind(id);
                if matches!(kind, TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined) {
                    let entry = Entry {
                        id,
                        control: kind != TokenKind::UserDefined,
                        takes_space_after: space_after.contains(&id),
                    };
                    whole.insert(vocabulary.bytes(id), entry);
                }
            }
        }
        let raw = |id| {
            specials_are_raw
                && matches!(
                    vocabulary.kind(id),
                    TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined
                )
        };
        let pieces = Pieces::new(&vocabulary, scheme, &decode_texts, raw);
        Self {
            shared: Arc::new(Shared {
                engine,
                whole,
                warnings,
            }),
            decoder: Arc::new(Decoder { pieces, vocabulary }),
            specials: Arc::new(specials),
        }
    }

    /// Returns the tokens of `text`.
    ///
    /// A beginning-of-sequence token that the text itself begins with is not put there a second time.
    pub fn encode(&self, text: &str, options: Encode) -> Result<Vec<u32>, TokenizerError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TokenizerError::TextTooLong {
                found: text.len(),
                limit: TEXT_BYTES_MAX,
            });
        }
        let mut tokens = Vec::with_capacity(text.len() / 3 + 2);
        if options.add_special {
            tokens.extend_from_slice(&self.specials.prefix);
        }
        let start = tokens.len();
        self.encode_text(text, options.parse_special, &mut tokens)?;
        if options.add_special {
            let doubled = self.specials.bos.is_some() && tokens.get(start).copied() == self.specials.bos;
            if doubled && start > 0 && tokens[start - 1] == tokens[start] {
                tokens.remove(start);
            }
            let suffix = &self.specials.suffix;
            let ended =
                self.specials.eos.is_some() && tokens.len() > start && tokens.last().copied() == self.specials.eos;
            let skipped = usize::from(ended && suffix.first().copied() == self.specials.eos);
            tokens.extend_from_slice(&suffix[skipped.min(suffix.len())..]);
        }
        Ok(tokens)
    }

    fn encode_text(&self, text: &str, parse_special: bool, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if let Engine::Hf(engine) = &self.shared.engine {
            return engine.encode(text, parse_special, out);
        }
        let vocabulary = &self.decoder.vocabulary;
        let mut after_special = true;
        for fragment in self.shared.whole.cut(text, parse_special) {
            let range = match fragment {
                Fragment::Token(id) => {
                    out.push(id);
                    after_special = true;
                    continue;
                }
                Fragment::Text(range) => range,
            };
            match &self.shared.engine {
                Engine::Bpe(bpe) => bpe.encode(vocabulary, &text[range], out)?,
                Engine::SentencePiece(pieces) => pieces.encode(vocabulary, &text[range], after_special, out),
                Engine::Unigram(unigram) => unigram.encode(vocabulary, &text[range], out)?,
                Engine::WordPiece(pieces) => pieces.encode(vocabulary, &text[range], out),
                Engine::Hf(_) => {}
            }
            after_special = false;
        }
        Ok(())
    }

    /// Starts to decode tokens that continue a text, such as an answer after its prompt: a leading space is kept.
    pub fn stream(&self, skip_special: bool) -> DecodeStream {
        DecodeStream::new(Arc::clone(&self.decoder), skip_special, false)
    }

    /// Starts to decode tokens from the beginning of a text: a space that only marks the first word is dropped.
    pub fn stream_from_start(&self, skip_special: bool) -> DecodeStream {
        DecodeStream::new(Arc::clone(&self.decoder), skip_special, true)
    }

    /// Returns the text of a whole sequence; what is no UTF-8 becomes U+FFFD.
    pub fn decode(&self, tokens: &[u32], skip_special: bool) -> String {
        let mut stream = self.stream_from_start(skip_special);
        let mut text: String = tokens.iter().map(|id| stream.push(*id)).collect();
        text.push_str(&stream.finish());
        text
    }

    /// Returns the bytes that a token adds inside a text; none for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.decoder.pieces.bytes(id)
    }

    /// Returns a token's text as it is stored, such as `Ġthe`; empty for an id outside the vocabulary.
    pub fn token_text(&self, id: u32) -> &str {
        self.decoder.vocabulary.text(id)
    }

    /// Returns what a token is for.
    pub fn kind(&self, id: u32) -> TokenKind {
        self.decoder.vocabulary.kind(id)
    }

    /// Says whether a token steers the model and is left out of text for people.
    pub fn is_special(&self, id: u32) -> bool {
        self.decoder.is_special(id)
    }

    /// Returns the id of a token's stored text.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.decoder.vocabulary.id(text.as_bytes())
    }

    /// Returns one more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.decoder.vocabulary.len()
    }

    /// Returns the token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.specials.bos
    }

    /// Returns the token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.specials.eos
    }

    /// Returns the token that ends a turn of a conversation.
    pub fn eot(&self) -> Option<u32> {
        self.specials.eot
    }

    /// Returns the token that stands for what the vocabulary cannot express.
    pub fn unk(&self) -> Option<u32> {
        self.specials.unknown
    }

    /// Returns the token that fills a batch.
    pub fn pad(&self) -> Option<u32> {
        self.specials.pad
    }

    /// Returns the text of the beginning-of-sequence token, as chat templates want it; empty when there is none.
    pub fn bos_token(&self) -> &str {
        self.specials.bos.map_or("", |id| self.token_text(id))
    }

    /// Returns the text of the end-of-sequence token; empty when there is none.
    pub fn eos_token(&self) -> &str {
        self.specials.eos.map_or("", |id| self.token_text(id))
    }

    /// Returns the text of the unknown token; empty when there is none.
    pub fn unk_token(&self) -> &str {
        self.specials.unknown.map_or("", |id| self.token_text(id))
    }

    /// Returns the text of the padding token; empty when there is none.
    pub fn pad_token(&self) -> &str {
        self.specials.pad.map_or("", |id| self.token_text(id))
    }

    /// Says whether `encode` with `add_special` begins with the beginning-of-sequence token.
    pub fn adds_bos(&self) -> bool {
        self.specials.bos.is_some() && self.specials.prefix.first().copied() == self.specials.bos
    }

    /// Says whether `encode` with `add_special` ends with the end-of-sequence token.
    pub fn adds_eos(&self) -> bool {
        self.specials.eos.is_some() && self.specials.suffix.last().copied() == self.specials.eos
    }

    /// Returns the tokens after which a generation is over.
    pub fn end_of_generation(&self) -> &BTreeSet<u32> {
        &self.specials.ends
    }

    /// Adds tokens after which a generation is over, such as those of `generation_config.json`.
    #[must_use]
    pub fn with_end_of_generation(mut self, tokens: impl IntoIterator<Item = u32>) -> Self {
        let count = self.vocab_size();
        let ends = &mut Arc::make_mut(&mut self.specials).ends;
        ends.extend(tokens.into_iter().filter(|id| (*id as usize) < count));
        self
    }

    /// Returns what is doubtful about the tokenizer, in sentences for the person who imports the model.
    pub fn warnings(&self) -> &[String] {
        &self.shared.warnings
    }
}
