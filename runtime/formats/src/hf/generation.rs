//! `generation_config.json`: how the model's makers sample it.

use serde_json::{Map, Value};

use super::{
    CONFIG_BYTES_MAX,
    json::{Fields, parse_object},
};
use crate::{FileSet, Result};

/// A parsed `generation_config.json`; what the file does not say is nothing.
#[derive(Clone, Debug, Default)]
#[expect(
    missing_docs,
    reason = "the fields bear the names of the file, where they are defined"
)]
pub struct GenerationConfig {
    pub bos_token_id: Option<u32>,
    pub eos_token_ids: Vec<u32>,
    pub pad_token_id: Option<u32>,
    pub do_sample: Option<bool>,
    pub temperature: Option<f64>,
    pub top_k: Option<usize>,
    pub top_p: Option<f64>,
    pub min_p: Option<f64>,
    pub typical_p: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub max_length: Option<usize>,
    pub max_new_tokens: Option<usize>,
    /// Everything in the file, in its order.
    pub raw: Map<String, Value>,
}

impl GenerationConfig {
    /// Reads `generation_config.json` of a model directory, if there is one.
    pub fn load(files: &FileSet) -> Result<Option<GenerationConfig>> {
        let Some(bytes) = files.read_if_present("generation_config.json", CONFIG_BYTES_MAX)? else {
            return Ok(None);
        };
        GenerationConfig::parse(&format!("{}/generation_config.json", files.label()), &bytes).map(Some)
    }

    /// Parses the bytes of a `generation_config.json`; `file` is for errors.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<GenerationConfig> {
        const COUNT_MAX: u64 = u32::MAX as u64;
        let raw = parse_object(file, bytes)?;
        let fields = Fields { file, map: &raw };
        Ok(GenerationConfig {
            bos_token_id: fields.token_id("bos_token_id")?,
            eos_token_ids: fields.token_ids("eos_token_id")?,
            pad_token_id: fields.token_id("pad_token_id")?,
            do_sample: fields.opt_bool("do_sample")?,
            temperature: fields.opt_number("temperature")?,
            top_k: fields.opt_count("top_k", 0, COUNT_MAX)?,
            top_p: fields.opt_number("top_p")?,
            min_p: fields.opt_number("min_p")?,
            typical_p: fields.opt_number("typical_p")?,
            repetition_penalty: fields.opt_number("repetition_penalty")?,
            max_length: fields.opt_count("max_length", 0, COUNT_MAX)?,
            max_new_tokens: fields.opt_count("max_new_tokens", 0, COUNT_MAX)?,
            raw,
        })
    }
}
