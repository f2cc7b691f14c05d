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

/// Returns the factors of a block's codes and of their sum, of a type with one scale a block.
///
/// # Safety
/// The processor has the instructions; `fields` is a head, moved on to the bytes of this part's rows.
#[inline(always)]
pub(super) unsafe fn scales_of_block<S: Lanes, K: Type>(
    fields: *const u8,
    j: usize,
    d: S::Floats,
    m: S::Floats,
) -> (S::Floats, S::Floats) {
    let bits = |n: usize| 4 * (n as u32);
    // SAFETY: fields are read within the head.
    unsafe {
        let field = fields.add(2 * TILE_ROWS);
        match const { K::FORMAT }.scales {
            Scales::Six => {
                let field = field.add(2 * TILE_ROWS);
                let low = S::small(field.add(j * TILE_ROWS));
                let high = S::bits(S::small(field.add((8 + j % 4) * TILE_ROWS)), bits(j / 4), 15);
                let counts = S::or_ints(S::bits(low, 6, 3), S::shifted::<2>(high));
                let scale = S::multiply(d, S::to_floats(S::bits(low, 0, 63)));
                (scale, S::multiply(m, S::to_floats(counts)))
            }
            Scales::SignedSix => {
                let low = S::bits(S::small(field.add(j / 2 * TILE_ROWS)), bits(j % 2), 15);
                let high = S::bits(S::small(field.add((4 + j / 4) * TILE_ROWS)), 2 * (j as u32 % 4), 3);
                let scale = S::or_ints(low, S::shifted::<4>(high));
                (S::multiply(d, S::to_floats(S::subtract(scale, S::int(32)))), m)
            }
            _ => (d, m),
        }
    }
}

/// Returns the scales of the two halves of a block, and the factors of their sums as a pair, of a type with a scale for each 16 columns.
///
/// # Safety
/// As for [`scales_of_block`].
#[inline(always)]
pub(super) unsafe fn scales_of_halves<S: Lanes, K: Type>(fields: *const u8, j: usize) -> ([S::Ints; 2], S::Ints) {
    // SAFETY: fields are read within the head.
    unsafe {
        let field = fields.add(2 * TILE_ROWS);
        match const { K::FORMAT }.scales {
            Scales::SignedSix16 => {
                let low = S::small(field.add(j * TILE_ROWS));
                let high = S::bits(S::small(field.add((8 + j / 2) * TILE_ROWS)), 4 * (j as u32 % 2), 15);
                let first = S::or_ints(S::bits(low, 0, 15), S::shifted::<4>(S::bits(high, 0, 3)));
                let second = S::or_ints(S::bits(low, 4, 15), S::shifted::<4>(S::bits(high, 2, 3)));
                let scales = [S::subtract(first, S::int(32)), S::subtract(second, S::int(32))];
                (scales, S::int(0))
            }
            Scales::Nibble16 => {
                let field = field.add(2 * TILE_ROWS);
                let first = S::small(field.add(2 * j * TILE_ROWS));
                let second = S::small(field.add((2 * j + 1) * TILE_ROWS));
                let counts = S::pair(S::bits(first, 4, 15), S::bits(second, 4, 15));
                ([S::bits(first, 0, 15), S::bits(second, 0, 15)], counts)
            }
            _ => {
                let first = S::small_signed(field.add(2 * j * TILE_ROWS));
                let second = S::small_signed(field.add((2 * j + 1) * TILE_ROWS));
                ([first, second], S::int(0))
            }
        }
    }
}
