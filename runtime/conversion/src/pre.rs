//! The name in `tokenizer.ggml.pre` of the way in which a tokenizer cuts text into words, from the definition in `tokenizer.json`.
//!
//! llama.cpp's converter knows a tokenizer by a hash of the ids of one text, so it knows only published vocabularies. The definition says the
//! same for every vocabulary: the regular expressions themselves, and whether a word that is a token is taken whole. What is not in the table
//! is refused with the definition in the message; a wrong name would cut text wrongly without a word.

use serde_json::{Value, json};

use crate::{ConversionError, Result, error::excerpt};

/// A step of a definition, as far as it changes words.
#[derive(Debug, PartialEq)]
enum Step<'a> {
    /// A regular expression whose matches are words of their own.
    Split(&'a str),
    /// Digits one by one.
    Digits,
    /// GPT-2's own expression.
    Gpt2,
}

const CASELESS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const SPELLED: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
/// The same with the apostrophe in front, as this project's own trained tokenizers have it.
const FACTORED: &str = r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])";
const LLAMA3: &str = r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// Returns the name. `tokenizer` is the whole of `tokenizer.json`, `model` what errors call it.
pub(crate) fn name(model: &str, tokenizer: &Value) -> Result<&'static str> {
    let definition = &tokenizer["pre_tokenizer"];
    let unknown = || ConversionError::PreTokenizer {
        model: model.to_owned(),
        found: excerpt(&definition.to_string()),
    };
    let steps = steps(definition).ok_or_else(unknown)?;
    let takes_whole_words = tokenizer["model"]["ignore_merges"].as_bool().unwrap_or(false);
    let is = |pattern: &str, rest: &str| {
        [CASELESS, SPELLED, FACTORED]
            .iter()
            .any(|start| pattern.strip_prefix(start).is_some_and(|found| found == rest))
    };
    Ok(match steps.as_slice() {
        [Step::Split(pattern)] if is(pattern, LLAMA3) => {
            // The same words; only the first of the two names takes a word that is a token as that token.
            if takes_whole_words { "llama-bpe" } else { "smaug-bpe" }
        }
        [Step::Split(pattern)] if is(pattern, QWEN2) && !takes_whole_words => "qwen2",
        [Step::Split(pattern)] if is(pattern, QWEN35) && !takes_whole_words => "qwen35",
        [Step::Split(TEKKEN)] => "tekken",
        [Step::Split(O200K)] if !takes_whole_words => "gpt-4o",
        [Step::Gpt2] if !takes_whole_words => "gpt-2",
        [Step::Digits, Step::Gpt2] if !takes_whole_words => "smollm",
        _ => return Err(unknown()),
    })
}

/// A way of cutting text, in the words of `tokenizer.json`.
pub(crate) struct Definition {
    pub(crate) normalizer: Value,
    pub(crate) pre_tokenizer: Value,
    /// `ignore_merges`.
    pub(crate) takes_whole_words: bool,
    /// Whether text begins with a token when a GGUF file does not say.
    pub(crate) adds_bos: bool,
}

/// Returns what a name in `tokenizer.ggml.pre` stands for; the inverse of [`name`], with the names that mean the same.
pub(crate) fn definition(name: &str) -> Option<Definition> {
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let split = |pattern: String| {
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [split, bytes(false)]})
    };
    let digits =
        || json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, bytes(true)]});
    let composed = json!({"type": "NFC"});
    let (normalizer, pre_tokenizer, takes_whole_words, adds_bos) = match name {
        "llama-bpe" | "llama3" | "llama-v3" => (Value::Null, split(format!("{CASELESS}{LLAMA3}")), true, true),
        "smaug-bpe" | "dbrx" => (Value::Null, split(format!("{CASELESS}{LLAMA3}")), false, false),
        "qwen2" | "deepseek-r1-qwen" => (composed, split(format!("{CASELESS}{QWEN2}")), false, false),
        "qwen35" => (composed, split(format!("{CASELESS}{QWEN35}")), false, false),
        "tekken" => (Value::Null, split(TEKKEN.to_owned()), true, true),
        "gpt-4o" => (Value::Null, split(O200K.to_owned()), false, false),
        "gpt-2" | "phi-2" | "olmo" => (Value::Null, bytes(true), false, false),
        "smollm" | "starcoder" | "refact" | "command-r" => (Value::Null, digits(), false, false),
        _ => return None,
    };
    Some(Definition {
        normalizer,
        pre_tokenizer,
        takes_whole_words,
        adds_bos,
    })
}

/// Reads the steps; nothing when one of them does something that no name here covers.
fn steps(definition: &Value) -> Option<Vec<Step<'_>>> {
    let list = match definition["type"].as_str()? {
        "Sequence" => definition["pretokenizers"].as_array()?.iter().collect(),
        _ => vec![definition],
    };
    let mut steps = Vec::new();
    let mut has_bytes = false;
    for step in list {
        match step["type"].as_str()? {
            "Split" if step["behavior"] == "Isolated" && step["invert"].as_bool() != Some(true) => {
                steps.push(Step::Split(step["pattern"]["Regex"].as_str()?));
            }
            "Digits" if step["individual_digits"] == true => steps.push(Step::Digits),
            "ByteLevel" if step["add_prefix_space"].as_bool() != Some(true) => {
                has_bytes = true;
                // A file that is silent here means yes.
                if step["use_regex"].as_bool().unwrap_or(true) {
                    steps.push(Step::Gpt2);
                }
            }
            _ => return None,
        }
    }
    has_bytes.then_some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pattern: &str) -> Value {
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]})
    }

    #[test]
    fn known_definitions_have_names() {
        let gpt2 = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true});
        let digits =
            json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, gpt2]});
        for (definition, whole, name) in [
            (split(&format!("{CASELESS}{LLAMA3}")), true, "llama-bpe"),
            (split(&format!("{SPELLED}{LLAMA3}")), false, "smaug-bpe"),
            (split(&format!("{FACTORED}{LLAMA3}")), false, "smaug-bpe"),
            (split(&format!("{CASELESS}{QWEN2}")), false, "qwen2"),
            (split(TEKKEN), false, "tekken"),
            (split(O200K), false, "gpt-4o"),
            (gpt2.clone(), false, "gpt-2"),
            (digits, false, "smollm"),
        ] {
            let tokenizer = json!({"pre_tokenizer": definition, "model": {"ignore_merges": whole}});
            assert_eq!(super::name("m", &tokenizer).unwrap(), name);
        }
    }

    #[test]
    fn a_name_and_its_definition_lead_to_each_other() {
        for name in [
            "llama-bpe",
            "smaug-bpe",
            "qwen2",
            "qwen35",
            "tekken",
            "gpt-4o",
            "gpt-2",
            "smollm",
        ] {
            let definition = definition(name).unwrap();
            let model = json!({"ignore_merges": definition.takes_whole_words});
            let tokenizer = json!({"pre_tokenizer": definition.pre_tokenizer, "model": model});
            assert_eq!(super::name("m", &tokenizer).unwrap(), name);
        }
        assert!(definition("default").is_none() && definition("").is_none());
    }

    #[test]
    fn an_unknown_definition_is_named_and_never_guessed() {
        let almost = split(&format!("{CASELESS}{}", LLAMA3.replace("{1,3}", "{1,4}")));
        for definition in [
            almost,
            json!(null),
            json!({"type": "Whitespace"}),
            json!({"type": "ByteLevel", "add_prefix_space": true, "use_regex": true}),
            split(r"\p{N}"),
        ] {
            let tokenizer = json!({"pre_tokenizer": definition, "model": {}});
            let error = name("the-model", &tokenizer).unwrap_err();
            let text = error.to_string();
            assert!(
                matches!(error, ConversionError::PreTokenizer { .. }) && text.contains("the-model"),
                "{text}"
            );
        }
        let whole = json!({"pre_tokenizer": split(&format!("{CASELESS}{QWEN2}")), "model": {"ignore_merges": true}});
        assert!(name("m", &whole).is_err());
    }
}
