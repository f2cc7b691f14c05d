//! The rotary scaling that a tensor of factors stands for.
//!
//! `rope_freqs.weight` holds by what each frequency is divided, and Llama 3.1's four settings made those numbers. Below a ramp they are 1, above it
//! the factor itself; on the ramp `1/f = (1 - s)/factor + s` with `s = (original/wavelength - low) / (high - low)`. So two points of the ramp give
//! `original/(high - low)` and `low/(high - low)`; the settings of published models have `low = 1`, and then all is known. Where the ramp has one point
//! or none, `high = 4` is tried too, as all published models have it. Settings are accepted only when they make the same numbers again.

use serde_json::{Value, json};

use crate::metadata::llama3_factors;

/// Returns `rope_parameters` of type `llama3` for a tensor of factors; nothing when no settings make it.
pub(crate) fn llama3(factors: &[f32], theta: f64, head_dim: usize) -> Option<Value> {
    let factor = f64::from(*factors.last()?);
    // Published settings first: their few points on the ramp fit others as well.
    let published = [(1.0, 4.0, 8_192.0)];
    let powers = (4..24).map(|power| (1.0, 4.0, f64::from(1u32 << power)));
    let settings = published
        .into_iter()
        .chain(fitted(factors, theta, head_dim, factor))
        .chain(powers);
    for (low, high, original) in settings {
        let again = llama3_factors(theta, head_dim, factor as f32, low as f32, high as f32, original as f32);
        let is_same = again.len() == factors.len()
            && again
                .iter()
                .zip(factors)
                .all(|(again, told)| (again - told).abs() <= 1e-5 * told.abs());
        if is_same {
            return Some(json!({
                "rope_type": "llama3",
                "rope_theta": theta,
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original as u64,
            }));
        }
    }
    None
}

/// Fits the ramp to its first and last point, or to its only one.
fn fitted(factors: &[f32], theta: f64, head_dim: usize, factor: f64) -> Option<(f64, f64, f64)> {
    let inverse_wavelength =
        |pair: usize| theta.powf(-((2 * pair) as f64) / head_dim as f64) / (2.0 * std::f64::consts::PI);
    let mut ramp = factors
        .iter()
        .enumerate()
        .filter(|(_, value)| **value > 1.0 && f64::from(**value) < factor)
        .map(|(pair, value)| {
            let s = (1.0 / f64::from(*value) - 1.0 / factor) / (1.0 - 1.0 / factor);
            (inverse_wavelength(pair), s)
        });
    let (x0, s0) = ramp.next()?;
    let Some((x1, s1)) = ramp.next_back() else {
        return Some((1.0, 4.0, ((3.0 * s0 + 1.0) / x0).round()));
    };
    let slope = (s0 - s1) / (x0 - x1);
    let low_share = slope * x0 - s0;
    if !(low_share > 0.0 && slope > 0.0) {
        return None;
    }
    // Settings are written with few digits; the rounding of the factors is not.
    let high = ((1.0 + 1.0 / low_share) * 1_000.0).round() / 1_000.0;
    Some((1.0, high, (slope * (high - 1.0)).round()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_published_and_other_models_come_back() {
        for (theta, head_dim, factor, low, high, original) in [
            (500_000.0, 128, 8.0, 1.0, 4.0, 8_192u64),
            (500_000.0, 64, 32.0, 1.0, 4.0, 8_192),
            (10_000.0, 64, 4.0, 1.0, 3.0, 2_048),
            // One point on the ramp.
            (500_000.0, 16, 8.0, 1.0, 4.0, 64),
        ] {
            let factors = llama3_factors(theta, head_dim, factor as f32, low as f32, high as f32, original as f32);
            let found = llama3(&factors, theta, head_dim).unwrap();
            assert_eq!(
                (
                    found["factor"].as_f64(),
                    found["low_freq_factor"].as_f64(),
                    found["high_freq_factor"].as_f64()
                ),
                (Some(factor), Some(low), Some(high))
            );
            assert_eq!(found["original_max_position_embeddings"], original);
        }
        assert_eq!(llama3(&[1.0, 3.0, 2.0, 8.0], 10_000.0, 8), None);
        assert_eq!(llama3(&[], 10_000.0, 8), None);
    }
}
