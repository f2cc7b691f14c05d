//! The types whose numbers lie on grids: IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ1_S and IQ1_M.
//!
//! ```text
//! block of 256 = 8 groups of 32 = 4 runs of 8      number = d * scale of its group (or half group) * value of its grid's point * sign
//! ```
//! Signs are a bit a number; some types store seven of eight, the last being such that an even number of them are set. The two IQ1 types have no
//! signs: their points have them, and a run is shifted up or down by an eighth.
//!
//! Source: `dequantize_row_iq*` of ggml-quants.c for the layout and the order of products, each of which is rounded.

use super::{half, word};
use crate::grids;

/// What a run of an IQ1 type is shifted by, times its scale.
const SHIFT: f32 = 0.125;

/// Returns eight signs of which seven are stored.
#[inline(always)]
fn eight_signs(seven: u32) -> u32 {
    let seven = seven & 127;
    seven | (seven.count_ones() & 1) << 7
}

/// Writes a run of numbers: a scale, points, and a bit for each that is negative.
#[inline(always)]
fn run<const K: usize>(scale: f32, point: &[i8; K], signs: u32, out: &mut [f32]) {
    for (place, (out, value)) in out.iter_mut().zip(point).enumerate() {
        let number = scale * f32::from(*value);
        *out = if signs >> place & 1 == 1 { -number } else { number };
    }
}

/// `d`; for each group four bytes of places, then 28 bits of signs and 4 of scale.
#[inline(always)]
pub(super) fn iq2_xxs(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = half(block, 0);
    for group in 0..8 {
        let (places, rest) = (&block[2 + 8 * group..][..4], word(block, 6 + 8 * group));
        let scale = d * (0.5 + (rest >> 28) as f32) * 0.25;
        for (n, place) in places.iter().enumerate() {
            let signs = eight_signs(rest >> (7 * n));
            let point = &grids::IQ2_XXS[usize::from(*place)];
            run(scale, point, signs, &mut out[32 * group + 8 * n..][..8]);
        }
    }
}

/// `d`, `qs[32]` of 9 bits of place and 7 of signs, `scales[8]` of 4 bits a half group.
#[inline(always)]
pub(super) fn iq2_xs(block: &[u8; 74], out: &mut [f32; 256]) {
    let d = half(block, 0);
    for n in 0..32 {
        let q = u16::from_le_bytes([block[2 + 2 * n], block[3 + 2 * n]]);
        let scale = block[66 + n / 4] >> (4 * (n / 2 % 2)) & 15;
        let scale = d * (0.5 + f32::from(scale)) * 0.25;
        let point = &grids::IQ2_XS[usize::from(q & 511)];
        run(scale, point, eight_signs(u32::from(q >> 9)), &mut out[8 * n..][..8]);
    }
}

/// `d`, `qs[32]` of places, `signs[32]`, `qh[8]` with 2 more bits of each place, `scales[8]` of 4 bits a half group.
#[inline(always)]
pub(super) fn iq2_s(block: &[u8; 82], out: &mut [f32; 256]) {
    let d = half(block, 0);
    for n in 0..32 {
        let high = usize::from(block[66 + n / 4] >> (2 * (n % 4)) & 3);
        let scale = block[74 + n / 4] >> (4 * (n / 2 % 2)) & 15;
        let scale = d * (0.5 + f32::from(scale)) * 0.25;
        let point = &grids::IQ2_S[usize::from(block[2 + n]) | high << 8];
        run(scale, point, u32::from(block[34 + n]), &mut out[8 * n..][..8]);
    }
}

/// `d`, `qs[64]` of places, two a run; for each group 28 bits of signs and 4 of scale.
#[inline(always)]
pub(super) fn iq3_xxs(block: &[u8; 98], out: &mut [f32; 256]) {
    let d = half(block, 0);
    for group in 0..8 {
        let rest = word(block, 66 + 4 * group);
        let scale = d * (0.5 + (rest >> 28) as f32) * 0.5;
        for n in 0..4 {
            let signs = eight_signs(rest >> (7 * n));
            for side in 0..2 {
                let at = 4 * group + n;
                let point = &grids::IQ3_XXS[usize::from(block[2 + 2 * at + side])];
                run(scale, point, signs >> (4 * side), &mut out[8 * at + 4 * side..][..4]);
            }
        }
    }
}

/// `d`, `qs[64]` of places, two a run, `qh[8]` with a ninth bit of each, `signs[32]`, `scales[4]` of 4 bits a group.
#[inline(always)]
pub(super) fn iq3_s(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = half(block, 0);
    for n in 0..32 {
        let group = n / 4;
        let scale = block[106 + group / 2] >> (4 * (group % 2)) & 15;
        let scale = d * f32::from(1 + 2 * scale);
        for side in 0..2 {
            let high = usize::from(block[66 + group] >> (2 * (n % 4) + side) & 1);
            let point = &grids::IQ3_S[usize::from(block[2 + 2 * n + side]) | high << 8];
            let signs = u32::from(block[74 + n]) >> (4 * side);
            run(scale, point, signs, &mut out[8 * n + 4 * side..][..4]);
        }
    }
}

/// Writes a run of an IQ1 type.
#[inline(always)]
fn shifted(scale: f32, place: usize, is_down: bool, out: &mut [f32]) {
    let shift = if is_down { -SHIFT } else { SHIFT };
    for (out, value) in out.iter_mut().zip(&grids::IQ1[place]) {
        *out = scale * (f32::from(*value) + shift);
    }
}

/// `d`, `qs[32]` of places, `qh[8]` of 16 bits: 3 more bits of each place, 3 of scale, the shift's sign.
#[inline(always)]
pub(super) fn iq1_s(block: &[u8; 50], out: &mut [f32; 256]) {
    let d = half(block, 0);
    for n in 0..32 {
        let (group, at) = (n / 4, 34 + 2 * (n / 4));
        let high = u16::from_le_bytes([block[at], block[at + 1]]);
        let scale = d * f32::from(2 * (high >> 12 & 7) + 1);
        let place = usize::from(block[2 + 4 * group + n % 4]) | usize::from(high >> (3 * (n % 4)) & 7) << 8;
        shifted(scale, place, high & 0x8000 != 0, &mut out[8 * n..][..8]);
    }
}

/// `qs[32]` of places, `qh[16]` of 4 bits a run: 3 more bits of place, the shift's sign; four words of 16 bits: 3 bits of scale for each half group, and above them four
/// bits of `d`.
#[inline(always)]
pub(super) fn iq1_m(block: &[u8; 56], out: &mut [f32; 256]) {
    let word = |at: usize| u16::from_le_bytes([block[48 + 2 * at], block[49 + 2 * at]]);
    let bits = (0..4).fold(0, |bits, at| bits | word(at) >> 12 << (4 * at));
    let d = half(&bits.to_le_bytes(), 0);
    for n in 0..32 {
        let high = block[32 + n / 2] >> (4 * (n % 2)) & 15;
        let scale = word(n / 8) >> (3 * (n / 2 % 4)) & 7;
        let place = usize::from(block[n]) | usize::from(high & 7) << 8;
        shifted(
            d * f32::from(2 * scale + 1),
            place,
            high & 8 != 0,
            &mut out[8 * n..][..8],
        );
    }
}
