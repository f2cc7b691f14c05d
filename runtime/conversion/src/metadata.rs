//! The keys that describe a model's shape and positions, from `config.json`, and the tensors that follow from the configuration alone.

use serde_json::Value;
use witness_formats::{
    gguf::OwnedValue,
    hf::{Fields, HfConfig, RopeScaling, four_bit},
};

use crate::{
    ConversionError, Result,
    family::{Family, Shape},
    tensor::OutputTensor,
    weights::Weights,
};

pub(crate) type Keys = Vec<(String, OwnedValue)>;

/// What a configuration says in GGUF's terms.
pub(crate) struct Described {
    pub(crate) keys: Keys,
    /// `rope_freqs` and its kin.
    pub(crate) tensors: Vec<OutputTensor>,
}

/// Collects keys under one architecture.
struct Under<'a> {
    architecture: &'a str,
    keys: Keys,
}

impl Under<'_> {
    fn set(&mut self, key: &str, value: impl Into<OwnedValue>) {
        self.keys.push((format!("{}.{key}", self.architecture), value.into()));
    }

    fn count(&mut self, key: &str, value: usize) {
        // Every count was read with a limit below 2^32.
        self.set(key, u32::try_from(value).unwrap_or(u32::MAX));
    }

    fn float(&mut self, key: &str, value: f64) {
        self.set(key, value as f32);
    }
}

/// Describes a model of a family.
pub(crate) fn describe(config: &HfConfig, family: Family, shape: &Shape) -> Result<Described> {
    let fields = config.fields();
    let mut under = Under {
        architecture: family.architecture(),
        keys: Vec::new(),
    };
    let mut tensors = Vec::new();
    under.count("block_count", shape.n_layers);
    under.count("context_length", shape.context);
    under.count("embedding_length", shape.hidden);
    under.count("feed_forward_length", shape.inner);
    under.count("attention.head_count", shape.n_heads);
    under.count("attention.head_count_kv", shape.n_kv_heads);
    under.float("attention.layer_norm_rms_epsilon", shape.rms_norm_eps);
    if shape.has_head_dim && family != Family::Phi3 {
        under.count("attention.key_length", shape.head_dim);
        under.count("attention.value_length", shape.head_dim);
    }
    match family {
        Family::Llama | Family::Mistral => {
            rope(config, shape, &mut under, &mut tensors)?;
            under.count("vocab_size", shape.vocab_size);
            under.count("rope.dimension_count", shape.head_dim);
            if let Some(window) = config.decoder()?.sliding_window {
                under.count("attention.sliding_window", window);
            }
        }
        Family::Qwen2 | Family::Qwen3 => {
            if fields.opt_bool("use_sliding_window")?.unwrap_or(false) {
                return Err(ConversionError::unsupported(
                    &config.file,
                    "`use_sliding_window` is true, which GGUF cannot say of this architecture",
                    "use the model in its Hugging Face form",
                ));
            }
            rope(config, shape, &mut under, &mut tensors)?;
        }
        Family::Gemma2 => {
            under.float(
                "attn_logit_softcapping",
                fields.opt_positive("attn_logit_softcapping")?.unwrap_or(50.0),
            );
            under.float(
                "final_logit_softcapping",
                fields.opt_positive("final_logit_softcapping")?.unwrap_or(30.0),
            );
            under.count("attention.sliding_window", window(fields)?.unwrap_or(4_096));
            gemma_layers(fields, shape, 2)?;
            gemma_scale(fields, shape)?;
            let rope = config.rope()?;
            if rope.theta != 10_000.0 || rope.scaling != RopeScaling::None {
                return Err(ConversionError::unsupported(
                    &config.file,
                    "its rotary positions are not the usual ones of Gemma 2, which GGUF takes for granted",
                    "use the model in its Hugging Face form",
                ));
            }
        }
        Family::Gemma3 => gemma3(fields, shape, &mut under)?,
        Family::Phi3 => phi3(fields, shape, &mut under, &mut tensors)?,
    }
    Ok(Described {
        keys: under.keys,
        tensors,
    })
}

/// Positions of the families with one set of rotary parameters.
fn rope(config: &HfConfig, shape: &Shape, under: &mut Under<'_>, tensors: &mut Vec<OutputTensor>) -> Result<()> {
    let fields = config.fields();
    let rope = config.rope()?;
    let no_counterpart = |name: &str| {
        ConversionError::unsupported(
            &config.file,
            format!("rotary scaling `{name}` has no counterpart in GGUF for this architecture"),
            "none, linear, yarn and llama3 have one",
        )
    };
    match &rope.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => {
            under.set("rope.scaling.type", "linear");
            under.float("rope.scaling.factor", *factor);
        }
        RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            mscale,
            mscale_all_dim,
            truncate,
            ..
        } => {
            if mscale != mscale_all_dim || !truncate {
                return Err(no_counterpart("yarn with `mscale` or without `truncate`"));
            }
            under.set("rope.scaling.type", "yarn");
            under.float("rope.scaling.factor", *factor);
            under.count(
                "rope.scaling.original_context_length",
                original_max_position_embeddings.unwrap_or(shape.context),
            );
            // Only what the file says: llama.cpp has the same defaults.
            if let Some(told) = scaling_fields(fields)? {
                for (names, key) in [
                    (&["extrapolation_factor"][..], "yarn_ext_factor"),
                    (&["attention_factor", "attn_factor"], "yarn_attn_factor"),
                    (&["beta_fast"], "yarn_beta_fast"),
                    (&["beta_slow"], "yarn_beta_slow"),
                ] {
                    for name in names {
                        if let Some(value) = told.opt_number(name)? {
                            under.float(&format!("rope.scaling.{key}"), value);
                            break;
                        }
                    }
                }
            }
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let factors = llama3_factors(
                rope.theta,
                shape.head_dim,
                *factor as f32,
                *low_freq_factor as f32,
                *high_freq_factor as f32,
                *original_max_position_embeddings as f32,
            );
            tensors.push(OutputTensor::made("rope_freqs.weight".to_owned(), &factors));
        }
        RopeScaling::Dynamic { .. } => return Err(no_counterpart("dynamic")),
        RopeScaling::LongRope { .. } => return Err(no_counterpart("longrope")),
    }
    under.float("rope.freq_base", rope.theta);
    Ok(())
}

/// By what llama.cpp divides each frequency so that Llama 3.1's stretched positions come out. In f32, as the reference computes it.
pub(crate) fn llama3_factors(theta: f64, head_dim: usize, factor: f32, low: f32, high: f32, original: f32) -> Vec<f32> {
    let (low_wavelength, high_wavelength) = (original / low, original / high);
    (0..head_dim / 2)
        .map(|pair| {
            let exponent = (2 * pair) as f32 / head_dim as f32;
            let frequency = 1.0 / (theta.powf(f64::from(exponent)) as f32);
            let wavelength = (2.0 * std::f64::consts::PI) as f32 / frequency;
            if wavelength < high_wavelength {
                1.0
            } else if wavelength > low_wavelength {
                factor
            } else {
                let smooth = (original / wavelength - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        })
        .collect()
}

/// The object that describes rotary scaling, in either spelling.
fn scaling_fields(fields: Fields<'_>) -> Result<Option<Fields<'_>>> {
    Ok(match fields.opt_object("rope_parameters")? {
        Some(parameters) => Some(parameters),
        None => fields.opt_object("rope_scaling")?,
    })
}

fn window(fields: Fields<'_>) -> Result<Option<usize>> {
    Ok(fields.opt_count("sliding_window", 1, 1 << 31)?)
}

/// llama.cpp takes for granted which layers of Gemma slide: all but every `period`th.
fn gemma_layers(fields: Fields<'_>, shape: &Shape, period: usize) -> Result<()> {
    let Some(types) = fields.opt_strings("layer_types")? else {
        return Ok(());
    };
    let is_usual = types.len() == shape.n_layers
        && types
            .iter()
            .enumerate()
            .all(|(layer, kind)| (kind == "full_attention") == ((layer + 1) % period == 0));
    if is_usual {
        return Ok(());
    }
    Err(ConversionError::unsupported(
        fields.file(),
        format!(
            "`layer_types` is not the usual pattern, in which every {period}th layer sees everything; GGUF takes that for granted"
        ),
        "use the model in its Hugging Face form",
    ))
}

/// llama.cpp scales the scores of Gemma by the size of a head, and by the width per head only in the 27B models, which it knows by their layers.
fn gemma_scale(fields: Fields<'_>, shape: &Shape) -> Result<()> {
    let told = fields.opt_positive("query_pre_attn_scalar")?.unwrap_or(256.0);
    let is_27b = matches!(shape.n_layers, 46 | 62);
    let taken = if is_27b {
        shape.hidden / shape.n_heads
    } else {
        shape.head_dim
    };
    if told == taken as f64 {
        return Ok(());
    }
    Err(ConversionError::unsupported(
        fields.file(),
        format!("`query_pre_attn_scalar` is {told}, and a GGUF of this shape means {taken}"),
        "use the model in its Hugging Face form",
    ))
}

fn gemma3(fields: Fields<'_>, shape: &Shape, under: &mut Under<'_>) -> Result<()> {
    const THETA: f64 = 1_000_000.0;
    const THETA_SLIDING: f64 = 10_000.0;
    let pattern = match fields.opt_count("sliding_window_pattern", 1, 1_024)? {
        Some(pattern) => pattern,
        None => fields.count_or("_sliding_window_pattern", 6, 1, 1_024)?,
    };
    gemma_layers(fields, shape, 6)?;
    gemma_scale(fields, shape)?;
    if pattern != 6 || fields.opt_number("attn_logit_softcapping")?.is_some() {
        return Err(ConversionError::unsupported(
            fields.file(),
            "its sliding pattern or `attn_logit_softcapping` is not that of Gemma 3, which GGUF takes for granted",
            "use the model in its Hugging Face form",
        ));
    }
    let parameters = fields.opt_object("rope_parameters")?;
    let nested = |kind: &str| -> Result<Option<Fields<'_>>> {
        Ok(match parameters {
            Some(parameters) => parameters.opt_object(kind)?,
            None => None,
        })
    };
    let full = match (nested("full_attention")?, parameters) {
        (Some(full), _) => Some(full),
        (None, Some(flat)) => Some(flat),
        (None, None) => fields.opt_object("rope_scaling")?,
    };
    let theta = match full.map(|full| full.opt_positive("rope_theta")).transpose()?.flatten() {
        Some(theta) => theta,
        None => fields.opt_positive("rope_theta")?.unwrap_or(THETA),
    };
    let sliding = match nested("sliding_attention")? {
        Some(sliding) => sliding.opt_positive("rope_theta")?.unwrap_or(THETA_SLIDING),
        None => fields.opt_positive("rope_local_base_freq")?.unwrap_or(THETA_SLIDING),
    };
    if let Some(full) = full {
        let kind = match full.opt_str("rope_type")? {
            Some(kind) => kind,
            None => full.opt_str("type")?.unwrap_or("default"),
        };
        match (kind, full.opt_positive("factor")?) {
            ("default", _) => {}
            ("linear", Some(factor)) => {
                under.set("rope.scaling.type", "linear");
                under.float("rope.scaling.factor", factor);
            }
            (other, _) => {
                return Err(ConversionError::unsupported(
                    fields.file(),
                    format!(
                        "rotary scaling `{}` has no counterpart for Gemma 3",
                        crate::error::excerpt(other)
                    ),
                    "none and linear have one",
                ));
            }
        }
    }
    under.float("rope.freq_base", theta);
    under.float("rope.freq_base_swa", sliding);
    if let Some(cap) = fields.opt_positive("final_logit_softcapping")? {
        under.float("final_logit_softcapping", cap);
    }
    under.count("attention.sliding_window", window(fields)?.unwrap_or(4_096));
    Ok(())
}

fn phi3(fields: Fields<'_>, shape: &Shape, under: &mut Under<'_>, tensors: &mut Vec<OutputTensor>) -> Result<()> {
    let scaling = scaling_fields(fields)?;
    let number = |key: &str| -> Result<Option<f64>> {
        Ok(
            match scaling.map(|scaling| scaling.opt_positive(key)).transpose()?.flatten() {
                Some(value) => Some(value),
                None => fields.opt_positive(key)?,
            },
        )
    };
    let original = number("original_max_position_embeddings")?.map_or(shape.context, |value| value as usize);
    let rotated = (number("partial_rotary_factor")?.unwrap_or(1.0) * shape.hidden as f64) as usize / shape.n_heads;
    under.count("rope.scaling.original_context_length", original);
    under.count("rope.dimension_count", rotated);
    under.float("rope.freq_base", number("rope_theta")?.unwrap_or(10_000.0));
    // Zero tells llama.cpp that nothing slides; Phi-3 without the key would.
    under.count("attention.sliding_window", window(fields)?.unwrap_or(0));
    let Some(scaling) = scaling else { return Ok(()) };
    let kind = match scaling.opt_str("rope_type")? {
        Some(kind) => kind,
        None => scaling.opt_str("type")?.unwrap_or("default"),
    };
    if kind == "default" {
        return Ok(());
    }
    let long = scaling.opt_positives("long_factor", rotated / 2)?.unwrap_or_default();
    let short = scaling.opt_positives("short_factor", rotated / 2)?.unwrap_or_default();
    if !matches!(kind, "longrope" | "su") || long.len() != rotated / 2 || short.len() != rotated / 2 {
        return Err(ConversionError::unsupported(
            fields.file(),
            format!(
                "rotary scaling `{}` with {} and {} factors for {rotated} rotated rows",
                crate::error::excerpt(kind),
                short.len(),
                long.len()
            ),
            "longrope with a factor for every second row is converted",
        ));
    }
    let stretch = shape.context as f64 / original as f64;
    let attention = if stretch > 1.0 {
        (1.0 + stretch.ln() / (original as f64).ln()).sqrt()
    } else {
        1.0
    };
    under.float(
        "rope.scaling.attn_factor",
        number("attention_factor")?.unwrap_or(attention),
    );
    for (name, factors) in [("rope_factors_long.weight", long), ("rope_factors_short.weight", short)] {
        let factors: Vec<f32> = factors.iter().map(|factor| *factor as f32).collect();
        tensors.push(OutputTensor::made(name.to_owned(), &factors));
    }
    Ok(())
}

/// Refuses weights that are stored in a quantized form of their own, and settings whose arithmetic GGUF does not know. Weights in 4 bits of bitsandbytes are accepted
/// where `weights` gives them as numbers, without the tensors that stand beside them.
pub(crate) fn refuse_what_changes_the_arithmetic(
    config: &HfConfig,
    family: Family,
    weights: &dyn Weights,
) -> Result<()> {
    let fields = config.fields();
    let is_decoded = |quantization: &Value| {
        four_bit::is_four_bit(quantization) && !weights.names().iter().any(|name| name.contains(".quant_state."))
    };
    if fields
        .get("quantization_config")
        .is_some_and(|quantization| !is_decoded(quantization))
    {
        return Err(ConversionError::unsupported(
            &config.file,
            "`quantization_config` says that the weights are stored in a quantized form of their own",
            "use the unquantized safetensors",
        ));
    }
    let activation = ["hidden_activation", "hidden_act"]
        .into_iter()
        .find_map(|key| fields.get(key))
        .and_then(Value::as_str);
    let usual: &[&str] = match family {
        // `gelu` in these files has always been run as its tanh form.
        Family::Gemma2 | Family::Gemma3 => &["gelu_pytorch_tanh", "gelu"],
        _ => &["silu", "swish"],
    };
    match activation {
        Some(other) if !usual.contains(&other) => Err(ConversionError::unsupported(
            &config.file,
            format!(
                "its activation `{}` is not {}, which GGUF takes for granted",
                crate::error::excerpt(other),
                usual[0]
            ),
            "use the model in its Hugging Face form",
        )),
        _ => Ok(()),
    }
}
