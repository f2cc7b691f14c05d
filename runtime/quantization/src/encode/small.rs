//! The types of blocks of 32 with importance, Q4_0 to Q5_1, and the two that choose from a table, IQ4_NL and IQ4_XS.
//!
//! Source: `quantize_row_q4_0_impl` and its like, and `quantize_row_iq4_nl_impl`, of ggml-quants.c.

use super::batch::{Codec, combine, part, store_half};
use super::k::{sum_of_squares, weight};
use super::search::{Affine, Symmetric, Tries, ZERO_BELOW, largest};
use crate::lanes::{ByteRow, Lanes, Row};
use crate::nonlinear::VALUES;

const WEIGHTED: Tries = Tries {
    first: -0.9,
    step: 0.05,
    steps: 36,
    absolute: false,
};

pub(super) struct Q4_0;
pub(super) struct Q4_1;
pub(super) struct Q5_0;
pub(super) struct Q5_1;
pub(super) struct Iq4Nl;
pub(super) struct Iq4Xs;

impl Codec<32, 18> for Q4_0 {
    const NEEDS_ROW_MEAN: bool = true;

    #[inline(always)]
    fn encode<V: Lanes>(v: V, x: &[Row; 32], importance: Option<&[Row; 32]>, mean: &Row, bytes: &mut [ByteRow; 18]) {
        let (scale, integers) = symmetric(v, x, importance, mean, 8.0);
        store_half(v, scale, &mut bytes[..2]);
        nibbles(&integers, &mut bytes[2..]);
    }
}

impl Codec<32, 20> for Q4_1 {
    const NEEDS_ROW_MEAN: bool = true;

    #[inline(always)]
    fn encode<V: Lanes>(v: V, x: &[Row; 32], importance: Option<&[Row; 32]>, mean: &Row, bytes: &mut [ByteRow; 20]) {
        let (scale, minimum, integers) = affine(v, x, importance, mean, 15.0);
        store_half(v, scale, &mut bytes[..2]);
        store_half(v, v.neg(minimum), &mut bytes[2..4]);
        nibbles(&integers, &mut bytes[4..]);
    }
}

impl Codec<32, 22> for Q5_0 {
    const NEEDS_ROW_MEAN: bool = true;

    #[inline(always)]
    fn encode<V: Lanes>(v: V, x: &[Row; 32], importance: Option<&[Row; 32]>, mean: &Row, bytes: &mut [ByteRow; 22]) {
        let (scale, integers) = symmetric(v, x, importance, mean, 16.0);
        store_half(v, scale, &mut bytes[..2]);
        fifth_bits(&integers, &mut bytes[2..6]);
        nibbles(&integers, &mut bytes[6..]);
    }
}

impl Codec<32, 24> for Q5_1 {
    const NEEDS_ROW_MEAN: bool = true;

    #[inline(always)]
    fn encode<V: Lanes>(v: V, x: &[Row; 32], importance: Option<&[Row; 32]>, mean: &Row, bytes: &mut [ByteRow; 24]) {
        let (scale, minimum, integers) = affine(v, x, importance, mean, 31.0);
        store_half(v, scale, &mut bytes[..2]);
        store_half(v, v.neg(minimum), &mut bytes[2..4]);
        fifth_bits(&integers, &mut bytes[4..8]);
        nibbles(&integers, &mut bytes[8..]);
    }
}

impl Codec<32, 18> for Iq4Nl {
    #[inline(always)]
    fn encode<V: Lanes>(v: V, x: &[Row; 32], importance: Option<&[Row; 32]>, _: &Row, bytes: &mut [ByteRow; 18]) {
        let mean = v.mul(sum_of_squares(v, x), v.splat(2.0 / 32.0));
        let scale = nonlinear(v, x, importance, 0, mean);
        store_half(v, scale, &mut bytes[..2]);
        let is_zero = v.equal(scale, v.splat(0.0));
        let inverse = v.select(is_zero, v.splat(0.0), v.div(v.splat(1.0), scale));
        let mut places = [ByteRow::default(); 32];
        choose(v, x, inverse, &mut places);
        nibbles(&places, &mut bytes[2..]);
    }
}

impl Codec<256, 136> for Iq4Xs {
    #[inline(always)]
    fn encode<V: Lanes>(v: V, x: &[Row; 256], importance: Option<&[Row; 256]>, _: &Row, bytes: &mut [ByteRow; 136]) {
        let (zero, one) = (v.splat(0.0), v.splat(1.0));
        let mean = v.mul(sum_of_squares(v, x), v.splat(2.0 / 256.0));
        let mut scales = [zero; 8];
        for (group, scale) in scales.iter_mut().enumerate() {
            *scale = nonlinear(v, x, importance, 32 * group, mean);
        }
        let (extreme, _) = largest(v, &scales);
        let d = v.div(v.neg(extreme), v.splat(32.0));
        store_half(v, d, &mut bytes[..2]);
        let inverse = v.select(v.equal(d, zero), zero, v.div(one, d));
        let mut levels = [ByteRow::default(); 8];
        for group in 0..8 {
            let level = v.clamp(v.nearest(v.mul(inverse, scales[group])), -32.0, 31.0);
            v.store_bytes(v.add(level, v.splat(32.0)), &mut levels[group]);
            let scale = v.mul(d, level);
            let inverse = v.select(v.equal(scale, zero), zero, v.div(one, scale));
            let mut places = [ByteRow::default(); 32];
            choose(v, &x[32 * group..][..32], inverse, &mut places);
            nibbles(&places, &mut bytes[8 + 16 * group..][..16]);
        }
        for byte in 0..2 {
            let four = [
                &levels[4 * byte],
                &levels[4 * byte + 1],
                &levels[4 * byte + 2],
                &levels[4 * byte + 3],
            ];
            bytes[2 + byte] = combine(four, |[a, b, c, d]| a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6);
        }
        for byte in 0..4 {
            bytes[4 + byte] = combine([&levels[2 * byte], &levels[2 * byte + 1]], |[low, high]| {
                low & 15 | high << 4
            });
        }
    }
}

#[inline(always)]
fn weights<V: Lanes>(v: V, x: &[V::F; 32], importance: Option<&[Row; 32]>, mean: &Row) -> [V::F; 32] {
    let mean = v.load(mean);
    let mut weights = [v.splat(0.0); 32];
    for i in 0..32 {
        weights[i] = match importance {
            Some(importance) => weight(v, importance, i, mean, x[i]),
            // Not asked for: without importance these types are rounded and not searched.
            None => v.mul(x[i], x[i]),
        };
    }
    weights
}

#[inline(always)]
fn symmetric<V: Lanes>(
    v: V,
    x: &[Row; 32],
    importance: Option<&[Row; 32]>,
    mean: &Row,
    bound: f32,
) -> (V::F, [ByteRow; 32]) {
    let numbers: [V::F; 32] = part(v, x, 0);
    let weights = weights(v, &numbers, importance, mean);
    let found = Symmetric::search(v, &numbers, &weights, bound);
    let mut integers = [ByteRow::default(); 32];
    for (number, row) in numbers.iter().zip(&mut integers) {
        v.store_bytes(found.integer(v, *number), row);
    }
    (found.scale, integers)
}

#[inline(always)]
fn affine<V: Lanes>(
    v: V,
    x: &[Row; 32],
    importance: Option<&[Row; 32]>,
    mean: &Row,
    highest: f32,
) -> (V::F, V::F, [ByteRow; 32]) {
    let numbers: [V::F; 32] = part(v, x, 0);
    let weights = weights(v, &numbers, importance, mean);
    let found = Affine::search(v, &numbers, &weights, highest, WEIGHTED);
    let mut integers = [ByteRow::default(); 32];
    for (number, row) in numbers.iter().zip(&mut integers) {
        v.store_bytes(found.integer(v, *number), row);
    }
    (found.scale, found.minimum, integers)
}

/// Finds the scale of a group of 32 whose numbers are chosen from the table.
#[inline(always)]
fn nonlinear<V: Lanes, const K: usize>(
    v: V,
    x: &[Row; K],
    importance: Option<&[Row; K]>,
    start: usize,
    mean: V::F,
) -> V::F {
    let zero = v.splat(0.0);
    let numbers: [V::F; 32] = part(v, x, start);
    let mut weights = [zero; 32];
    for i in 0..32 {
        weights[i] = match importance {
            Some(importance) => weight(v, importance, start + i, mean, numbers[i]),
            None => v.mul(numbers[i], numbers[i]),
        };
    }
    let (extreme, size) = largest(v, &numbers);
    let is_zero = v.less(size, v.splat(ZERO_BELOW));
    let first = v.div(v.neg(extreme), v.splat(VALUES[0]));
    let (sum_qx, sum_q2) = nonlinear_sums(v, &numbers, &weights, v.div(v.splat(1.0), first));
    let mut scale = v.select(v.less(zero, sum_q2), v.div(sum_qx, sum_q2), zero);
    let mut best = v.mul(scale, sum_qx);
    for step in -7..=7 {
        let tried = v.div(v.splat(step as f32 + VALUES[0]), extreme);
        let (sum_qx, sum_q2) = nonlinear_sums(v, &numbers, &weights, tried);
        let is_better = v.both(v.less(zero, sum_q2), v.less(v.mul(best, sum_q2), v.mul(sum_qx, sum_qx)));
        let fitted = v.div(sum_qx, sum_q2);
        scale = v.select(is_better, fitted, scale);
        best = v.select(is_better, v.mul(fitted, sum_qx), best);
    }
    v.select(is_zero, zero, scale)
}

#[inline(always)]
fn nonlinear_sums<V: Lanes>(v: V, x: &[V::F; 32], weights: &[V::F; 32], inverse: V::F) -> (V::F, V::F) {
    let (mut sum_qx, mut sum_q2) = (v.splat(0.0), v.splat(0.0));
    for i in 0..32 {
        let value = v.nonlinear_value(v.mul(inverse, x[i]));
        let weighted = v.mul(weights[i], value);
        sum_qx = v.add(sum_qx, v.mul(weighted, x[i]));
        sum_q2 = v.add(sum_q2, v.mul(weighted, value));
    }
    (sum_qx, sum_q2)
}

#[inline(always)]
fn choose<V: Lanes>(v: V, x: &[Row], inverse: V::F, places: &mut [ByteRow; 32]) {
    for (row, place) in x.iter().zip(places) {
        v.store_bytes(v.nonlinear_place(v.mul(inverse, v.load(row))), place);
    }
}

/// Packs the low 4 bits of 32 integers: the first half low, the second high.
#[inline(always)]
fn nibbles(integers: &[ByteRow; 32], packed: &mut [ByteRow]) {
    for (place, packed) in packed.iter_mut().enumerate() {
        *packed = combine([&integers[place], &integers[place + 16]], |[low, high]| {
            low & 15 | high << 4
        });
    }
}

/// Packs the fifth bits of 32 integers.
#[inline(always)]
fn fifth_bits(integers: &[ByteRow; 32], packed: &mut [ByteRow]) {
    for (byte, packed) in packed.iter_mut().enumerate() {
        let mut bits = ByteRow::default();
        for bit in 0..8 {
            bits = combine([&bits, &integers[8 * byte + bit]], |[bits, integer]| {
                bits | (integer >> 4 & 1) << bit
            });
        }
        *packed = bits;
    }
}
