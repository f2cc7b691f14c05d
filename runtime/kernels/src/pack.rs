//! From the blocks of a file to tiles: one row of one superblock at a time, four codes a word.
//!
//! Source of the blocks: ggml's structs (`ggml-common.h`), whose letters are kept. Cost: some two operations a code, and every byte is read and written once.

use witness_formats::gguf::GgmlType;

use crate::format::{ALIGNMENT, Codes, Format, Scales, TILE_ROWS, VECTOR};

/// One row of a superblock, taken apart. Codes are words of four neighbouring columns, the first in the lowest byte.
struct Row {
    d: [u8; 2],
    /// `m`, `dmin`, or nothing.
    m: [u8; 2],
    /// Blocks of 32 columns.
    codes: [[u32; 8]; 8],
    /// Of each group of 32 or 16 columns.
    scales: [u8; 16],
    minimums: [u8; 16],
}

impl Row {
    fn new(block: &[u8], d: usize, m: Option<usize>) -> Row {
        let half = |at: usize| [block[at], block[at + 1]];
        Row {
            d: half(d),
            m: m.map_or([0; 2], half),
            codes: [[0; 8]; 8],
            scales: [0; 16],
            minimums: [0; 16],
        }
    }
}

/// Packs the rows of a tile, at most 16. `blocks` holds whole rows; `tile` is the tile's bytes, all zero.
///
/// # Panics
/// If the lengths are not those of the shapes.
pub(crate) fn pack_tile(kind: GgmlType, format: Format, blocks: &[u8], row_bytes: usize, tile: &mut [u8]) {
    let block_bytes = kind.block_bytes().unwrap_or(1);
    let n_super = row_bytes / block_bytes;
    assert!(blocks.len().is_multiple_of(row_bytes) && blocks.len() / row_bytes <= TILE_ROWS);
    assert_eq!(tile.len(), format.tile_bytes(n_super * format.blocks));
    let (heads, codes) = tile.split_at_mut(format.heads_bytes(n_super * format.blocks));
    debug_assert!(heads.len().is_multiple_of(ALIGNMENT));
    let (head_bytes, code_bytes) = (format.head_bytes(), format.blocks * format.code_bytes());
    for (index, row) in blocks.chunks_exact(row_bytes).enumerate() {
        let supers = row.chunks_exact(block_bytes);
        let places = heads
            .chunks_exact_mut(head_bytes)
            .zip(codes.chunks_exact_mut(code_bytes));
        for (block, (head, codes)) in supers.zip(places) {
            let row = take_apart(kind, block);
            put_head(format.scales, &row, index, head);
            for (words, codes) in row.codes.iter().zip(codes.chunks_exact_mut(format.code_bytes())) {
                put_codes(format.codes, words, index, codes);
            }
        }
    }
}

const LOW: u32 = 0x0f0f_0f0f;
const ONES: u32 = 0x0101_0101;
const THREES: u32 = 0x0303_0303;

#[inline(always)]
fn word(bytes: &[u8], index: usize) -> u32 {
    u32::from_le_bytes([
        bytes[4 * index],
        bytes[4 * index + 1],
        bytes[4 * index + 2],
        bytes[4 * index + 3],
    ])
}

/// The 32 codes of ggml's small blocks: byte `i` holds numbers `i` and `i + 16`.
#[inline(always)]
fn nibbles(qs: &[u8]) -> [u32; 8] {
    std::array::from_fn(|k| word(qs, k % 4) >> (4 * (k / 4)) & LOW)
}

/// The fifth bits of ggml's small blocks, one word of them.
#[inline(always)]
fn fifths(qh: u32, k: usize) -> u32 {
    let bits = qh >> (4 * k) & 15;
    (bits & 1 | (bits & 2) << 7 | (bits & 4) << 14 | (bits & 8) << 21) << 4
}

fn take_apart(kind: GgmlType, block: &[u8]) -> Row {
    match kind {
        GgmlType::Q8_0 => {
            let mut row = Row::new(block, 0, None);
            row.codes[0] = std::array::from_fn(|k| word(&block[2..34], k));
            row
        }
        GgmlType::Q4_0 | GgmlType::IQ4_NL => {
            let mut row = Row::new(block, 0, None);
            row.codes[0] = nibbles(&block[2..18]);
            row
        }
        GgmlType::Q4_1 => {
            let mut row = Row::new(block, 0, Some(2));
            row.codes[0] = nibbles(&block[4..20]);
            row
        }
        GgmlType::Q5_0 => {
            let mut row = Row::new(block, 0, None);
            let (qh, low) = (word(&block[2..6], 0), nibbles(&block[6..22]));
            row.codes[0] = std::array::from_fn(|k| low[k] | fifths(qh, k));
            row
        }
        GgmlType::Q5_1 => {
            let mut row = Row::new(block, 0, Some(2));
            let (qh, low) = (word(&block[4..8], 0), nibbles(&block[8..24]));
            row.codes[0] = std::array::from_fn(|k| low[k] | fifths(qh, k));
            row
        }
        GgmlType::Q2_K => q2_k(block),
        GgmlType::Q3_K => q3_k(block),
        GgmlType::Q4_K => {
            let mut row = six(block);
            for (j, codes) in row.codes.iter_mut().enumerate() {
                let qs = &block[16 + 32 * (j / 2)..][..32];
                *codes = std::array::from_fn(|k| word(qs, k) >> (4 * (j % 2)) & LOW);
            }
            row
        }
        GgmlType::Q5_K => {
            let mut row = six(block);
            let qh = &block[16..48];
            for (j, codes) in row.codes.iter_mut().enumerate() {
                let qs = &block[48 + 32 * (j / 2)..][..32];
                *codes = std::array::from_fn(|k| word(qs, k) >> (4 * (j % 2)) & LOW | (word(qh, k) >> j & ONES) << 4);
            }
            row
        }
        GgmlType::Q6_K => q6_k(block),
        GgmlType::IQ4_XS => {
            let mut row = Row::new(block, 0, None);
            let high = u16::from_le_bytes([block[2], block[3]]);
            for j in 0..8 {
                let low = block[4 + j / 2] >> (4 * (j % 2)) & 15;
                row.scales[j] = low | ((high >> (2 * j) & 3) as u8) << 4;
                row.codes[j] = nibbles(&block[8 + 16 * j..][..16]);
            }
            row
        }
        // Callers have a format, which only the types above have.
        _ => Row::new(&[0; 4], 0, None),
    }
}

/// `d`, `dmin`, and eight pairs of 6 bits in 12 bytes.
fn six(block: &[u8]) -> Row {
    let mut row = Row::new(block, 0, Some(2));
    let packed = &block[4..16];
    for j in 0..4 {
        row.scales[j] = packed[j] & 63;
        row.minimums[j] = packed[j + 4] & 63;
        row.scales[j + 4] = packed[j + 8] & 15 | (packed[j] >> 6) << 4;
        row.minimums[j + 4] = packed[j + 8] >> 4 | (packed[j + 4] >> 6) << 4;
    }
    row
}

/// `scales[16]`, `qs[64]`, `d`, `dmin`: of each 128 numbers, 32 bytes hold four runs of 32, two bits each.
fn q2_k(block: &[u8]) -> Row {
    let mut row = Row::new(block, 80, Some(82));
    for (group, scale) in block[..16].iter().enumerate() {
        row.scales[group] = scale & 15;
        row.minimums[group] = scale >> 4;
    }
    for (j, codes) in row.codes.iter_mut().enumerate() {
        let qs = &block[16 + 32 * (j / 4)..][..32];
        *codes = std::array::from_fn(|k| word(qs, k) >> (2 * (j % 4)) & THREES);
    }
    row
}

/// `hmask[32]`, `qs[64]`, `scales[12]`, `d`: low bits as in Q2_K, and bit `j` of `hmask` above them.
fn q3_k(block: &[u8]) -> Row {
    let mut row = Row::new(block, 108, None);
    let packed = &block[96..108];
    for group in 0..16 {
        let low = packed[group % 8] >> (4 * (group / 8)) & 15;
        row.scales[group] = low | (packed[8 + group % 4] >> (2 * (group / 4)) & 3) << 4;
    }
    for (j, codes) in row.codes.iter_mut().enumerate() {
        let qs = &block[32 + 32 * (j / 4)..][..32];
        *codes = std::array::from_fn(|k| word(qs, k) >> (2 * (j % 4)) & THREES | (word(block, k) >> j & ONES) << 2);
    }
    row
}

/// `ql[128]`, `qh[64]`, `scales[16]`, `d`: of each 128 numbers, four runs of 32; two share 32 bytes of `ql`, all four 32 of `qh`.
fn q6_k(block: &[u8]) -> Row {
    let mut row = Row::new(block, 208, None);
    row.scales.copy_from_slice(&block[192..208]);
    for (j, codes) in row.codes.iter_mut().enumerate() {
        let (half, run) = (j / 4, j % 4);
        let ql = &block[64 * half + 32 * (run % 2)..][..32];
        let qh = &block[128 + 32 * half..][..32];
        *codes =
            std::array::from_fn(|k| word(ql, k) >> (4 * (run / 2)) & LOW | (word(qh, k) >> (2 * run) & THREES) << 4);
    }
    row
}

fn put_head(scales: Scales, row: &Row, index: usize, head: &mut [u8]) {
    let (d, rest) = head.split_at_mut(2 * TILE_ROWS);
    d[2 * index..][..2].copy_from_slice(&row.d);
    let has_minimum = matches!(scales, Scales::HalfMinimum | Scales::Six | Scales::Nibble16);
    let (m, rest) = rest.split_at_mut(if has_minimum { 2 * TILE_ROWS } else { 0 });
    if has_minimum {
        m[2 * index..][..2].copy_from_slice(&row.m);
    }
    let mut put = |at: usize, byte: u8| rest[at * TILE_ROWS + index] = byte;
    let (scale, minimum) = (&row.scales, &row.minimums);
    match scales {
        Scales::Half | Scales::HalfMinimum => {}
        Scales::Six => {
            (0..8).for_each(|j| put(j, scale[j] | minimum[j] << 6));
            (0..4).for_each(|j| put(8 + j, minimum[j] >> 2 | minimum[j + 4] >> 2 << 4));
        }
        Scales::SignedSix => put_sixes(&scale[..8], put),
        Scales::SignedSix16 => put_sixes(scale, put),
        Scales::Byte16 => (0..16).for_each(|group| put(group, scale[group])),
        Scales::Nibble16 => (0..16).for_each(|group| put(group, scale[group] | minimum[group] << 4)),
    }
}

/// Low halves of two a byte, then the high two bits of four a byte.
fn put_sixes(scales: &[u8], mut put: impl FnMut(usize, u8)) {
    let (pairs, _) = scales.as_chunks::<2>();
    let (fours, _) = scales.as_chunks::<4>();
    for (at, [a, b]) in pairs.iter().enumerate() {
        put(at, a & 15 | b << 4);
    }
    for (at, [a, b, c, d]) in fours.iter().enumerate() {
        put(pairs.len() + at, a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6);
    }
}

#[inline(always)]
fn put_codes(codes: Codes, words: &[u32; 8], index: usize, out: &mut [u8]) {
    let mut put =
        |vector: usize, word: u32| out[vector * VECTOR + 4 * index..][..4].copy_from_slice(&word.to_le_bytes());
    let pairs = |i: usize, shift: u32| (0..4).fold(0, |all, m| all | (words[4 * i + m] >> shift & THREES) << (2 * m));
    let singles = |shift: u32| (0..8).fold(0, |all, k| all | (words[k] >> shift & ONES) << k);
    match codes {
        Codes::Bytes => (0..8).for_each(|k| put(k, words[k])),
        Codes::Nibbles | Codes::Values | Codes::Fives | Codes::Sixes => {
            (0..4).for_each(|j| put(j, words[j] & LOW | (words[j + 4] & LOW) << 4));
        }
        Codes::Pairs | Codes::Threes => (0..2).for_each(|i| put(i, pairs(i, 0))),
    }
    match codes {
        Codes::Fives => put(4, singles(4)),
        Codes::Sixes => (0..2).for_each(|i| put(4 + i, pairs(i, 4))),
        Codes::Threes => put(2, singles(2)),
        Codes::Bytes | Codes::Nibbles | Codes::Values | Codes::Pairs => {}
    }
}
