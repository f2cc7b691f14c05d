//! The specification: what a tile times a token is, one row and one block after the other. The vector kernels give the same bits.
//!
//! ```text
//! y = 0
//! for each block b of 32 columns, in order:
//!     one scale a block (w):      y = fma(w * x.scale, sum q x.code, y);  with a minimum (m, to be added): y = fma(m, x.scaled_sum, y)
//!     one scale a 16 (d, s0, s1): y = fma(d * x.scale, s0 sum0 + s1 sum1, y);  with minimums: y = fma(-dmin * x.scale, m0 x.sum0 + m1 x.sum1, y)
//! ```
//! Sums of codes are integers and exact. `w` is `d` times an integer scale, exact in f32 as well; `fma` rounds once.

use std::ops::Range;

use half::f16;

use crate::activations::Record;
use crate::format::{BLOCK, Codes, Format, Scales, TILE_ROWS, VALUES, VECTOR};

/// One row of one block, read from a tile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Block {
    /// Numbers before scaling.
    pub(crate) codes: [i32; BLOCK],
    /// Times a code is the number, if one scale serves the block; else times `scales` too.
    pub(crate) d: f32,
    /// Of the two groups of 16; nothing when `d` says it all.
    pub(crate) scales: Option<[i32; 2]>,
    /// Added to each number of the two groups: this times those.
    pub(crate) minimum: Option<(f32, [i32; 2])>,
}

impl Block {
    /// Reads row `row` of block `block` of a tile.
    pub(crate) fn read(format: Format, tile: &[u8], n_blocks: usize, block: usize, row: usize) -> Block {
        let (heads, codes) = tile.split_at(format.heads_bytes(n_blocks));
        let (index, j) = (block / format.blocks, block % format.blocks);
        let head = &heads[index * format.head_bytes()..][..format.head_bytes()];
        let codes = &codes[block * format.code_bytes()..][..format.code_bytes()];
        let mut read = Block::head(format.scales, head, j, row);
        read.codes = std::array::from_fn(|column| code(format, codes, column, row));
        read
    }

    fn head(scales: Scales, head: &[u8], j: usize, row: usize) -> Block {
        let half = |at: usize| {
            let at = 2 * (at * TILE_ROWS + row);
            f16::from_le_bytes([head[at], head[at + 1]]).to_f32_const()
        };
        let d = half(0);
        // A byte of the fields behind so many halves.
        let byte = |halves: usize, at: usize| i32::from(head[(2 * halves + at) * TILE_ROWS + row]);
        let mut read = Block {
            codes: [0; BLOCK],
            d,
            scales: None,
            minimum: None,
        };
        match scales {
            Scales::Half => {}
            Scales::HalfMinimum => read.minimum = Some((half(1), [1; 2])),
            Scales::Six => {
                let packed = byte(2, j);
                let minimum = packed >> 6 | (byte(2, 8 + j % 4) >> (4 * (j / 4)) & 15) << 2;
                read.d = d * (packed & 63) as f32;
                read.minimum = Some((-(half(1) * minimum as f32), [1; 2]));
            }
            Scales::SignedSix => {
                let high = byte(1, 4 + j / 4) >> (2 * (j % 4)) & 3;
                let scale = byte(1, j / 2) >> (4 * (j % 2)) & 15 | high << 4;
                read.d = d * (scale - 32) as f32;
            }
            Scales::Byte16 => {
                read.scales = Some([0, 1].map(|g| i32::from(byte(1, 2 * j + g) as u8 as i8)));
            }
            Scales::SignedSix16 => {
                let (low, high) = (byte(1, j), byte(1, 8 + j / 2) >> (4 * (j % 2)));
                read.scales = Some([
                    (low & 15 | (high & 3) << 4) - 32,
                    (low >> 4 | (high >> 2 & 3) << 4) - 32,
                ]);
            }
            Scales::Nibble16 => {
                let packed = [0, 1].map(|g| byte(2, 2 * j + g));
                read.scales = Some(packed.map(|packed| packed & 15));
                read.minimum = Some((-half(1), packed.map(|packed| packed >> 4)));
            }
        }
        read
    }

    /// Writes the numbers, bit for bit as the blocks of the file decode.
    pub(crate) fn decode(&self, out: &mut [f32]) {
        for (group, out) in out.chunks_exact_mut(BLOCK / 2).enumerate() {
            let scale = match self.scales {
                Some(scales) => self.d * scales[group] as f32,
                None => self.d,
            };
            let codes = &self.codes[BLOCK / 2 * group..];
            for (out, code) in out.iter_mut().zip(codes) {
                *out = match self.minimum {
                    Some((m, counts)) => scale * *code as f32 + m * counts[group] as f32,
                    None => scale * *code as f32,
                };
            }
        }
    }

    /// Adds the products with a block of a token.
    fn add(&self, x: &Record, y: f32) -> f32 {
        let dot = |group: usize| -> i32 {
            let pairs = self.codes.iter().zip(&x.codes).skip(BLOCK / 2 * group).take(BLOCK / 2);
            pairs.map(|(w, x)| w * i32::from(*x)).sum()
        };
        let both = |factors: [i32; 2], sums: [i32; 2]| (factors[0] * sums[0] + factors[1] * sums[1]) as f32;
        match self.scales {
            None => {
                let y = (self.d * x.scale).mul_add((dot(0) + dot(1)) as f32, y);
                self.minimum.map_or(y, |(m, _)| m.mul_add(x.scaled_sum, y))
            }
            Some(scales) => {
                let y = (self.d * x.scale).mul_add(both(scales, [dot(0), dot(1)]), y);
                let sums = x.sums.map(i32::from);
                self.minimum
                    .map_or(y, |(m, counts)| (m * x.scale).mul_add(both(counts, sums), y))
            }
        }
    }
}

/// Reads one code, its offset taken off.
fn code(format: Format, codes: &[u8], column: usize, row: usize) -> i32 {
    let (k, lane) = (column / 4, 4 * row + column % 4);
    let vector = |at: usize| i32::from(codes[at * VECTOR + lane]);
    let nibble = || vector(k % 4) >> (4 * (k / 4)) & 15;
    let pair = |first: usize| vector(first + k / 4) >> (2 * (k % 4)) & 3;
    let single = |at: usize| vector(at) >> k & 1;
    let code = match format.codes {
        Codes::Bytes => i32::from(vector(k) as u8 as i8),
        Codes::Nibbles => nibble(),
        Codes::Values => i32::from(VALUES[nibble() as usize]),
        Codes::Fives => nibble() | single(4) << 4,
        Codes::Sixes => nibble() | pair(4) << 4,
        Codes::Pairs => pair(0),
        Codes::Threes => pair(0) | single(2) << 2,
    };
    code - format.offset
}

/// Multiplies some blocks of a tile with a group of tokens and adds that to `y[token][row]`.
pub(crate) fn tile(
    format: Format,
    tile: &[u8],
    n_blocks: usize,
    blocks: Range<usize>,
    x: &[Record],
    y: &mut [[f32; TILE_ROWS]],
) {
    let n_tokens = y.len();
    for (block, x) in blocks.zip(x.chunks_exact(n_tokens)) {
        for row in 0..TILE_ROWS {
            let weights = Block::read(format, tile, n_blocks, block, row);
            for (x, y) in x.iter().zip(y.iter_mut()) {
                y[row] = weights.add(x, y[row]);
            }
        }
    }
}
