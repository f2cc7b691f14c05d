//! What a decoder looks like: numbers, and the few switches in which the families differ. `formats` reads them from a Hugging Face
//! `config.json` or from GGUF metadata into one [`DecoderConfig`]; what the graph can compute of it is decided here, once.
//!
//! A family is a row of [`FAMILIES`], never a second graph.

use witness_formats::gguf::rows::RowOrder;
use witness_formats::hf::{self, DecoderConfig};

use crate::error::{ModelError, Result};
use crate::rope::{Rope, RopeScaling, yarn_attention_factor};

/// Largest values that a configuration may state. Far above any model there is (2026: 16k wide, 126 layers, 256k tokens); they bound
/// every product of two of them below 2^63, and every allocation that depends on them alone.
mod limit {
    pub(super) const LAYERS: u64 = 1024;
    pub(super) const WIDTH: u64 = 1 << 18;
    pub(super) const HEADS: u64 = 4096;
    pub(super) const HEAD_DIM: u64 = 4096;
    pub(super) const VOCAB: u64 = 1 << 24;
    pub(super) const CONTEXT: u64 = 1 << 30;
    /// 64 MiB; the largest model in use has 1 MiB. A page of a cache is 64 tokens.
    pub(super) const KV_BYTES_PER_TOKEN: u64 = 1 << 26;
}

/// What sets a family apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// GGUF's `general.architecture`, and the order of the rows of q and k in such files.
    pub architecture: &'static str,
    /// `model_type` in a Hugging Face configuration.
    pub model_type: &'static str,
    /// Biases on queries, keys and values must be there.
    pub qkv_bias: bool,
    /// Order of the rows of q and k in GGUF files.
    pub gguf_rows: RowOrder,
}

const LLAMA: Family = Family {
    architecture: "llama",
    model_type: "llama",
    qkv_bias: false,
    gguf_rows: RowOrder::Interleaved,
};
const MISTRAL: Family = Family {
    architecture: "llama",
    model_type: "mistral",
    qkv_bias: false,
    gguf_rows: RowOrder::Interleaved,
};
const QWEN2: Family = Family {
    architecture: "qwen2",
    model_type: "qwen2",
    qkv_bias: true,
    gguf_rows: RowOrder::Halves,
};

/// The families that the graph computes.
pub const FAMILIES: &[&Family] = &[&LLAMA, &MISTRAL, &QWEN2];

/// Returns the names by which the families are known, for messages and the plugin's descriptor.
pub fn family_names() -> Vec<&'static str> {
    FAMILIES.iter().map(|family| family.model_type).collect()
}

/// A decoder's configuration, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The family.
    pub family: &'static Family,
    /// Blocks.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width of the feed-forward part.
    pub feed_forward: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Numbers in a head's vector.
    pub head_dim: usize,
    /// Tokens.
    pub vocab_size: usize,
    /// Positions that the model was made for.
    pub context_length: usize,
    /// Added to the mean square in every norm.
    pub norm_epsilon: f64,
    /// Rotary embedding.
    pub rope: Rope,
    /// Sliding window of each block.
    pub windows: Vec<Option<usize>>,
    /// The head is the transposed embedding.
    pub tied: bool,
    /// q, k and v must have biases.
    pub qkv_bias: bool,
    /// o must have a bias.
    pub output_bias: bool,
    /// The configuration says that the feed-forward layers have biases.
    pub feed_forward_bias: bool,
}

/// The numbers of a configuration as a file states them, before they are checked.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// Blocks.
    pub n_layers: u64,
    /// Width of the residual stream.
    pub width: u64,
    /// Width of the feed-forward part.
    pub feed_forward: u64,
    /// Query heads.
    pub n_heads: u64,
    /// Key and value heads.
    pub n_kv_heads: u64,
    /// Numbers in a head's vector; nothing = `width / n_heads`.
    pub head_dim: Option<u64>,
    /// Tokens.
    pub vocab_size: u64,
    /// Positions.
    pub context_length: u64,
}

impl Config {
    /// Checks `numbers` and makes a configuration of them with plain defaults for the rest.
    pub fn new(family: &'static Family, numbers: Numbers, norm_epsilon: f64, rope: Rope) -> Result<Self> {
        let within = |key: &str, value: u64, max: u64| {
            if (1..=max).contains(&value) {
                usize::try_from(value).map_err(|_| ModelError::config(key, value, "a number that fits this machine"))
            } else {
                Err(ModelError::config(key, value, format!("1 to {max}")))
            }
        };
        let n_layers = within("number of layers", numbers.n_layers, limit::LAYERS)?;
        let width = within("hidden size", numbers.width, limit::WIDTH)?;
        let n_heads = within("number of attention heads", numbers.n_heads, limit::HEADS)?;
        let n_kv_heads = within("number of key-value heads", numbers.n_kv_heads, limit::HEADS)?;
        let head_dim = match numbers.head_dim {
            Some(head_dim) => within("head dimension", head_dim, limit::HEAD_DIM)?,
            None if width.is_multiple_of(n_heads) => width / n_heads,
            None => {
                return Err(ModelError::config(
                    "hidden size",
                    width,
                    format!("a multiple of {n_heads} heads"),
                ));
            }
        };
        if head_dim < 2 || !head_dim.is_multiple_of(2) {
            return Err(ModelError::config("head dimension", head_dim, "an even number"));
        }
        if !n_heads.is_multiple_of(n_kv_heads) {
            return Err(ModelError::config(
                "number of attention heads",
                n_heads,
                format!("a multiple of the {n_kv_heads} key-value heads"),
            ));
        }
        if !((0.0..1.0).contains(&norm_epsilon)) {
            return Err(ModelError::config("norm epsilon", norm_epsilon, "0 to 1"));
        }
        rope.frequencies(head_dim)?;
        let kv_bytes = 8 * n_layers as u64 * n_kv_heads as u64 * head_dim as u64;
        if kv_bytes > limit::KV_BYTES_PER_TOKEN {
            return Err(ModelError::config(
                "keys and values of a token",
                format!("{kv_bytes} bytes"),
                format!("at most {}", limit::KV_BYTES_PER_TOKEN),
            ));
        }
        Ok(Self {
            family,
            n_layers,
            width,
            feed_forward: within("feed-forward size", numbers.feed_forward, limit::WIDTH)?,
            n_heads,
            n_kv_heads,
            head_dim,
            vocab_size: within("vocabulary size", numbers.vocab_size, limit::VOCAB)?,
            context_length: within("context length", numbers.context_length, limit::CONTEXT)?,
            norm_epsilon,
            rope,
            windows: vec![None; n_layers],
            tied: false,
            qkv_bias: family.qkv_bias,
            output_bias: false,
            feed_forward_bias: false,
        })
    }

    /// Decides whether and how the graph computes what a file describes.
    pub fn from_decoder(decoder: &DecoderConfig) -> Result<Self> {
        let family = match decoder.family {
            hf::Family::Llama => &LLAMA,
            hf::Family::Mistral => &MISTRAL,
            hf::Family::Qwen2 => &QWEN2,
        };
        if !matches!(decoder.hidden_act.as_str(), "silu" | "swish") {
            return Err(ModelError::unsupported(
                format!("the activation `{}`", decoder.hidden_act),
                "this graph computes feed-forward layers gated by `silu`",
            ));
        }
        let numbers = Numbers {
            n_layers: decoder.n_layers as u64,
            width: decoder.hidden_size as u64,
            feed_forward: decoder.intermediate_size as u64,
            n_heads: decoder.n_heads as u64,
            n_kv_heads: decoder.n_kv_heads as u64,
            head_dim: Some(decoder.head_dim as u64),
            vocab_size: decoder.vocab_size as u64,
            context_length: decoder.max_position_embeddings as u64,
        };
        let rope = Rope {
            theta: decoder.rope.theta,
            scaling: scaling(decoder)?,
        };
        let mut config = Config::new(family, numbers, decoder.rms_norm_eps, rope)?;
        config.tied = decoder.tie_word_embeddings;
        config.qkv_bias |= decoder.qkv_bias;
        config.output_bias = decoder.output_bias;
        config.feed_forward_bias = decoder.mlp_bias;
        if let Some(window) = decoder.sliding_window {
            if window == 0 {
                return Err(ModelError::config("sliding_window", window, "at least 1"));
            }
            for (layer, slides) in config.windows.iter_mut().zip(&decoder.layer_is_sliding) {
                *layer = slides.then_some(window);
            }
        }
        Ok(config)
    }

    /// Returns the shape of this model's caches.
    pub fn kv_shape(&self) -> crate::cache::KvShape {
        crate::cache::KvShape {
            n_layers: self.n_layers,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
        }
    }
}

fn scaling(decoder: &DecoderConfig) -> Result<RopeScaling> {
    let context = decoder.max_position_embeddings;
    Ok(match &decoder.rope.scaling {
        hf::RopeScaling::None => RopeScaling::None,
        hf::RopeScaling::Linear { factor } => RopeScaling::Linear { factor: *factor },
        hf::RopeScaling::Dynamic { .. } => RopeScaling::Dynamic {
            original_context: context,
        },
        hf::RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => RopeScaling::Llama3 {
            factor: *factor,
            low_freq_factor: *low_freq_factor,
            high_freq_factor: *high_freq_factor,
            original_context: *original_max_position_embeddings as f64,
        },
        hf::RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            attention_factor,
            beta_fast,
            beta_slow,
            mscale,
            mscale_all_dim,
            truncate,
        } => RopeScaling::Yarn {
            factor: *factor,
            attention_factor: attention_factor.unwrap_or_else(|| match (mscale, mscale_all_dim) {
                (Some(scale), Some(all)) if *scale != 0.0 && *all != 0.0 => {
                    yarn_attention_factor(*factor, *scale) / yarn_attention_factor(*factor, *all)
                }
                _ => yarn_attention_factor(*factor, 1.0),
            }),
            beta_fast: *beta_fast,
            beta_slow: *beta_slow,
            original_context: original_max_position_embeddings.unwrap_or(context) as f64,
            truncate: *truncate,
        },
        hf::RopeScaling::LongRope { .. } => {
            return Err(ModelError::unsupported(
                "the rope scaling `longrope`",
                "its angles depend on the length of each sequence; use a model with `linear`, `llama3` or `yarn` scaling",
            ));
        }
    })
}
