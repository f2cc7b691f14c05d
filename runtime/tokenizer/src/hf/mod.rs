//! Loads a tokenizer from the files of a Hugging Face directory, run by the `tokenizers` crate.
//!
//! That crate trusts its input: it panics on some files and reserves memory that others merely announce. So the file is first read into
//! plain values here ([`file`]), every count, id, pattern and nesting meets a limit ([`components`]), and only then are the crate's
//! parts built, one by one, inside a fence for panics. Its padding, truncation and post-processing are never used: what goes around a
//! text is worked out from the file once ([`around`]), and decoding is this crate's own ([`decoder`]).

mod around;
mod components;
mod config;
mod decoder;
mod file;

pub(crate) use components::check_charsmap_table;

use crate::decode::Scheme;
use crate::error::TokenizerError;
use crate::special::{Kinds, Specials};
use crate::tokenizer::{Engine, Parts, Tokenizer};
use crate::vocabulary::{TokenKind, Vocabulary, byte_of};
use file::{AddedFile, ModelFile, TokenizerFile};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use tokenizers::{AddedToken, ModelWrapper, Tokenizer as Crate};
use witness_formats::FileSet;

/// The longest `tokenizer.json`; the largest published one has 35 MB.
const TOKENIZER_BYTES_MAX: u64 = 128 << 20;

/// The longest of the small files beside it.
const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// The bytes of the files that describe a tokenizer.
#[derive(Clone, Copy, Debug, Default)]
pub struct HfFiles<'a> {
    /// `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<&'a [u8]>,
    /// `generation_config.json`.
    pub generation_config: Option<&'a [u8]>,
    /// `config.json`.
    pub config: Option<&'a [u8]>,
}

/// The crate's tokenizer, and a twin that reads the texts of special tokens as plain text.
#[derive(Debug)]
pub(crate) struct HfEngine {
    parsing: Crate,
    /// Made on first use: it doubles the memory, and most texts are rendered by a template and want special tokens parsed.
    plain: OnceLock<Crate>,
    has_specials: bool,
}

impl HfEngine {
    /// Appends the tokens of `text`.
    pub(crate) fn encode(&self, text: &str, parse_special: bool, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let tokenizer = if parse_special || !self.has_specials {
            &self.parsing
        } else {
            self.plain.get_or_init(|| {
                let mut plain = self.parsing.clone();
                plain.set_encode_special_tokens(true);
                plain
            })
        };
        let encoding = fenced(|| tokenizer.encode_fast(text, false))
            .map_err(|problem| TokenizerError::Encode { problem })?
            .map_err(|error| TokenizerError::Encode {
                problem: error.to_string(),
            })?;
        out.extend_from_slice(encoding.get_ids());
        Ok(())
    }
}

/// Runs foreign code and turns its panic into a message.
pub(crate) fn fenced<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        format!("the `tokenizers` library stopped: {message}")
    })
}

impl Tokenizer {
    /// Loads the tokenizer of a Hugging Face directory.
    ///
    /// # Errors
    /// When there is no `tokenizer.json`, or it contradicts itself or a limit; never a panic, whatever the files say.
    pub fn from_hf(files: &FileSet) -> Result<Self, TokenizerError> {
        let Some(tokenizer) = files.read_if_present("tokenizer.json", TOKENIZER_BYTES_MAX)? else {
            let other = ["tokenizer.model", "vocab.json", "vocab.txt"]
                .into_iter()
                .find(|name| files.get(name).is_some());
            let missing = match other {
                Some(other) => format!("there is `{other}`, but `tokenizer.json` is needed"),
                None => "there is no `tokenizer.json`".to_owned(),
            };
            return Err(TokenizerError::Missing { missing });
        };
        let small = |name| files.read_if_present(name, CONFIG_BYTES_MAX);
        let tokenizer_config = small("tokenizer_config.json")?;
        let special_tokens_map = small("special_tokens_map.json")?;
        let generation_config = small("generation_config.json")?;
        let config = small("config.json")?;
        Self::from_hf_bytes(HfFiles {
            tokenizer: &tokenizer,
            tokenizer_config: tokenizer_config.as_deref(),
            special_tokens_map: special_tokens_map.as_deref(),
            generation_config: generation_config.as_deref(),
            config: config.as_deref(),
        })
    }

    /// Loads a tokenizer from the bytes of its files.
    pub fn from_hf_bytes(files: HfFiles<'_>) -> Result<Self, TokenizerError> {
        let file = TokenizerFile::parse(files.tokenizer)?;
        let config = config::read(&files)?;
        components::check(&file)?;
        let scheme = decoder::scheme(&file.decoder)?;
        let mut vocabulary = read_vocabulary(&file)?;
        let mut specials = Specials::default();
        config.name(&vocabulary, &mut specials);
        around::read(&file.post_processor, &vocabulary, &config, &mut specials)?;
        specials.complete(&mut vocabulary, Kinds::Kept);
        let marked = matches!(scheme, Scheme::Marked { bytes: true, .. });
        for id in 0..vocabulary.len() as u32 {
            if marked && vocabulary.kind(id) == TokenKind::Normal && byte_of(vocabulary.text(id)).is_some() {
                vocabulary.set_kind(id, TokenKind::Byte);
            }
        }
        let has_specials = file.added_tokens.iter().any(|added| added.special);
        let mut added = file.added_tokens.clone();
        added.sort_by_key(|token| token.id);
        let parsing =
            fenced(|| build(file, &added)).map_err(|problem| TokenizerError::damaged("tokenizer.json", problem))??;
        let decode_texts = decode_texts(&parsing, &added)?;
        Ok(Tokenizer::from_parts(Parts {
            vocabulary,
            engine: Engine::Hf(Box::new(HfEngine {
                parsing,
                plain: OnceLock::new(),
                has_specials,
            })),
            scheme,
            specials,
            specials_are_raw: false,
            space_after: Default::default(),
            decode_texts,
            warnings: Vec::new(),
        }))
    }
}

/// Gathers the texts of the model and of the added tokens by id.
fn read_vocabulary(file: &TokenizerFile) -> Result<Vocabulary, TokenizerError> {
    let mut tokens: Vec<(&str, TokenKind)> = Vec::new();
    let mut put = |id: u32, text, kind| {
        let id = id as usize;
        if tokens.len() <= id {
            tokens.resize(id + 1, ("", TokenKind::Absent));
        }
        tokens[id] = (text, kind);
    };
    for (text, id) in file.model.tokens() {
        put(id, text, TokenKind::Normal);
    }
    for AddedFile {
        id, content, special, ..
    } in &file.added_tokens
    {
        let kind = if *special {
            TokenKind::Control
        } else {
            TokenKind::UserDefined
        };
        put(*id, content, kind);
    }
    Vocabulary::new(tokens.len(), tokens.iter().copied(), Vec::new())
}

/// Builds the crate's tokenizer from checked parts.
fn build(file: TokenizerFile, added: &[AddedFile]) -> Result<Crate, TokenizerError> {
    let damaged = |part: &'static str| move |error: serde_json::Error| TokenizerError::damaged(part, error.to_string());
    let normalizer = serde_json::from_value::<Option<tokenizers::NormalizerWrapper>>(file.normalizer)
        .map_err(damaged("normalizer"))?;
    let pre_tokenizer = serde_json::from_value::<Option<tokenizers::PreTokenizerWrapper>>(file.pre_tokenizer)
        .map_err(damaged("pre_tokenizer"))?;
    let mut tokenizer = Crate::new(build_model(file.model)?);
    tokenizer
        .with_normalizer(normalizer)
        .map_err(|error| TokenizerError::damaged("normalizer", error.to_string()))?;
    tokenizer.with_pre_tokenizer(pre_tokenizer);
    let tokens = added.iter().map(|token| {
        AddedToken::from(token.content.clone(), token.special)
            .single_word(token.single_word)
            .lstrip(token.lstrip)
            .rstrip(token.rstrip)
            .normalized(token.normalized.unwrap_or(!token.special))
    });
    tokenizer
        .add_tokens(tokens)
        .map_err(|error| TokenizerError::damaged("added_tokens", error.to_string()))?;
    Ok(tokenizer)
}

fn build_model(model: ModelFile) -> Result<ModelWrapper, TokenizerError> {
    use tokenizers::models::{bpe, unigram, wordlevel, wordpiece};
    let kind = model.kind()?;
    let broken = |error: tokenizers::Error| TokenizerError::damaged("model", error.to_string());
    Ok(match kind {
        file::ModelKind::Bpe => {
            let mut builder = bpe::BPE::builder()
                .fuse_unk(model.fuse_unk)
                .byte_fallback(model.byte_fallback)
                .ignore_merges(model.ignore_merges);
            if let Some(unknown) = model.unk_token {
                builder = builder.unk_token(unknown);
            }
            if let Some(prefix) = model.continuing_subword_prefix {
                builder = builder.continuing_subword_prefix(prefix);
            }
            if let Some(suffix) = model.end_of_word_suffix {
                builder = builder.end_of_word_suffix(suffix);
            }
            let vocab: bpe::Vocab = model.vocab.ids.into_iter().collect();
            ModelWrapper::BPE(
                builder
                    .vocab_and_merges(vocab, model.merges.0)
                    .build()
                    .map_err(broken)?,
            )
        }
        file::ModelKind::WordPiece => {
            let vocab: bpe::Vocab = model.vocab.ids.into_iter().collect();
            let builder = wordpiece::WordPiece::builder()
                .vocab(vocab)
                .unk_token(model.unk_token.unwrap_or_else(|| "[UNK]".to_owned()))
                .continuing_subword_prefix(model.continuing_subword_prefix.unwrap_or_else(|| "##".to_owned()))
                .max_input_chars_per_word(model.max_input_chars_per_word.unwrap_or(100));
            ModelWrapper::WordPiece(builder.build().map_err(broken)?)
        }
        file::ModelKind::WordLevel => {
            let vocab: bpe::Vocab = model.vocab.ids.into_iter().collect();
            let builder = wordlevel::WordLevel::builder()
                .vocab(vocab)
                .unk_token(model.unk_token.unwrap_or_else(|| "<unk>".to_owned()));
            ModelWrapper::WordLevel(builder.build().map_err(broken)?)
        }
        file::ModelKind::Unigram => ModelWrapper::Unigram(
            unigram::Unigram::from(model.vocab.scores, model.unk_id, model.byte_fallback).map_err(broken)?,
        ),
    })
}

/// Checks that the crate gave every added token its id, and returns the texts that it decodes differently from how they are written.
fn decode_texts(tokenizer: &Crate, added: &[AddedFile]) -> Result<HashMap<u32, String>, TokenizerError> {
    let mut texts = HashMap::new();
    for token in added {
        if tokenizer.token_to_id(&token.content) != Some(token.id) {
            return Err(TokenizerError::damaged(
                "added_tokens",
                format!(
                    "token `{}` is said to have the id {}, but its place gives it {:?}",
                    token.content.chars().take(64).collect::<String>(),
                    token.id,
                    tokenizer.token_to_id(&token.content)
                ),
            ));
        }
        if let Some(text) = tokenizer.get_added_vocabulary().simple_id_to_token(token.id)
            && text != token.content
        {
            texts.insert(token.id, text);
        }
    }
    Ok(texts)
}
