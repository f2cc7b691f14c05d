//! `tokenizer_config.json` and what lies beside it: special tokens by text, and the chat template in any of its four places.
//!
//! A template file (`chat_template.jinja`, `additional_chat_templates/NAME.jinja`) wins over the JSON, as in transformers.

use serde_json::{Map, Value};

use super::{
    TEMPLATES_MAX, TOKENIZER_CONFIG_BYTES_MAX,
    json::{Fields, parse_object},
};
use crate::{FileSet, FormatError, Result, error::excerpt};

/// A parsed `tokenizer_config.json` with the files that complete it; what they do not say is nothing.
#[derive(Clone, Debug, Default)]
#[expect(
    missing_docs,
    reason = "the token fields bear the names of the file, where they are defined"
)]
pub struct TokenizerConfig {
    /// The template used when none is asked for by name.
    pub chat_template: Option<String>,
    /// All other templates by name, such as `tool_use`.
    pub named_templates: Vec<(String, String)>,
    pub bos_token: Option<String>,
    pub eos_token: Option<String>,
    pub pad_token: Option<String>,
    pub unk_token: Option<String>,
    pub cls_token: Option<String>,
    pub sep_token: Option<String>,
    pub mask_token: Option<String>,
    pub additional_special_tokens: Vec<String>,
    pub add_bos_token: Option<bool>,
    pub add_eos_token: Option<bool>,
    pub tokenizer_class: Option<String>,
    /// The longest text; nothing when the file says the huge number that means "no limit".
    pub model_max_length: Option<u64>,
    /// Everything in the JSON file, in its order.
    pub raw: Map<String, Value>,
}

impl TokenizerConfig {
    /// Reads the files of a model directory; none of them needs to be there.
    pub fn load(files: &FileSet) -> Result<TokenizerConfig> {
        let named = |name: &str| format!("{}/{name}", files.label());
        let mut config = match files.read_if_present("tokenizer_config.json", TOKENIZER_CONFIG_BYTES_MAX)? {
            Some(bytes) => TokenizerConfig::parse(&named("tokenizer_config.json"), &bytes)?,
            None => TokenizerConfig::default(),
        };
        if let Some(bytes) = files.read_if_present("special_tokens_map.json", TOKENIZER_CONFIG_BYTES_MAX)? {
            let file = named("special_tokens_map.json");
            let map = parse_object(&file, &bytes)?;
            config.fill_tokens(Fields { file: &file, map: &map })?;
        }
        if let Some(bytes) = files.read_if_present("chat_template.json", TOKENIZER_CONFIG_BYTES_MAX)? {
            let file = named("chat_template.json");
            let map = parse_object(&file, &bytes)?;
            config.take_templates(Fields { file: &file, map: &map })?;
        }
        if let Some(text) = files.read_text_if_present("chat_template.jinja", TOKENIZER_CONFIG_BYTES_MAX)? {
            config.chat_template = Some(text);
        }
        let beside: Vec<(String, String)> = files
            .iter()
            .filter_map(|(name, _)| {
                let short = name
                    .strip_prefix("additional_chat_templates/")?
                    .strip_suffix(".jinja")?;
                Some((name.to_owned(), short.to_owned()))
            })
            .collect();
        if beside.len() > TEMPLATES_MAX {
            let most = TEMPLATES_MAX as u64;
            return Err(FormatError::limit(
                files.label(),
                "the number of chat templates",
                beside.len(),
                most,
            ));
        }
        for (file, short) in beside {
            let text = files.read_text(&file, TOKENIZER_CONFIG_BYTES_MAX)?;
            config.named_templates.retain(|(name, _)| *name != short);
            config.named_templates.push((short, text));
        }
        Ok(config)
    }

    /// Parses the bytes of a `tokenizer_config.json`; `file` is for errors.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<TokenizerConfig> {
        /// Files write 1e30 for "no limit"; anything beyond this is taken for that.
        const LENGTH_MAX: f64 = 1e15;
        let raw = parse_object(file, bytes)?;
        let fields = Fields { file, map: &raw };
        let length = fields.opt_number("model_max_length")?;
        let mut config = TokenizerConfig {
            add_bos_token: fields.opt_bool("add_bos_token")?,
            add_eos_token: fields.opt_bool("add_eos_token")?,
            tokenizer_class: fields.opt_str("tokenizer_class")?.map(str::to_owned),
            model_max_length: length
                .filter(|length| (1.0..LENGTH_MAX).contains(length))
                .map(|length| length as u64),
            ..TokenizerConfig::default()
        };
        config.fill_tokens(fields)?;
        config.take_templates(fields)?;
        config.raw = raw;
        Ok(config)
    }

    /// Fills in the special tokens that are still missing.
    fn fill_tokens(&mut self, fields: Fields<'_>) -> Result<()> {
        for (key, slot) in [
            ("bos_token", &mut self.bos_token),
            ("eos_token", &mut self.eos_token),
            ("pad_token", &mut self.pad_token),
            ("unk_token", &mut self.unk_token),
            ("cls_token", &mut self.cls_token),
            ("sep_token", &mut self.sep_token),
            ("mask_token", &mut self.mask_token),
        ] {
            if slot.is_none()
                && let Some(value) = fields.get(key)
            {
                *slot = Some(token(fields.file, key, value)?);
            }
        }
        if self.additional_special_tokens.is_empty() {
            // Version 5 writes a list as `extra_special_tokens`; version 4 used that name for an object of names and tokens.
            for key in ["additional_special_tokens", "extra_special_tokens"] {
                match fields.get(key) {
                    None => {}
                    Some(Value::Array(list)) => {
                        for value in list {
                            self.additional_special_tokens.push(token(fields.file, key, value)?);
                        }
                    }
                    Some(Value::Object(named)) => {
                        for value in named.values() {
                            self.additional_special_tokens.push(token(fields.file, key, value)?);
                        }
                    }
                    Some(other) => {
                        return Err(FormatError::malformed(
                            fields.file,
                            format!("`{key}`"),
                            "a list of tokens",
                            excerpt(&other.to_string()),
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes `chat_template`: one string, a list of named ones, or an object of them.
    fn take_templates(&mut self, fields: Fields<'_>) -> Result<()> {
        let wrong = |found: &Value| {
            FormatError::malformed(
                fields.file,
                "`chat_template`",
                "a string or a list of objects with `name` and `template`",
                excerpt(&found.to_string()),
            )
        };
        let mut named: Vec<(&str, &str)> = Vec::new();
        match fields.get("chat_template") {
            None => return Ok(()),
            Some(Value::String(text)) => named.push(("default", text)),
            Some(Value::Array(list)) => {
                for item in list {
                    let text = |key: &str| item.get(key).and_then(Value::as_str);
                    named.push((
                        text("name").ok_or_else(|| wrong(item))?,
                        text("template").ok_or_else(|| wrong(item))?,
                    ));
                }
            }
            Some(Value::Object(map)) => {
                for (name, text) in map {
                    named.push((name, text.as_str().ok_or_else(|| wrong(text))?));
                }
            }
            Some(other) => return Err(wrong(other)),
        }
        if named.len() > TEMPLATES_MAX {
            let most = TEMPLATES_MAX as u64;
            return Err(FormatError::limit(
                fields.file,
                "the number of chat templates",
                named.len(),
                most,
            ));
        }
        for (name, text) in named {
            if name == "default" {
                self.chat_template = Some(text.to_owned());
            } else {
                self.named_templates.retain(|(known, _)| known != name);
                self.named_templates.push((name.to_owned(), text.to_owned()));
            }
        }
        Ok(())
    }
}

/// Returns the text of a token written as a string or as an object with `content`.
fn token(file: &str, key: &str, value: &Value) -> Result<String> {
    let text = value.as_str().or_else(|| value.get("content").and_then(Value::as_str));
    text.map(str::to_owned).ok_or_else(|| {
        FormatError::malformed(
            file,
            format!("`{key}`"),
            "a token as text or as an object with `content`",
            excerpt(&value.to_string()),
        )
    })
}
