//! Blocks of a type with a table or a grid as Q8_0, for those who have a quick product of the latter alone.

use half::f16;
use witness_formats::gguf::GgmlType;

use crate::decode::decode;
use crate::encode::encode;
use crate::error::{QuantizationError, Result};
use crate::nonlinear::VALUES;

/// How many numbers go through Q8_0 at a time where blocks are decoded first: 64 KiB.
const STRETCH: usize = 16_384;

/// Numbers and bytes of a block of Q8_0.
const NUMBERS: usize = 32;
const WIDE: usize = 34;

/// Says whether [`widen`] takes a type: it has no quick product elsewhere, and Q8_0 holds what it says.
pub fn is_widened(kind: GgmlType) -> bool {
    use GgmlType::*;
    matches!(
        kind,
        IQ4_NL
            | IQ4_XS
            | IQ2_XXS
            | IQ2_XS
            | IQ2_S
            | IQ3_XXS
            | IQ3_S
            | IQ1_S
            | IQ1_M
            | TQ1_0
            | TQ2_0
            | Q1_0
            | MXFP4
            | NVFP4
    )
}

/// Returns blocks of a type of [`is_widened`], whole rows of them, as blocks of Q8_0.
///
/// Of IQ4_NL the numbers stay the same: both are a scale of 16 bits times an integer of eight. IQ4_XS has 8 scales of 6 bits below one of 16, and their product is
/// rounded to 16 bits, so each number moves by at most one part in 2,048. All others, of 1 to 4 bits, are decoded and rounded to Q8_0: each number moves by at most
/// one part in 254 of the largest of its 32.
///
/// # Errors
/// If the type is another, or the bytes are not whole blocks.
pub fn widen(kind: GgmlType, bytes: &[u8]) -> Result<Vec<u8>> {
    let block_bytes = match kind {
        GgmlType::IQ4_NL => 18,
        GgmlType::IQ4_XS => 136,
        kind if is_widened(kind) => return rounded(kind, bytes),
        _ => return Err(QuantizationError::Type { kind, act: "widened" }),
    };
    if !bytes.len().is_multiple_of(block_bytes) {
        return Err(QuantizationError::Bytes {
            kind,
            numbers: 0,
            bytes: bytes.len(),
        });
    }
    let numbers = bytes.len() / block_bytes * if kind == GgmlType::IQ4_NL { 32 } else { 256 };
    let mut out = Vec::with_capacity(numbers / NUMBERS * WIDE);
    for block in bytes.chunks_exact(block_bytes) {
        match kind {
            GgmlType::IQ4_NL => put(&mut out, [block[0], block[1]], &block[2..]),
            _ => widen_xs(&mut out, block),
        }
    }
    Ok(out)
}

/// Decodes blocks and encodes their numbers again.
fn rounded(kind: GgmlType, bytes: &[u8]) -> Result<Vec<u8>> {
    let (block_bytes, block) = kind.block_bytes().zip(kind.block_elements()).unwrap_or((1, 1));
    let n_blocks = bytes.len() / block_bytes;
    let mut out = vec![0; n_blocks * block / NUMBERS * WIDE];
    let mut numbers = vec![0.0; STRETCH];
    let step = STRETCH / block;
    for (bytes, out) in bytes
        .chunks(step * block_bytes)
        .zip(out.chunks_mut(STRETCH / NUMBERS * WIDE))
    {
        let numbers = &mut numbers[..out.len() / WIDE * NUMBERS];
        // Blocks that are cut are refused here.
        decode(kind, bytes, numbers)?;
        encode(GgmlType::Q8_0, numbers, NUMBERS, None, out)?;
    }
    Ok(out)
}

/// Layout: `d` of 16 bits, the two high bits of 8 scales, their four low bits, and 8 times 16 bytes of places.
fn widen_xs(out: &mut Vec<u8>, block: &[u8]) {
    let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
    let high = u16::from_le_bytes([block[2], block[3]]);
    let (low, places) = (&block[4..8], &block[8..]);
    for (at, places) in places.chunks_exact(16).enumerate() {
        let scale = (low[at / 2] >> (4 * (at % 2)) & 0xf) as i32 | i32::from(high >> (2 * at) & 3) << 4;
        let d = f16::from_f32(d * (scale - 32) as f32);
        put(out, d.to_le_bytes(), places);
    }
}

/// Appends a block: 16 bytes hold the places of 32 values, the low halves first.
fn put(out: &mut Vec<u8>, d: [u8; 2], places: &[u8]) {
    out.extend(d);
    let value = |place: u8| VALUES[place as usize] as i8 as u8;
    out.extend(places.iter().map(|place| value(place & 0xf)));
    out.extend(places.iter().map(|place| value(place >> 4)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode, encode};

    fn numbers() -> Vec<f32> {
        (0..1_024u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0)
            .collect()
    }

    fn both(kind: GgmlType, bytes_of_row: usize) -> (Vec<f32>, Vec<f32>) {
        let mut blocks = vec![0; 4 * bytes_of_row];
        encode(kind, &numbers(), 256, None, &mut blocks).unwrap();
        let wide = widen(kind, &blocks).unwrap();
        let (mut one, mut two) = (vec![0.0; 1_024], vec![0.0; 1_024]);
        decode(kind, &blocks, &mut one).unwrap();
        decode(GgmlType::Q8_0, &wide, &mut two).unwrap();
        (one, two)
    }

    #[test]
    fn iq4_nl_stays_the_same() {
        let (one, two) = both(GgmlType::IQ4_NL, 144);
        assert_eq!(one, two);
    }

    #[test]
    fn iq4_xs_moves_by_a_part_in_2048() {
        let (one, two) = both(GgmlType::IQ4_XS, 136);
        assert!(one.iter().any(|number| *number != 0.0));
        for (one, two) in one.iter().zip(&two) {
            assert!((one - two).abs() <= one.abs() / 2_048.0, "{one} {two}");
        }
    }

    #[test]
    fn others_are_refused() {
        assert!(widen(GgmlType::Q4_K, &[0; 144]).is_err());
        assert!(widen(GgmlType::IQ4_NL, &[0; 17]).is_err());
    }
}
