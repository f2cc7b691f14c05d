//! The families that are converted, as data: names, defaults and what is peculiar to each.
//!
//! Defaults are those of transformers' configuration classes, because configurations leave out what equals them.

use witness_formats::{
    gguf::rows::{RowOrder, stored_order},
    hf::{Fields, HfConfig},
};

use crate::{ConversionError, Result, error::excerpt};

/// A family of decoder models that exists in both forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 1 to 3.x and the many models of its shape.
    Llama,
    /// Mistral 7B and its kin; `llama` in GGUF.
    Mistral,
    /// Qwen2 and 2.5.
    Qwen2,
    /// Qwen3 without experts.
    Qwen3,
    /// Gemma 2.
    Gemma2,
    /// Gemma 3, text only.
    Gemma3,
    /// Phi-3, 3.5 and 4.
    Phi3,
}

/// The numbers of a model that every family has.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) vocab_size: usize,
    pub(crate) context: usize,
    pub(crate) hidden: usize,
    pub(crate) inner: usize,
    pub(crate) n_layers: usize,
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Whether the configuration has a size of heads of its own; Qwen2 and Phi-3 have not.
    pub(crate) has_head_dim: bool,
    pub(crate) rms_norm_eps: f64,
    pub(crate) tied: bool,
}

const NUMBER_MAX: u64 = 1 << 31;
const LAYERS_MAX: u64 = 1_024;
const HEADS_MAX: u64 = 4_096;

impl Family {
    /// Every family.
    pub const ALL: [Family; 7] = [
        Family::Llama,
        Family::Mistral,
        Family::Qwen2,
        Family::Qwen3,
        Family::Gemma2,
        Family::Gemma3,
        Family::Phi3,
    ];

    /// Returns the `model_type` of a configuration.
    pub fn model_type(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Mistral => "mistral",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Gemma2 => "gemma2",
            Family::Gemma3 => "gemma3_text",
            Family::Phi3 => "phi3",
        }
    }

    /// Returns the class that transformers loads, such as `LlamaForCausalLM`.
    pub fn class(self) -> &'static str {
        match self {
            Family::Llama => "LlamaForCausalLM",
            Family::Mistral => "MistralForCausalLM",
            Family::Qwen2 => "Qwen2ForCausalLM",
            Family::Qwen3 => "Qwen3ForCausalLM",
            Family::Gemma2 => "Gemma2ForCausalLM",
            Family::Gemma3 => "Gemma3ForCausalLM",
            Family::Phi3 => "Phi3ForCausalLM",
        }
    }

    /// Returns `general.architecture` of a GGUF file.
    pub fn architecture(self) -> &'static str {
        match self {
            Family::Llama | Family::Mistral => "llama",
            Family::Gemma3 => "gemma3",
            other => other.model_type(),
        }
    }

    /// Returns the order in which GGUF keeps the rows of q and k.
    pub fn row_order(self) -> RowOrder {
        stored_order(self.architecture())
    }

    /// Returns what GGUF adds to the weights of norms: Gemma's multiply by `1 + w`, and llama.cpp by what is stored.
    pub(crate) fn norm_shift(self) -> f32 {
        match self {
            Family::Gemma2 | Family::Gemma3 => 1.0,
            _ => 0.0,
        }
    }

    /// Reads the family from a configuration.
    pub fn of(config: &HfConfig) -> Result<Family> {
        if let Some(family) = Family::ALL
            .into_iter()
            .find(|family| family.model_type() == config.model_type)
        {
            return Ok(family);
        }
        let known: Vec<&str> = Family::ALL.iter().map(|family| family.model_type()).collect();
        Err(ConversionError::unsupported(
            &config.file,
            format!(
                "its model type `{}` is none that is converted",
                excerpt(&config.model_type)
            ),
            format!("models of type {} are converted", known.join(", ")),
        ))
    }

    /// Reads the numbers, with the family's defaults.
    pub(crate) fn shape(self, fields: Fields<'_>) -> Result<Shape> {
        let [vocab, context, hidden, inner, layers, heads, kv_heads] = match self {
            Family::Llama => [32_000, 2_048, 4_096, 11_008, 32, 32, 0],
            Family::Mistral => [32_000, 131_072, 4_096, 14_336, 32, 32, 8],
            Family::Qwen2 => [151_936, 32_768, 4_096, 22_016, 32, 32, 32],
            Family::Qwen3 => [151_936, 32_768, 4_096, 22_016, 32, 32, 32],
            Family::Gemma2 => [256_000, 8_192, 2_304, 9_216, 26, 8, 4],
            Family::Gemma3 => [262_208, 131_072, 2_304, 9_216, 26, 8, 4],
            Family::Phi3 => [32_064, 4_096, 3_072, 8_192, 32, 32, 0],
        };
        let hidden = fields.count_or("hidden_size", hidden, 1, NUMBER_MAX)?;
        let n_heads = fields.count_or("num_attention_heads", heads, 1, HEADS_MAX)?;
        let told_kv = fields.opt_count("num_key_value_heads", 1, HEADS_MAX)?;
        // A null means "as many as query heads", silence the family's default.
        let is_null = fields.has("num_key_value_heads") && told_kv.is_none();
        let default_kv = if is_null || kv_heads == 0 { n_heads } else { kv_heads };
        let head_default = match self {
            Family::Qwen3 => 128,
            Family::Gemma2 | Family::Gemma3 => 256,
            _ => hidden / n_heads,
        };
        let told_head = fields.opt_count("head_dim", 1, NUMBER_MAX)?;
        let shape = Shape {
            vocab_size: fields.count_or("vocab_size", vocab, 1, NUMBER_MAX)?,
            context: fields.count_or("max_position_embeddings", context, 1, NUMBER_MAX)?,
            hidden,
            inner: fields.count_or("intermediate_size", inner, 1, NUMBER_MAX)?,
            n_layers: fields.count_or("num_hidden_layers", layers, 1, LAYERS_MAX)?,
            n_heads,
            n_kv_heads: told_kv.unwrap_or(default_kv),
            head_dim: told_head.unwrap_or(head_default),
            has_head_dim: told_head.is_some() || !matches!(self, Family::Qwen2 | Family::Phi3),
            rms_norm_eps: fields.opt_positive("rms_norm_eps")?.unwrap_or(if self == Family::Phi3 {
                1e-5
            } else {
                1e-6
            }),
            tied: fields
                .opt_bool("tie_word_embeddings")?
                .unwrap_or(matches!(self, Family::Gemma2 | Family::Gemma3)),
        };
        if shape.head_dim < 2 || !shape.head_dim.is_multiple_of(2) || !shape.n_heads.is_multiple_of(shape.n_kv_heads) {
            return Err(ConversionError::malformed(
                fields.file(),
                "the heads",
                "an even size, and a number of key heads that divides the query heads",
                format!(
                    "{} rows, {} and {} heads",
                    shape.head_dim, shape.n_heads, shape.n_kv_heads
                ),
            ));
        }
        Ok(shape)
    }
}
