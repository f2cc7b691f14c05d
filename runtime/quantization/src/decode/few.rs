//! The types of three values or fewer, and those of floating points of 4 bits: TQ1_0, TQ2_0, Q1_0, MXFP4 and NVFP4.
//!
//! Source: `dequantize_row_*` of ggml-quants.c; the scales of the last two are the formats E8M0 and E4M3 of the OCP's specification of microscaling, halved, as the table
//! of values is doubled.

use super::half;

/// Twice the numbers that 4 bits of sign, exponent and fraction (E2M1) say.
const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `qs[48]` of five digits a byte, `qh[4]` of four, `d`. A byte is a fraction of 256 in base 3: multiplied by a power of 3, its next digit is above the point.
#[inline(always)]
pub(super) fn tq1_0(block: &[u8; 54], out: &mut [f32; 256]) {
    let d = half(block, 52);
    let digit = |byte: u8, power: u8| {
        let fraction = byte.wrapping_mul(power);
        f32::from(((u16::from(fraction) * 3) >> 8) as i8 - 1) * d
    };
    // Bytes that are gone through together, digit after digit.
    let mut rest = out.as_mut_slice();
    for (bytes, n_digits) in [(&block[..32], 5), (&block[32..48], 5), (&block[48..52], 4)] {
        for power in [1, 3, 9, 27, 81].into_iter().take(n_digits) {
            let (now, later) = rest.split_at_mut(bytes.len());
            for (out, byte) in now.iter_mut().zip(bytes) {
                *out = digit(*byte, power);
            }
            rest = later;
        }
    }
}

/// `qs[64]` of 2 bits a number, `d`.
#[inline(always)]
pub(super) fn tq2_0(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = half(block, 64);
    for (at, out) in out.chunks_exact_mut(32).enumerate() {
        let qs = &block[32 * (at / 4)..][..32];
        for (out, q) in out.iter_mut().zip(qs) {
            *out = f32::from((q >> (2 * (at % 4)) & 3) as i8 - 1) * d;
        }
    }
}

/// `d`, `qs[16]`: a bit a number, set where it is positive.
#[inline(always)]
pub(super) fn q1_0(block: &[u8; 18], out: &mut [f32; 128]) {
    let d = half(block, 0);
    for (out, place) in out.iter_mut().zip(0..) {
        let bit = block[2 + place / 8] >> (place % 8) & 1;
        *out = if bit == 1 { d } else { -d };
    }
}

/// `e`, an exponent; `qs[16]`.
#[inline(always)]
pub(super) fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    let bits = match block[0] {
        // Half of 2^-127 and of 2^-126 are denormals.
        e @ 0..2 => 0x0020_0000 << e,
        e => u32::from(e - 1) << 23,
    };
    let d = f32::from_bits(bits);
    let (low, high) = out.split_at_mut(16);
    four_bits(&block[1..], d, low, high);
}

/// `d[4]`, a scale for each 16 numbers; `qs[32]`.
#[inline(always)]
pub(super) fn nvfp4(block: &[u8; 36], out: &mut [f32; 64]) {
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let (low, high) = out.split_at_mut(8);
        four_bits(&block[4 + 8 * group..][..8], unsigned_8(block[group]), low, high);
    }
}

#[inline(always)]
fn four_bits(qs: &[u8], d: f32, low: &mut [f32], high: &mut [f32]) {
    for ((low, high), q) in low.iter_mut().zip(high).zip(qs) {
        *low = f32::from(DOUBLED[usize::from(q & 15)]) * d;
        *high = f32::from(DOUBLED[usize::from(q >> 4)]) * d;
    }
}

/// Returns half of what 4 bits of exponent and 3 of fraction say. What would be no number is 0, and a sign is not looked at.
#[inline(always)]
fn unsigned_8(byte: u8) -> f32 {
    let (exponent, fraction) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    if byte == 0 || byte == 0x7f {
        return 0.0;
    }
    // Both products are exact: a fraction of 3 bits times a power of two.
    match exponent {
        0 => fraction * 2f32.powi(-10),
        _ => (1.0 + fraction / 8.0) * 2f32.powi(exponent - 8),
    }
}
