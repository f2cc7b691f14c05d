//! What stands beside `tokenizer.json`: the names of special tokens and whether a text begins and ends with them.

use super::HfFiles;
use crate::error::TokenizerError;
use crate::special::Specials;
use crate::vocabulary::Vocabulary;
use serde_json::{Map, Value};

/// The settings that bear on tokens; everything else in the files is left alone.
#[derive(Debug, Default)]
pub(crate) struct Config {
    bos: Option<String>,
    eos: Option<String>,
    unknown: Option<String>,
    pad: Option<String>,
    /// Wins over what the post-processor says.
    pub(crate) add_bos: Option<bool>,
    /// Wins over what the post-processor says.
    pub(crate) add_eos: Option<bool>,
    bos_ids: Vec<u32>,
    eos_ids: Vec<u32>,
}

/// Reads the files that are there. A file that is no JSON object is an error that names it.
pub(crate) fn read(files: &HfFiles<'_>) -> Result<Config, TokenizerError> {
    let tokenizer = object("tokenizer_config.json", files.tokenizer_config)?;
    let names = object("special_tokens_map.json", files.special_tokens_map)?;
    let generation = object("generation_config.json", files.generation_config)?;
    let model = object("config.json", files.config)?;
    let text = |name: &str| {
        [&tokenizer, &names]
            .into_iter()
            .find_map(|object| object.get(name).and_then(token_text))
    };
    let ids = |name: &str| {
        let listed = [&generation, &model]
            .into_iter()
            .find_map(|object| object.get(name).filter(|value| !value.is_null()));
        listed.map(token_ids).unwrap_or_default()
    };
    Ok(Config {
        bos: text("bos_token"),
        eos: text("eos_token"),
        unknown: text("unk_token"),
        pad: text("pad_token"),
        add_bos: tokenizer.get("add_bos_token").and_then(Value::as_bool),
        add_eos: tokenizer.get("add_eos_token").and_then(Value::as_bool),
        bos_ids: ids("bos_token_id"),
        eos_ids: ids("eos_token_id"),
    })
}

impl Config {
    /// Writes the ids of the named tokens; names and ids outside the vocabulary count as absent.
    pub(crate) fn name(&self, vocabulary: &Vocabulary, specials: &mut Specials) {
        let find = |text: &Option<String>| text.as_ref().and_then(|text| vocabulary.id(text.as_bytes()));
        let inside = |id: &&u32| (**id as usize) < vocabulary.len();
        specials.bos = find(&self.bos).or(self.bos_ids.iter().find(inside).copied());
        specials.eos = find(&self.eos).or(self.eos_ids.iter().find(inside).copied());
        specials.unknown = find(&self.unknown);
        specials.pad = find(&self.pad);
        specials.ends.extend(self.eos_ids.iter().filter(inside));
    }
}

fn object(name: &str, bytes: Option<&[u8]>) -> Result<Map<String, Value>, TokenizerError> {
    let Some(bytes) = bytes else { return Ok(Map::new()) };
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(bytes).map_err(|error| TokenizerError::damaged(name, error.to_string()))
}

/// Returns the text of a token that is written as a string or as an object with its `content`.
fn token_text(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// Returns the ids of a field that holds one id or a list of them.
fn token_ids(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(list) => list.iter().take(1024).filter_map(id).collect(),
        other => id(other).into_iter().collect(),
    }
}
