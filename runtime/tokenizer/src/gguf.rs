//! Loads a tokenizer from the metadata of a GGUF file (`tokenizer.ggml.*`).
//!
//! The reader has proven that every array lies inside the file; here its counts meet the limits of this crate and every id named
//! anywhere is shown to be in the vocabulary. Defaults that a file leaves open are those of llama.cpp, since converters rely on them.

use crate::bpe::Bpe;
use crate::decode::Scheme;
use crate::error::TokenizerError;
use crate::families::{self, Family};
use crate::sentencepiece::SentencePiece;
use crate::special::{Kinds, Specials};
use crate::tokenizer::{Engine, Parts, Tokenizer};
use crate::unigram::{CHARSMAP_BYTES_MAX, Spacing, Unigram};
use crate::vocabulary::{MAX_TOKENS, TokenKind, Vocabulary, check_limit};
use crate::wordpiece::WordPiece;
use std::borrow::Cow;
use std::collections::BTreeSet;
use witness_formats::gguf::{Gguf, Metadata};

const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";

/// The ids and flags that a kind of vocabulary has unless the file says otherwise.
#[derive(Clone, Copy, Debug, Default)]
struct Defaults {
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    separator: Option<u32>,
    pad: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    add_separator: bool,
}

impl Tokenizer {
    /// Loads the tokenizer that a GGUF file holds.
    ///
    /// # Errors
    /// When there is none, it is of an unknown kind, or it contradicts itself; never a panic, whatever the file says.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        Self::from_metadata(gguf.metadata())
    }

    fn from_metadata(metadata: &Metadata) -> Result<Self, TokenizerError> {
        let model = metadata
            .opt_str("tokenizer.ggml.model")?
            .ok_or_else(|| TokenizerError::Missing {
                missing: "the file has no `tokenizer.ggml.model`".to_owned(),
            })?;
        let mut warnings = Vec::new();
        let mut vocabulary = read_vocabulary(metadata, &mut warnings)?;
        let (defaults, family) = match model {
            "llama" => (LLAMA, None),
            "bert" => (BERT, None),
            "t5" => (T5, None),
            "gpt2" => {
                let name = metadata.opt_str("tokenizer.ggml.pre")?;
                let family = choose_family(name, &mut warnings);
                (gpt2_defaults(name.unwrap_or_default(), &family), Some(family))
            }
            "gemma4" => (
                Defaults {
                    add_bos: true,
                    ..Defaults::default()
                },
                Some(families::GEMMA),
            ),
            other => {
                return Err(TokenizerError::Unsupported {
                    model: other.to_owned(),
                });
            }
        };
        let mut specials = read_specials(metadata, &vocabulary, defaults, &mut warnings)?;
        specials.complete(&mut vocabulary, Kinds::Corrected);
        let (engine, scheme) = match &family {
            Some(family) => read_bpe(metadata, &vocabulary, family, specials.unknown)?,
            None if model == "t5" => read_unigram(metadata, &vocabulary, specials.unknown)?,
            None if model == "bert" => read_wordpiece(metadata, specials.unknown)?,
            None => {
                let prefix = metadata.opt_bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
                let engine = SentencePiece::new(&vocabulary, specials.unknown, prefix);
                (Engine::SentencePiece(engine), marked(usize::from(prefix)))
            }
        };
        Ok(Tokenizer::from_parts(Parts {
            space_after: space_after(metadata, &vocabulary)?,
            vocabulary,
            engine,
            scheme,
            specials,
            specials_are_raw: true,
            decode_texts: Default::default(),
            warnings,
        }))
    }
}

const LLAMA: Defaults = Defaults {
    bos: Some(1),
    eos: Some(2),
    unknown: Some(0),
    separator: None,
    pad: None,
    add_bos: true,
    add_eos: false,
    add_separator: false,
};

const BERT: Defaults = Defaults {
    bos: Some(101),
    eos: None,
    unknown: Some(100),
    separator: Some(102),
    pad: Some(0),
    add_bos: true,
    add_eos: false,
    add_separator: true,
};

const T5: Defaults = Defaults {
    bos: None,
    eos: Some(1),
    unknown: Some(2),
    separator: None,
    pad: Some(0),
    add_bos: false,
    add_eos: true,
    add_separator: false,
};

fn gpt2_defaults(name: &str, family: &Family) -> Defaults {
    let without_bos = matches!(name, "glm4" | "chatglm-bpe");
    Defaults {
        bos: Some(11).filter(|_| !without_bos),
        eos: Some(11),
        add_bos: family.add_bos,
        add_separator: matches!(name, "jina-v1-en" | "jina-v2-code" | "roberta-bpe"),
        ..Defaults::default()
    }
}

fn choose_family(name: Option<&str>, warnings: &mut Vec<String>) -> Family {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        warnings.push(
            "the file does not say how text is cut into words (`tokenizer.ggml.pre`); the default rules are used, answers may be worse"
                .to_owned(),
        );
        return families::FALLBACK;
    };
    families::by_name(name).unwrap_or_else(|| {
        let shown: String = name.chars().take(64).collect();
        warnings.push(format!(
            "the rules `{shown}` for cutting text into words are not known; the default rules are used, answers may be worse"
        ));
        families::FALLBACK
    })
}

fn read_vocabulary(metadata: &Metadata, warnings: &mut Vec<String>) -> Result<Vocabulary, TokenizerError> {
    let tokens = metadata.opt_array(TOKENS)?.ok_or_else(|| TokenizerError::Missing {
        missing: format!("the file has no `{TOKENS}`"),
    })?;
    let count = tokens.len();
    check_limit("number of tokens", count, MAX_TOKENS)?;
    if count == 0 {
        return Err(TokenizerError::damaged(TOKENS, "the vocabulary is empty"));
    }
    let scores = match metadata.opt_array("tokenizer.ggml.scores")? {
        Some(array) if array.len() <= MAX_TOKENS => array.f32s()?,
        _ => Vec::new(),
    };
    let kinds = match metadata.opt_array("tokenizer.ggml.token_type")? {
        Some(array) if array.len() <= MAX_TOKENS => array.i64s()?,
        _ => Vec::new(),
    };
    for (part, len) in [("scores", scores.len()), ("token_type", kinds.len())] {
        if len != 0 && len < count {
            return Err(TokenizerError::damaged(
                format!("tokenizer.ggml.{part}"),
                format!("{len} entries for {count} tokens"),
            ));
        }
    }
    let texts: Vec<Cow<'_, str>> = tokens.byte_strings()?.map(String::from_utf8_lossy).collect();
    if texts.iter().any(|text| matches!(text, Cow::Owned(_))) {
        warnings.push("some tokens are not written in UTF-8; they can be read but not produced from text".to_owned());
    }
    let described = texts.iter().enumerate().map(|(id, text)| {
        let kind = if text.is_empty() {
            TokenKind::Absent
        } else {
            kinds
                .get(id)
                .map_or(TokenKind::Normal, |number| TokenKind::from_gguf(*number))
        };
        (text.as_ref(), kind)
    });
    Vocabulary::new(count, described, scores)
}

fn read_specials(
    metadata: &Metadata,
    vocabulary: &Vocabulary,
    defaults: Defaults,
    warnings: &mut Vec<String>,
) -> Result<Specials, TokenizerError> {
    let mut id = |names: &[&str], default: Option<u32>| -> Result<Option<u32>, TokenizerError> {
        let inside = |id: &u64| (*id as usize) < vocabulary.len() && *id < MAX_TOKENS as u64;
        for name in names {
            let key = format!("tokenizer.ggml.{name}_token_id");
            match metadata.opt_u64(&key)? {
                Some(found) if inside(&found) => return Ok(Some(found as u32)),
                Some(found) => warnings.push(format!("`{key}` is {found}, which is no token; it is left out")),
                None => {}
            }
        }
        Ok(default.filter(|id| inside(&u64::from(*id))))
    };
    let mut specials = Specials {
        bos: id(&["bos", "cls"], defaults.bos)?,
        eos: id(&["eos"], defaults.eos)?,
        eot: id(&["eot"], None)?,
        eom: id(&["eom"], None)?,
        unknown: id(&["unknown"], defaults.unknown)?,
        pad: id(&["padding"], defaults.pad)?,
        ..Specials::default()
    };
    let separator = id(&["seperator", "separator"], defaults.separator)?;
    let flag = |name: &str, default: bool| -> Result<bool, TokenizerError> {
        Ok(metadata
            .opt_bool(&format!("tokenizer.ggml.add_{name}"))?
            .unwrap_or(default))
    };
    if flag("bos_token", defaults.add_bos)? {
        specials.prefix.extend(specials.bos);
    }
    if flag("eos_token", defaults.add_eos)? {
        specials.suffix.extend(specials.eos);
    }
    if flag("sep_token", defaults.add_separator)? {
        specials.suffix.extend(separator);
    }
    Ok(specials)
}

fn read_bpe(
    metadata: &Metadata,
    vocabulary: &Vocabulary,
    family: &Family,
    unknown: Option<u32>,
) -> Result<(Engine, Scheme), TokenizerError> {
    let merges: Vec<Cow<'_, str>> = match metadata.opt_array(MERGES)? {
        Some(array) => {
            check_limit("number of merges", array.len(), crate::bpe::MAX_MERGES)?;
            array.byte_strings()?.map(String::from_utf8_lossy).collect()
        }
        None => {
            return Err(TokenizerError::Missing {
                missing: format!("the file has tokens but no `{MERGES}`"),
            });
        }
    };
    let bpe = Bpe::new(vocabulary, merges.iter().map(AsRef::as_ref), family, unknown)?;
    let scheme = if family.raw_utf8 { marked(0) } else { Scheme::ByteLevel };
    Ok((Engine::Bpe(Box::new(bpe)), scheme))
}

fn read_wordpiece(metadata: &Metadata, unknown: Option<u32>) -> Result<(Engine, Scheme), TokenizerError> {
    let lowercase = metadata
        .opt_bool("tokenizer.ggml.normalizer.lowercase")?
        .unwrap_or(true);
    let strip_accents = metadata
        .opt_bool("tokenizer.ggml.normalizer.strip_accents")?
        .unwrap_or(lowercase);
    let engine = WordPiece::new(unknown, lowercase, strip_accents);
    Ok((Engine::WordPiece(engine), marked(1)))
}

fn read_unigram(
    metadata: &Metadata,
    vocabulary: &Vocabulary,
    unknown: Option<u32>,
) -> Result<(Engine, Scheme), TokenizerError> {
    let flag = |name: &str| metadata.opt_bool(&format!("tokenizer.ggml.{name}"));
    let spacing = Spacing {
        prefix: flag("add_space_prefix")?.unwrap_or(true),
        collapse: flag("remove_extra_whitespaces")?.unwrap_or(false),
    };
    let charsmap = match metadata.opt_array("tokenizer.ggml.precompiled_charsmap")? {
        Some(array) => {
            check_limit("length of its character map in bytes", array.len(), CHARSMAP_BYTES_MAX)?;
            // The map is bytes, which some converters write as signed ones.
            array.i64s()?.into_iter().map(|byte| byte as u8).collect()
        }
        None => Vec::new(),
    };
    let engine = Unigram::new(vocabulary, unknown, spacing, &charsmap)?;
    Ok((Engine::Unigram(Box::new(engine)), marked(usize::from(spacing.prefix))))
}

fn marked(leading: usize) -> Scheme {
    Scheme::Marked {
        marker: "▁".to_owned(),
        space: " ".to_owned(),
        bytes: true,
        leading,
    }
}

/// Returns the special tokens that take the white space after them: those of the Phi-3 models, which only their name tells.
fn space_after(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<BTreeSet<u32>, TokenizerError> {
    let name = metadata.opt_str("general.name")?.unwrap_or_default().to_lowercase();
    if !name.contains("phi-3") && !name.contains("phi3") {
        return Ok(BTreeSet::new());
    }
    Ok((0..vocabulary.len() as u32)
        .filter(|id| match vocabulary.text(*id) {
            "<unk>" | "<s>" | "<|endoftext|>" => false,
            "</s>" => true,
            _ => matches!(
                vocabulary.kind(*id),
                TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined
            ),
        })
        .collect())
}
