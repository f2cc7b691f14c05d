//! The quantized blocks of GGUF, decoded to f32, bit for bit as ggml decodes them.
//!
//! Letters are those of ggml's block structs, which are the source (`ggml-common.h`, `ggml-quants.c`): `d` scales a block, `m` or `dmin` shifts it, `qs` holds the
//! low bits of the numbers, `qh` the high ones. All fields are little-endian and lie without gaps; sizes are proven by [`GgmlType`]'s table.
//!
//! Cost: below a nanosecond a number as vector code; a product of 1,024 tokens spends some 10 to 30 on it.

mod few;
mod grid;

use half::f16;
use half::slice::HalfFloatSliceExt;
use witness_formats::gguf::GgmlType;
use witness_instructions::vectorised;

use crate::error::{QuantizationError, Result};
use crate::nonlinear::VALUES;

/// Decodes the blocks of one or more whole rows.
///
/// # Panics
/// If the bytes are not exactly the blocks of as many numbers as are asked for.
pub type Decode = fn(&[u8], &mut [f32]);

/// Decodes the blocks of one or more whole rows, bit for bit as ggml does.
pub fn decode(kind: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let decode = decoder(kind).ok_or(QuantizationError::Type { kind, act: "decoded" })?;
    let needed = kind.row_bytes(out.len());
    if needed != Some(bytes.len() as u64) {
        return Err(QuantizationError::Bytes {
            kind,
            numbers: out.len(),
            bytes: bytes.len(),
        });
    }
    decode(bytes, out);
    Ok(())
}

/// Returns how a type is decoded; nothing for one that is not read here.
pub fn decoder(kind: GgmlType) -> Option<Decode> {
    Some(match kind {
        GgmlType::F32 => dense_f32,
        GgmlType::F16 => dense_f16,
        GgmlType::BF16 => dense_bf16,
        GgmlType::Q4_0 => |bytes, out| each::<18, 32>(bytes, out, q4_0),
        GgmlType::Q4_1 => |bytes, out| each::<20, 32>(bytes, out, q4_1),
        GgmlType::Q5_0 => |bytes, out| each::<22, 32>(bytes, out, q5_0),
        GgmlType::Q5_1 => |bytes, out| each::<24, 32>(bytes, out, q5_1),
        GgmlType::Q8_0 => |bytes, out| each::<34, 32>(bytes, out, q8_0),
        GgmlType::Q2_K => |bytes, out| each::<84, 256>(bytes, out, q2_k),
        GgmlType::Q3_K => |bytes, out| each::<110, 256>(bytes, out, q3_k),
        GgmlType::Q4_K => |bytes, out| each::<144, 256>(bytes, out, q4_k),
        GgmlType::Q5_K => |bytes, out| each::<176, 256>(bytes, out, q5_k),
        GgmlType::Q6_K => |bytes, out| each::<210, 256>(bytes, out, q6_k),
        GgmlType::IQ4_NL => |bytes, out| each::<18, 32>(bytes, out, iq4_nl),
        GgmlType::IQ4_XS => |bytes, out| each::<136, 256>(bytes, out, iq4_xs),
        GgmlType::IQ2_XXS => |bytes, out| each::<66, 256>(bytes, out, grid::iq2_xxs),
        GgmlType::IQ2_XS => |bytes, out| each::<74, 256>(bytes, out, grid::iq2_xs),
        GgmlType::IQ2_S => |bytes, out| each::<82, 256>(bytes, out, grid::iq2_s),
        GgmlType::IQ3_XXS => |bytes, out| each::<98, 256>(bytes, out, grid::iq3_xxs),
        GgmlType::IQ3_S => |bytes, out| each::<110, 256>(bytes, out, grid::iq3_s),
        GgmlType::IQ1_S => |bytes, out| each::<50, 256>(bytes, out, grid::iq1_s),
        GgmlType::IQ1_M => |bytes, out| each::<56, 256>(bytes, out, grid::iq1_m),
        GgmlType::TQ1_0 => |bytes, out| each::<54, 256>(bytes, out, few::tq1_0),
        GgmlType::TQ2_0 => |bytes, out| each::<66, 256>(bytes, out, few::tq2_0),
        GgmlType::Q1_0 => |bytes, out| each::<18, 128>(bytes, out, few::q1_0),
        GgmlType::MXFP4 => |bytes, out| each::<17, 32>(bytes, out, few::mxfp4),
        GgmlType::NVFP4 => |bytes, out| each::<36, 64>(bytes, out, few::nvfp4),
        _ => return None,
    })
}

/// Decodes blocks of `BYTES` bytes that hold `NUMBERS` numbers each.
#[inline(always)]
fn each<const BYTES: usize, const NUMBERS: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; NUMBERS]),
) {
    let (blocks, cut_block) = bytes.as_chunks::<BYTES>();
    let (numbers, cut_numbers) = out.as_chunks_mut::<NUMBERS>();
    assert!(cut_block.is_empty() && cut_numbers.is_empty(), "rows of whole blocks");
    assert_eq!(blocks.len(), numbers.len(), "as many blocks as are asked for");
    vectorised(
        #[inline(always)]
        || {
            for (block, numbers) in blocks.iter().zip(numbers) {
                decode(block, numbers);
            }
        },
    );
}

fn dense_f32(bytes: &[u8], out: &mut [f32]) {
    let (words, _) = bytes.as_chunks::<4>();
    assert_eq!(words.len(), out.len());
    for (out, word) in out.iter_mut().zip(words) {
        *out = f32::from_le_bytes(*word);
    }
}

/// Decodes little-endian bf16, which may lie at any address.
fn dense_bf16(bytes: &[u8], out: &mut [f32]) {
    let (pairs, _) = bytes.as_chunks::<2>();
    assert_eq!(pairs.len(), out.len());
    vectorised(
        #[inline(always)]
        || {
            for (out, pair) in out.iter_mut().zip(pairs) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*pair)) << 16);
            }
        },
    );
}

/// Decodes little-endian f16, which may lie at any address. The library converts eight at a time where the processor can.
fn dense_f16(bytes: &[u8], out: &mut [f32]) {
    let (pairs, _) = bytes.as_chunks::<2>();
    assert_eq!(pairs.len(), out.len());
    let mut halves = [f16::ZERO; 256];
    for (out, pairs) in out.chunks_mut(256).zip(pairs.chunks(256)) {
        for (value, pair) in halves.iter_mut().zip(pairs) {
            *value = f16::from_le_bytes(*pair);
        }
        halves[..pairs.len()].convert_to_f32_slice(out);
    }
}

/// Reads the f16 at a place of a block.
#[inline(always)]
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32_const()
}

#[inline(always)]
fn word(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

#[inline(always)]
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for j in 0..16 {
        let q = block[2 + j];
        out[j] = d * ((q & 15) as i8 - 8) as f32;
        out[j + 16] = d * ((q >> 4) as i8 - 8) as f32;
    }
}

#[inline(always)]
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for j in 0..16 {
        let q = block[4 + j];
        out[j] = d * (q & 15) as f32 + m;
        out[j + 16] = d * (q >> 4) as f32 + m;
    }
}

/// Puts the fifth bits of a block of 32 beside the four that `qs` holds.
#[inline(always)]
fn five_bits(qs: &[u8], qh: u32, j: usize) -> (i32, i32) {
    let low = i32::from(qs[j] & 15) | ((qh >> j & 1) << 4) as i32;
    let high = i32::from(qs[j] >> 4) | ((qh >> (j + 16) & 1) << 4) as i32;
    (low, high)
}

#[inline(always)]
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let (d, qh) = (half(block, 0), word(block, 2));
    for j in 0..16 {
        let (low, high) = five_bits(&block[6..], qh, j);
        out[j] = d * (low - 16) as f32;
        out[j + 16] = d * (high - 16) as f32;
    }
}

#[inline(always)]
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m, qh) = (half(block, 0), half(block, 2), word(block, 4));
    for j in 0..16 {
        let (low, high) = five_bits(&block[8..], qh, j);
        out[j] = d * low as f32 + m;
        out[j + 16] = d * high as f32 + m;
    }
}

#[inline(always)]
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (out, q) in out.iter_mut().zip(&block[2..]) {
        *out = d * f32::from(q.cast_signed());
    }
}

/// Sixteen groups of 16: `scales[16]` (low half scale, high half minimum), `qs[64]`, `d`, `dmin`.
#[inline(always)]
fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, dmin) = (half(block, 80), half(block, 82));
    for group in 0..16 {
        let (scale, shift) = (block[group], 2 * (group / 2 % 4));
        let (scale, minimum) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
        let qs = &block[16 + 32 * (group / 8) + 16 * (group % 2)..][..16];
        for (out, q) in out[16 * group..][..16].iter_mut().zip(qs) {
            *out = scale * f32::from(q >> shift & 3) - minimum;
        }
    }
}

/// Sixteen groups of 16: `hmask[32]`, `qs[64]`, `scales[12]` of 6 bits less 32, `d`.
#[inline(always)]
fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (hmask, qs, scales, d) = (&block[..32], &block[32..96], &block[96..108], half(block, 108));
    for group in 0..16 {
        let low = if group < 8 {
            scales[group] & 15
        } else {
            scales[group - 8] >> 4
        };
        let high = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
        let scale = d * f32::from((low | high << 4) as i8 - 32);
        let (bit, shift, lane) = (group / 2, 2 * (group / 2 % 4), 16 * (group % 2));
        let qs = &qs[32 * (group / 8) + lane..][..16];
        for ((out, q), mask) in out[16 * group..][..16].iter_mut().zip(qs).zip(&hmask[lane..]) {
            let q = (q >> shift & 3) as i8 - 4 * (1 - (mask >> bit & 1) as i8);
            *out = scale * f32::from(q);
        }
    }
}

/// Unpacks scale and minimum, 6 bits each, of one of eight groups.
#[inline(always)]
fn scale_and_minimum(scales: &[u8], group: usize) -> (f32, f32) {
    let (scale, minimum) = if group < 4 {
        (scales[group] & 63, scales[group + 4] & 63)
    } else {
        (
            scales[group + 4] & 15 | (scales[group - 4] >> 6) << 4,
            scales[group + 4] >> 4 | (scales[group] >> 6) << 4,
        )
    };
    (f32::from(scale), f32::from(minimum))
}

/// Eight groups of 32: `d`, `dmin`, `scales[12]`, `qs[128]`.
#[inline(always)]
fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    for group in 0..8 {
        let (scale, minimum) = scale_and_minimum(&block[4..16], group);
        let (scale, minimum, shift) = (d * scale, dmin * minimum, 4 * (group % 2));
        let qs = &block[16 + 32 * (group / 2)..][..32];
        for (out, q) in out[32 * group..][..32].iter_mut().zip(qs) {
            *out = scale * f32::from(q >> shift & 15) - minimum;
        }
    }
}

/// Eight groups of 32: `d`, `dmin`, `scales[12]`, `qh[32]`, `qs[128]`.
#[inline(always)]
fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    for group in 0..8 {
        let (scale, minimum) = scale_and_minimum(&block[4..16], group);
        let (scale, minimum, shift) = (d * scale, dmin * minimum, 4 * (group % 2));
        let qs = &block[48 + 32 * (group / 2)..][..32];
        for ((out, q), high) in out[32 * group..][..32].iter_mut().zip(qs).zip(&block[16..48]) {
            let q = q >> shift & 15 | (high >> group & 1) << 4;
            *out = scale * f32::from(q) - minimum;
        }
    }
}

/// Sixteen groups of 16: `ql[128]`, `qh[64]`, `scales[16]`, `d`.
#[inline(always)]
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half(block, 208);
    for group in 0..16 {
        let scale = d * f32::from(block[192 + group].cast_signed());
        // Of the eight groups of a half, pairs share 32 bytes of `qh`; the first two pairs take the low bits of `ql`, the others its high ones.
        let (at, pair, lane) = (group / 8, group % 8 / 2, 16 * (group % 2));
        let ql = &block[64 * at + 32 * (pair % 2) + lane..][..16];
        let qh = &block[128 + 32 * at + lane..][..16];
        for ((out, low), high) in out[16 * group..][..16].iter_mut().zip(ql).zip(qh) {
            let q = low >> (4 * (pair / 2)) & 15 | (high >> (2 * pair) & 3) << 4;
            *out = scale * f32::from(q as i8 - 32);
        }
    }
}

/// `d`, `qs[16]`: places in the table of [`VALUES`].
#[inline(always)]
fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for j in 0..16 {
        let q = block[2 + j];
        out[j] = d * VALUES[usize::from(q & 15)];
        out[j + 16] = d * VALUES[usize::from(q >> 4)];
    }
}

/// Eight groups of 32: `d`, `scales_h` (2 bits a group), `scales_l[4]` (4 bits a group), `qs[128]`.
#[inline(always)]
fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = half(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for group in 0..8 {
        let low = block[4 + group / 2] >> (4 * (group % 2)) & 15;
        let scale = i32::from(low) | i32::from(high >> (2 * group) & 3) << 4;
        let scale = d * (scale - 32) as f32;
        for j in 0..16 {
            let q = block[8 + 16 * group + j];
            out[32 * group + j] = scale * VALUES[usize::from(q & 15)];
            out[32 * group + j + 16] = scale * VALUES[usize::from(q >> 4)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three blocks of pseudo-random bytes, whose f16 fields lie at `halves` and are of ordinary size.
    fn blocks(block_bytes: usize, halves: &[usize]) -> Vec<u8> {
        let byte = |block: u64, at: usize| {
            let value = 1_000 * block + at as u64 + 1;
            let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((value ^ (value >> 31)) >> 56) as u8
        };
        let mut bytes = Vec::new();
        for block in 0..3 {
            let mut one: Vec<u8> = (0..block_bytes).map(|at| byte(block, at)).collect();
            for at in halves {
                one[at + 1] = one[at + 1] & 0x83 | 0x20 | (one[at + 1] >> 4 & 3) << 2;
            }
            bytes.extend(one);
        }
        bytes
    }

    // The numbers that the `dequantize` of the PyPI package gguf 0.19.0 gives for the same bytes, to the bit: FNV-1a over their 32-bit words.
    #[test]
    fn blocks_decode_to_what_ggufs_own_package_gives() {
        let cases: [(GgmlType, &[usize], u64); 10] = [
            (GgmlType::Q4_0, &[0], 0x4822_8d2f_3deb_52a5),
            (GgmlType::Q4_1, &[0, 2], 0x17f6_5871_0d84_9a25),
            (GgmlType::Q5_0, &[0], 0x4ff8_a2d7_bc9f_d6a5),
            (GgmlType::Q5_1, &[0, 2], 0xe111_5ba1_e110_6925),
            (GgmlType::Q8_0, &[0], 0xb2c6_92c8_5c51_aca5),
            (GgmlType::Q2_K, &[80, 82], 0x31a5_71e1_22b8_e2e5),
            (GgmlType::Q3_K, &[108], 0x10a4_8891_07c8_3125),
            (GgmlType::Q4_K, &[0, 2], 0x133b_c19e_af79_1209),
            (GgmlType::Q5_K, &[0, 2], 0x806d_58e1_ee0c_e13b),
            (GgmlType::Q6_K, &[208], 0x5cb3_e0af_a50b_888d),
        ];
        for (kind, halves, wanted) in cases {
            let bytes = blocks(kind.block_bytes().unwrap(), halves);
            let mut numbers = vec![0.0; 3 * kind.block_elements().unwrap()];
            decoder(kind).unwrap()(&bytes, &mut numbers);
            let hash = numbers.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, number| {
                (hash ^ u64::from(number.to_bits())).wrapping_mul(0x0000_0100_0000_01b3)
            });
            assert_eq!(hash, wanted, "{kind:?} {:?}", &numbers[..8]);
        }
        assert!(decoder(GgmlType::Q8_K).is_none());
    }

    #[test]
    fn dense_numbers_decode_at_any_address() {
        let bytes = [0, 0, 0, 0x3c, 0x01, 0x00];
        for (kind, wanted) in [
            (GgmlType::F16, [1.0, 5.960_464_5e-8]),
            (GgmlType::BF16, [0.0078125, 9.2e-41]),
        ] {
            let mut numbers = [0.0; 2];
            decoder(kind).unwrap()(&bytes[2..], &mut numbers);
            assert!(
                (numbers[0] - wanted[0]).abs() < 1e-9 && (numbers[1] - wanted[1]).abs() < 1e-10,
                "{numbers:?}"
            );
        }
    }
}
