//! Rotary position embedding: which angle a pair of dimensions turns by at a position.
//!
//! Every vector of a head is split into halves; dimension `j` of the first half turns together with dimension `j` of the second
//! ("half split"). **Invariant:** weights in memory are always in that row order; [`crate::load`] brings files to it.
//!
//! Angles are formed as the reference implementation forms them: frequency and product rounded to f32, then sine and cosine of that
//! f32 angle, computed in f64. Cost: `head_dim / 2` sines a token, shared by all layers and heads; no table is kept.
//! Sources: RoPE (arXiv 2104.09864), YaRN (arXiv 2309.00071), Llama 3.1's frequency bands (`rope_scaling` of its config.json).

use witness_kernels::Pool;

use crate::error::{ModelError, Result};
use crate::split::each_chunk;
use crate::vectors;

/// Numbers that a thread turns at a time: some microseconds.
const NUMBERS_PER_TASK: usize = 16 << 10;

/// How frequencies are changed to reach beyond the trained context.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// The factor, >= 1.
        factor: f64,
    },
    /// NTK by the length of each sequence: equal to `None` up to `original_context`, and refused beyond it, where the angles of
    /// cached keys would depend on the order in which a sequence grew.
    Dynamic {
        /// Positions up to which nothing changes.
        original_context: usize,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Turns over the original context below which a frequency is low.
        low_freq_factor: f64,
        /// Turns over the original context above which a frequency is high.
        high_freq_factor: f64,
        /// Context of the first training.
        original_context: f64,
    },
    /// YaRN: interpolation by parts, and attention scaled by `attention_factor` on both sides.
    Yarn {
        /// Context extension.
        factor: f64,
        /// Multiplies sine and cosine.
        attention_factor: f64,
        /// Turns above which a frequency is kept.
        beta_fast: f64,
        /// Turns below which a frequency is divided.
        beta_slow: f64,
        /// Context of the first training.
        original_context: f64,
        /// Round the ramp's ends to whole dimensions.
        truncate: bool,
    },
    /// A divisor for each frequency, as GGUF's `rope_freqs.weight` gives them.
    Factors(Vec<f32>),
}

/// Rotary embedding of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of frequencies.
    pub theta: f64,
    /// Change of the frequencies.
    pub scaling: RopeScaling,
}

/// Sines and cosines of the positions of one batch: `[n_tokens, head_dim / 2]` f32 each. Kept from batch to batch for its memory.
#[derive(Debug, Default)]
pub(crate) struct Rotation {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

/// Frequencies ready for use.
#[derive(Clone, Debug)]
pub(crate) struct Frequencies {
    inverse: Vec<f32>,
    attention_factor: f32,
}

impl Rope {
    /// Returns the number of positions that this scaling is exact for, when it is limited.
    pub fn positions_max(&self) -> Option<usize> {
        match self.scaling {
            RopeScaling::Dynamic { original_context } => Some(original_context),
            _ => None,
        }
    }

    /// Checks the numbers and computes one frequency a pair.
    pub(crate) fn frequencies(&self, head_dim: usize) -> Result<Frequencies> {
        if !(self.theta.is_finite() && self.theta > 1.0) {
            return Err(ModelError::config("rope_theta", self.theta, "a number above 1"));
        }
        let half = head_dim / 2;
        let plain: Vec<f64> = (0..half)
            .map(|pair| self.theta.powf(-((2 * pair) as f64) / head_dim as f64))
            .collect();
        let mut attention_factor = 1.0;
        let scaled: Vec<f64> = match &self.scaling {
            RopeScaling::None | RopeScaling::Dynamic { .. } => plain,
            RopeScaling::Linear { factor } => {
                check_factor("rope_scaling.factor", *factor)?;
                plain.into_iter().map(|frequency| frequency / factor).collect()
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => {
                check_factor("rope_scaling.factor", *factor)?;
                if !(high_freq_factor > low_freq_factor && *low_freq_factor > 0.0) {
                    return Err(ModelError::config(
                        "rope_scaling.high_freq_factor",
                        high_freq_factor,
                        format!("more than low_freq_factor {low_freq_factor}, which is above 0"),
                    ));
                }
                plain
                    .into_iter()
                    .map(|frequency| {
                        let turns = original_context * frequency / (2.0 * std::f64::consts::PI);
                        if turns > *high_freq_factor {
                            frequency
                        } else if turns < *low_freq_factor {
                            frequency / factor
                        } else {
                            let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                            (1.0 - kept) * frequency / factor + kept * frequency
                        }
                    })
                    .collect()
            }
            RopeScaling::Yarn {
                factor,
                attention_factor: scale,
                beta_fast,
                beta_slow,
                original_context,
                truncate,
            } => {
                check_factor("rope_scaling.factor", *factor)?;
                attention_factor = *scale;
                let dim_of_turns = |turns: f64| {
                    head_dim as f64 * (original_context / (turns * 2.0 * std::f64::consts::PI)).ln()
                        / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (dim_of_turns(*beta_fast), dim_of_turns(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                low = low.max(0.0);
                high = high.min(head_dim as f64 - 1.0);
                let width = if high == low { 0.001 } else { high - low };
                plain
                    .into_iter()
                    .enumerate()
                    .map(|(pair, frequency)| {
                        let divided = ((pair as f64 - low) / width).clamp(0.0, 1.0);
                        frequency / factor * divided + frequency * (1.0 - divided)
                    })
                    .collect()
            }
            RopeScaling::Factors(factors) => {
                if factors.len() != half {
                    return Err(ModelError::Shape {
                        name: "rope_freqs.weight".to_owned(),
                        found: vec![factors.len()],
                        expected: vec![half],
                    });
                }
                plain
                    .into_iter()
                    .zip(factors)
                    .map(|(frequency, factor)| frequency / f64::from(*factor))
                    .collect()
            }
        };
        if !attention_factor.is_finite() || scaled.iter().any(|frequency| !frequency.is_finite()) {
            return Err(ModelError::config(
                "rope_scaling",
                "numbers that give no finite angle",
                "finite numbers",
            ));
        }
        Ok(Frequencies {
            inverse: scaled.into_iter().map(|frequency| frequency as f32).collect(),
            attention_factor: attention_factor as f32,
        })
    }
}

fn check_factor(key: &str, factor: f64) -> Result<()> {
    if factor.is_finite() && factor > 0.0 {
        Ok(())
    } else {
        Err(ModelError::config(key, factor, "a number above 0"))
    }
}

/// Returns YaRN's own attention factor for a context extension of `factor`.
pub(crate) fn yarn_attention_factor(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * mscale * factor.ln() + 1.0
    }
}

impl Frequencies {
    /// Computes the rotation of each of `positions`.
    pub(crate) fn rotation(&self, positions: impl Iterator<Item = usize>, rotation: &mut Rotation) {
        let Rotation { cos, sin, half } = rotation;
        *half = self.inverse.len();
        cos.clear();
        sin.clear();
        for position in positions {
            for frequency in &self.inverse {
                let (s, c) = f64::from(position as f32 * frequency).sin_cos();
                cos.push(c as f32 * self.attention_factor);
                sin.push(s as f32 * self.attention_factor);
            }
        }
    }
}

impl Rotation {
    /// Turns `rows`, `[n_tokens, n_heads, head_dim]` f32 row-major, in place.
    pub(crate) fn apply(&self, rows: &mut [f32], n_heads: usize, pool: &Pool) {
        let (half, head_dim) = (self.half, 2 * self.half);
        let width = n_heads * head_dim;
        if width == 0 {
            return;
        }
        let tokens_per_task = (NUMBERS_PER_TASK / width).max(1);
        let arch = vectors::arch();
        each_chunk(pool, rows, tokens_per_task * width, |task, rows| {
            vectors::run(
                arch,
                #[inline(always)]
                || {
                    for (token, heads) in rows.chunks_exact_mut(width).enumerate() {
                        let at = (task * tokens_per_task + token) * half;
                        let (cos, sin) = (&self.cos[at..at + half], &self.sin[at..at + half]);
                        for head in heads.chunks_exact_mut(head_dim) {
                            let (first, second) = head.split_at_mut(half);
                            for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                                (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                            }
                        }
                    }
                },
            );
        });
    }
}
