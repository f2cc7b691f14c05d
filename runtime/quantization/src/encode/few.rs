//! The types of three values, TQ1_0 and TQ2_0: a number is minus the largest size of its block, nothing, or that size.
//!
//! They are made for models that were trained with such weights; of others little is left. Source: `quantize_row_tq*_ref` of ggml-quants.c.

use half::f16;

/// Returns the largest size of a block, what to multiply numbers by, and their scale as it is stored.
fn scale(x: &[f32; 256]) -> (f32, [u8; 2]) {
    let mut size = 0.0f32;
    for number in x {
        size = if size > number.abs() { size } else { number.abs() };
    }
    let inverse = if size == 0.0 { 0.0 } else { 1.0 / size };
    (inverse, f16::from_f32_const(size).to_le_bytes())
}

/// Returns 0, 1 or 2: halves go away from zero.
fn digit(number: f32, inverse: f32) -> u8 {
    // Within 1 of zero, but for a size whose inverse is infinite: what no integer holds then counts as 0, as in the reference on x86-64, where the low half of the
    // least integer of 64 bits is taken.
    let rounded = (number * inverse).round();
    match rounded.abs() <= 1.0 {
        true => (rounded as i8 + 1) as u8,
        false => 1,
    }
}

/// Layout: 32 bytes of five digits, each 32 numbers apart; 16 bytes of five, 16 apart; 4 bytes of four, 4 apart; the scale.
pub(super) fn tq1_0(rows: &[f32], out: &mut [u8]) {
    let (blocks, _) = rows.as_chunks::<256>();
    for (x, out) in blocks.iter().zip(out.as_chunks_mut::<54>().0) {
        let (inverse, d) = scale(x);
        let (mut start, mut at) = (0, 0);
        for (n_bytes, n_digits) in [(32, 5), (16, 5), (4, 4)] {
            for byte in 0..n_bytes {
                let mut number = 0u8;
                for place in 0..5 {
                    // The last digit of a byte of four is 0.
                    let next = match place < n_digits {
                        true => digit(x[start + byte + place * n_bytes], inverse),
                        false => 0,
                    };
                    number = number.wrapping_mul(3).wrapping_add(next);
                }
                // As a fraction of 256, rounded up, so that multiplying by 3 brings out digit after digit.
                out[at] = (u16::from(number) * 256).div_ceil(243) as u8;
                at += 1;
            }
            start += n_bytes * n_digits;
        }
        out[52..].copy_from_slice(&d);
    }
}

/// Layout: 64 bytes of four numbers, 32 apart; the scale.
pub(super) fn tq2_0(rows: &[f32], out: &mut [u8]) {
    let (blocks, _) = rows.as_chunks::<256>();
    for (x, out) in blocks.iter().zip(out.as_chunks_mut::<66>().0) {
        let (inverse, d) = scale(x);
        for at in 0..64 {
            let numbers = (0..4).map(|place| digit(x[128 * (at / 32) + at % 32 + 32 * place], inverse) & 3);
            out[at] = numbers
                .enumerate()
                .fold(0, |byte, (place, digit)| byte | digit << (2 * place));
        }
        out[64..].copy_from_slice(&d);
    }
}
