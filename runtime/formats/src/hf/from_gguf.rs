//! The decoder's configuration from GGUF metadata.
//!
//! GGUF has no name of its own for Mistral: such files say `llama`. llama.cpp runs them without a sliding window unless the file has
//! `llama.attention.sliding_window`, and so does this.

use super::{
    config::Family,
    decoder::{DecoderConfig, HEADS_MAX, LAYERS_MAX, VOCABULARY_MAX, WIDTH_MAX},
    rope::{HEAD_DIM_MAX, POSITIONS_MAX, Rope, RopeScaling, THETA_DEFAULT},
};
use crate::{FormatError, Result, error::excerpt, gguf::Gguf};

impl DecoderConfig {
    /// Reads the `llama.*` or `qwen2.*` keys of a GGUF model.
    ///
    /// Frequency factors that a file carries as the tensor `rope_freqs.weight` (Llama 3.1) are not part of this: they divide the
    /// frequencies one by one and replace `Llama3` scaling.
    pub fn from_gguf(gguf: &Gguf) -> Result<DecoderConfig> {
        let file = gguf.label();
        let arch = gguf.architecture()?;
        let family = match arch {
            "llama" => Family::Llama,
            "qwen2" => Family::Qwen2,
            other => {
                return Err(FormatError::unsupported(
                    file,
                    format!("architecture `{}` is not one the decoder serves", excerpt(other)),
                    "llama (with Mistral) and qwen2 are; another plugin may know this one",
                ));
            }
        };
        let metadata = gguf.metadata();
        let key = |suffix: &str| format!("{arch}.{suffix}");
        let count = |suffix: &str, most: u64| -> Result<Option<usize>> {
            let key = key(suffix);
            match metadata.opt_u64(&key)? {
                None => Ok(None),
                Some(0) => Err(FormatError::malformed(
                    file,
                    format!("metadata `{key}`"),
                    "a number above 0",
                    "0",
                )),
                Some(value) if value > most => Err(FormatError::limit(file, format!("metadata `{key}`"), value, most)),
                Some(value) => Ok(Some(value as usize)),
            }
        };
        let needed = |suffix: &str, most: u64| {
            count(suffix, most)?.ok_or_else(|| FormatError::missing(file, format!("metadata `{}`", key(suffix))))
        };
        if metadata.opt_u64(&key("expert_count"))?.unwrap_or(0) > 0 {
            return Err(FormatError::unsupported(
                file,
                format!(
                    "`{}` is above 0: the model is a mixture of experts",
                    key("expert_count")
                ),
                "the decoder serves dense models",
            ));
        }
        let n_layers = needed("block_count", LAYERS_MAX)?;
        let hidden_size = needed("embedding_length", WIDTH_MAX)?;
        let n_heads = needed("attention.head_count", HEADS_MAX)?;
        let head_dim = count("attention.key_length", HEAD_DIM_MAX)?.unwrap_or(hidden_size / n_heads);
        if let Some(rotated) = count("rope.dimension_count", HEAD_DIM_MAX)?
            && rotated != head_dim
        {
            return Err(FormatError::unsupported(
                file,
                format!(
                    "`{}` is {rotated}, a head has {head_dim}: only part of each head is rotated",
                    key("rope.dimension_count")
                ),
                "the decoder serves models that rotate whole heads",
            ));
        }
        let theta = metadata.opt_f64(&key("rope.freq_base"))?.unwrap_or(THETA_DEFAULT);
        let rms_norm_eps = metadata.f64(&key("attention.layer_norm_rms_epsilon"))?;
        for (name, value) in [
            ("rope.freq_base", theta),
            ("attention.layer_norm_rms_epsilon", rms_norm_eps),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return Err(FormatError::malformed(
                    file,
                    format!("metadata `{}`", key(name)),
                    "a number above 0",
                    value.to_string(),
                ));
            }
        }
        let vocab_size = match gguf
            .tensor("token_embd.weight")
            .and_then(|tensor| tensor.shape.first().copied())
        {
            Some(rows) => rows,
            None => match count("vocab_size", VOCABULARY_MAX)? {
                Some(size) => size,
                None => metadata.array("tokenizer.ggml.tokens")?.len(),
            },
        };
        if vocab_size == 0 || vocab_size as u64 > VOCABULARY_MAX {
            return Err(FormatError::limit(
                file,
                "the size of the vocabulary",
                vocab_size,
                VOCABULARY_MAX,
            ));
        }
        let sliding_window = count("attention.sliding_window", POSITIONS_MAX)?;
        let bias = |name: &str| gguf.tensor(name).is_some();
        let token = |name: &str| metadata.opt_u32(&format!("tokenizer.ggml.{name}"));
        let mut eos_token_ids = Vec::new();
        for name in ["eos_token_id", "eot_token_id", "eom_token_id"] {
            if let Some(id) = token(name)?
                && !eos_token_ids.contains(&id)
            {
                eos_token_ids.push(id);
            }
        }
        let decoder = DecoderConfig {
            family,
            vocab_size,
            hidden_size,
            intermediate_size: needed("feed_forward_length", WIDTH_MAX)?,
            n_layers,
            n_heads,
            n_kv_heads: count("attention.head_count_kv", HEADS_MAX)?.unwrap_or(n_heads),
            head_dim,
            max_position_embeddings: needed("context_length", POSITIONS_MAX)?,
            rms_norm_eps,
            rope: Rope {
                theta,
                scaling: scaling(gguf, arch)?,
            },
            sliding_window,
            layer_is_sliding: vec![sliding_window.is_some(); n_layers],
            tie_word_embeddings: !bias("output.weight"),
            qkv_bias: bias("blk.0.attn_q.bias"),
            output_bias: bias("blk.0.attn_output.bias"),
            mlp_bias: bias("blk.0.ffn_up.bias"),
            hidden_act: "silu".to_owned(),
            bos_token_id: token("bos_token_id")?,
            eos_token_ids,
            pad_token_id: token("padding_token_id")?,
            dtype: None,
        };
        decoder.check(file)?;
        Ok(decoder)
    }
}

fn scaling(gguf: &Gguf, arch: &str) -> Result<RopeScaling> {
    let metadata = gguf.metadata();
    let number = |suffix: &str| -> Result<Option<f64>> {
        let key = format!("{arch}.{suffix}");
        match metadata.opt_f64(&key)? {
            Some(value) if !(value.is_finite() && value > 0.0) => Err(FormatError::malformed(
                gguf.label(),
                format!("metadata `{key}`"),
                "a number above 0",
                value.to_string(),
            )),
            value => Ok(value),
        }
    };
    let factor = number("rope.scaling.factor")?;
    let kind = metadata.opt_str(&format!("{arch}.rope.scaling.type"))?;
    let Some(factor) = factor.or(number("rope.scale_linear")?) else {
        return Ok(RopeScaling::None);
    };
    match kind.unwrap_or("linear") {
        "none" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor }),
        "yarn" => Ok(RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: metadata
                .opt_u64(&format!("{arch}.rope.scaling.original_context_length"))?
                .filter(|length| (1..=POSITIONS_MAX).contains(length))
                .map(|length| length as usize),
            attention_factor: number("rope.scaling.attn_factor")?,
            beta_fast: number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            mscale: None,
            mscale_all_dim: None,
            truncate: true,
        }),
        other => Err(FormatError::unsupported(
            gguf.label(),
            format!("rotary scaling `{}` is not known", excerpt(other)),
            "none, linear and yarn are",
        )),
    }
}
