//! The special tokens by id, whether text begins and ends with them, and the chat templates.
//!
//! An id comes from the token's text in `tokenizer_config.json` when `tokenizer.json` has an added token of that text, else from `config.json`.
//! Whether a text begins or ends with one comes from the post-processor of `tokenizer.json`, else from `tokenizer_config.json`.

use serde_json::Value;
use witness_formats::gguf::OwnedValue;

use crate::{Result, family::Family, metadata::Keys, vocabulary::Sources};

/// Our name of each token's setting in the files, and GGUF's.
const TOKENS: [(&str, &str); 7] = [
    ("bos", "bos"),
    ("eos", "eos"),
    ("unk", "unknown"),
    // GGUF spells it so.
    ("sep", "seperator"),
    ("pad", "padding"),
    ("cls", "cls"),
    ("mask", "mask"),
];

/// What is put around a text, as far as the files say.
#[derive(Default)]
struct Around {
    bos: Option<bool>,
    eos: Option<bool>,
    sep: Option<bool>,
    /// Texts of tokens that the post-processor names and `tokenizer_config.json` does not, or differently.
    bos_text: Option<String>,
    eos_text: Option<String>,
    /// The end that the template displaced: it ends a turn.
    turn_text: Option<String>,
}

/// Writes the keys. `n_vocabulary` bounds the ids of SentencePiece vocabularies.
pub(crate) fn describe(sources: &Sources<'_>, family: Family, n_vocabulary: usize) -> Result<Keys> {
    let mut keys: Keys = Vec::new();
    let text_of = |name: &str| token_text(sources, name);
    let around = around(sources);
    let mut texts: Vec<(&str, &str, Option<String>)> =
        TOKENS.iter().map(|(name, key)| (*name, *key, text_of(name))).collect();
    if sources.json.is_some() {
        texts[0].2 = around.bos_text.clone().or(texts[0].2.take()).or_else(|| text_of("cls"));
        texts[1].2 = around.eos_text.clone().or(texts[1].2.take()).or_else(|| text_of("sep"));
    }
    if let Some(turn) = around.turn_text.clone() {
        texts.push(("eot", "eot", Some(turn)));
    }
    let added = sources.added();
    for (name, key, text) in &texts {
        let by_text = text
            .as_deref()
            .and_then(|text| added.iter().find(|(_, content, _)| *content == text));
        let by_id = || {
            let id = sources.model.get(&format!("{name}_token_id"))?;
            usize::try_from(id.as_u64()?).ok()
        };
        let id = by_text
            .map(|(id, ..)| *id)
            .or_else(by_id)
            .filter(|id| *id < n_vocabulary);
        if let Some(id) = id.and_then(|id| u32::try_from(id).ok()) {
            keys.push((format!("tokenizer.ggml.{key}_token_id"), id.into()));
        }
    }
    let told = |name: &str| {
        sources
            .config
            .raw
            .get(&format!("add_{name}_token"))
            .and_then(Value::as_bool)
    };
    let mut flags = [
        ("bos", around.bos.or(told("bos"))),
        ("eos", around.eos.or(told("eos"))),
        ("sep", around.sep.or(told("sep"))),
    ];
    // The vocabulary of SmolLM and Granite: llama.cpp would begin a text with a token otherwise.
    if matches!(family, Family::Llama) && n_vocabulary == 49_152 {
        flags[0].1 = Some(false);
    }
    // A tokenizer.json without a post-processor puts nothing around a text; some families of llama.cpp would.
    if sources
        .json
        .as_ref()
        .is_some_and(|json| json["post_processor"].is_null())
    {
        flags[0].1 = flags[0].1.or(Some(false));
    }
    for (name, value) in flags {
        if let Some(value) = value {
            keys.push((format!("tokenizer.ggml.add_{name}_token"), OwnedValue::Bool(value)));
        }
    }
    templates(sources, &mut keys);
    Ok(keys)
}

/// Returns the text of a special token as `tokenizer_config.json` has it.
fn token_text(sources: &Sources<'_>, name: &str) -> Option<String> {
    let config = &sources.config;
    match name {
        "bos" => config.bos_token.clone(),
        "eos" => config.eos_token.clone(),
        "unk" => config.unk_token.clone(),
        "sep" => config.sep_token.clone(),
        "pad" => config.pad_token.clone(),
        "cls" => config.cls_token.clone(),
        "mask" => config.mask_token.clone(),
        _ => None,
    }
}

/// Reads what the post-processor puts around a text.
fn around(sources: &Sources<'_>) -> Around {
    let mut around = Around::default();
    let Some(json) = &sources.json else { return around };
    let processor = &json["post_processor"];
    let steps = processor["processors"]
        .as_array()
        .map_or_else(|| vec![processor], |list| list.iter().collect());
    for step in steps {
        match step["type"].as_str() {
            Some("ByteLevel") => {
                around.bos = around.bos.or(Some(false));
                around.eos = around.eos.or(Some(false));
            }
            Some("RobertaProcessing") => {
                (around.bos, around.eos, around.sep) = (Some(true), Some(true), Some(true));
            }
            Some("TemplateProcessing") => template(sources, step, &mut around),
            _ => {}
        }
    }
    around
}

fn template(sources: &Sources<'_>, step: &Value, around: &mut Around) {
    let special = |piece: Option<&Value>| {
        piece
            .and_then(|piece| piece["SpecialToken"]["id"].as_str())
            .map(str::to_owned)
    };
    let (bos, cls) = (token_text(sources, "bos"), token_text(sources, "cls"));
    let single = step["single"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (mut first, mut last) = (None, None);
    if single.len() > 1 {
        first = special(single.first());
        last = special(single.last());
    }
    if let Some(first) = &first {
        let is_known = [&bos, &cls].into_iter().flatten().any(|known| known == first);
        if bos.is_none() && !is_known {
            around.bos_text = Some(first.clone());
        }
        around.bos = Some(is_known || bos.is_none() || cls.is_none());
    }
    let mut eos = token_text(sources, "eos");
    if let Some(last) = &last {
        if eos.as_ref() != Some(last) {
            around.turn_text = eos.take();
            around.eos_text = Some(last.clone());
            eos = Some(last.clone());
        }
        around.eos = Some(true);
    }
    // Between two texts: what stands there, without the first and last tokens of the template.
    let mut pair = step["pair"].as_array().map(Vec::as_slice).unwrap_or_default();
    if first.is_some() && special(pair.first()) == first {
        pair = &pair[1..];
    }
    if last.is_some() && special(pair.last()) == last {
        pair = &pair[..pair.len() - 1];
    }
    if let [start, middle @ .., end] = pair
        && start["Sequence"]["id"] == "A"
        && end["Sequence"]["id"] == "B"
        && !middle.is_empty()
    {
        let sep = token_text(sources, "sep");
        let separates = |piece: &Value| {
            let token = special(Some(piece));
            token.is_some() && (token == sep || token == eos)
        };
        around.sep = Some((separates(&middle[0]) && last.is_none()) || (middle.len() == 2 && separates(&middle[1])));
    }
}

/// The default template, and all others under names in which only ASCII letters and digits stay.
fn templates(sources: &Sources<'_>, keys: &mut Keys) {
    let mut names = Vec::new();
    for (name, template) in &sources.config.named_templates {
        let name: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        if !name.is_empty() && name != "default" && !names.contains(&name) {
            keys.push((format!("tokenizer.chat_template.{name}"), template.clone().into()));
            names.push(name);
        }
    }
    if !names.is_empty() {
        keys.push(("tokenizer.chat_templates".to_owned(), names.into()));
    }
    if let Some(template) = &sources.config.chat_template {
        keys.push(("tokenizer.chat_template".to_owned(), template.clone().into()));
    }
}
