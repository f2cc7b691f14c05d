//! The rounding of a block with AVX-512: half as many operations as with AVX2, and one that takes the low bytes of 16 lanes. Bit for bit what [`super::record`] does.

use std::arch::x86_64::*;

use super::avx2::{max_lane, of_codes};
use super::{ROUNDER, Record, scale_of};
use crate::format::BLOCK;

/// Rounds a block.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn record(block: &[f32; BLOCK]) -> Record {
    let at = block.as_ptr();
    // SAFETY: a block has 32 numbers.
    let x = unsafe { [_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(16))] };
    let [a, b] = x.map(|x| _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fff_ffff)));
    let both = _mm512_max_epu32(a, b);
    let half = _mm256_max_epu32(_mm512_castsi512_si256(both), _mm512_extracti64x4_epi64::<1>(both));
    let largest = max_lane(half);
    let (scale, inverse) = match scale_of(largest) {
        Ok(scale) => scale,
        Err(record) => return record,
    };
    let [a, b] = x.map(|x| {
        let rounded = _mm512_add_ps(_mm512_mul_ps(x, _mm512_set1_ps(inverse)), _mm512_set1_ps(ROUNDER));
        _mm512_cvtepi32_epi8(_mm512_castps_si512(rounded))
    });
    of_codes(_mm256_set_m128i(b, a), scale)
}
