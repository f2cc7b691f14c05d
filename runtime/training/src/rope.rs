//! Rotary positions, and the change of layout that goes with them: from `[n, heads * head_dim]`, as projections give it, to `[heads, n, head_dim]`, as
//! attention reads it, and back with the opposite turn.
//!
//! Dimension `j` of a head's first half turns together with dimension `j` of its second ("half split"). Angles are formed as the reference forms them:
//! frequency and product rounded to f32. Sources: RoPE (arXiv 2104.09864), YaRN (arXiv 2309.00071), Llama 3.1's frequency bands.

use rayon::prelude::*;
use witness_formats::hf::{DecoderConfig, RopeScaling};

use crate::error::{Result, TrainingError};
use crate::numbers::Numbers;
use crate::real::Real;

/// One frequency for every pair of dimensions.
#[derive(Clone, Debug)]
pub(crate) struct Frequencies {
    inverse: Vec<f32>,
    attention_factor: f32,
}

/// Cosines and sines of the positions of a batch: `[n, head_dim / 2]` each.
#[derive(Debug)]
pub(crate) struct Rotation<T> {
    cos: Vec<T>,
    sin: Vec<T>,
    half: usize,
}

impl Frequencies {
    /// Computes the frequencies of a configuration; `factors` divide them, as GGUF's `rope_freqs.weight` does.
    pub(crate) fn new(config: &DecoderConfig, factors: Option<&[f32]>) -> Result<Frequencies> {
        let (theta, head_dim) = (config.rope.theta, config.head_dim);
        let half = head_dim / 2;
        let mut frequencies: Vec<f64> = (0..half)
            .map(|pair| theta.powf(-((2 * pair) as f64) / head_dim as f64))
            .collect();
        let mut attention_factor = 1.0;
        match &config.rope.scaling {
            // Up to the trained context, which `positions_max` holds sequences to, nothing is scaled.
            RopeScaling::None | RopeScaling::Dynamic { .. } => {}
            RopeScaling::Linear { factor } => {
                for frequency in &mut frequencies {
                    *frequency /= factor;
                }
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let original = *original_max_position_embeddings as f64;
                for frequency in &mut frequencies {
                    let turns = original * *frequency / (2.0 * std::f64::consts::PI);
                    if turns < *low_freq_factor {
                        *frequency /= factor;
                    } else if turns <= *high_freq_factor {
                        let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        *frequency = (1.0 - kept) * *frequency / factor + kept * *frequency;
                    }
                }
            }
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                attention_factor: given,
                beta_fast,
                beta_slow,
                mscale,
                mscale_all_dim,
                truncate,
            } => {
                let original = original_max_position_embeddings.unwrap_or(config.max_position_embeddings) as f64;
                attention_factor = given.unwrap_or_else(|| match (mscale, mscale_all_dim) {
                    (Some(over), Some(under)) if *over != 0.0 && *under != 0.0 => {
                        yarn_factor(*factor, *over) / yarn_factor(*factor, *under)
                    }
                    _ => yarn_factor(*factor, 1.0),
                });
                let dim_of_turns = |turns: f64| {
                    head_dim as f64 * (original / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln())
                };
                let (mut low, mut high) = (dim_of_turns(*beta_fast), dim_of_turns(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
                let width = if high == low { 0.001 } else { high - low };
                for (pair, frequency) in frequencies.iter_mut().enumerate() {
                    let divided = ((pair as f64 - low) / width).clamp(0.0, 1.0);
                    *frequency = *frequency / factor * divided + *frequency * (1.0 - divided);
                }
            }
            RopeScaling::LongRope { .. } => {
                return Err(TrainingError::unsupported(
                    "a model with `longrope` positions",
                    "take a base model with default, linear, llama3 or yarn positions",
                ));
            }
        }
        if let Some(factors) = factors {
            if factors.len() != half {
                return Err(TrainingError::Shape {
                    name: "rope_freqs.weight".to_owned(),
                    found: vec![factors.len()],
                    expected: vec![half],
                });
            }
            for (frequency, factor) in frequencies.iter_mut().zip(factors) {
                *frequency /= f64::from(*factor);
            }
        }
        if frequencies
            .iter()
            .chain([&attention_factor])
            .any(|value| !value.is_finite())
        {
            return Err(TrainingError::setting(
                "rope_scaling",
                "numbers that give no finite angle",
                "finite numbers",
            ));
        }
        Ok(Frequencies {
            inverse: frequencies.into_iter().map(|frequency| frequency as f32).collect(),
            attention_factor: attention_factor as f32,
        })
    }

    /// Computes the rotation of each of the positions.
    pub(crate) fn rotation<T: Real>(&self, positions: &[u32]) -> Rotation<T> {
        let half = self.inverse.len();
        let mut cos = Vec::with_capacity(positions.len() * half);
        let mut sin = Vec::with_capacity(positions.len() * half);
        for position in positions {
            for frequency in &self.inverse {
                let (s, c) = f64::from(*position as f32 * frequency).sin_cos();
                cos.push(T::from_f32(c as f32 * self.attention_factor));
                sin.push(T::from_f32(s as f32 * self.attention_factor));
            }
        }
        Rotation { cos, sin, half }
    }
}

fn yarn_factor(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * mscale * factor.ln() + 1.0
    }
}

impl<T: Real> Rotation<T> {
    /// Turns `rows`, `[n, heads * head_dim]`, into `[heads, n, head_dim]`.
    pub(crate) fn split_and_turn(&self, rows: &[T], n_heads: usize) -> Numbers<T> {
        let (half, head_dim) = (self.half, 2 * self.half);
        let width = n_heads * head_dim;
        let n = rows.len() / width;
        let mut turned = Numbers::stale(rows.len());
        let heads = turned.par_chunks_mut(n * head_dim).enumerate();
        heads.for_each(|(head, turned)| {
            for (token, target) in turned.chunks_exact_mut(head_dim).enumerate() {
                let source = &rows[token * width + head * head_dim..][..head_dim];
                let (cos, sin) = (&self.cos[token * half..][..half], &self.sin[token * half..][..half]);
                for pair in 0..half {
                    let (a, b, c, s) = (source[pair], source[pair + half], cos[pair], sin[pair]);
                    target[pair] = a * c - b * s;
                    target[pair + half] = b * c + a * s;
                }
            }
        });
        turned
    }

    /// Turns `heads`, `[heads, n, head_dim]`, back into `[n, heads * head_dim]`: the transpose of [`Rotation::split_and_turn`], which is its gradient.
    pub(crate) fn turn_back_and_join(&self, heads: &[T], n_heads: usize) -> Numbers<T> {
        let (half, head_dim) = (self.half, 2 * self.half);
        let width = n_heads * head_dim;
        let n = heads.len() / width;
        let mut rows = Numbers::stale(heads.len());
        rows.par_chunks_mut(width).enumerate().for_each(|(token, row)| {
            let (cos, sin) = (&self.cos[token * half..][..half], &self.sin[token * half..][..half]);
            for (head, target) in row.chunks_exact_mut(head_dim).enumerate() {
                let source = &heads[(head * n + token) * head_dim..][..head_dim];
                for pair in 0..half {
                    let (a, b, c, s) = (source[pair], source[pair + half], cos[pair], sin[pair]);
                    target[pair] = a * c + b * s;
                    target[pair + half] = b * c - a * s;
                }
            }
        });
        rows
    }
}

/// Turns `[n, heads * head_dim]` into `[heads, n, head_dim]`, as values need it, which do not turn.
pub(crate) fn split_heads<T: Real>(rows: &[T], n_heads: usize, head_dim: usize) -> Numbers<T> {
    let width = n_heads * head_dim;
    let n = rows.len() / width;
    let mut heads = Numbers::stale(rows.len());
    heads
        .par_chunks_mut(n * head_dim)
        .enumerate()
        .for_each(|(head, target)| {
            for (token, target) in target.chunks_exact_mut(head_dim).enumerate() {
                target.copy_from_slice(&rows[token * width + head * head_dim..][..head_dim]);
            }
        });
    heads
}

/// Turns `[heads, n, head_dim]` into `[n, heads * head_dim]`.
pub(crate) fn join_heads<T: Real>(heads: &[T], n_heads: usize, head_dim: usize) -> Numbers<T> {
    let width = n_heads * head_dim;
    let n = heads.len() / width;
    let mut rows = Numbers::stale(heads.len());
    rows.par_chunks_mut(width).enumerate().for_each(|(token, row)| {
        for (head, target) in row.chunks_exact_mut(head_dim).enumerate() {
            target.copy_from_slice(&heads[(head * n + token) * head_dim..][..head_dim]);
        }
    });
    rows
}
