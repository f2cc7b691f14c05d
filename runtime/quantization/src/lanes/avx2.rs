//! Eight lanes of AVX2.
#![expect(unsafe_code, reason = "instructions that a value of `Avx2` proves to be there")]

use std::arch::x86_64::*;

use super::{ByteRow, Lanes, ROUNDING, Row};
use crate::nonlinear::{THRESHOLDS, VALUES};

/// Eight lanes.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The processor has AVX2.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Avx2 {
        Avx2(())
    }
}

impl Lanes for Avx2 {
    const N: usize = 8;
    type F = __m256;
    type M = __m256;

    #[inline(always)]
    fn splat(self, number: f32) -> __m256 {
        // SAFETY: as the type proves.
        unsafe { _mm256_set1_ps(number) }
    }
    #[inline(always)]
    fn load(self, row: &Row) -> __m256 {
        // SAFETY: a row has sixteen numbers.
        unsafe { _mm256_loadu_ps(row.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, numbers: __m256, row: &mut Row) {
        // SAFETY: a row has sixteen numbers.
        unsafe { _mm256_storeu_ps(row.as_mut_ptr(), numbers) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: as the type proves.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: as the type proves.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: as the type proves.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: as the type proves.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        // SAFETY: as the type proves.
        unsafe { _mm256_sqrt_ps(a) }
    }
    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        // SAFETY: as the type proves.
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
    }
    #[inline(always)]
    fn neg(self, a: __m256) -> __m256 {
        // SAFETY: as the type proves.
        unsafe { _mm256_xor_ps(a, _mm256_set1_ps(-0.0)) }
    }
    #[inline(always)]
    fn less(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: as the type proves.
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(a, b) }
    }
    #[inline(always)]
    fn equal(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: as the type proves.
        unsafe { _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b) }
    }
    #[inline(always)]
    fn both(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: as the type proves.
        unsafe { _mm256_and_ps(a, b) }
    }
    #[inline(always)]
    fn not(self, a: __m256) -> __m256 {
        // SAFETY: as the type proves.
        unsafe { _mm256_xor_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(-1))) }
    }
    #[inline(always)]
    fn any(self, a: __m256) -> bool {
        // SAFETY: as the type proves.
        unsafe { _mm256_movemask_ps(a) != 0 }
    }
    #[inline(always)]
    fn select(self, mask: __m256, a: __m256, b: __m256) -> __m256 {
        // SAFETY: as the type proves.
        unsafe { _mm256_blendv_ps(b, a, mask) }
    }
    #[inline(always)]
    fn nearest(self, a: __m256) -> __m256 {
        // SAFETY: as the type proves.
        unsafe {
            let sum = _mm256_castps_si256(_mm256_add_ps(a, _mm256_set1_ps(ROUNDING)));
            // The 23 low bits under the exponent of 2^23 are a number; what is left of `ROUNDING` in it goes again.
            let low = _mm256_and_si256(sum, _mm256_set1_epi32(0x007f_ffff));
            let number = _mm256_or_si256(low, _mm256_set1_epi32(0x4b00_0000));
            _mm256_sub_ps(_mm256_castsi256_ps(number), _mm256_set1_ps(ROUNDING))
        }
    }
    #[inline(always)]
    fn clamp(self, a: __m256, low: f32, high: f32) -> __m256 {
        // SAFETY: as the type proves.
        unsafe { _mm256_max_ps(_mm256_min_ps(a, _mm256_set1_ps(high)), _mm256_set1_ps(low)) }
    }
    #[inline(always)]
    fn low_byte(self, a: __m256) -> __m256 {
        // SAFETY: as the type proves.
        unsafe { _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_cvtps_epi32(a), _mm256_set1_epi32(255))) }
    }
    #[inline(always)]
    fn store_bytes(self, integers: __m256, row: &mut ByteRow) {
        // SAFETY: as the type proves; eight bytes are within a row.
        unsafe {
            let integers = _mm256_cvtps_epi32(integers);
            let (low, high) = (
                _mm256_castsi256_si128(integers),
                _mm256_extracti128_si256::<1>(integers),
            );
            let words = _mm_packus_epi32(low, high);
            _mm_storel_epi64(row.as_mut_ptr().cast(), _mm_packus_epi16(words, words));
        }
    }
    #[inline(always)]
    fn nonlinear_place(self, a: __m256) -> __m256 {
        // SAFETY: as the type proves.
        unsafe {
            let mut place = _mm256_setzero_ps();
            for threshold in THRESHOLDS {
                let passed = _mm256_cmp_ps::<_CMP_NLT_UQ>(a, _mm256_set1_ps(threshold));
                place = _mm256_add_ps(place, _mm256_and_ps(passed, _mm256_set1_ps(1.0)));
            }
            place
        }
    }
    #[inline(always)]
    fn nonlinear_value(self, a: __m256) -> __m256 {
        // SAFETY: as the type proves.
        unsafe {
            let mut value = _mm256_set1_ps(VALUES[0]);
            for (threshold, next) in THRESHOLDS.iter().zip(&VALUES[1..]) {
                let passed = _mm256_cmp_ps::<_CMP_NLT_UQ>(a, _mm256_set1_ps(*threshold));
                value = _mm256_blendv_ps(value, _mm256_set1_ps(*next), passed);
            }
            value
        }
    }
}
