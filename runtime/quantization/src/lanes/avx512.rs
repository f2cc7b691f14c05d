//! Sixteen lanes of AVX-512.
#![expect(unsafe_code, reason = "instructions that a value of `Avx512` proves to be there")]

use std::arch::x86_64::*;

use super::{ByteRow, Lanes, ROUNDING, Row};
use crate::nonlinear::{THRESHOLDS, VALUES};

/// Sixteen lanes.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The processor has AVX-512 F, BW, DQ and VL.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Avx512 {
        Avx512(())
    }
}

/// The thresholds with one more that nothing reaches, so that a search of four steps may look at sixteen.
const SEARCHED: [f32; 16] = {
    let mut searched = [f32::INFINITY; 16];
    let mut place = 0;
    while place < 15 {
        searched[place] = THRESHOLDS[place];
        place += 1;
    }
    searched
};

impl Avx512 {
    #[inline(always)]
    fn place(self, a: __m512) -> __m512i {
        // SAFETY: as the type proves; the table has sixteen numbers.
        unsafe {
            let thresholds = _mm512_loadu_ps(SEARCHED.as_ptr());
            let mut place = _mm512_setzero_si512();
            // How many thresholds do not lie above: after the steps of 8, 4, 2 and 1, all that are passed are counted.
            for step in [8, 4, 2, 1] {
                let looked_at = _mm512_add_epi32(place, _mm512_set1_epi32(step - 1));
                let threshold = _mm512_permutexvar_ps(looked_at, thresholds);
                let passed = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(a, threshold);
                place = _mm512_mask_add_epi32(place, passed, place, _mm512_set1_epi32(step));
            }
            place
        }
    }
}

impl Lanes for Avx512 {
    const N: usize = 16;
    type F = __m512;
    type M = __mmask16;

    #[inline(always)]
    fn splat(self, number: f32) -> __m512 {
        // SAFETY: as the type proves.
        unsafe { _mm512_set1_ps(number) }
    }
    #[inline(always)]
    fn load(self, row: &Row) -> __m512 {
        // SAFETY: a row has sixteen numbers.
        unsafe { _mm512_loadu_ps(row.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, numbers: __m512, row: &mut Row) {
        // SAFETY: a row has sixteen numbers.
        unsafe { _mm512_storeu_ps(row.as_mut_ptr(), numbers) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: as the type proves.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: as the type proves.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: as the type proves.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: as the type proves.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        // SAFETY: as the type proves.
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        // SAFETY: as the type proves.
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    fn neg(self, a: __m512) -> __m512 {
        // SAFETY: as the type proves.
        unsafe { _mm512_xor_ps(a, _mm512_set1_ps(-0.0)) }
    }
    #[inline(always)]
    fn less(self, a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: as the type proves.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) }
    }
    #[inline(always)]
    fn equal(self, a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: as the type proves.
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b) }
    }
    #[inline(always)]
    fn both(self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a & b
    }
    #[inline(always)]
    fn not(self, a: __mmask16) -> __mmask16 {
        !a
    }
    #[inline(always)]
    fn any(self, a: __mmask16) -> bool {
        a != 0
    }
    #[inline(always)]
    fn select(self, mask: __mmask16, a: __m512, b: __m512) -> __m512 {
        // SAFETY: as the type proves.
        unsafe { _mm512_mask_blend_ps(mask, b, a) }
    }
    #[inline(always)]
    fn nearest(self, a: __m512) -> __m512 {
        // SAFETY: as the type proves.
        unsafe {
            let sum = _mm512_castps_si512(_mm512_add_ps(a, _mm512_set1_ps(ROUNDING)));
            // The 23 low bits under the exponent of 2^23 are a number; what is left of `ROUNDING` in it goes again.
            let low = _mm512_and_si512(sum, _mm512_set1_epi32(0x007f_ffff));
            let number = _mm512_or_si512(low, _mm512_set1_epi32(0x4b00_0000));
            _mm512_sub_ps(_mm512_castsi512_ps(number), _mm512_set1_ps(ROUNDING))
        }
    }
    #[inline(always)]
    fn clamp(self, a: __m512, low: f32, high: f32) -> __m512 {
        // SAFETY: as the type proves.
        unsafe { _mm512_max_ps(_mm512_min_ps(a, _mm512_set1_ps(high)), _mm512_set1_ps(low)) }
    }
    #[inline(always)]
    fn low_byte(self, a: __m512) -> __m512 {
        // SAFETY: as the type proves.
        unsafe { _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_cvtps_epi32(a), _mm512_set1_epi32(255))) }
    }
    #[inline(always)]
    fn store_bytes(self, integers: __m512, row: &mut ByteRow) {
        // SAFETY: a row has sixteen bytes.
        unsafe {
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(integers));
            _mm_storeu_si128(row.as_mut_ptr().cast(), bytes);
        }
    }
    #[inline(always)]
    fn nonlinear_place(self, a: __m512) -> __m512 {
        // SAFETY: as the type proves.
        unsafe { _mm512_cvtepi32_ps(self.place(a)) }
    }
    #[inline(always)]
    fn nonlinear_value(self, a: __m512) -> __m512 {
        // SAFETY: as the type proves; the table has sixteen numbers.
        unsafe { _mm512_permutexvar_ps(self.place(a), _mm512_loadu_ps(VALUES.as_ptr())) }
    }
}
