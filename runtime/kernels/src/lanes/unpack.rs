//! From the bytes of a tile to registers: codes of a block, and its scales.

use super::{Lanes, Type};
use crate::format::{self, Codes, Scales, TILE_ROWS, VECTOR};

pub(super) const fn has_minimum(scales: Scales) -> bool {
    matches!(scales, Scales::HalfMinimum | Scales::Six | Scales::Nibble16)
}

pub(super) const fn by_sixteen(scales: Scales) -> bool {
    matches!(scales, Scales::Byte16 | Scales::SignedSix16 | Scales::Nibble16)
}

/// Unpacks a block's codes for the rows of a register: 8 groups of 4 columns.
///
/// # Safety
/// The processor has the instructions; the block's vectors lie at `codes`, moved on to the rows of this part.
#[inline(always)]
pub(super) unsafe fn unpack<S: Lanes, K: Type>(codes: *const u8) -> [S::Bytes; 8] {
    // SAFETY: each load is one of the block's vectors, at the same place in each.
    unsafe {
        let mut w = [S::bytes(codes); 8];
        match const { K::FORMAT }.codes {
            Codes::Bytes => {
                for (k, w) in w.iter_mut().enumerate() {
                    *w = S::signed(S::bytes(codes.add(k * VECTOR)));
                }
            }
            Codes::Nibbles | Codes::Values | Codes::Fives | Codes::Sixes => {
                for j in 0..4 {
                    let both = S::bytes(codes.add(j * VECTOR));
                    w[j] = S::field::<0>(both, 15);
                    w[j + 4] = S::field::<4>(both, 15);
                }
            }
            Codes::Pairs | Codes::Threes => {
                for i in 0..2 {
                    let four = S::bytes(codes.add(i * VECTOR));
                    w[4 * i] = S::field::<0>(four, 3);
                    w[4 * i + 1] = S::field::<2>(four, 3);
                    w[4 * i + 2] = S::field::<4>(four, 3);
                    w[4 * i + 3] = S::field::<6>(four, 3);
                }
            }
        }
        match const { K::FORMAT }.codes {
            Codes::Values => {
                for w in &mut w {
                    *w = S::signed(S::lookup(&format::VALUES, *w));
                }
            }
            Codes::Fives => {
                let high = S::bytes(codes.add(4 * VECTOR));
                w[0] = S::or(w[0], S::raised::<4>(high, 1));
                w[1] = S::or(w[1], S::raised::<3>(high, 1 << 1));
                w[2] = S::or(w[2], S::raised::<2>(high, 1 << 2));
                w[3] = S::or(w[3], S::raised::<1>(high, 1 << 3));
                w[4] = S::or(w[4], S::field::<0>(high, 16));
                w[5] = S::or(w[5], S::field::<1>(high, 16));
                w[6] = S::or(w[6], S::field::<2>(high, 16));
                w[7] = S::or(w[7], S::field::<3>(high, 16));
            }
            Codes::Sixes => {
                for i in 0..2 {
                    let high = S::bytes(codes.add((4 + i) * VECTOR));
                    w[4 * i] = S::or(w[4 * i], S::raised::<4>(high, 3));
                    w[4 * i + 1] = S::or(w[4 * i + 1], S::raised::<2>(high, 3 << 2));
                    w[4 * i + 2] = S::or(w[4 * i + 2], S::field::<0>(high, 3 << 4));
                    w[4 * i + 3] = S::or(w[4 * i + 3], S::field::<2>(high, 3 << 4));
                }
            }
            Codes::Threes => {
                let high = S::bytes(codes.add(2 * VECTOR));
                w[0] = S::or(w[0], S::raised::<2>(high, 1));
                w[1] = S::or(w[1], S::raised::<1>(high, 1 << 1));
                w[2] = S::or(w[2], S::field::<0>(high, 4));
                w[3] = S::or(w[3], S::field::<1>(high, 4));
                w[4] = S::or(w[4], S::field::<2>(high, 4));
                w[5] = S::or(w[5], S::field::<3>(high, 4));
                w[6] = S::or(w[6], S::field::<4>(high, 4));
                w[7] = S::or(w[7], S::field::<5>(high, 4));
            }
            Codes::Bytes | Codes::Nibbles | Codes::Pairs => {}
        }
        w
    }
}

/// The scales of a block, for the rows of a register. What a type does not have is zero.
pub(super) struct BlockScales<S: Lanes> {
    /// Times a code is the number, if one scale serves the block; else times the scale of its half too.
    pub(super) d: S::Floats,
    /// Times a sum of inputs is added or taken off, if one scale serves the block; else times the counts of the halves too.
    pub(super) m: S::Floats,
    /// The scales of the halves, as [`Lanes::factors`] makes them.
    pub(super) factors: [S::Ints; 3],
    /// The counts of the minimum of the two halves, as a pair.
    pub(super) counts: S::Ints,
}

impl<S: Lanes> Clone for BlockScales<S> {
    fn clone(&self) -> BlockScales<S> {
        *self
    }
}

impl<S: Lanes> Copy for BlockScales<S> {}

/// Returns the scale and the minimum that a superblock's blocks share, zero where the type has none.
///
/// # Safety
/// The processor has the instructions; a head lies at `head`, moved on to the halves of this part's rows.
#[inline(always)]
pub(super) unsafe fn halves_of_head<S: Lanes, K: Type>(head: *const u8) -> [S::Floats; 2] {
    // SAFETY: both are read within the head.
    unsafe {
        let m = match has_minimum(const { K::FORMAT }.scales) {
            true => S::halves(head.add(2 * TILE_ROWS)),
            false => S::float(0.0),
        };
        [S::halves(head), m]
    }
}

/// Returns the scales of block `j` of a superblock, whose blocks share scale and minimum `d`.
///
/// # Safety
/// The processor has the instructions; `fields` is a head, moved on to the bytes of this part's rows.
#[inline(always)]
pub(super) unsafe fn scales<S: Lanes, K: Type>(fields: *const u8, j: usize, d: [S::Floats; 2]) -> BlockScales<S> {
    let bits = |n: usize| 4 * (n as u32);
    // SAFETY: fields are read within the head.
    unsafe {
        let [d, m] = d;
        let zero = S::int(0);
        let of_block = |d, m| BlockScales {
            d,
            m,
            factors: [zero; 3],
            counts: zero,
        };
        let of_halves = |halves, counts| BlockScales {
            d,
            m,
            factors: S::factors(halves),
            counts,
        };
        let field = fields.add(2 * TILE_ROWS);
        match const { K::FORMAT }.scales {
            Scales::Half | Scales::HalfMinimum => of_block(d, m),
            Scales::Six => {
                let field = field.add(2 * TILE_ROWS);
                let low = S::small(field.add(j * TILE_ROWS));
                let high = S::bits(S::small(field.add((8 + j % 4) * TILE_ROWS)), bits(j / 4), 15);
                let counts = S::or_ints(S::bits(low, 6, 3), S::shifted::<2>(high));
                let scale = S::multiply(d, S::to_floats(S::bits(low, 0, 63)));
                of_block(scale, S::multiply(m, S::to_floats(counts)))
            }
            Scales::SignedSix => {
                let low = S::bits(S::small(field.add(j / 2 * TILE_ROWS)), bits(j % 2), 15);
                let high = S::bits(S::small(field.add((4 + j / 4) * TILE_ROWS)), 2 * (j as u32 % 4), 3);
                let scale = S::or_ints(low, S::shifted::<4>(high));
                of_block(S::multiply(d, S::to_floats(S::subtract(scale, S::int(32)))), m)
            }
            Scales::SignedSix16 => {
                let low = S::small(field.add(j * TILE_ROWS));
                let high = S::bits(S::small(field.add((8 + j / 2) * TILE_ROWS)), bits(j % 2), 15);
                let first = S::or_ints(S::bits(low, 0, 15), S::shifted::<4>(S::bits(high, 0, 3)));
                let second = S::or_ints(S::bits(low, 4, 15), S::shifted::<4>(S::bits(high, 2, 3)));
                of_halves([S::subtract(first, S::int(32)), S::subtract(second, S::int(32))], zero)
            }
            Scales::Nibble16 => {
                let field = field.add(2 * TILE_ROWS);
                let first = S::small(field.add(2 * j * TILE_ROWS));
                let second = S::small(field.add((2 * j + 1) * TILE_ROWS));
                let counts = S::pair(S::bits(first, 4, 15), S::bits(second, 4, 15));
                of_halves([S::bits(first, 0, 15), S::bits(second, 0, 15)], counts)
            }
            Scales::Byte16 => {
                let first = S::small_signed(field.add(2 * j * TILE_ROWS));
                let second = S::small_signed(field.add((2 * j + 1) * TILE_ROWS));
                of_halves([first, second], zero)
            }
        }
    }
}
