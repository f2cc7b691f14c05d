//! What is done to each number or each row by itself: the exponential, the gate of the feed-forward part, sums of branches, the norm.
//!
//! Cost: each function reads and writes each number once, in vectors, split over the threads where there are many tokens; the exponential is some fifteen operations.
//!
//! **Invariant:** a row depends on nothing but itself, bit for bit: not on the rows beside it, the threads or the instructions. Nothing is fused, and the squares of
//! a row are summed in 16 lanes that are then added as a tree.
#![expect(unsafe_code, reason = "threads write disjoint rows of one slice")]

use witness_kernels::Pool;

use crate::split::{Shared, each_chunk};
use crate::vectors;

/// Below it `exp` is nothing beside 1.
const EXPONENT_MIN: f32 = -87.0;
/// Adding it rounds to a whole number, which then lies in the lowest bits.
const ROUND: f32 = 12_582_912.0;
/// Numbers that a thread takes at a time: some microseconds, enough to hide the cost of handing them out.
const NUMBERS_PER_TASK: usize = 16 << 10;
/// Partial sums of a row's squares.
const LANES: usize = 16;

/// Returns `e^x` for `x <= 0`, and 0 below [`EXPONENT_MIN`]; off by at most two units in the last place. What is no number stays none.
/// Source: the reduction and the polynomial of the Cephes library's `expf`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
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

/// Returns `2^x` for `x <= 0`, and 0 below -126.5; off by at most two units in the last place. What is no number stays none.
/// Source: the polynomial of the Cephes library's `exp2f`. Products are fused, as attention's others are.
#[inline(always)]
pub(crate) fn exp2(x: f32) -> f32 {
    use std::f32::consts::LN_2;

    // In this order what is no number is kept, by one instruction.
    let x = if x < -127.0 { -127.0 } else { x };
    let shifted = x + ROUND;
    let rest = x - (shifted - ROUND);
    let mut p = 1.535_336_2e-4_f32;
    for coefficient in [1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 0.240_226_48, LN_2, 1.0] {
        p = p.mul_add(rest, coefficient);
    }
    // -127 has no exponent of its own: it becomes 0.
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// `gate[i] = silu(gate[i]) up[i]`, where `silu(x) = x / (1 + e^-x)`.
///
/// # Panics
/// If the lengths differ.
pub(crate) fn gated(gate: &mut [f32], up: &[f32], pool: &Pool) {
    assert_eq!(gate.len(), up.len(), "a gate for each number");
    let arch = vectors::arch();
    each_chunk(pool, gate, NUMBERS_PER_TASK, |index, gate| {
        let up = &up[index * NUMBERS_PER_TASK..][..gate.len()];
        vectors::run(
            arch,
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

/// Adds `branch` to `x`, where there is one, and writes the norm of each row of the sum:
/// `out = x / sqrt(mean(x^2) + epsilon) * weight`. `x`, `branch` and `out` are `[n, w]` f32, `weight` is `[w]`. Source: RMSNorm (arXiv 1910.07467).
///
/// # Panics
/// If the lengths differ.
pub(crate) fn add_and_norm(
    x: &mut [f32],
    branch: Option<&[f32]>,
    weight: &[f32],
    epsilon: f32,
    out: &mut [f32],
    pool: &Pool,
) {
    let width = weight.len();
    assert!(
        x.len() == out.len() && branch.is_none_or(|branch| branch.len() == x.len()) && x.len().is_multiple_of(width),
        "rows of one width"
    );
    let chunk = (NUMBERS_PER_TASK / width).max(1) * width;
    let (arch, out) = (vectors::arch(), Shared::new(out));
    each_chunk(pool, x, chunk, |index, x| {
        let start = index * chunk;
        // SAFETY: each chunk is one task's alone, and so are the numbers at its place.
        let out = unsafe { out.part(start..start + x.len()) };
        let branch = branch.map(|branch| &branch[start..start + x.len()]);
        vectors::run(
            arch,
            #[inline(always)]
            || {
                let rows = x.chunks_exact_mut(width).zip(out.chunks_exact_mut(width));
                for (row, (x, out)) in rows.enumerate() {
                    if let Some(branch) = branch {
                        for (x, branch) in x.iter_mut().zip(&branch[row * width..(row + 1) * width]) {
                            *x += branch;
                        }
                    }
                    let shrink = 1.0 / (sum_of_squares(x) / width as f32 + epsilon).sqrt();
                    for ((out, x), weight) in out.iter_mut().zip(x.iter()).zip(weight) {
                        *out = x * shrink * weight;
                    }
                }
            },
        );
    });
}

#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x * x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += x * x;
    }
    tree(lanes)
}

/// Adds lanes: the first half to the second, until one is left.
#[inline(always)]
fn tree(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

/// Adds `bias`, `[w]`, to each row of `y`, `[n, w]`.
pub(crate) fn add_bias(y: &mut [f32], bias: &[f32], pool: &Pool) {
    let chunk = (NUMBERS_PER_TASK / bias.len().max(1)).max(1) * bias.len().max(1);
    each_chunk(pool, y, chunk, |_, y| {
        for row in y.chunks_exact_mut(bias.len()) {
            for (y, bias) in row.iter_mut().zip(bias) {
                *y += bias;
            }
        }
    });
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

    #[test]
    fn exp2_is_that_of_the_standard_library() {
        for step in 0..=126_000 {
            let x = -(step as f32) / 1000.0;
            let wanted = f64::from(x).exp2();
            assert!((f64::from(exp2(x)) / wanted - 1.0).abs() < 2e-7, "{x}");
        }
        assert_eq!((exp2(f32::NEG_INFINITY), exp2(-126.6), exp2(0.0)), (0.0, 0.0, 1.0));
        assert!(exp2(f32::NAN).is_nan() && exp2(f32::from_bits(0xffc0_1234)).is_nan());
    }

    /// Goal: the definition in f64, over both signs, zeros, the largest numbers and what is no number; over more than one task.
    #[test]
    fn the_gate_is_the_definition() {
        let edges = [0.0, -0.0, 1e-30, -1e-30, 88.0, -88.0, 1e30, -1e30];
        let spread = (0..2 * NUMBERS_PER_TASK + 77).map(|index| (index as f32 - 16_000.0) / 800.0);
        let x: Vec<f32> = edges.into_iter().chain(spread).collect();
        let up: Vec<f32> = (0..x.len()).map(|index| (index % 7) as f32 - 3.0).collect();
        let mut found = x.clone();
        let pool = Pool::new(2);
        gated(&mut found, &up, &pool);
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
        gated(&mut none, &[1.0; 3], &pool);
        assert!(none[0].is_nan() && none[1] == f32::INFINITY && none[2].is_nan());
    }

    /// Goal: the definition in f64; a row alone and on one thread has the bits that it has among others; the sum is left in `x`.
    #[test]
    fn the_norm_is_the_definition_and_rows_do_not_depend_on_each_other() {
        for (n_rows, width) in [(1, 1), (3, 24), (40, 1000), (5, 16)] {
            let number = |index: usize| ((index * 7919 % 2003) as f32 - 1001.0) / 300.0;
            let before: Vec<f32> = (0..n_rows * width).map(number).collect();
            let branch: Vec<f32> = (0..n_rows * width).map(|index| number(index + 31)).collect();
            let weight: Vec<f32> = (0..width).map(|index| number(index + 7)).collect();
            for branch in [None, Some(&branch[..])] {
                let (mut x, mut out) = (before.clone(), vec![f32::NAN; before.len()]);
                add_and_norm(&mut x, branch, &weight, 1e-5, &mut out, &Pool::new(2));
                for row in 0..n_rows {
                    let at = row * width..(row + 1) * width;
                    let sum: Vec<f32> = at
                        .clone()
                        .map(|at| before[at] + branch.map_or(0.0, |branch| branch[at]))
                        .collect();
                    assert_eq!(x[at.clone()], sum);
                    let mean = sum.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / width as f64;
                    for ((x, weight), out) in sum.iter().zip(&weight).zip(&out[at.clone()]) {
                        let wanted = f64::from(*x) / (mean + 1e-5).sqrt() * f64::from(*weight);
                        assert!(
                            (f64::from(*out) - wanted).abs() <= wanted.abs() * 1e-6,
                            "{out} for {wanted}"
                        );
                    }
                    let (mut x, mut alone) = (before[at.clone()].to_vec(), vec![0.0; width]);
                    let branch = branch.map(|branch| &branch[at.clone()]);
                    add_and_norm(&mut x, branch, &weight, 1e-5, &mut alone, &Pool::new(1));
                    assert!(alone == out[at]);
                }
            }
        }
    }

    #[test]
    fn a_bias_is_added_to_each_row() {
        let mut y: Vec<f32> = (0..12).map(|at| at as f32).collect();
        add_bias(&mut y, &[0.0, 10.0, 20.0], &Pool::new(2));
        assert_eq!(y, [0.0, 11.0, 22.0, 3.0, 14.0, 25.0, 6.0, 17.0, 28.0, 9.0, 20.0, 31.0]);
    }
}
