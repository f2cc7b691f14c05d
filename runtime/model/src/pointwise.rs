//! What is done to each number by itself: the exponential, and the gate of the feed-forward part.
//!
//! Cost: [`gated`] reads and writes each number once (12 bytes a number), split over the threads; the exponential is some fifteen operations in vectors.

use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

/// Below it `exp` is nothing beside 1.
const EXPONENT_MIN: f32 = -87.0;
/// Numbers that a thread takes at a time: 128 KiB of each side stay in a second-level cache and hide the cost of handing them out.
const NUMBERS_PER_TASK: usize = 32 << 10;

/// Returns `e^x` for `x <= 0`, and 0 below [`EXPONENT_MIN`]; off by at most two units in the last place. What is no number stays none.
/// Source: the reduction and the polynomial of the Cephes library's `expf`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding it rounds to a whole number, which then lies in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let is_nothing = x < EXPONENT_MIN;
    let x = if is_nothing { EXPONENT_MIN } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = x - whole * 0.693_359_4 - whole * -2.121_944_4e-4;
    let mut p = 1.987_569_2e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * rest + coefficient;
    }
    let p = p * rest * rest + rest + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if is_nothing { 0.0 } else { p * power }
}

/// `gate[i] = silu(gate[i]) up[i]`, where `silu(x) = x / (1 + e^-x)`.
///
/// # Panics
/// If the lengths differ.
pub(crate) fn gated(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "a gate for each number");
    let arch = pulp::Arch::new();
    gate.par_chunks_mut(NUMBERS_PER_TASK)
        .zip(up.par_chunks(NUMBERS_PER_TASK))
        .for_each(|(gate, up)| {
            arch.dispatch(
                #[inline(always)]
                || {
                    for (gate, up) in gate.iter_mut().zip(up) {
                        *gate = silu(*gate) * up;
                    }
                },
            );
        });
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    // The exponential of what is not above 0 never overflows.
    let small = exp(-x.abs());
    let numerator = if x < 0.0 { x * small } else { x };
    numerator / (1.0 + small)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_that_of_the_standard_library() {
        for step in 0..=87_000 {
            let x = -(step as f32) / 1000.0;
            let wanted = f64::from(x).exp();
            assert!((f64::from(exp(x)) / wanted - 1.0).abs() < 3e-7, "{x}");
        }
        assert_eq!((exp(f32::NEG_INFINITY), exp(-1000.0), exp(0.0)), (0.0, 0.0, 1.0));
        assert!(exp(f32::NAN).is_nan());
    }

    /// Goal: the definition in f64, over both signs, zeros, the largest numbers and what is no number; over more than one task.
    #[test]
    fn the_gate_is_the_definition() {
        let edges = [0.0, -0.0, 1e-30, -1e-30, 88.0, -88.0, 1e30, -1e30];
        let spread = (0..NUMBERS_PER_TASK + 77).map(|index| (index as f32 - 16_000.0) / 800.0);
        let x: Vec<f32> = edges.into_iter().chain(spread).collect();
        let up: Vec<f32> = (0..x.len()).map(|index| (index % 7) as f32 - 3.0).collect();
        let mut found = x.clone();
        gated(&mut found, &up);
        for ((x, up), found) in x.iter().zip(&up).zip(&found) {
            let x = f64::from(*x);
            let wanted = x / (1.0 + (-x).exp()) * f64::from(*up);
            // Where the exponential is cut off, 88 e^-88 is left.
            assert!(
                (f64::from(*found) - wanted).abs() <= wanted.abs() * 1e-6 + 3e-36,
                "{x} {up}: {found} {wanted}"
            );
        }
        let mut none = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        gated(&mut none, &[1.0; 3]);
        assert!(none[0].is_nan() && none[1] == f32::INFINITY && none[2].is_nan());
    }
}
