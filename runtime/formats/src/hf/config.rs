//! `config.json` as data, before anybody decides whether the model can be run.

use serde_json::{Map, Value};

use super::{
    CONFIG_BYTES_MAX, DecoderConfig, Rope,
    json::{Fields, parse_object},
};
use crate::{FileSet, Result};

/// A family of models that the decoder graph serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Llama 1 to 3.x and the many models of its shape.
    Llama,
    /// Mistral 7B and its kin: Llama with a sliding window.
    Mistral,
    /// Qwen2 and 2.5: Llama with biases on q, k and v.
    Qwen2,
}

impl Family {
    /// Returns the family of a `model_type`.
    pub fn from_model_type(model_type: &str) -> Option<Family> {
        match model_type {
            "llama" => Some(Family::Llama),
            "mistral" => Some(Family::Mistral),
            "qwen2" => Some(Family::Qwen2),
            _ => None,
        }
    }

    /// Returns the `model_type` that names this family.
    pub fn model_type(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Mistral => "mistral",
            Family::Qwen2 => "qwen2",
        }
    }
}

/// A parsed `config.json`; any model type.
#[derive(Clone, Debug)]
pub struct HfConfig {
    /// What errors call the file.
    pub file: String,
    /// `model_type`, such as `llama`; empty when the file has none.
    pub model_type: String,
    /// `architectures`, such as `LlamaForCausalLM`.
    pub architectures: Vec<String>,
    /// Everything in the file, in its order.
    pub raw: Map<String, Value>,
}

impl HfConfig {
    /// Reads `config.json` of a model directory.
    pub fn load(files: &FileSet) -> Result<HfConfig> {
        let bytes = files.read("config.json", CONFIG_BYTES_MAX)?;
        HfConfig::parse(&format!("{}/config.json", files.label()), &bytes)
    }

    /// Parses the bytes of a `config.json`; `file` is for errors.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<HfConfig> {
        let raw = parse_object(file, bytes)?;
        let fields = Fields { file, map: &raw };
        let model_type = fields.opt_str("model_type")?.unwrap_or_default().to_owned();
        let architectures = fields.opt_strings("architectures")?.unwrap_or_default();
        Ok(HfConfig {
            file: file.to_owned(),
            model_type,
            architectures,
            raw,
        })
    }

    /// Returns the family, when the decoder graph serves it.
    pub fn family(&self) -> Option<Family> {
        Family::from_model_type(&self.model_type)
    }

    /// Interprets the file for the decoder graph; other families are [`crate::FormatError::Unsupported`].
    pub fn decoder(&self) -> Result<DecoderConfig> {
        DecoderConfig::from_hf(self)
    }

    /// Reads the rotary positions, for any model type.
    pub fn rope(&self) -> Result<Rope> {
        Rope::read(self.fields())
    }

    /// Returns the file for reading field by field.
    pub fn fields(&self) -> Fields<'_> {
        Fields {
            file: &self.file,
            map: &self.raw,
        }
    }
}
