//! Rotary position embedding as configurations describe it: the base frequency and how it is stretched for long contexts.
//!
//! Source: the rope utilities of transformers (types `default`, `linear`, `dynamic`, `llama3`, `yarn`, `longrope`) and their defaults.
//! Version 4 writes `rope_theta` and `rope_scaling`; version 5 writes both into `rope_parameters`.

use serde_json::Value;

use super::json::Fields;
use crate::{FormatError, Result};

/// The largest head that is accepted, which bounds the factor lists of `longrope` as well.
pub(super) const HEAD_DIM_MAX: u64 = 65_536;
/// The largest number of positions that is accepted.
pub(super) const POSITIONS_MAX: u64 = 1 << 31;
/// The base frequency when no file says one.
pub(super) const THETA_DEFAULT: f64 = 10_000.0;

/// How positions turn queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the frequencies.
    pub theta: f64,
    /// How they are stretched.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched for contexts longer than those of the first training.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    missing_docs,
    reason = "the fields bear the names of the configuration files, where they are defined"
)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All positions are divided by `factor`.
    Linear { factor: f64 },
    /// The base grows with the length of the sequence.
    Dynamic { factor: f64 },
    /// Llama 3.1: low frequencies are divided, high ones kept, with a ramp between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
    /// YaRN: a ramp between interpolation and extrapolation, and a scaled attention.
    Yarn {
        factor: f64,
        original_max_position_embeddings: Option<usize>,
        attention_factor: Option<f64>,
        beta_fast: f64,
        beta_slow: f64,
        mscale: Option<f64>,
        mscale_all_dim: Option<f64>,
        truncate: bool,
    },
    /// One factor per frequency, for short and for long sequences.
    LongRope {
        short_factor: Vec<f64>,
        long_factor: Vec<f64>,
        factor: Option<f64>,
        attention_factor: Option<f64>,
        original_max_position_embeddings: Option<usize>,
    },
}

impl Rope {
    /// Reads either spelling from a `config.json`.
    pub(super) fn read(config: Fields<'_>) -> Result<Rope> {
        let parameters = config.opt_object("rope_parameters")?;
        let scaling = config.opt_object("rope_scaling")?;
        if let Some(parameters) = parameters
            && parameters.map.values().any(Value::is_object)
        {
            return Err(FormatError::unsupported(
                config.file,
                "`rope_parameters` differ between kinds of layers, which the decoder does not serve",
                "use a model with one set of rotary parameters",
            ));
        }
        let source = parameters.or(scaling);
        let theta = match source
            .map(|source| source.opt_positive("rope_theta"))
            .transpose()?
            .flatten()
        {
            Some(theta) => theta,
            None => config.opt_positive("rope_theta")?.unwrap_or(THETA_DEFAULT),
        };
        let partial = match source
            .map(|source| source.opt_positive("partial_rotary_factor"))
            .transpose()?
            .flatten()
        {
            Some(partial) => Some(partial),
            None => config.opt_positive("partial_rotary_factor")?,
        };
        if partial.is_some_and(|partial| partial != 1.0) {
            return Err(FormatError::unsupported(
                config.file,
                format!(
                    "`partial_rotary_factor` is {}: only part of each head is rotated",
                    partial.unwrap_or_default()
                ),
                "the decoder serves models that rotate whole heads",
            ));
        }
        let scaling = match source {
            Some(source) => RopeScaling::read(source, config)?,
            None => RopeScaling::None,
        };
        Ok(Rope { theta, scaling })
    }
}

impl RopeScaling {
    fn read(source: Fields<'_>, config: Fields<'_>) -> Result<RopeScaling> {
        let kind = match source.opt_str("rope_type")? {
            Some(kind) => kind,
            None => source.opt_str("type")?.unwrap_or("default"),
        };
        let needed = |key: &str, value: Option<f64>| {
            value.ok_or_else(|| {
                FormatError::missing(source.file, format!("`{key}`, which rotary scaling `{kind}` needs"))
            })
        };
        let factor = source.opt_positive("factor")?;
        let attention_factor = source.opt_positive("attention_factor")?;
        let original = match source.opt_count("original_max_position_embeddings", 1, POSITIONS_MAX)? {
            Some(original) => Some(original),
            None => config.opt_count("original_max_position_embeddings", 1, POSITIONS_MAX)?,
        };
        Ok(match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear {
                factor: needed("factor", factor)?,
            },
            "dynamic" => RopeScaling::Dynamic {
                factor: needed("factor", factor)?,
            },
            "llama3" => {
                let low_freq_factor = needed("low_freq_factor", source.opt_positive("low_freq_factor")?)?;
                let high_freq_factor = needed("high_freq_factor", source.opt_positive("high_freq_factor")?)?;
                if high_freq_factor <= low_freq_factor {
                    return Err(FormatError::malformed(
                        source.file,
                        "`high_freq_factor`",
                        format!("a number above `low_freq_factor`, {low_freq_factor}"),
                        high_freq_factor.to_string(),
                    ));
                }
                RopeScaling::Llama3 {
                    factor: needed("factor", factor)?,
                    low_freq_factor,
                    high_freq_factor,
                    original_max_position_embeddings: original.ok_or_else(|| {
                        FormatError::missing(
                            source.file,
                            "`original_max_position_embeddings`, which rotary scaling `llama3` needs",
                        )
                    })?,
                }
            }
            "yarn" => RopeScaling::Yarn {
                factor: needed("factor", factor)?,
                original_max_position_embeddings: original,
                attention_factor,
                beta_fast: source.opt_positive("beta_fast")?.unwrap_or(32.0),
                beta_slow: source.opt_positive("beta_slow")?.unwrap_or(1.0),
                mscale: source.opt_number("mscale")?,
                mscale_all_dim: source.opt_number("mscale_all_dim")?,
                truncate: source.opt_bool("truncate")?.unwrap_or(true),
            },
            // `su` is the name that the first Phi-3 files used.
            "longrope" | "su" => RopeScaling::LongRope {
                short_factor: factors(source, "short_factor")?,
                long_factor: factors(source, "long_factor")?,
                factor,
                attention_factor,
                original_max_position_embeddings: original,
            },
            other => {
                return Err(FormatError::unsupported(
                    source.file,
                    format!("rotary scaling `{}` is not known", crate::error::excerpt(other)),
                    "default, linear, dynamic, llama3, yarn and longrope are",
                ));
            }
        })
    }
}

fn factors(source: Fields<'_>, key: &str) -> Result<Vec<f64>> {
    let factors = source.opt_positives(key, HEAD_DIM_MAX as usize / 2)?;
    factors.ok_or_else(|| FormatError::missing(source.file, format!("`{key}`, which rotary scaling `longrope` needs")))
}
