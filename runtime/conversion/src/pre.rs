//! The name in `tokenizer.ggml.pre` of the way in which a tokenizer cuts text into words, from the definition in `tokenizer.json`.
//!
//! llama.cpp's converter knows a tokenizer by a hash of the ids of one text, so it knows only published vocabularies. The definition says the
//! same for every vocabulary: the regular expressions themselves, and whether a word that is a token is taken whole. What is not in the table
//! is refused with the definition in the message; a wrong name would cut text wrongly without a word.
//!
//! **Words taken whole.** With `ignore_merges` a word that is a token becomes that token, whatever the merges would make of it. In llama.cpp this belongs to
//! the name: of those here, `llama-bpe` and `tekken` do it. For every other way of cutting there is still a right name where merges lead to each token by
//! themselves, for then taking it whole changes nothing; that is looked at, token by token. Where a token is reached by no merges, as in a vocabulary of whole words,
//! no GGUF file can say the same: adding merges for it would also join its parts inside of other words. So such a tokenizer is refused.

use std::collections::HashMap;

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

/// Returns the name. `tokenizer` is the whole of `tokenizer.json`, `merges` are those of it, `model` is what errors call it.
pub(crate) fn name(model: &str, tokenizer: &Value, merges: &[(String, String)]) -> Result<&'static str> {
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
    let (name, is_of_whole_words) = match steps.as_slice() {
        // The same words; only the first of the two names takes a word that is a token as that token.
        [Step::Split(pattern)] if is(pattern, LLAMA3) && takes_whole_words => ("llama-bpe", true),
        [Step::Split(pattern)] if is(pattern, LLAMA3) => ("smaug-bpe", false),
        [Step::Split(pattern)] if is(pattern, QWEN2) => ("qwen2", false),
        [Step::Split(pattern)] if is(pattern, QWEN35) => ("qwen35", false),
        [Step::Split(TEKKEN)] => ("tekken", true),
        [Step::Split(O200K)] => ("gpt-4o", false),
        [Step::Gpt2] => ("gpt-2", false),
        [Step::Digits, Step::Gpt2] => ("smollm", false),
        _ => return Err(unknown()),
    };
    if takes_whole_words
        && !is_of_whole_words
        && let Some(token) = unmerged(tokenizer, merges)
    {
        return Err(ConversionError::PreTokenizer {
            model: model.to_owned(),
            found: format!(
                "`ignore_merges` takes words whole that no merges lead to, such as `{}`, in words cut as by `{name}`",
                excerpt(token)
            ),
        });
    }
    Ok(name)
}

/// Returns a token of the vocabulary, the first by its id, that merging its own bytes does not lead to.
fn unmerged<'a>(tokenizer: &'a Value, merges: &[(String, String)]) -> Option<&'a str> {
    let ranks = merges.iter().enumerate();
    let ranks: HashMap<(&str, &str), usize> = ranks
        .rev()
        .map(|(rank, (left, right))| ((left.as_str(), right.as_str()), rank))
        .collect();
    let tokens = tokenizer["model"]["vocab"].as_object().into_iter().flatten();
    let added = tokenizer["added_tokens"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let is_added = |token: &str| added.iter().any(|added| added["content"] == token);
    let apart = tokens.filter(|(token, _)| !is_merged(token, &ranks) && !is_added(token));
    let first = apart.min_by_key(|(_, id)| id.as_u64());
    first.map(|(token, _)| token.as_str())
}

/// Says whether the merges make a text one token: of all neighbours the pair of the lowest rank is joined, the first of equals, until none is left.
fn is_merged(text: &str, ranks: &HashMap<(&str, &str), usize>) -> bool {
    // Where each part begins, and where the last ends.
    let mut bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    while bounds.len() > 2 {
        let pairs = bounds.windows(3).enumerate();
        let ranked = pairs.filter_map(|(place, part)| {
            let rank = ranks.get(&(&text[part[0]..part[1]], &text[part[1]..part[2]]))?;
            Some((*rank, place))
        });
        match ranked.min() {
            Some((_, place)) => {
                bounds.remove(place + 1);
            }
            None => return false,
        }
    }
    true
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
            assert_eq!(super::name("m", &tokenizer, &[]).unwrap(), name);
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
            assert_eq!(super::name("m", &tokenizer, &[]).unwrap(), name);
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
            let error = name("the-model", &tokenizer, &[]).unwrap_err();
            let text = error.to_string();
            assert!(
                matches!(error, ConversionError::PreTokenizer { .. }) && text.contains("the-model"),
                "{text}"
            );
        }
    }

    // Taking words whole changes nothing where merges lead to every token; one token that they do not lead to is enough for a refusal, an added one is not.
    #[test]
    fn words_taken_whole_need_a_name_that_does_so_unless_merges_lead_there() {
        let merges = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            let pairs = pairs.iter();
            pairs
                .map(|(left, right)| ((*left).to_owned(), (*right).to_owned()))
                .collect()
        };
        let tokenizer = |pattern: &str, vocabulary: Value| {
            let added = json!([{"id": 9, "content": "<end>", "special": true}]);
            let model = json!({"ignore_merges": true, "vocab": vocabulary});
            json!({"pre_tokenizer": split(&format!("{CASELESS}{pattern}")), "model": model, "added_tokens": added})
        };
        let all = json!({"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "<end>": 9});
        let name = |pattern: &str, pairs: &[(&str, &str)]| name("m", &tokenizer(pattern, all.clone()), &merges(pairs));
        assert_eq!(name(QWEN2, &[("a", "b"), ("ab", "c")]).unwrap(), "qwen2");
        // `b c` comes first and leaves `a bc`, which nothing joins.
        let error = name(QWEN2, &[("b", "c"), ("a", "b"), ("ab", "c")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("`abc`") && error.contains("`qwen2`"), "{error}");
        assert!(name(QWEN2, &[]).unwrap_err().to_string().contains("`ab`"));
        assert_eq!(name(LLAMA3, &[]).unwrap(), "llama-bpe");
    }
}
