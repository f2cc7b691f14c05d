//! Keys and values of a page in one of three types.
//!
//! | type | bytes a number | what a number loses |
//! | --- | --- | --- |
//! | `f32` | 4 | nothing |
//! | `f16` | 2 | `|x| 2^-11`, and what is beyond 65504 becomes infinite |
//! | `q8_0` | 1 + 2 / 32 | `a (1 / 254 + 2^-11)`, `a` the largest magnitude of the up to 32 neighbours in the head's vector that share a scale |
//!
//! A block of `q8_0` that holds what is not finite has the scale NaN.

use half::f16;
use half::slice::HalfFloatSliceExt;
use witness_kernels::widen_f16;

use super::{KvShape, PAGE_TOKENS, aligned};

/// Numbers of a head's vector that share a scale.
const BLOCK: usize = 32;

/// How keys and values are stored. The names are those of ggml's types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvType {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits.
    F16,
    /// 8 bits and a scale for 32 numbers.
    Q8_0,
}

impl KvType {
    /// All of them, the most exact first.
    pub const ALL: [KvType; 3] = [KvType::F32, KvType::F16, KvType::Q8_0];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Q8_0 => "q8_0",
        }
    }

    /// Returns the bytes that a vector of so many numbers takes.
    pub(super) fn vector_bytes(self, head_dim: usize) -> usize {
        match self {
            KvType::F32 => 4 * head_dim,
            KvType::F16 => 2 * head_dim,
            KvType::Q8_0 => head_dim + 2 * head_dim.div_ceil(BLOCK),
        }
    }
}

/// Keys or values of a page. A *place* is a head of a layer: `PAGE_TOKENS` vectors of `head_dim` numbers.
#[derive(Clone, Debug)]
pub(super) enum Numbers {
    F32(Box<[f32]>),
    F16(Box<[f16]>),
    Q8 { codes: Box<[i8]>, scales: Box<[f16]> },
}

/// Which way vectors lie in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// `[head_dim, PAGE_TOKENS]`, scales `[blocks, PAGE_TOKENS]`.
    ByNumber,
    /// `[PAGE_TOKENS, head_dim]`, scales `[PAGE_TOKENS, blocks]`.
    ByToken,
}

impl Order {
    /// Returns where number `index` of the vector at `token` lies, of vectors of `len`.
    fn at(self, token: usize, index: usize, len: usize) -> usize {
        match self {
            Order::ByNumber => index * PAGE_TOKENS + token,
            Order::ByToken => token * len + index,
        }
    }
}

impl Numbers {
    /// Makes room for all places of a page. The system hands zeroed memory out as it is touched.
    pub(super) fn new(kind: KvType, shape: KvShape) -> Numbers {
        let vectors = shape.n_layers * shape.n_kv_heads * PAGE_TOKENS;
        let (numbers, scales) = (vectors * shape.head_dim, vectors * shape.head_dim.div_ceil(BLOCK));
        match kind {
            KvType::F32 => Numbers::F32(vec![0.0; numbers].into()),
            KvType::F16 => Numbers::F16(vec![f16::ZERO; numbers].into()),
            KvType::Q8_0 => Numbers::Q8 {
                codes: vec![0; numbers].into(),
                scales: vec![f16::ZERO; scales].into(),
            },
        }
    }

    /// Takes over what another of the same page shape holds.
    pub(super) fn copy_from(&mut self, other: &Numbers) {
        match (self, other) {
            (Numbers::F32(to), Numbers::F32(from)) => to.copy_from_slice(from),
            (Numbers::F16(to), Numbers::F16(from)) => to.copy_from_slice(from),
            (
                Numbers::Q8 { codes, scales },
                Numbers::Q8 {
                    codes: from,
                    scales: from_scales,
                },
            ) => {
                codes.copy_from_slice(from);
                scales.copy_from_slice(from_scales);
            }
            (to, from) => *to = from.clone(),
        }
    }

    /// Appends all numbers as they are stored, little-endian.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Numbers::F32(numbers) => out.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
            Numbers::F16(numbers) => out.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
            Numbers::Q8 { codes, scales } => {
                out.extend(codes.iter().flat_map(|code| code.to_le_bytes()));
                out.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
            }
        }
    }

    /// Takes over what [`Numbers::write`] wrote; returns what follows, nothing where there is too little.
    pub(super) fn read<'a>(&mut self, mut bytes: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Numbers::F32(numbers) => {
                let (words, _) = bytes.split_off(..4 * numbers.len())?.as_chunks();
                numbers
                    .iter_mut()
                    .zip(words)
                    .for_each(|(number, word)| *number = f32::from_le_bytes(*word));
            }
            Numbers::F16(numbers) => {
                let (words, _) = bytes.split_off(..2 * numbers.len())?.as_chunks();
                numbers
                    .iter_mut()
                    .zip(words)
                    .for_each(|(number, word)| *number = f16::from_le_bytes(*word));
            }
            Numbers::Q8 { codes, scales } => {
                let words = bytes.split_off(..codes.len())?;
                codes.iter_mut().zip(words).for_each(|(code, byte)| *code = *byte as i8);
                let (words, _) = bytes.split_off(..2 * scales.len())?.as_chunks();
                scales
                    .iter_mut()
                    .zip(words)
                    .for_each(|(scale, word)| *scale = f16::from_le_bytes(*word));
            }
        }
        Some(bytes)
    }

    /// Writes the vector of `token` in a place.
    pub(super) fn put(&mut self, place: usize, order: Order, token: usize, vector: &[f32]) {
        let len = vector.len();
        let start = place * PAGE_TOKENS * len;
        match self {
            Numbers::F32(numbers) => {
                for (index, number) in vector.iter().enumerate() {
                    numbers[start + order.at(token, index, len)] = *number;
                }
            }
            Numbers::F16(numbers) => {
                let mut halves = [f16::ZERO; BLOCK];
                for (block, vector) in vector.chunks(BLOCK).enumerate() {
                    let halves = &mut halves[..vector.len()];
                    halves.convert_from_f32_slice(vector);
                    for (index, number) in halves.iter().enumerate() {
                        numbers[start + order.at(token, block * BLOCK + index, len)] = *number;
                    }
                }
            }
            Numbers::Q8 { codes, scales } => {
                let n_blocks = len.div_ceil(BLOCK);
                for (block, vector) in vector.chunks(BLOCK).enumerate() {
                    let scale = scale_of(vector);
                    scales[place * PAGE_TOKENS * n_blocks + order.at(token, block, n_blocks)] = scale;
                    let scale = scale.to_f32();
                    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                    for (index, number) in vector.iter().enumerate() {
                        // Beyond 127 by the rounding of the scale at most; a cast holds it there, and makes NaN 0.
                        let code = (number * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
                        codes[start + order.at(token, block * BLOCK + index, len)] = code;
                    }
                }
            }
        }
    }

    /// Returns a place as numbers, in `order`, which it was written in; decoded into `scratch` where it is not f32.
    #[inline]
    pub(super) fn place<'a>(
        &'a self,
        place: usize,
        order: Order,
        head_dim: usize,
        scratch: &'a mut Vec<f32>,
    ) -> &'a [f32] {
        let len = PAGE_TOKENS * head_dim;
        let range = place * len..(place + 1) * len;
        match self {
            Numbers::F32(numbers) => &numbers[range],
            Numbers::F16(numbers) => {
                let scratch = aligned(scratch, len);
                widen_f16(&numbers[range], scratch);
                scratch
            }
            Numbers::Q8 { codes, scales } => {
                let n_blocks = head_dim.div_ceil(BLOCK);
                let scales = &scales[place * PAGE_TOKENS * n_blocks..][..PAGE_TOKENS * n_blocks];
                let (codes, scratch) = (&codes[range], aligned(scratch, len));
                match order {
                    Order::ByNumber => {
                        let runs = scratch
                            .chunks_mut(BLOCK * PAGE_TOKENS)
                            .zip(codes.chunks(BLOCK * PAGE_TOKENS));
                        for ((out, codes), scales) in runs.zip(scales.as_chunks::<PAGE_TOKENS>().0) {
                            let mut wide = [0.0; PAGE_TOKENS];
                            widen_f16(scales, &mut wide);
                            let rows = out.as_chunks_mut::<PAGE_TOKENS>().0;
                            for (out, codes) in rows.iter_mut().zip(codes.as_chunks::<PAGE_TOKENS>().0) {
                                for ((out, code), scale) in out.iter_mut().zip(codes).zip(&wide) {
                                    *out = f32::from(*code) * scale;
                                }
                            }
                        }
                    }
                    Order::ByToken => {
                        let vectors = scratch.chunks_exact_mut(head_dim).zip(codes.chunks_exact(head_dim));
                        for ((out, codes), scales) in vectors.zip(scales.chunks_exact(n_blocks)) {
                            for ((out, codes), scale) in out.chunks_mut(BLOCK).zip(codes.chunks(BLOCK)).zip(scales) {
                                let scale = scale.to_f32();
                                for (out, code) in out.iter_mut().zip(codes) {
                                    *out = f32::from(*code) * scale;
                                }
                            }
                        }
                    }
                }
                scratch
            }
        }
    }
}

/// Returns the scale of a block: its largest magnitude is 127 times that, or as near as 16 bits come.
fn scale_of(block: &[f32]) -> f16 {
    let largest = block.iter().fold(0.0_f32, |max, number| {
        // A NaN stays, where `f32::max` would drop it.
        if max.is_nan() || number.is_nan() {
            f32::NAN
        } else {
            max.max(number.abs())
        }
    });
    if largest.is_finite() {
        f16::from_f32((largest / 127.0).min(f16::MAX.to_f32()))
    } else {
        f16::NAN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: KvShape = KvShape {
        n_layers: 1,
        n_kv_heads: 2,
        head_dim: 40,
    };

    fn vector(token: usize, size: f32) -> Vec<f32> {
        (0..SHAPE.head_dim)
            .map(|index| size * ((index * 37 + token * 11) % 101) as f32 / 50.0 - size)
            .collect()
    }

    // What is read is what was written, as near as the module's table says, in either order, at every size and with a short last block.
    #[test]
    fn numbers_lose_no_more_than_the_table_says() {
        let mut scratch = Vec::new();
        for kind in KvType::ALL {
            for order in [Order::ByNumber, Order::ByToken] {
                for size in [1e-3, 1.0, 300.0] {
                    let mut numbers = Numbers::new(kind, SHAPE);
                    for token in 0..PAGE_TOKENS {
                        numbers.put(1, order, token, &vector(token, size));
                    }
                    let found = numbers.place(1, order, SHAPE.head_dim, &mut scratch);
                    for token in 0..PAGE_TOKENS {
                        let vector = vector(token, size);
                        for (index, expected) in vector.iter().enumerate() {
                            let block = &vector[index / BLOCK * BLOCK..(index / BLOCK * BLOCK + BLOCK).min(40)];
                            let largest = block.iter().fold(0.0_f32, |max, number| max.max(number.abs()));
                            let bound = match kind {
                                KvType::F32 => 0.0,
                                KvType::F16 => expected.abs() / 2048.0 + 1e-7,
                                KvType::Q8_0 => largest * (1.0 / 254.0 + 1.0 / 2048.0) + 1e-5,
                            };
                            let moved = (found[order.at(token, index, SHAPE.head_dim)] - expected).abs();
                            assert!(moved <= bound, "{} {order:?} {token} {index}: {moved}", kind.name());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let mut scratch = Vec::new();
        for kind in KvType::ALL {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut numbers = Numbers::new(kind, SHAPE);
                let mut vector = vector(0, 1.0);
                vector[3] = bad;
                numbers.put(0, Order::ByToken, 5, &vector);
                let found = numbers.place(0, Order::ByToken, SHAPE.head_dim, &mut scratch);
                assert!(!found[5 * SHAPE.head_dim + 3].is_finite(), "{}", kind.name());
                assert_eq!(found[4 * SHAPE.head_dim], 0.0);
            }
        }
    }
}
