//! The vocabulary and special tokens of a model as `tokenizer.ggml.*`, from the files beside its weights.
//!
//! Two kinds exist. Byte-level BPE (`gpt2`) has merges and a name for how text is cut ([`crate::pre`]). SentencePiece (`llama`) has scores,
//! from `tokenizer.model`, or where only `tokenizer.json` exists from the order of its merges: llama.cpp merges the pair whose result scores
//! highest, so a piece scores minus the place of the first merge that makes it. Its own converter gives every piece -1000 there, with which
//! text is cut from left to right whatever the merges say.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};
use witness_formats::{FileSet, gguf::OwnedValue, hf::TokenizerConfig};
use witness_tokenizer::Tokenizer;

use crate::{
    ConversionError, Result,
    family::Family,
    metadata::Keys,
    pre,
    sentencepiece::{self, Piece},
    special,
};

/// The largest `tokenizer.json` that is read; Gemma 3's, among the largest, has 33 MB.
const TOKENIZER_BYTES_MAX: u64 = 256 << 20;
const SPECIAL_BYTES_MAX: u64 = 4 << 20;
const PIECES: &str = "tokenizer.model";
const JSON: &str = "tokenizer.json";
/// The score of tokens that are never merged to.
const ADDED_SCORE: f32 = -1000.0;
const ABSENT_SCORE: f32 = -10_000.0;

/// The kinds of tokens in GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// Tokens in the order of their ids.
#[derive(Default)]
struct Tokens {
    texts: Vec<String>,
    scores: Vec<f32>,
    kinds: Vec<i32>,
}

impl Tokens {
    fn absent(count: usize) -> Tokens {
        Tokens {
            texts: (0..count).map(|id| format!("[PAD{id}]")).collect(),
            scores: vec![ABSENT_SCORE; count],
            kinds: vec![Kind::Unused as i32; count],
        }
    }

    /// Sets a token; ids beyond the vocabulary of the weights are left out, as the model cannot say them.
    fn set(&mut self, id: usize, text: String, score: f32, kind: Kind) {
        if id < self.texts.len() {
            self.texts[id] = text;
            self.scores[id] = score;
            self.kinds[id] = kind as i32;
        }
    }
}

/// Everything that the files say of the tokenizer.
pub(crate) struct Sources<'a> {
    pub(crate) files: &'a FileSet,
    pub(crate) config: TokenizerConfig,
    /// The whole of `tokenizer.json`.
    pub(crate) json: Option<Value>,
    /// `config.json`, which names special tokens by id.
    pub(crate) model: &'a Map<String, Value>,
}

impl<'a> Sources<'a> {
    pub(crate) fn read(files: &'a FileSet, model: &'a Map<String, Value>) -> Result<Sources<'a>> {
        let json = files.read_if_present(JSON, TOKENIZER_BYTES_MAX)?;
        if json.is_some() {
            // Proves the limits and that it is a tokenizer that can be run at all.
            Tokenizer::from_hf(files)?;
        }
        let json = json.map(|bytes| {
            serde_json::from_slice(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes)).map_err(|error| {
                ConversionError::malformed(
                    &format!("{}/{JSON}", files.label()),
                    "its text",
                    "JSON",
                    error.to_string(),
                )
            })
        });
        Ok(Sources {
            files,
            config: TokenizerConfig::load(files)?,
            json: json.transpose()?,
            model,
        })
    }

    /// Returns the added tokens of `tokenizer.json`: id, text, whether special.
    pub(crate) fn added(&self) -> Vec<(usize, &str, bool)> {
        let list = self.json.as_ref().and_then(|json| json["added_tokens"].as_array());
        list.map(Vec::as_slice)
            .unwrap_or_default()
            .iter()
            .filter_map(|token| {
                let id = usize::try_from(token["id"].as_u64()?).ok()?;
                Some((id, token["content"].as_str()?, token["special"] == true))
            })
            .collect()
    }

    /// Returns the added tokens of `tokenizer_config.json`, in the order of the file.
    fn decoder(&self) -> Vec<(usize, &str, bool)> {
        let map = self.config.raw.get("added_tokens_decoder").and_then(Value::as_object);
        map.into_iter()
            .flatten()
            .filter_map(|(id, token)| Some((id.parse().ok()?, token["content"].as_str()?, token["special"] == true)))
            .collect()
    }

    fn label(&self) -> &str {
        self.files.label()
    }
}

/// Writes the keys of the tokenizer.
pub(crate) fn describe(files: &FileSet, model: &Map<String, Value>, family: Family, vocab_size: usize) -> Result<Keys> {
    let sources = Sources::read(files, model)?;
    let mut keys: Keys = Vec::new();
    let mut set = |key: &str, value: OwnedValue| keys.push((format!("tokenizer.ggml.{key}"), value));
    // Phi-4 says with the class of its tokenizer that it is no SentencePiece one.
    let is_gpt2_class = family == Family::Phi3 && sources.config.tokenizer_class.as_deref() == Some("GPT2Tokenizer");
    let space = sources.config.raw.get("add_prefix_space").and_then(Value::as_bool);
    let is_llama = matches!(family, Family::Llama | Family::Mistral);
    let is_gemma = matches!(family, Family::Gemma2 | Family::Gemma3);
    let pieces = match files.read_if_present(PIECES, sentencepiece::BYTES_MAX)? {
        // Llama 3 ships its tiktoken file under the same name, beside the tokenizer.json that counts.
        Some(bytes) if !(is_gpt2_class || is_tiktoken(&bytes) && sources.json.is_some()) => {
            Some(sentencepiece::read(&format!("{}/{PIECES}", sources.label()), &bytes)?)
        }
        _ => None,
    };
    let mut space = space.filter(|_| is_llama);
    let (tokens, merges) = match (pieces, &sources.json) {
        (Some(model), _) => {
            if is_gemma || (space.is_none() && !model.adds_space) {
                space = Some(model.adds_space && !is_gemma);
            }
            (from_pieces(&sources, &model.pieces, vocab_size, family), None)
        }
        (None, Some(json)) if is_byte_fallback(json) => {
            if space.is_none() && puts_no_space(json) {
                space = Some(false);
            }
            (from_scored_merges(&sources, json, vocab_size)?, None)
        }
        (None, Some(json)) => {
            // Without merges nothing but whole words could be said, which no way of cutting that is known by name does; it is the name that is refused then.
            let pairs = match json["model"]["merges"].as_array().is_none_or(Vec::is_empty) {
                true => Vec::new(),
                false => merges(&sources, json)?,
            };
            let pre = pre::name(sources.label(), json, &pairs)?;
            let (tokens, merges) = from_byte_level(&sources, json, &merges(&sources, json)?, vocab_size)?;
            (tokens, Some((pre, merges)))
        }
        (None, None) => {
            return Err(ConversionError::missing(
                sources.label(),
                format!("file `{JSON}` or `{PIECES}`, one of which a GGUF file needs for its vocabulary"),
            ));
        }
    };
    if let Some(space) = space {
        set("add_space_prefix", OwnedValue::Bool(space));
    }
    let n_vocabulary = tokens.texts.len();
    match merges {
        Some((pre, merges)) => {
            set("model", "gpt2".into());
            set("pre", pre.into());
            set("tokens", tokens.texts.into());
            set("token_type", tokens.kinds.into());
            set("merges", merges.into());
        }
        None => {
            set("model", "llama".into());
            set("pre", "default".into());
            set("tokens", tokens.texts.into());
            set("scores", tokens.scores.into());
            set("token_type", tokens.kinds.into());
        }
    }
    keys.extend(special::describe(&sources, family, n_vocabulary)?);
    Ok(keys)
}

/// tiktoken's files are lines of base64 and a number; a protocol buffer of pieces begins with a line feed.
fn is_tiktoken(bytes: &[u8]) -> bool {
    bytes
        .first()
        .is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'+' || *byte == b'/')
}

fn is_byte_fallback(json: &Value) -> bool {
    json["model"]["byte_fallback"] == true
}

/// Says whether text is taken without a space before it: nothing in the definition puts one.
fn puts_no_space(json: &Value) -> bool {
    let has = |value: &Value, list: &str, is: &dyn Fn(&Value) -> bool| {
        value[list].as_array().is_some_and(|steps| steps.iter().any(is)) || is(value)
    };
    let prepends = has(&json["normalizer"], "normalizers", &|step| step["type"] == "Prepend");
    let metaspace = has(&json["pre_tokenizer"], "pretokenizers", &|step| {
        step["type"] == "Metaspace" && step["prepend_scheme"] != "never" && step["add_prefix_space"] != false
    });
    !prepends && !metaspace
}

fn from_pieces(sources: &Sources<'_>, pieces: &[Piece], vocab_size: usize, family: Family) -> Tokens {
    let mut tokens = Tokens::absent(vocab_size);
    for (id, piece) in pieces.iter().enumerate() {
        let kind = match piece.kind {
            2 => Kind::Unknown,
            3 => Kind::Control,
            5 => Kind::Unused,
            6 => Kind::Byte,
            // Pieces that were asked for in training are matched by their score like all others.
            _ => Kind::Normal,
        };
        tokens.set(id, piece.text.clone(), piece.score, kind);
    }
    let added: BTreeMap<String, Value> = sources
        .files
        .read_if_present("added_tokens.json", SPECIAL_BYTES_MAX)
        .ok()
        .flatten()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    for (text, id) in added {
        if let Some(id) = id.as_u64().and_then(|id| usize::try_from(id).ok()) {
            tokens.set(id, text, ADDED_SCORE, Kind::UserDefined);
        }
    }
    let is_phi = family == Family::Phi3;
    for (id, text, special) in sources.decoder() {
        if special || (!is_phi && looks_special(text)) {
            tokens.set(id, text.to_owned(), ADDED_SCORE, Kind::Control);
        } else {
            // Tokens of the user are matched in the text as it is, where spaces are spaces.
            let text = if is_phi {
                text.to_owned()
            } else {
                text.replace('▁', " ")
            };
            tokens.set(id, text, ADDED_SCORE, Kind::UserDefined);
        }
    }
    if is_phi {
        for (id, text, special) in sources.added() {
            let kind = if special { Kind::Control } else { Kind::UserDefined };
            tokens.set(id, text.to_owned(), ADDED_SCORE, kind);
        }
    }
    tokens
}

/// The tokens of a byte-fallback BPE model of which only `tokenizer.json` exists.
fn from_scored_merges(sources: &Sources<'_>, json: &Value, vocab_size: usize) -> Result<Tokens> {
    let mut tokens = Tokens::absent(vocab_size);
    let vocabulary = vocabulary(sources, json, vocab_size)?;
    let mut first_merge: HashMap<String, usize> = HashMap::new();
    for (place, (left, right)) in merges(sources, json)?.into_iter().enumerate() {
        first_merge.entry(left + &right).or_insert(place);
    }
    let unknown = json["model"]["unk_token"].as_str();
    for (id, text) in vocabulary {
        let (score, kind) = match first_merge.get(text) {
            _ if is_byte(text) => (ADDED_SCORE, Kind::Byte),
            _ if unknown == Some(text) => (ADDED_SCORE, Kind::Unknown),
            Some(place) => (-(*place as f32), Kind::Normal),
            // A single character is never merged to; its score is never asked for.
            None => (ADDED_SCORE, Kind::Normal),
        };
        tokens.set(id, text.to_owned(), score, kind);
    }
    for (id, text, special) in sources.added() {
        let kind = match () {
            () if unknown == Some(text) => Kind::Unknown,
            () if special || looks_special(text) => Kind::Control,
            () => Kind::UserDefined,
        };
        let text = if kind == Kind::UserDefined {
            text.replace('▁', " ")
        } else {
            text.to_owned()
        };
        tokens.set(id, text, ADDED_SCORE, kind);
    }
    Ok(tokens)
}

fn from_byte_level(
    sources: &Sources<'_>,
    json: &Value,
    merges: &[(String, String)],
    vocab_size: usize,
) -> Result<(Tokens, Vec<String>)> {
    if json["model"]["type"].as_str().is_some_and(|kind| kind != "BPE") {
        return Err(ConversionError::unsupported(
            sources.label(),
            format!(
                "its tokenizer is of type `{}`",
                crate::error::excerpt(&json["model"]["type"].to_string())
            ),
            "models with a BPE tokenizer are converted",
        ));
    }
    let mut tokens = Tokens::absent(vocab_size);
    for (id, text) in vocabulary(sources, json, vocab_size)? {
        tokens.set(id, text.to_owned(), 0.0, Kind::Normal);
    }
    for (id, text, special) in sources.added() {
        if id >= vocab_size {
            return Err(too_large(sources, id, vocab_size));
        }
        if special || looks_special(text) {
            tokens.set(id, text.to_owned(), 0.0, Kind::Control);
        } else {
            tokens.set(id, text.replace('▁', " "), 0.0, Kind::UserDefined);
        }
    }
    let merges = merges
        .iter()
        // A space parts the two halves in GGUF; one inside a half is written as the byte alphabet writes it.
        .map(|(left, right)| format!("{} {}", left.replace(' ', "Ġ"), right.replace(' ', "Ġ")))
        .collect();
    Ok((tokens, merges))
}

/// Returns the tokens of the model itself, each with its id.
fn vocabulary<'a>(sources: &Sources<'_>, json: &'a Value, vocab_size: usize) -> Result<Vec<(usize, &'a str)>> {
    let vocabulary = json["model"]["vocab"].as_object().into_iter().flatten();
    let tokens: Vec<(usize, &str)> = vocabulary
        .filter_map(|(text, id)| Some((usize::try_from(id.as_u64()?).ok()?, text.as_str())))
        .collect();
    match tokens.iter().find(|(id, _)| *id >= vocab_size) {
        Some((id, _)) => Err(too_large(sources, *id, vocab_size)),
        None => Ok(tokens),
    }
}

fn too_large(sources: &Sources<'_>, id: usize, vocab_size: usize) -> ConversionError {
    ConversionError::malformed(
        &format!("{}/{JSON}", sources.label()),
        "the ids of its tokens",
        format!("ids below {vocab_size}, the `vocab_size` of config.json"),
        id.to_string(),
    )
}

fn merges(sources: &Sources<'_>, json: &Value) -> Result<Vec<(String, String)>> {
    let merges = json["model"]["merges"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let pairs = merges.iter().map(|merge| match merge {
        Value::String(line) => line
            .split_once(' ')
            .map(|(left, right)| (left.to_owned(), right.to_owned())),
        pair => Some((pair[0].as_str()?.to_owned(), pair[1].as_str()?.to_owned())),
    });
    pairs
        .collect::<Option<Vec<_>>>()
        .filter(|merges| !merges.is_empty())
        .ok_or_else(|| {
            ConversionError::malformed(
                &format!("{}/{JSON}", sources.label()),
                "`model.merges`",
                "pairs of tokens",
                "something else",
            )
        })
}

fn is_byte(text: &str) -> bool {
    let hex = text.strip_prefix("<0x").and_then(|text| text.strip_suffix('>'));
    hex.is_some_and(|hex| hex.len() == 2 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Some models call tokens ordinary that steer them; llama.cpp's converter knows them by their text.
fn looks_special(text: &str) -> bool {
    let framed = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || framed("<|", "|>")
        || framed("<｜", "｜>")
        || framed("<unused", ">")
}
