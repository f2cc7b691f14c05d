//! `tokenizer.json`, `tokenizer_config.json` and the chat templates from the vocabulary inside a GGUF file.
//!
//! Byte-level vocabularies carry their merges. SentencePiece ones carry scores instead: the merges are all ways to make a piece of two others, the
//! highest score first, as transformers derives them from `tokenizer.model`. Every token keeps its id; ids that stand for nothing are left out.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use witness_formats::gguf::{Gguf, Metadata};

use super::pretty;
use crate::{ConversionError, Result, error::excerpt, pre, vocabulary::Kind};

const TOKENS: &str = "tokenizer.ggml.tokens";
/// The most tokens that are read; the largest published vocabularies have about 260,000.
const TOKENS_MAX: usize = 1 << 22;

struct Vocabulary<'a> {
    label: &'a str,
    metadata: &'a Metadata,
    texts: Vec<&'a str>,
    kinds: Vec<i64>,
}

/// Writes the files, each with its name.
pub(crate) fn files(gguf: &Gguf) -> Result<Vec<(String, String)>> {
    let metadata = gguf.metadata();
    let tokens = metadata
        .opt_array(TOKENS)?
        .ok_or_else(|| ConversionError::missing(gguf.label(), format!("metadata `{TOKENS}`")))?;
    let kinds = metadata
        .opt_array("tokenizer.ggml.token_type")?
        .map(|array| array.i64s())
        .transpose()?
        .unwrap_or_default();
    if tokens.len() > TOKENS_MAX || (!kinds.is_empty() && kinds.len() != tokens.len()) {
        return Err(ConversionError::malformed(
            gguf.label(),
            "metadata `tokenizer.ggml.token_type`",
            "one entry for each token",
            format!("{} for {} tokens", kinds.len(), tokens.len()),
        ));
    }
    let vocabulary = Vocabulary {
        label: gguf.label(),
        metadata,
        texts: tokens.strings()?,
        kinds,
    };
    let (tokenizer, adds_bos) = match metadata.opt_str("tokenizer.ggml.model")?.unwrap_or_default() {
        "gpt2" => vocabulary.byte_level()?,
        "llama" => vocabulary.sentencepiece()?,
        other => {
            return Err(ConversionError::unsupported(
                gguf.label(),
                format!("its vocabulary is of type `{}`", excerpt(other)),
                "vocabularies of type gpt2 and llama are converted",
            ));
        }
    };
    let mut files = vec![
        ("tokenizer.json".to_owned(), pretty(&tokenizer)),
        (
            "tokenizer_config.json".to_owned(),
            pretty(&vocabulary.config(gguf, adds_bos)?),
        ),
    ];
    if let Some(template) = metadata.opt_str("tokenizer.chat_template")? {
        files.push(("chat_template.jinja".to_owned(), template.to_owned()));
    }
    for (key, value) in metadata.iter() {
        let name = key.strip_prefix("tokenizer.chat_template.");
        // The name becomes one of a file.
        let name = name
            .filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
        if let (Some(name), Some(template)) = (name, value.as_str()) {
            files.push((format!("additional_chat_templates/{name}.jinja"), template.to_owned()));
        }
    }
    Ok(files)
}

impl Vocabulary<'_> {
    fn kind(&self, id: usize) -> i64 {
        self.kinds.get(id).copied().unwrap_or(Kind::Normal as i64)
    }

    fn is(&self, id: usize, kind: Kind) -> bool {
        self.kind(id) == kind as i64
    }

    /// Returns the tokens that stand for something.
    fn present(&self) -> impl Iterator<Item = (usize, &str)> {
        let tokens = self.texts.iter().enumerate().map(|(id, text)| (id, *text));
        tokens.filter(|(id, text)| !text.is_empty() && !self.is(*id, Kind::Unused))
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool> {
        Ok(self
            .metadata
            .opt_bool(&format!("tokenizer.ggml.{name}"))?
            .unwrap_or(default))
    }

    fn special(&self, name: &str) -> Result<Option<(usize, &str)>> {
        let id = self.metadata.opt_u64(&format!("tokenizer.ggml.{name}_token_id"))?;
        Ok(id
            .and_then(|id| usize::try_from(id).ok())
            .and_then(|id| Some((id, *self.texts.get(id)?))))
    }

    /// Every token by text. All of them, so that none that is added is given another id.
    fn ids(&self) -> Map<String, Value> {
        self.present().map(|(id, text)| (text.to_owned(), json!(id))).collect()
    }

    fn added(&self) -> Vec<Value> {
        let is_added =
            |id: usize| self.is(id, Kind::Control) || self.is(id, Kind::UserDefined) || self.is(id, Kind::Unknown);
        self.present()
            .filter(|(id, _)| is_added(*id))
            .map(|(id, text)| {
                let special = !self.is(id, Kind::UserDefined);
                json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special})
            })
            .collect()
    }

    /// What stands around a text, and whether that begins with a token.
    fn template(&self, bos_default: bool) -> Result<(Option<Value>, bool)> {
        let wanted = |name: &str, default: bool| -> Result<Option<(usize, &str)>> {
            if self.flag(&format!("add_{name}_token"), default)? {
                self.special(name)
            } else {
                Ok(None)
            }
        };
        let (bos, eos) = (wanted("bos", bos_default)?, wanted("eos", false)?);
        if bos.is_none() && eos.is_none() {
            return Ok((None, false));
        }
        let piece = |token: Option<(usize, &str)>, kind: u8| {
            token.map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": kind}}))
        };
        let text = |name: &str, kind: u8| Some(json!({"Sequence": {"id": name, "type_id": kind}}));
        let single: Vec<Value> = [piece(bos, 0), text("A", 0), piece(eos, 0)]
            .into_iter()
            .flatten()
            .collect();
        let pair: Vec<Value> = [
            piece(bos, 0),
            text("A", 0),
            piece(eos, 0),
            piece(bos, 1),
            text("B", 1),
            piece(eos, 1),
        ]
        .into_iter()
        .flatten()
        .collect();
        let tokens: Map<String, Value> = [bos, eos]
            .into_iter()
            .flatten()
            .map(|(id, text)| (text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]})))
            .collect();
        let template = json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens});
        Ok((Some(template), bos.is_some()))
    }

    fn byte_level(&self) -> Result<(Value, bool)> {
        let name = self.metadata.opt_str("tokenizer.ggml.pre")?.unwrap_or_default();
        let definition = pre::definition(name).ok_or_else(|| ConversionError::PreTokenizer {
            model: self.label.to_owned(),
            found: format!("`{}`", excerpt(name)),
        })?;
        let key = "tokenizer.ggml.merges";
        let merges = self
            .metadata
            .opt_array(key)?
            .ok_or_else(|| ConversionError::missing(self.label, format!("metadata `{key}`")))?;
        let merges = merges
            .strings()?
            .into_iter()
            .map(|merge| merge.split_once(' ').map(|(left, right)| json!([left, right])));
        let merges = merges.collect::<Option<Vec<Value>>>();
        let merges = merges.ok_or_else(|| {
            ConversionError::malformed(
                self.label,
                format!("metadata `{key}`"),
                "two tokens with a space between",
                "another text",
            )
        })?;
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let (template, adds_bos) = self.template(definition.adds_bos)?;
        let processor = match template {
            Some(template) => json!({"type": "Sequence", "processors": [bytes, template]}),
            None => bytes,
        };
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added(),
            "normalizer": definition.normalizer,
            "pre_tokenizer": definition.pre_tokenizer,
            "post_processor": processor,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": definition.takes_whole_words,
                "vocab": self.ids(),
                "merges": merges,
            },
        });
        Ok((tokenizer, adds_bos))
    }

    fn sentencepiece(&self) -> Result<(Value, bool)> {
        let has_prefix = self.flag("add_space_prefix", true)?;
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        let normalizer = if has_prefix {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
            json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]})
        } else {
            replace
        };
        let (template, adds_bos) = self.template(true)?;
        let unknown = (0..self.texts.len())
            .find(|id| self.is(*id, Kind::Unknown))
            .map(|id| self.texts[id]);
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added(),
            "normalizer": normalizer,
            "pre_tokenizer": null,
            "post_processor": template,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": unknown,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": true,
                "byte_fallback": (0..self.texts.len()).any(|id| self.is(id, Kind::Byte)),
                "ignore_merges": false,
                "vocab": self.ids(),
                "merges": self.merges_of_scores()?,
            },
        });
        Ok((tokenizer, adds_bos))
    }

    /// Finds every way to make a piece of two, in the order in which SentencePiece would merge.
    fn merges_of_scores(&self) -> Result<Vec<Value>> {
        let key = "tokenizer.ggml.scores";
        let scores = self
            .metadata
            .opt_array(key)?
            .map(|array| array.f32s())
            .transpose()?
            .unwrap_or_default();
        if scores.len() != self.texts.len() {
            return Err(ConversionError::missing(
                self.label,
                format!("metadata `{key}` with a score for each token"),
            ));
        }
        let pieces: Vec<(usize, &str)> = self.present().filter(|(id, _)| self.is(*id, Kind::Normal)).collect();
        let by_text: HashMap<&str, usize> = pieces.iter().map(|(id, text)| (*text, *id)).collect();
        let mut merges: Vec<(f32, &str, &str)> = Vec::new();
        for (id, text) in &pieces {
            let mut ways: Vec<(usize, usize, &str, &str)> = text
                .char_indices()
                .skip(1)
                .filter_map(|(at, _)| {
                    let (left, right) = text.split_at(at);
                    Some((*by_text.get(left)?, *by_text.get(right)?, left, right))
                })
                .collect();
            ways.sort_unstable();
            merges.extend(ways.into_iter().map(|(_, _, left, right)| (scores[*id], left, right)));
        }
        if merges.len() > 1 && merges.iter().all(|(score, ..)| *score == merges[0].0) {
            return Err(ConversionError::unsupported(
                self.label,
                "all pieces of its vocabulary have one score, as some converters write it, so the order of merges is lost",
                "use a GGUF file that was made from the model's tokenizer.model",
            ));
        }
        let length = |text: &str| text.chars().count();
        merges.sort_by(|a, b| {
            b.0.total_cmp(&a.0)
                .then(length(b.1).cmp(&length(a.1)))
                .then(length(b.2).cmp(&length(a.2)))
        });
        Ok(merges
            .into_iter()
            .map(|(_, left, right)| json!([left, right]))
            .collect())
    }

    fn config(&self, gguf: &Gguf, adds_bos: bool) -> Result<Value> {
        let mut map = Map::new();
        for (key, name) in [
            ("bos", "bos"),
            ("eos", "eos"),
            ("unk", "unknown"),
            ("sep", "seperator"),
            ("pad", "padding"),
            ("cls", "cls"),
            ("mask", "mask"),
        ] {
            if let Some((_, text)) = self.special(name)? {
                map.insert(format!("{key}_token"), json!(text));
            }
        }
        map.insert("add_bos_token".to_owned(), json!(adds_bos));
        map.insert("add_eos_token".to_owned(), json!(self.flag("add_eos_token", false)?));
        map.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
        let context = self
            .metadata
            .opt_u64(&format!("{}.context_length", gguf.architecture()?))?;
        map.insert("model_max_length".to_owned(), json!(context));
        map.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
        if self.metadata.opt_str("tokenizer.ggml.model")? == Some("llama") {
            map.insert(
                "add_prefix_space".to_owned(),
                json!(self.flag("add_space_prefix", true)?),
            );
        }
        Ok(Value::Object(map))
    }
}
