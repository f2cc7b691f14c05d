//! The rounding of a block with AVX2, which the compiler does not find by itself: the largest magnitude by maxima of integers, codes by two packings, their sums by
//! products with ones. Bit for bit what [`super::record`] does.

use std::arch::x86_64::*;

use super::{EMPTY, ROUNDER, Record, scale_of};
use crate::format::BLOCK;

/// Rounds a block.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn record(block: &[f32; BLOCK]) -> Record {
    let at = block.as_ptr();
    // SAFETY: a block has 32 numbers.
    let x = unsafe {
        [
            _mm256_loadu_ps(at),
            _mm256_loadu_ps(at.add(8)),
            _mm256_loadu_ps(at.add(16)),
            _mm256_loadu_ps(at.add(24)),
        ]
    };
    let magnitude = |x| _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fff_ffff));
    let [a, b, c, d] = x.map(magnitude);
    let largest = max_lane(_mm256_max_epu32(_mm256_max_epu32(a, b), _mm256_max_epu32(c, d)));
    let (scale, inverse) = match scale_of(largest) {
        Ok(scale) => scale,
        Err(record) => return record,
    };
    let [a, b, c, d] = x.map(|x| {
        let rounded = _mm256_add_ps(_mm256_mul_ps(x, _mm256_set1_ps(inverse)), _mm256_set1_ps(ROUNDER));
        _mm256_sub_epi32(
            _mm256_castps_si256(rounded),
            _mm256_set1_epi32(ROUNDER.to_bits() as i32),
        )
    });
    // Packing works on each half of a register: four codes of each of the four, twice.
    let codes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    let codes = _mm256_permutevar8x32_epi32(codes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    of_codes(codes, scale)
}

/// Returns the record of a block's codes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn of_codes(codes: __m256i, scale: f32) -> Record {
    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), codes);
    let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    let eights = _mm256_hadd_epi32(fours, fours);
    let halves = _mm256_hadd_epi32(eights, eights);
    let sums = [_mm256_extract_epi32::<0>(halves), _mm256_extract_epi32::<4>(halves)];
    let mut record = Record {
        scale,
        scaled_sum: scale * (sums[0] + sums[1]) as f32,
        negative_sum: -(sums[0] + sums[1]),
        sums: sums.map(|sum| sum as i16),
        ..EMPTY
    };
    // SAFETY: a record has 32 codes.
    unsafe { _mm256_storeu_si256(record.codes.as_mut_ptr().cast(), codes) };
    record
}

/// Returns the largest of eight unsigned numbers.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn max_lane(v: __m256i) -> u32 {
    let v = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let v = _mm_max_epu32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
    let v = _mm_max_epu32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v));
    _mm_cvtsi128_si32(v) as u32
}
