//! `config.json` and `generation_config.json` from GGUF metadata.

use serde_json::{Map, Value, json};
use witness_formats::{
    FormatError,
    gguf::{GgmlType, Gguf},
};

use super::rope;
use crate::{ConversionError, Family, Result, error::excerpt};

const NUMBER_MAX: u64 = 1 << 31;
const HEADS_MAX: u64 = 4_096;

/// Returns the family of a file. A `llama` with a window is a Mistral; without one the two are the same model.
pub(crate) fn family(gguf: &Gguf) -> Result<Family> {
    let arch = gguf.architecture()?;
    Ok(match arch {
        "llama" if gguf.metadata().opt_u64("llama.attention.sliding_window")?.unwrap_or(0) > 0 => Family::Mistral,
        "llama" => Family::Llama,
        "qwen2" => Family::Qwen2,
        "qwen3" => Family::Qwen3,
        "gemma2" => Family::Gemma2,
        "gemma3" => Family::Gemma3,
        "phi3" => Family::Phi3,
        other => {
            return Err(ConversionError::unsupported(
                gguf.label(),
                format!("its architecture `{}` is none that is converted", excerpt(other)),
                "models of architecture llama, qwen2, qwen3, gemma2, gemma3 and phi3 are converted",
            ));
        }
    })
}

/// Keys below the architecture's name.
struct Keys<'a> {
    gguf: &'a Gguf,
    arch: &'a str,
}

impl Keys<'_> {
    fn opt_count(&self, key: &str, most: u64) -> Result<Option<usize>> {
        let key = format!("{}.{key}", self.arch);
        match self.gguf.metadata().opt_u64(&key)? {
            Some(value) if value > most => Err(ConversionError::Format(FormatError::Limit {
                file: self.gguf.label().to_owned(),
                what: format!("metadata `{key}`"),
                found: value.to_string(),
                limit: most,
            })),
            value => Ok(value.map(|value| value as usize)),
        }
    }

    fn count(&self, key: &str, most: u64) -> Result<usize> {
        let found = self.opt_count(key, most)?.filter(|value| *value > 0);
        found.ok_or_else(|| ConversionError::missing(self.gguf.label(), format!("metadata `{}.{key}`", self.arch)))
    }

    /// Returns a number as its author wrote it: 1e-5, not the F32 nearest to it with all its digits.
    fn number(&self, key: &str) -> Result<Option<f64>> {
        let value = self.gguf.metadata().opt_f64(&format!("{}.{key}", self.arch))?;
        Ok(value.map(|value| (value as f32).to_string().parse().unwrap_or(value)))
    }
}

/// Returns the query heads, and the key and value heads.
pub(crate) fn heads(gguf: &Gguf) -> Result<(usize, usize)> {
    let keys = Keys {
        gguf,
        arch: gguf.architecture()?,
    };
    let n_heads = keys.count("attention.head_count", HEADS_MAX)?;
    Ok((
        n_heads,
        keys.opt_count("attention.head_count_kv", HEADS_MAX)?
            .filter(|count| *count > 0)
            .unwrap_or(n_heads),
    ))
}

/// Writes `config.json`.
pub(crate) fn read(gguf: &Gguf, family: Family) -> Result<Value> {
    let keys = Keys {
        gguf,
        arch: family.architecture(),
    };
    if keys.opt_count("expert_count", NUMBER_MAX)?.unwrap_or(0) > 0 {
        return Err(ConversionError::unsupported(
            gguf.label(),
            "it is a mixture of experts",
            "dense models are converted",
        ));
    }
    let (n_heads, n_kv_heads) = heads(gguf)?;
    let hidden = keys.count("embedding_length", NUMBER_MAX)?;
    let n_layers = keys.count("block_count", 1_024)?;
    let head_dim = keys
        .opt_count("attention.key_length", NUMBER_MAX)?
        .unwrap_or(hidden / n_heads);
    let vocab_size = gguf
        .require_tensor("token_embd.weight")?
        .shape
        .first()
        .copied()
        .unwrap_or(0);
    let has = |name: &str| gguf.tensor(name).is_some();
    let mut map = Map::new();
    let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
    set("architectures", json!([family.class()]));
    set("model_type", json!(family.model_type()));
    set("dtype", json!(dtype(gguf)));
    set("vocab_size", json!(vocab_size));
    set("hidden_size", json!(hidden));
    set(
        "intermediate_size",
        json!(keys.count("feed_forward_length", NUMBER_MAX)?),
    );
    set("num_hidden_layers", json!(n_layers));
    set("num_attention_heads", json!(n_heads));
    set("num_key_value_heads", json!(n_kv_heads));
    set(
        "max_position_embeddings",
        json!(keys.count("context_length", NUMBER_MAX)?),
    );
    set(
        "rms_norm_eps",
        json!(keys.number("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6)),
    );
    set("tie_word_embeddings", json!(!has("output.weight")));
    if !matches!(family, Family::Qwen2 | Family::Phi3) {
        set("head_dim", json!(head_dim));
    }
    let act = if matches!(family, Family::Gemma2 | Family::Gemma3) {
        ("hidden_activation", "gelu_pytorch_tanh")
    } else {
        ("hidden_act", "silu")
    };
    set(act.0, json!(act.1));
    for (key, token) in [("bos", "bos"), ("eos", "eos"), ("pad", "padding")] {
        let id = gguf.metadata().opt_u64(&format!("tokenizer.ggml.{token}_token_id"))?;
        set(&format!("{key}_token_id"), json!(id));
    }
    let window = keys
        .opt_count("attention.sliding_window", NUMBER_MAX)?
        .filter(|window| *window > 0);
    match family {
        Family::Llama => {
            set("attention_bias", json!(has("blk.0.attn_output.bias")));
            set("mlp_bias", json!(has("blk.0.ffn_up.bias")));
            if has("blk.0.attn_q.bias") != has("blk.0.attn_output.bias") {
                return Err(ConversionError::unsupported(
                    gguf.label(),
                    "only some of its attention matrices have biases, and a Llama has them on all or none",
                    "use the file as it is",
                ));
            }
        }
        Family::Mistral | Family::Phi3 => {
            set("sliding_window", json!(window));
        }
        Family::Qwen2 => {
            set("use_sliding_window", json!(false));
        }
        Family::Qwen3 => {
            set("use_sliding_window", json!(false));
            set("attention_bias", json!(has("blk.0.attn_q.bias")));
        }
        Family::Gemma2 | Family::Gemma3 => {
            let is_27b = n_layers == if family == Family::Gemma2 { 46 } else { 62 };
            set(
                "query_pre_attn_scalar",
                json!(if is_27b { hidden / n_heads } else { head_dim }),
            );
            set("sliding_window", json!(window.unwrap_or(4_096)));
            set(
                "final_logit_softcapping",
                json!(keys.number("final_logit_softcapping")?),
            );
            set("attn_logit_softcapping", json!(keys.number("attn_logit_softcapping")?));
            let period = if family == Family::Gemma2 { 2 } else { 6 };
            let kind = |layer: usize| {
                if (layer + 1).is_multiple_of(period) {
                    "full_attention"
                } else {
                    "sliding_attention"
                }
            };
            set("layer_types", (0..n_layers).map(kind).collect());
        }
    }
    set("rope_parameters", positions(gguf, family, &keys, head_dim)?);
    if family == Family::Phi3 {
        set(
            "original_max_position_embeddings",
            json!(keys.opt_count("rope.scaling.original_context_length", NUMBER_MAX)?),
        );
    }
    set("use_cache", json!(true));
    Ok(Value::Object(map))
}

/// Returns the type of the largest share of the numbers, in torch's words.
fn dtype(gguf: &Gguf) -> &'static str {
    let elements = |kind: GgmlType| -> u64 {
        gguf.tensors()
            .iter()
            .filter(|info| info.ggml_type == kind)
            .map(|info| info.elements())
            .sum()
    };
    let (half, brain, full) = (
        elements(GgmlType::F16),
        elements(GgmlType::BF16),
        elements(GgmlType::F32),
    );
    match () {
        () if half > brain && half > full => "float16",
        () if brain > full => "bfloat16",
        () => "float32",
    }
}

/// Writes `rope_parameters`.
fn positions(gguf: &Gguf, family: Family, keys: &Keys<'_>, head_dim: usize) -> Result<Value> {
    let theta_default = if family == Family::Gemma3 {
        1_000_000.0
    } else {
        10_000.0
    };
    let theta = keys.number("rope.freq_base")?.unwrap_or(theta_default);
    let kind = gguf
        .metadata()
        .opt_str(&format!("{}.rope.scaling.type", keys.arch))?
        .unwrap_or("none")
        .to_owned();
    let factor = keys.number("rope.scaling.factor")?;
    let unknown = |what: &str| {
        ConversionError::unsupported(
            gguf.label(),
            format!("its rotary scaling {what} is not known"),
            "use the file as it is",
        )
    };
    let factors = |name: &str| -> Result<Option<Vec<f32>>> {
        let Some(info) = gguf.tensor(name) else { return Ok(None) };
        Ok(Some(gguf.tensor_ref(info)?.to_f32()?))
    };
    if let Some(factors) = factors("rope_freqs.weight")? {
        return rope::llama3(&factors, theta, head_dim)
            .ok_or_else(|| unknown("`rope_freqs.weight`, which no settings of Llama 3.1 make,"));
    }
    if let (Some(long), Some(short)) = (
        factors("rope_factors_long.weight")?,
        factors("rope_factors_short.weight")?,
    ) {
        let list = |factors: Vec<f32>| -> Vec<f64> {
            factors
                .iter()
                .map(|value| value.to_string().parse().unwrap_or(f64::from(*value)))
                .collect()
        };
        let rotated = keys.opt_count("rope.dimension_count", NUMBER_MAX)?.unwrap_or(head_dim);
        return Ok(json!({
            "rope_type": "longrope",
            "rope_theta": theta,
            "long_factor": list(long),
            "short_factor": list(short),
            "original_max_position_embeddings": keys.opt_count("rope.scaling.original_context_length", NUMBER_MAX)?,
            "partial_rotary_factor": rotated as f64 / head_dim as f64,
        }));
    }
    let parameters = match (kind.as_str(), factor) {
        ("none", _) => json!({"rope_type": "default", "rope_theta": theta}),
        ("linear", Some(factor)) => json!({"rope_type": "linear", "rope_theta": theta, "factor": factor}),
        ("yarn", Some(factor)) => {
            let original = keys.opt_count("rope.scaling.original_context_length", NUMBER_MAX)?;
            let mut yarn = json!({"rope_type": "yarn", "rope_theta": theta, "factor": factor, "original_max_position_embeddings": original});
            for (key, name) in [
                ("yarn_attn_factor", "attention_factor"),
                ("yarn_beta_fast", "beta_fast"),
                ("yarn_beta_slow", "beta_slow"),
            ] {
                if let Some(value) = keys.number(&format!("rope.scaling.{key}"))? {
                    yarn[name] = json!(value);
                }
            }
            yarn
        }
        (other, _) => return Err(unknown(&format!("`{}`", excerpt(other)))),
    };
    if family == Family::Gemma3 {
        let sliding = keys.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
        return Ok(
            json!({"full_attention": parameters, "sliding_attention": {"rope_type": "default", "rope_theta": sliding}}),
        );
    }
    Ok(parameters)
}

/// Writes `generation_config.json`: the special tokens, and how the makers sample.
pub(crate) fn generation(gguf: &Gguf, config: &Value) -> Result<Value> {
    let metadata = gguf.metadata();
    let mut map = Map::new();
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        if !config[key].is_null() {
            map.insert(key.to_owned(), config[key].clone());
        }
    }
    // The end of a turn ends an answer as well as the end of the text does.
    if let (Some(eos), Some(turn)) = (
        config["eos_token_id"].as_u64(),
        metadata.opt_u64("tokenizer.ggml.eot_token_id")?,
    ) && eos != turn
    {
        map.insert("eos_token_id".to_owned(), json!([eos, turn]));
    }
    for (key, name) in [
        ("top_k", "top_k"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("temp", "temperature"),
        ("penalty_repeat", "repetition_penalty"),
    ] {
        match metadata.get(&format!("general.sampling.{key}")) {
            Some(value) if value.as_i64().is_some() => map.insert(name.to_owned(), json!(value.as_i64())),
            Some(value) => {
                let number: Option<f64> = value
                    .as_f64()
                    .and_then(|number| (number as f32).to_string().parse().ok());
                map.insert(name.to_owned(), json!(number))
            }
            None => None,
        };
    }
    if map
        .keys()
        .any(|key| !key.ends_with("_id") && key != "repetition_penalty")
    {
        map.insert("do_sample".to_owned(), json!(true));
    }
    Ok(Value::Object(map))
}
