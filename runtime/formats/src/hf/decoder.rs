//! What the decoder graph needs to know of a model, the same from `config.json` and from GGUF metadata.
//!
//! **Invariant:** every number is within its limit, `n_heads` is a multiple of `n_kv_heads`, `head_dim` is even, and
//! `layer_is_sliding` has one entry per layer: what is built from these numbers is bounded and cannot divide by zero.
//!
//! Defaults are those of transformers' own configuration classes for each family, because files leave out what equals them.

use super::four_bit::is_four_bit;
use super::{
    config::{Family, HfConfig},
    json::Fields,
    rope::{HEAD_DIM_MAX, POSITIONS_MAX, Rope, RopeScaling},
};
use crate::{FormatError, Result};

/// Limits far beyond any published model; each bounds an allocation somewhere above.
pub(super) const VOCABULARY_MAX: u64 = 1 << 24;
pub(super) const WIDTH_MAX: u64 = 1 << 20;
pub(super) const LAYERS_MAX: u64 = 1_024;
pub(super) const HEADS_MAX: u64 = 4_096;

/// The shape and behaviour of a decoder of one of the served families.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Which family.
    pub family: Family,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Number of query heads.
    pub n_heads: usize,
    /// Number of key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Rows of one head; even. Need not be `hidden_size / n_heads`.
    pub head_dim: usize,
    /// The longest sequence the model was made for.
    pub max_position_embeddings: usize,
    /// Added to the mean square in RMS normalisation.
    pub rms_norm_eps: f64,
    /// Rotary positions.
    pub rope: Rope,
    /// How many positions a sliding layer looks back, itself included; nothing when no layer slides.
    pub sliding_window: Option<usize>,
    /// Which layers slide; one entry per layer, all false without a window.
    pub layer_is_sliding: Vec<bool>,
    /// Whether the output matrix is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub output_bias: bool,
    /// Whether the feed-forward matrices have biases.
    pub mlp_bias: bool,
    /// The activation of the feed-forward block, such as `silu`.
    pub hidden_act: String,
    /// The token that starts a text.
    pub bos_token_id: Option<u32>,
    /// The tokens that end one.
    pub eos_token_ids: Vec<u32>,
    /// The token that fills up.
    pub pad_token_id: Option<u32>,
    /// The element type the weights were made with, such as `bfloat16`.
    pub dtype: Option<String>,
}

/// What a family's configuration class assumes when a file is silent.
struct Defaults {
    vocab_size: usize,
    intermediate_size: usize,
    /// Nothing: as many as query heads.
    n_kv_heads: Option<usize>,
    max_position_embeddings: usize,
    sliding_window: Option<usize>,
    eos_token_id: Option<u32>,
    bos_token_id: Option<u32>,
}

impl Family {
    fn defaults(self) -> Defaults {
        match self {
            Family::Llama => Defaults {
                vocab_size: 32_000,
                intermediate_size: 11_008,
                n_kv_heads: None,
                max_position_embeddings: 2_048,
                sliding_window: None,
                eos_token_id: Some(2),
                bos_token_id: Some(1),
            },
            Family::Mistral => Defaults {
                vocab_size: 32_000,
                intermediate_size: 14_336,
                n_kv_heads: Some(8),
                max_position_embeddings: 131_072,
                sliding_window: Some(4_096),
                eos_token_id: Some(2),
                bos_token_id: Some(1),
            },
            Family::Qwen2 => Defaults {
                vocab_size: 151_936,
                intermediate_size: 22_016,
                n_kv_heads: Some(32),
                max_position_embeddings: 32_768,
                sliding_window: Some(4_096),
                eos_token_id: None,
                bos_token_id: None,
            },
        }
    }
}

impl DecoderConfig {
    /// Interprets a `config.json`.
    pub(super) fn from_hf(config: &HfConfig) -> Result<DecoderConfig> {
        let fields = config.fields();
        let family = config.family().ok_or_else(|| {
            FormatError::unsupported(
                config.file.clone(),
                format!(
                    "model type `{}` is not one the decoder serves",
                    crate::error::excerpt(&config.model_type)
                ),
                "llama, mistral and qwen2 are; another plugin may know this one",
            )
        })?;
        // Weights in 4 bits of bitsandbytes say themselves how they are to be read.
        if fields
            .get("quantization_config")
            .is_some_and(|quantization| !is_four_bit(quantization))
        {
            return Err(FormatError::unsupported(
                config.file.clone(),
                "`quantization_config` says that the weights are stored in a quantized form of their own",
                "use the unquantized safetensors, or a GGUF file",
            ));
        }
        let defaults = family.defaults();
        let n_layers = fields.count_or("num_hidden_layers", 32, 1, LAYERS_MAX)?;
        let hidden_size = fields.count_or("hidden_size", 4_096, 1, WIDTH_MAX)?;
        let n_heads = fields.count_or("num_attention_heads", 32, 1, HEADS_MAX)?;
        let kv_default = defaults.n_kv_heads.unwrap_or(n_heads);
        // An explicit null means "as many as query heads" for every family.
        let kv_default = if fields
            .map
            .get("num_key_value_heads")
            .is_some_and(|value| value.is_null())
        {
            n_heads
        } else {
            kv_default
        };
        let (sliding_window, layer_is_sliding) = sliding(fields, family, &defaults, n_layers)?;
        let attention_bias = fields.opt_bool("attention_bias")?.unwrap_or(false) && family == Family::Llama;
        let has = |key: &str| fields.map.contains_key(key);
        let decoder = DecoderConfig {
            family,
            vocab_size: fields.count_or("vocab_size", defaults.vocab_size, 1, VOCABULARY_MAX)?,
            hidden_size,
            intermediate_size: fields.count_or("intermediate_size", defaults.intermediate_size, 1, WIDTH_MAX)?,
            n_layers,
            n_heads,
            n_kv_heads: fields.count_or("num_key_value_heads", kv_default, 1, HEADS_MAX)?,
            head_dim: fields.count_or("head_dim", hidden_size / n_heads, 1, HEAD_DIM_MAX)?,
            max_position_embeddings: fields.count_or(
                "max_position_embeddings",
                defaults.max_position_embeddings,
                1,
                POSITIONS_MAX,
            )?,
            rms_norm_eps: fields.opt_positive("rms_norm_eps")?.unwrap_or(1e-6),
            rope: Rope::read(fields)?,
            sliding_window,
            layer_is_sliding,
            tie_word_embeddings: fields.opt_bool("tie_word_embeddings")?.unwrap_or(false),
            qkv_bias: attention_bias || family == Family::Qwen2,
            output_bias: attention_bias,
            mlp_bias: fields.opt_bool("mlp_bias")?.unwrap_or(false) && family == Family::Llama,
            hidden_act: fields.opt_str("hidden_act")?.unwrap_or("silu").to_owned(),
            bos_token_id: if has("bos_token_id") {
                fields.token_id("bos_token_id")?
            } else {
                defaults.bos_token_id
            },
            eos_token_ids: if has("eos_token_id") {
                fields.token_ids("eos_token_id")?
            } else {
                defaults.eos_token_id.into_iter().collect()
            },
            pad_token_id: fields.token_id("pad_token_id")?,
            dtype: match fields.opt_str("dtype")? {
                Some(dtype) => Some(dtype.to_owned()),
                None => fields.opt_str("torch_dtype")?.map(str::to_owned),
            },
        };
        decoder.check(fields.file)?;
        Ok(decoder)
    }

    /// Proves what the single limits cannot.
    pub(super) fn check(&self, file: &str) -> Result<()> {
        let wrong =
            |place: &str, expected: String, found: String| Err(FormatError::malformed(file, place, expected, found));
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return wrong(
                "the size of a head",
                "an even number above 0".to_owned(),
                self.head_dim.to_string(),
            );
        }
        if self.n_kv_heads > self.n_heads || !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return wrong(
                "the number of key heads",
                format!("a divisor of the {} query heads", self.n_heads),
                self.n_kv_heads.to_string(),
            );
        }
        let width = (self.n_heads as u64).saturating_mul(self.head_dim as u64);
        if width > WIDTH_MAX {
            return Err(FormatError::limit(
                file,
                "the width of all heads together",
                width,
                WIDTH_MAX,
            ));
        }
        if let RopeScaling::LongRope {
            short_factor,
            long_factor,
            ..
        } = &self.rope.scaling
        {
            for factors in [short_factor, long_factor] {
                if factors.len() != self.head_dim / 2 {
                    return wrong(
                        "the factors of `longrope`",
                        format!("{}, half the size of a head", self.head_dim / 2),
                        factors.len().to_string(),
                    );
                }
            }
        }
        Ok(())
    }
}

/// Decides the window and which layers use it, as each family's class does.
fn sliding(
    fields: Fields<'_>,
    family: Family,
    defaults: &Defaults,
    n_layers: usize,
) -> Result<(Option<usize>, Vec<bool>)> {
    let told = if fields.map.contains_key("sliding_window") {
        // Zero and -1 stand for "none" in some files.
        let is_off = fields
            .get("sliding_window")
            .and_then(serde_json::Value::as_i64)
            .is_some_and(|window| window <= 0);
        if is_off {
            None
        } else {
            fields.opt_count("sliding_window", 1, POSITIONS_MAX)?
        }
    } else {
        defaults.sliding_window
    };
    let window = match family {
        Family::Llama => None,
        Family::Mistral => told,
        Family::Qwen2 if fields.opt_bool("use_sliding_window")?.unwrap_or(false) => told,
        Family::Qwen2 => None,
    };
    if window.is_none() {
        return Ok((None, vec![false; n_layers]));
    }
    let layers = match fields.opt_strings("layer_types")? {
        Some(types) => {
            if types.len() != n_layers {
                return Err(FormatError::malformed(
                    fields.file,
                    "`layer_types`",
                    format!("{n_layers} entries, one per layer"),
                    types.len().to_string(),
                ));
            }
            types
                .iter()
                .map(|kind| match kind.as_str() {
                    "full_attention" => Ok(false),
                    "sliding_attention" => Ok(true),
                    other => Err(FormatError::unsupported(
                        fields.file,
                        format!("`layer_types` names `{}`", crate::error::excerpt(other)),
                        "full_attention and sliding_attention are served",
                    )),
                })
                .collect::<Result<Vec<bool>>>()?
        }
        None if family == Family::Qwen2 => {
            let first = fields.count_or("max_window_layers", 28, 0, POSITIONS_MAX)?;
            (0..n_layers).map(|layer| layer >= first).collect()
        }
        None => vec![true; n_layers],
    };
    let any = layers.contains(&true);
    Ok((window.filter(|_| any), layers))
}
