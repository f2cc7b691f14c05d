//! `tokenizer.json` as plain values, within limits.

use crate::error::TokenizerError;
use crate::vocabulary::{MAX_TOKENS, check_limit};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::Value;
use std::fmt;

/// The most tokens that may be added to a vocabulary; published ones stay below 20,000.
const ADDED_MAX: usize = 1 << 17;

/// The most bytes that all added tokens may have: they go into an automaton many times their size.
const ADDED_BYTES_MAX: usize = 4 << 20;

/// The most bytes that one added token may have.
const ADDED_TOKEN_BYTES_MAX: usize = 4096;

/// The most bytes that all tokens of a unigram model may have: each byte may become a node of a tree.
const UNIGRAM_BYTES_MAX: usize = 16 << 20;

/// The parts of the file that matter here; padding and truncation are left out on purpose.
#[derive(Debug, Deserialize)]
pub(crate) struct TokenizerFile {
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    pub(crate) added_tokens: Vec<AddedFile>,
    #[serde(default)]
    pub(crate) normalizer: Value,
    #[serde(default)]
    pub(crate) pre_tokenizer: Value,
    #[serde(default)]
    pub(crate) post_processor: Value,
    #[serde(default)]
    pub(crate) decoder: Value,
    pub(crate) model: ModelFile,
}

/// One added token.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct AddedFile {
    pub(crate) id: u32,
    pub(crate) content: String,
    #[serde(default)]
    pub(crate) single_word: bool,
    #[serde(default)]
    pub(crate) lstrip: bool,
    #[serde(default)]
    pub(crate) rstrip: bool,
    #[serde(default)]
    pub(crate) normalized: Option<bool>,
    #[serde(default)]
    pub(crate) special: bool,
}

/// The model, whatever its kind.
#[derive(Debug, Deserialize)]
pub(crate) struct ModelFile {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    pub(crate) vocab: Vocab,
    #[serde(default)]
    pub(crate) merges: Merges,
    #[serde(default)]
    pub(crate) unk_token: Option<String>,
    #[serde(default)]
    pub(crate) unk_id: Option<usize>,
    #[serde(default)]
    pub(crate) continuing_subword_prefix: Option<String>,
    #[serde(default)]
    pub(crate) end_of_word_suffix: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) fuse_unk: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) byte_fallback: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) ignore_merges: bool,
    #[serde(default)]
    pub(crate) max_input_chars_per_word: Option<usize>,
    #[serde(default)]
    dropout: Option<f32>,
}

/// The kinds of model that the crate runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModelKind {
    Bpe,
    WordPiece,
    WordLevel,
    Unigram,
}

impl TokenizerFile {
    /// Reads and checks the file.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let file: Self = serde_json::from_slice(bytes)
            .map_err(|error| TokenizerError::damaged("tokenizer.json", error.to_string()))?;
        if let Some(version) = &file.version
            && version != "1.0"
        {
            let shown: String = version.chars().take(32).collect();
            return Err(TokenizerError::damaged(
                "tokenizer.json",
                format!("version `{shown}` found, version `1.0` expected"),
            ));
        }
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<(), TokenizerError> {
        let added = &self.added_tokens;
        check_limit("number of added tokens", added.len(), ADDED_MAX)?;
        let bytes = added.iter().map(|token| token.content.len()).sum();
        check_limit("text of added tokens in bytes", bytes, ADDED_BYTES_MAX)?;
        for token in added {
            check_limit("id of an added token", token.id as usize, MAX_TOKENS - 1)?;
            check_limit(
                "length of an added token in bytes",
                token.content.len(),
                ADDED_TOKEN_BYTES_MAX,
            )?;
            if token.content.is_empty() {
                return Err(TokenizerError::damaged(
                    "added_tokens",
                    format!("the token with id {} is empty", token.id),
                ));
            }
        }
        self.model.check()
    }
}

impl ModelFile {
    /// Returns what kind of model the file describes, guessed by its fields when it does not say.
    pub(crate) fn kind(&self) -> Result<ModelKind, TokenizerError> {
        let kind = match self.kind.as_deref() {
            Some("BPE") => ModelKind::Bpe,
            Some("WordPiece") => ModelKind::WordPiece,
            Some("WordLevel") => ModelKind::WordLevel,
            Some("Unigram") => ModelKind::Unigram,
            Some(other) => {
                return Err(TokenizerError::Unsupported {
                    model: other.chars().take(64).collect(),
                });
            }
            None if !self.merges.0.is_empty() => ModelKind::Bpe,
            None if !self.vocab.scores.is_empty() => ModelKind::Unigram,
            None if self.continuing_subword_prefix.is_some() => ModelKind::WordPiece,
            None => ModelKind::WordLevel,
        };
        Ok(kind)
    }

    /// Returns every token of the model with its id.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        let by_id = self.vocab.ids.iter().map(|(text, id)| (text.as_str(), *id));
        let by_place = self
            .vocab
            .scores
            .iter()
            .enumerate()
            .map(|(id, (text, _))| (text.as_str(), id as u32));
        by_id.chain(by_place)
    }

    fn check(&self) -> Result<(), TokenizerError> {
        let kind = self.kind()?;
        if self.dropout.is_some_and(|dropout| dropout != 0.0) {
            return Err(TokenizerError::damaged(
                "model.dropout",
                "a tokenizer that drops merges at random is for training only",
            ));
        }
        if (kind == ModelKind::Unigram) != self.vocab.ids.is_empty() && !self.vocab.ids.is_empty() {
            return Err(TokenizerError::damaged(
                "model.vocab",
                "a unigram model lists its tokens with scores",
            ));
        }
        if kind != ModelKind::Unigram && !self.vocab.scores.is_empty() {
            return Err(TokenizerError::damaged(
                "model.vocab",
                "tokens with scores belong to a unigram model",
            ));
        }
        for (_, id) in self.tokens() {
            check_limit("id of a token", id as usize, MAX_TOKENS - 1)?;
        }
        if kind == ModelKind::Unigram {
            let bytes = self.vocab.scores.iter().map(|(text, _)| text.len()).sum();
            check_limit("text of a unigram vocabulary in bytes", bytes, UNIGRAM_BYTES_MAX)?;
            if self.vocab.scores.iter().any(|(_, score)| !score.is_finite()) {
                return Err(TokenizerError::damaged("model.vocab", "a score is not a finite number"));
            }
            if self.unk_id.is_some_and(|id| id >= self.vocab.scores.len()) {
                return Err(TokenizerError::damaged("model.unk_id", "it is no token"));
            }
        }
        if let Some(prefix) = &self.continuing_subword_prefix {
            let fits = |(_, right): &(String, String)| right.starts_with(prefix.as_str());
            if !self.merges.0.iter().all(fits) {
                return Err(TokenizerError::damaged(
                    "model.merges",
                    "a right part does not begin with `continuing_subword_prefix`",
                ));
            }
        }
        check_limit(
            "`max_input_chars_per_word`",
            self.max_input_chars_per_word.unwrap_or(0),
            10_000,
        )
    }
}

fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Tokens by id (a map), or by place with scores (a list).
#[derive(Debug, Default)]
pub(crate) struct Vocab {
    pub(crate) ids: Vec<(String, u32)>,
    pub(crate) scores: Vec<(String, f64)>,
}

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Vocab;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from token to id, or a list of tokens with scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut vocab = Vocab::default();
                while let Some(entry) = map.next_entry()? {
                    vocab.ids.push(entry);
                    within::<A::Error>("tokens", vocab.ids.len(), MAX_TOKENS)?;
                }
                Ok(vocab)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocab, A::Error> {
                let mut vocab = Vocab::default();
                while let Some(entry) = list.next_element()? {
                    vocab.scores.push(entry);
                    within::<A::Error>("tokens", vocab.scores.len(), MAX_TOKENS)?;
                }
                Ok(vocab)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// Merges, written `"left right"` or `["left", "right"]`.
#[derive(Debug, Default)]
pub(crate) struct Merges(pub(crate) Vec<(String, String)>);

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Merge {
            Pair(String, String),
            Line(String),
        }
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Merges;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Merges, E> {
                Ok(Merges::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merges, A::Error> {
                let mut merges = Vec::new();
                while let Some(merge) = list.next_element()? {
                    merges.push(match merge {
                        Merge::Pair(left, right) => (left, right),
                        Merge::Line(line) => {
                            let Some((left, right)) = line.split_once(' ') else {
                                return Err(A::Error::custom(format!("merge {} has no space", merges.len())));
                            };
                            if right.contains(' ') {
                                return Err(A::Error::custom(format!("merge {} has two spaces", merges.len())));
                            }
                            (left.to_owned(), right.to_owned())
                        }
                    });
                    within::<A::Error>("merges", merges.len(), crate::bpe::MAX_MERGES)?;
                }
                Ok(Merges(merges))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

fn within<E: de::Error>(what: &str, found: usize, limit: usize) -> Result<(), E> {
    if found > limit {
        return Err(E::custom(format!("more than {limit} {what}")));
    }
    Ok(())
}
