//! The types whose numbers are only scaled and rounded: dense ones, Q8_0, and Q4_0 to Q5_1 without importance.
//!
//! Source: `quantize_row_q*_ref` of ggml-quants.c. Maxima do not depend on an order, so these run along a block; the first of equal extremes counts, since it
//! decides a sign. Cost: some cycles a block of 32 and two passes over it in registers, so near to what memory gives.
#![expect(unsafe_code, reason = "conversions to integers of numbers that are seen to be small")]

use half::f16;
use half::slice::HalfFloatSliceExt;
use witness_instructions::vectorised;
#[cfg(target_arch = "x86_64")]
use witness_instructions::{Isa, Level};

/// The largest number below a half.
const BELOW_HALF: f32 = 0.499_999_97;

/// Stores numbers as they are.
pub(super) fn f32(rows: &[f32], out: &mut [u8]) {
    let (words, _) = out.as_chunks_mut::<4>();
    for (word, number) in words.iter_mut().zip(rows) {
        *word = number.to_le_bytes();
    }
}

/// Rounds to f16, ties to even. The library converts eight at a time where the processor can.
pub(super) fn f16(rows: &[f32], out: &mut [u8]) {
    let mut halves = [f16::ZERO; 256];
    for (numbers, out) in rows.chunks(256).zip(out.chunks_mut(512)) {
        let halves = &mut halves[..numbers.len()];
        halves.convert_from_f32_slice(numbers);
        for (pair, half) in out.as_chunks_mut::<2>().0.iter_mut().zip(halves) {
            *pair = half.to_le_bytes();
        }
    }
}

/// Rounds to bf16, ties to even. Numbers are finite.
pub(super) fn bf16(rows: &[f32], out: &mut [u8]) {
    let (pairs, _) = out.as_chunks_mut::<2>();
    vectorised(
        #[inline(always)]
        || {
            for (pair, number) in pairs.iter_mut().zip(rows) {
                let bits = number.to_bits();
                let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1))) >> 16;
                *pair = (rounded as u16).to_le_bytes();
            }
        },
    );
}

pub(super) fn q8_0(rows: &[f32], out: &mut [u8]) {
    each::<34>(rows, out, q8_0_block);
}

pub(super) fn q4_0(rows: &[f32], out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if Isa::current().at_least(Level::Avx2) {
        // SAFETY: an `Isa` of this level or a higher one proves that the processor has AVX2.
        unsafe { avx2::q4_0(rows, out) };
        return;
    }
    each::<18>(rows, out, q4_0_block);
}

pub(super) fn q4_1(rows: &[f32], out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if Isa::current().at_least(Level::Avx2) {
        // SAFETY: an `Isa` of this level or a higher one proves that the processor has AVX2.
        unsafe { avx2::q4_1(rows, out) };
        return;
    }
    each::<20>(rows, out, q4_1_block);
}

pub(super) fn q5_0(rows: &[f32], out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if Isa::current().at_least(Level::Avx2) {
        // SAFETY: an `Isa` of this level or a higher one proves that the processor has AVX2.
        unsafe { avx2::q5_0(rows, out) };
        return;
    }
    each::<22>(rows, out, q5_0_block);
}

pub(super) fn q5_1(rows: &[f32], out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if Isa::current().at_least(Level::Avx2) {
        // SAFETY: an `Isa` of this level or a higher one proves that the processor has AVX2.
        unsafe { avx2::q5_1(rows, out) };
        return;
    }
    each::<24>(rows, out, q5_1_block);
}

#[inline(always)]
fn each<const B: usize>(rows: &[f32], out: &mut [u8], encode: impl Fn(&[f32; 32], &mut [u8; B])) {
    let (numbers, _) = rows.as_chunks::<32>();
    let (blocks, _) = out.as_chunks_mut::<B>();
    vectorised(
        #[inline(always)]
        || {
            for (numbers, block) in numbers.iter().zip(blocks) {
                encode(numbers, block);
            }
        },
    );
}

#[inline(always)]
fn q8_0_block(x: &[f32; 32], block: &mut [u8; 34]) {
    let d = size_of_largest(x) / 127.0;
    put_half(block, 0, d);
    let integers = integers(x, d, |number, inverse| {
        // The largest number below a half: adding it carries every half over, and nothing below. So halves go away from zero, as with `roundf`.
        let scaled = number * inverse;
        scaled + BELOW_HALF.copysign(scaled)
    });
    for (byte, integer) in block[2..].iter_mut().zip(&integers) {
        *byte = *integer as u8;
    }
}

#[inline(always)]
fn q4_0_block(x: &[f32; 32], block: &mut [u8; 18]) {
    let d = largest(x) / -8.0;
    put_half(block, 0, d);
    let integers = integers(x, d, |number, inverse| number * inverse + 8.5);
    nibbles(&limited(&integers, 15), &mut block[2..]);
}

#[inline(always)]
fn q4_1_block(x: &[f32; 32], block: &mut [u8; 20]) {
    let (minimum, maximum) = extremes(x);
    let d = (maximum - minimum) / 15.0;
    put_half(block, 0, d);
    put_half(block, 2, minimum);
    let integers = integers(x, d, |number, inverse| (number - minimum) * inverse + 0.5);
    nibbles(&limited(&integers, 15), &mut block[4..]);
}

#[inline(always)]
fn q5_0_block(x: &[f32; 32], block: &mut [u8; 22]) {
    let d = largest(x) / -16.0;
    put_half(block, 0, d);
    let integers = integers(x, d, |number, inverse| number * inverse + 16.5);
    five_bits(&limited(&integers, 31), &mut block[2..]);
}

#[inline(always)]
fn q5_1_block(x: &[f32; 32], block: &mut [u8; 24]) {
    let (minimum, maximum) = extremes(x);
    let d = (maximum - minimum) / 31.0;
    put_half(block, 0, d);
    put_half(block, 2, minimum);
    let integers = integers(x, d, |number, inverse| (number - minimum) * inverse + 0.5);
    // Unlike its like, the reference does not hold this one to 31.
    five_bits(&limited(&integers, 127), &mut block[4..]);
}

/// Scales the numbers of a block by the inverse of its scale, and cuts off the fractions.
#[inline(always)]
fn integers(x: &[f32; 32], d: f32, scaled: impl Fn(f32, f32) -> f32) -> [i32; 32] {
    let inverse = inverse(d);
    let mut integers = [0; 32];
    if d.is_finite() && inverse.is_finite() {
        for (integer, number) in integers.iter_mut().zip(x) {
            // SAFETY: where the inverse of a scale is finite too, the scale is 2^-128 at least and so known to 21 bits, and its inverse as well; what is scaled
            // is some 127 times the scale at most, so no infinity either, and becomes 128 at most.
            *integer = unsafe { scaled(*number, inverse).to_int_unchecked() };
        }
    } else {
        for (integer, number) in integers.iter_mut().zip(x) {
            *integer = truncated(scaled(*number, inverse));
        }
    }
    integers
}

/// Keeps the low 8 bits of integers, as an `int8_t`, and holds them to `highest`.
#[inline(always)]
fn limited(integers: &[i32; 32], highest: i8) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (byte, integer) in bytes.iter_mut().zip(integers) {
        *byte = (*integer as i8).min(highest) as u8;
    }
    bytes
}

#[inline(always)]
fn nibbles(integers: &[u8; 32], bytes: &mut [u8]) {
    for i in 0..16 {
        bytes[i] = integers[i] & 15 | integers[i + 16] << 4;
    }
}

/// Packs the fifth bits, then the nibbles.
#[inline(always)]
fn five_bits(integers: &[u8; 32], bytes: &mut [u8]) {
    let mut fifth = 0u32;
    for (place, integer) in integers.iter().enumerate() {
        fifth |= u32::from(integer >> 4 & 1) << place;
    }
    bytes[..4].copy_from_slice(&fifth.to_le_bytes());
    nibbles(integers, &mut bytes[4..]);
}

/// Returns the largest size of the numbers of a block. Bits of sizes are in the order of sizes.
#[inline(always)]
fn size_of_largest(x: &[f32; 32]) -> f32 {
    let mut size = 0;
    for number in x {
        size = size.max(number.to_bits() & 0x7fff_ffff);
    }
    f32::from_bits(size)
}

/// Returns the least and the greatest number of a block, where -0 is below 0. Integers are compared, for no order of those makes a difference.
#[inline(always)]
fn ends(x: &[f32; 32]) -> (f32, f32) {
    // Negative numbers have their order turned around by flipping all bits but the sign; doing so again gives them back.
    let flip = |bits: i32| bits ^ (bits >> 31 & 0x7fff_ffff);
    let (mut least, mut greatest) = (i32::MAX, i32::MIN);
    for number in x {
        let order = flip(number.to_bits() as i32);
        least = least.min(order);
        greatest = greatest.max(order);
    }
    (
        f32::from_bits(flip(least) as u32),
        f32::from_bits(flip(greatest) as u32),
    )
}

/// Returns the first number of the largest size.
#[inline(always)]
fn largest(x: &[f32; 32]) -> f32 {
    let (least, greatest) = ends(x);
    if greatest == -least {
        // Both signs have it, or all are zeros, whose sign counts for nothing.
        let first = x.iter().find(|number| number.abs() == greatest.abs());
        return first.map_or(0.0, |number| if *number == 0.0 { 0.0 } else { *number });
    }
    // Which of them it is cannot be foretold, so there is no branch.
    let mask = u32::from(greatest > -least).wrapping_neg();
    f32::from_bits(greatest.to_bits() & mask | least.to_bits() & !mask)
}

/// Returns the first of the smallest numbers and the first of the largest.
#[inline(always)]
fn extremes(x: &[f32; 32]) -> (f32, f32) {
    let (least, greatest) = ends(x);
    if least != 0.0 {
        // The sign of a greatest zero counts for nothing: something that is not zero is taken from it.
        return (least, greatest);
    }
    let first = |end: f32| x.iter().copied().find(|number| *number == end).unwrap_or(end);
    (first(least), first(greatest))
}

#[inline(always)]
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

#[inline(always)]
fn put_half(block: &mut [u8], at: usize, number: f32) {
    block[at..at + 2].copy_from_slice(&f16::from_f32_const(number).to_le_bytes());
}

/// Cuts off the fraction as x86 does: what no i32 can hold, and what is not a number, becomes the least of them. Blocks of the smallest denormals get there.
#[inline(always)]
fn truncated(number: f32) -> i32 {
    // 2^31 and beyond saturate to the greatest, which no f32 below it truncates to.
    let integer = number as i32;
    if number.is_nan() | (integer == i32::MAX) {
        i32::MIN
    } else {
        integer
    }
}

/// The same by hand: compilers do not find how the first of the largest numbers is found without going through them one by one, nor how integers are packed.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{inverse, put_half, q4_0_block, q4_1_block, q5_0_block, q5_1_block};

    /// # Safety
    /// The processor has AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) fn q4_0(rows: &[f32], out: &mut [u8]) {
        let (numbers, _) = rows.as_chunks::<32>();
        let (blocks, _) = out.as_chunks_mut::<18>();
        for (x, block) in numbers.iter().zip(blocks) {
            let vectors = load(x);
            let d = first_largest(x, &vectors) / -8.0;
            let inverse = inverse(d);
            if !d.is_finite() || !inverse.is_finite() {
                q4_0_block(x, block);
                continue;
            }
            put_half(block, 0, d);
            let (low, high) = integers(&vectors, 0.0, inverse, 8.5, 15);
            put_nibbles(low, high, &mut block[2..]);
        }
    }

    /// # Safety
    /// The processor has AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) fn q4_1(rows: &[f32], out: &mut [u8]) {
        let (numbers, _) = rows.as_chunks::<32>();
        let (blocks, _) = out.as_chunks_mut::<20>();
        for (x, block) in numbers.iter().zip(blocks) {
            let vectors = load(x);
            let (minimum, maximum) = ends(&vectors);
            let d = (maximum - minimum) / 15.0;
            let inverse = inverse(d);
            // Which zero is the first decides a sign.
            if minimum == 0.0 || !d.is_finite() || !inverse.is_finite() {
                q4_1_block(x, block);
                continue;
            }
            put_half(block, 0, d);
            put_half(block, 2, minimum);
            let (low, high) = integers(&vectors, minimum, inverse, 0.5, 15);
            put_nibbles(low, high, &mut block[4..]);
        }
    }

    /// # Safety
    /// The processor has AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) fn q5_0(rows: &[f32], out: &mut [u8]) {
        let (numbers, _) = rows.as_chunks::<32>();
        let (blocks, _) = out.as_chunks_mut::<22>();
        for (x, block) in numbers.iter().zip(blocks) {
            let vectors = load(x);
            let d = first_largest(x, &vectors) / -16.0;
            let inverse = inverse(d);
            if !d.is_finite() || !inverse.is_finite() {
                q5_0_block(x, block);
                continue;
            }
            put_half(block, 0, d);
            let (low, high) = integers(&vectors, 0.0, inverse, 16.5, 31);
            put_five_bits(low, high, &mut block[2..]);
        }
    }

    /// # Safety
    /// The processor has AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) fn q5_1(rows: &[f32], out: &mut [u8]) {
        let (numbers, _) = rows.as_chunks::<32>();
        let (blocks, _) = out.as_chunks_mut::<24>();
        for (x, block) in numbers.iter().zip(blocks) {
            let vectors = load(x);
            let (minimum, maximum) = ends(&vectors);
            let d = (maximum - minimum) / 31.0;
            let inverse = inverse(d);
            // Which zero is the first decides a sign.
            if minimum == 0.0 || !d.is_finite() || !inverse.is_finite() {
                q5_1_block(x, block);
                continue;
            }
            put_half(block, 0, d);
            put_half(block, 2, minimum);
            let (low, high) = integers(&vectors, minimum, inverse, 0.5, 127);
            put_five_bits(low, high, &mut block[4..]);
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(x: &[f32; 32]) -> [__m256; 4] {
        let (parts, _) = x.as_chunks::<8>();
        // SAFETY: each part has eight numbers.
        std::array::from_fn(|part| unsafe { _mm256_loadu_ps(parts[part].as_ptr()) })
    }

    /// Returns the first number of the largest size. Numbers are finite.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn first_largest(x: &[f32; 32], vectors: &[__m256; 4]) -> f32 {
        let sign = _mm256_set1_ps(-0.0);
        let [a, b, c, d] = vectors.map(|vector| _mm256_andnot_ps(sign, vector));
        let most = greatest(_mm256_max_ps(_mm256_max_ps(a, b), _mm256_max_ps(c, d)));
        let is_most = |part| _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(part, most)) as u32;
        let places = is_most(a) | is_most(b) << 8 | is_most(c) << 16 | is_most(d) << 24;
        // One of them is the largest; what is no number is refused before.
        let first = x[places.trailing_zeros() as usize % 32];
        // Of zeros the sign counts for nothing.
        if first == 0.0 { 0.0 } else { first }
    }

    /// Returns the least and the greatest number; of a zero the sign says nothing.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn ends([a, b, c, d]: &[__m256; 4]) -> (f32, f32) {
        let least = _mm256_min_ps(_mm256_min_ps(*a, *b), _mm256_min_ps(*c, *d));
        let least = _mm256_min_ps(least, _mm256_permute2f128_ps::<1>(least, least));
        let least = _mm256_min_ps(least, _mm256_shuffle_ps::<0b01_00_11_10>(least, least));
        let least = _mm256_min_ps(least, _mm256_shuffle_ps::<0b10_11_00_01>(least, least));
        let most = _mm256_max_ps(_mm256_max_ps(*a, *b), _mm256_max_ps(*c, *d));
        (_mm256_cvtss_f32(least), _mm256_cvtss_f32(greatest(most)))
    }

    /// Spreads the greatest number over all lanes.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn greatest(most: __m256) -> __m256 {
        let most = _mm256_max_ps(most, _mm256_permute2f128_ps::<1>(most, most));
        let most = _mm256_max_ps(most, _mm256_shuffle_ps::<0b01_00_11_10>(most, most));
        _mm256_max_ps(most, _mm256_shuffle_ps::<0b10_11_00_01>(most, most))
    }

    /// Takes `minimum` off numbers, scales them, cuts off their fractions, and holds them to `highest`: the first 16 and the last 16 as integers of 16 bits, in
    /// order.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn integers(vectors: &[__m256; 4], minimum: f32, inverse: f32, offset: f32, highest: i32) -> (__m256i, __m256i) {
        let (minimum, inverse) = (_mm256_set1_ps(minimum), _mm256_set1_ps(inverse));
        let (offset, highest) = (_mm256_set1_ps(offset), _mm256_set1_epi32(highest));
        let [a, b, c, d] = vectors.map(|vector| {
            let scaled = _mm256_mul_ps(_mm256_sub_ps(vector, minimum), inverse);
            _mm256_min_epi32(_mm256_cvttps_epi32(_mm256_add_ps(scaled, offset)), highest)
        });
        let in_order = |half| _mm256_permute4x64_epi64::<0b11_01_10_00>(half);
        (in_order(_mm256_packus_epi32(a, b)), in_order(_mm256_packus_epi32(c, d)))
    }

    /// Stores the fifth bits of integers, then the other four.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn put_five_bits(low: __m256i, high: __m256i, out: &mut [u8]) {
        // The fifth bits go where the signs of bytes are.
        let bytes = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi16(low, high));
        let fifth = _mm256_movemask_epi8(_mm256_slli_epi16::<3>(bytes));
        out[..4].copy_from_slice(&fifth.to_le_bytes());
        let four = _mm256_set1_epi16(15);
        put_nibbles(_mm256_and_si256(low, four), _mm256_and_si256(high, four), &mut out[4..]);
    }

    /// Stores integers below 16: the first in the low halves of bytes, the second in the high ones.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn put_nibbles(low: __m256i, high: __m256i, out: &mut [u8]) {
        let pairs = _mm256_or_si256(low, _mm256_slli_epi16::<4>(high));
        let (first, second) = (_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
        let out: &mut [u8; 16] = &mut out.as_chunks_mut::<16>().0[0];
        // SAFETY: `out` has sixteen bytes.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm_packus_epi16(first, second)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half_away(number: f32) -> i32 {
        truncated(number + BELOW_HALF.copysign(number))
    }

    // Every number that Q8_0 rounds lies within 128; the sum could only differ from `roundf` around halves, which are all here.
    #[test]
    fn rounding_is_that_of_the_standard_library() {
        let mut number = 0.0f32;
        while number < 130.0 {
            for signed in [number, -number] {
                assert_eq!(half_away(signed), signed.round() as i32, "{signed}");
            }
            number = f32::from_bits(number.to_bits() + if number < 0.4 { 65_537 } else { 97 });
        }
        for half in 0..130 {
            let half = half as f32 + 0.5;
            for near in [
                half.next_down(),
                half,
                half.next_up(),
                -half,
                -half.next_down(),
                -half.next_up(),
            ] {
                assert_eq!(half_away(near), near.round() as i32, "{near}");
            }
        }
    }

    #[test]
    fn what_no_integer_holds_becomes_the_least_one() {
        for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e9, -3e9, 2_147_483_648.0] {
            assert_eq!(truncated(number), i32::MIN, "{number}");
        }
        assert_eq!(truncated(2_147_483_520.0), 2_147_483_520);
        assert_eq!(truncated(-1.9), -1);
    }
}
