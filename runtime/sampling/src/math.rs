//! Exponential and logarithm that are the same on every platform.
//!
//! The standard library's call the platform's libm, whose last bit differs between systems; one bit is enough to turn a draw into another
//! token. These use only additions, multiplications, divisions and bit patterns, all exact in IEEE 754, and are accurate to about 1e-15
//! relative, far beyond the 24 bits of a logit.

const LN_2: f64 = std::f64::consts::LN_2;
/// The high part of ln 2: its low 21 bits are zero, so that `k * LN_2_HIGH` is exact for every exponent.
const LN_2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
/// What [`LN_2_HIGH`] lacks: ln 2 to twice the precision, minus the high part.
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// Added to a number of less than 2^51, it leaves the nearest integer in the low bits: beyond 2^52 an f64 has no fraction.
const TO_INTEGER: f64 = 1.5 * (1u64 << 52) as f64;

/// Returns e to the power of `x` for `x` of 0 or less; 0 below -700, where the result no longer matters to any sum with a 1 in it.
///
/// Without a branch or a call, so that a compiler can do several at once.
#[inline]
pub(crate) fn exp_nonpositive(x: f64) -> f64 {
    // x = k ln 2 + r with |r| <= ln 2 / 2, then e^r by its Taylor series to r^13 (the next term is below 1e-17).
    let near = x / LN_2 + TO_INTEGER;
    let k = near - TO_INTEGER;
    let r = (x - k * LN_2_HIGH) - k * LN_2_LOW;
    const INVERSE_FACTORIALS: [f64; 14] = [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    let mut power = 0.0;
    for factor in INVERSE_FACTORIALS {
        power = power * r + factor;
    }
    // k is within -1010..=0 where it matters, so the biased exponent is within 13..=1023; what is above the exponent's bits falls out.
    let scale = f64::from_bits(near.to_bits().wrapping_add(1023) << 52);
    if x < -700.0 { 0.0 } else { power * scale }
}

/// Exponentials that are made side by side.
const SIDE_BY_SIDE: usize = 64;

/// Returns the sum of `exp((logit - largest) / temperature)`, added in the order of the logits, none of which is larger than the largest.
pub(crate) fn sum_of_exp(logits: &[f32], largest: f32, temperature: f64) -> f64 {
    let (largest, mut sum) = (f64::from(largest), 0.0);
    for logits in logits.chunks(SIDE_BY_SIDE) {
        let mut weights = [0.0; SIDE_BY_SIDE];
        for (weight, &logit) in weights.iter_mut().zip(logits) {
            *weight = exp_nonpositive((f64::from(logit) - largest) / temperature);
        }
        for weight in &weights[..logits.len()] {
            sum += weight;
        }
    }
    sum
}

/// Returns the natural logarithm of a positive, finite, normal `x`.
pub(crate) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | (1023 << 52));
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    // ln m = 2 atanh((m - 1) / (m + 1)), whose argument is at most 0.172: 11 terms leave less than 1e-17.
    let z = (mantissa - 1.0) / (mantissa + 1.0);
    let z_squared = z * z;
    let mut series = 0.0;
    for n in (0..11).rev() {
        series = series * z_squared + 1.0 / f64::from(2 * n + 1);
    }
    let k = exponent as f64;
    k * LN_2_HIGH + (2.0 * z * series + k * LN_2_LOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_agree_with_the_platforms_to_a_few_ulps() {
        for step in 0..200_000 {
            let x = -f64::from(step) * 0.0035;
            let (ours, theirs) = (exp_nonpositive(x), x.exp());
            assert!(
                (ours - theirs).abs() <= 1e-15 * 4.0 * theirs,
                "exp({x}) = {ours}, not {theirs}"
            );
            let y = 1e-3 + f64::from(step) * 7.3;
            let (ours, theirs) = (ln(y), y.ln());
            assert!(
                (ours - theirs).abs() <= 1e-15 * theirs.abs().max(1.0),
                "ln({y}) = {ours}, not {theirs}"
            );
        }
        assert_eq!(exp_nonpositive(0.0), 1.0);
        assert_eq!(exp_nonpositive(f64::NEG_INFINITY), 0.0);
        assert_eq!(ln(1.0), 0.0);
    }
}
