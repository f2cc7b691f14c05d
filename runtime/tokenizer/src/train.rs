//! A new tokenizer from text: byte-level BPE, written as the files that every Hugging Face reader knows.
//!
//! What: [`train`] takes texts and options and returns `tokenizer.json` and `tokenizer_config.json`. The merges are found by the
//! `tokenizers` crate's own trainer; this module says how text is cut into words, which tokens are special, and what the files hold.
//! What not: no files are read or written.
//!
//! **Invariant:** the same texts, in any order, and the same options give the same bytes, with any number of threads: the trainer
//! prefers the more frequent pair and among equals the one with the smaller ids, and counts do not depend on order. All 256 bytes are
//! tokens, so that every text can be encoded and comes back.
//!
//! Cost: every text is cut into words once, in parallel; then about one pass over the different words that hold a pair per merge.
//! 6 MB of text and 3,072 tokens take 7 s on one busy core (Zen 4).

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use regex::Regex;
use serde_json::{Value, json};
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, TokenizerBuilder, TokenizerImpl,
};

use crate::error::TokenizerError;
use crate::families::{self, Rule};
use crate::hf::fenced;
use crate::vocabulary::{MAX_TOKENS, check_limit};

/// Bytes are tokens of their own, so a vocabulary below this cannot hold them.
const BYTES: usize = 256;

/// The most bytes of all texts together: the trainer counts pairs in 32 bits with a sign.
const CORPUS_BYTES_MAX: u64 = i32::MAX as u64;

/// How text is cut into words, inside which tokens are merged. Each is known to Hugging Face's readers and has a name in GGUF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WordRule {
    /// GPT-2: letters, digits, other signs, each with the space before it.
    Gpt2,
    /// GPT-2, but every digit is a word, so that numbers are read digit by digit. In GGUF `smollm`.
    DigitsThenGpt2,
    /// Llama 3: as GPT-2, but a sign may begin a word of letters, digits go in threes, line breaks are words. In GGUF `llama-bpe`.
    #[default]
    Llama3,
    /// Qwen 2: as Llama 3, but every digit is a word. In GGUF `qwen2`.
    Qwen2,
}

/// How a tokenizer is trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainOptions {
    /// Tokens in all, special ones and the 256 bytes included. Fewer come out when the texts hold no more pairs.
    pub vocab_size: usize,
    /// Pairs that are seen less often are not merged.
    pub min_frequency: u64,
    /// Special tokens; they get the first ids, in this order. Their texts are never cut or merged.
    pub special_tokens: Vec<String>,
    /// The one of them that begins a text. If it is set, it is put before every text that is encoded with special tokens.
    pub bos_token: Option<String>,
    /// The one of them that ends a text and a turn.
    pub eos_token: Option<String>,
    /// The one of them that fills batches.
    pub pad_token: Option<String>,
    /// How text is cut into words.
    pub words: WordRule,
    /// The chat template (Jinja) for `tokenizer_config.json`.
    pub chat_template: Option<String>,
    /// Longest text in tokens, for `tokenizer_config.json`.
    pub model_max_length: Option<u64>,
}

impl Default for TrainOptions {
    /// 4,096 tokens and ChatML's marks.
    fn default() -> Self {
        Self {
            vocab_size: 4_096,
            min_frequency: 2,
            special_tokens: ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
                .map(str::to_owned)
                .to_vec(),
            bos_token: None,
            eos_token: Some("<|im_end|>".to_owned()),
            pad_token: Some("<|endoftext|>".to_owned()),
            words: WordRule::default(),
            chat_template: None,
            model_max_length: None,
        }
    }
}

/// The files of a trained tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainedTokenizer {
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Vec<u8>,
    /// Tokens in the vocabulary, special ones included.
    pub n_tokens: usize,
}

/// Trains a tokenizer on texts.
///
/// The texts of special tokens inside `texts` are left out, so that no merge is learned from them.
///
/// ```
/// use witness_tokenizer::{Encode, HfFiles, Tokenizer, TrainOptions, train};
/// let options = TrainOptions { vocab_size: 300, ..TrainOptions::default() };
/// let trained = train(["to be or not to be", "to see or not to see"], &options)?;
/// let tokenizer = Tokenizer::from_hf_bytes(HfFiles { tokenizer: &trained.tokenizer, ..HfFiles::default() })?;
/// let tokens = tokenizer.encode("not to be", Encode::default())?;
/// assert!(tokens.len() < "not to be".len());
/// assert_eq!(tokenizer.decode(&tokens, true), "not to be");
/// # Ok::<(), witness_tokenizer::TokenizerError>(())
/// ```
///
/// # Errors
/// When the options contradict each other, when the texts are empty or beyond the limit.
pub fn train<I, S>(texts: I, options: &TrainOptions) -> Result<TrainedTokenizer, TokenizerError>
where
    I: IntoIterator<Item = S>,
    I::IntoIter: Send,
    S: AsRef<str> + Send,
{
    check(options)?;
    let trouble = |problem: String| TokenizerError::Train { problem };
    let words: PreTokenizerWrapper = serde_json::from_value(pre_tokenizer(options.words)?)
        .map_err(|error| trouble(format!("the word rule was not understood: {error}")))?;
    let mut tokenizer: Training = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(words))
        .with_post_processor(None)
        .with_decoder(Some(DecoderWrapper::ByteLevel(ByteLevel::new(false, true, true))))
        .build()
        .map_err(|error| trouble(error.to_string()))?;
    let special = options.special_tokens.iter();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(options.vocab_size)
        .min_frequency(options.min_frequency)
        .special_tokens(special.map(|token| AddedToken::from(token.clone(), true)).collect())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let marks = marks(&options.special_tokens)?;
    let n_bytes = AtomicU64::new(0);
    // The crate would take the mark of a special token for a word, so texts are cut at the marks before it sees them.
    let pieces = texts
        .into_iter()
        .take_while(|text| {
            let n = text.as_ref().len() as u64;
            n_bytes.fetch_add(n, Ordering::Relaxed) + n <= CORPUS_BYTES_MAX
        })
        .flat_map(|text| without_marks(text.as_ref(), marks.as_ref()));
    fenced(|| {
        tokenizer
            .train(&mut trainer, pieces)
            .map(drop)
            .map_err(|error| error.to_string())
    })
    .and_then(|result| result)
    .map_err(trouble)?;
    match n_bytes.into_inner() {
        0 => Err(trouble("there is no text to learn from".to_owned())),
        found if found > CORPUS_BYTES_MAX => Err(TokenizerError::TooLarge {
            what: "text to learn from in bytes",
            found,
            limit: CORPUS_BYTES_MAX,
        }),
        _ => finish(&tokenizer, options),
    }
}

type Training = TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// A pattern that finds special tokens in a text, the longest first; nothing where there are none.
fn marks(special: &[String]) -> Result<Option<Regex>, TokenizerError> {
    if special.is_empty() {
        return Ok(None);
    }
    let mut texts: Vec<&String> = special.iter().collect();
    texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
    let pattern = texts
        .iter()
        .map(|text| regex::escape(text))
        .collect::<Vec<_>>()
        .join("|");
    let pattern = Regex::new(&pattern).map_err(|error| TokenizerError::Train {
        problem: format!("the special tokens are too many or too long: {error}"),
    })?;
    Ok(Some(pattern))
}

fn without_marks(text: &str, marks: Option<&Regex>) -> Vec<String> {
    match marks {
        None => vec![text.to_owned()],
        Some(marks) => marks
            .split(text)
            .filter(|piece| !piece.is_empty())
            .map(str::to_owned)
            .collect(),
    }
}

fn check(options: &TrainOptions) -> Result<(), TokenizerError> {
    let option = |name: &'static str, problem: String| Err(TokenizerError::Option { name, problem });
    let special = &options.special_tokens;
    check_limit("number of tokens", options.vocab_size, MAX_TOKENS)?;
    let least = BYTES + special.len();
    if options.vocab_size < least {
        return option(
            "vocab_size",
            format!(
                "{} tokens; the bytes and the special tokens alone are {least}",
                options.vocab_size
            ),
        );
    }
    let mut seen = HashSet::new();
    for token in special {
        if token.chars().count() < 2 {
            return option("special_tokens", format!("`{token}` is shorter than two letters"));
        }
        if !seen.insert(token) {
            return option("special_tokens", format!("`{token}` is there twice"));
        }
    }
    let roles = [
        ("bos_token", &options.bos_token),
        ("eos_token", &options.eos_token),
        ("pad_token", &options.pad_token),
    ];
    for (name, token) in roles {
        if let Some(token) = token
            && !seen.contains(token)
        {
            return option(name, format!("`{token}` is none of `special_tokens`"));
        }
    }
    Ok(())
}

/// The word rule as `tokenizer.json` writes it.
fn pre_tokenizer(words: WordRule) -> Result<Value, TokenizerError> {
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let split = |pattern: String| {
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [split, bytes(false)]})
    };
    Ok(match words {
        WordRule::Gpt2 => bytes(true),
        WordRule::DigitsThenGpt2 => {
            json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, bytes(true)]})
        }
        WordRule::Llama3 => split(pattern_of("llama-bpe")?),
        WordRule::Qwen2 => split(pattern_of("qwen2")?),
    })
}

/// The one pattern of a family, with the end that [`families`] leaves to its own rule for white space.
fn pattern_of(family: &str) -> Result<String, TokenizerError> {
    let rules = families::by_name(family).map(|family| family.rules);
    match rules {
        Some([Rule::Pattern(pattern, _)]) => Ok(format!(r"{pattern}|\s+(?!\S)|\s+")),
        _ => Err(TokenizerError::Train {
            problem: format!("the word rule `{family}` is not one pattern"),
        }),
    }
}

/// Writes the files.
fn finish(tokenizer: &Training, options: &TrainOptions) -> Result<TrainedTokenizer, TokenizerError> {
    let damaged = |error: serde_json::Error| TokenizerError::Train {
        problem: format!("the tokenizer cannot be written: {error}"),
    };
    let mut file = serde_json::to_value(tokenizer).map_err(damaged)?;
    if let Some(bos) = &options.bos_token {
        file["post_processor"] = begins_with(bos, tokenizer.token_to_id(bos).unwrap_or_default());
    }
    let config = json!({
        "add_bos_token": options.bos_token.is_some(),
        "add_prefix_space": false,
        "bos_token": options.bos_token,
        "chat_template": options.chat_template,
        "clean_up_tokenization_spaces": false,
        "eos_token": options.eos_token,
        "model_max_length": options.model_max_length,
        "pad_token": options.pad_token,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": null,
    });
    let bytes = |value: &Value| serde_json::to_vec_pretty(&without_nulls(value)).map_err(damaged);
    Ok(TrainedTokenizer {
        tokenizer: serde_json::to_vec_pretty(&file).map_err(damaged)?,
        tokenizer_config: bytes(&config)?,
        n_tokens: tokenizer.get_vocab_size(true),
    })
}

/// The template that puts one token before a text.
fn begins_with(token: &str, id: u32) -> Value {
    let special = |type_id: u32| json!({"SpecialToken": {"id": token, "type_id": type_id}});
    let text = |name: &str, type_id: u32| json!({"Sequence": {"id": name, "type_id": type_id}});
    json!({
        "type": "TemplateProcessing",
        "single": [special(0), text("A", 0)],
        "pair": [special(0), text("A", 0), special(1), text("B", 1)],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}}
    })
}

/// Readers take a field that is absent for unset, and not all of them take null so.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        other => other.clone(),
    }
}
