//! AVX-512 with VNNI: 16 rows a register, and one instruction for four products of bytes and their sum. Its first factor is unsigned, so signed codes are moved
//! by 128, and 128 times the sum of the other factor is taken off.

use std::arch::x86_64::*;

use witness_formats::gguf::GgmlType;

use super::{Lanes, Run, Type, kernels_of, multiply, sums_of, types};
use crate::activations::Record;
use crate::format::{BLOCK, TILE_ROWS};

pub(super) struct Vnni;

kernels_of!(Vnni, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", 4);

/// Returns 4 bytes in every lane.
///
/// # Safety
/// Four bytes lie at `x + 4 k`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn four(x: *const i8, k: usize) -> __m512i {
    // SAFETY: the caller promises the bytes.
    _mm512_set1_epi32(unsafe { x.cast::<i32>().add(k).read_unaligned() })
}

impl Lanes for Vnni {
    const ROWS: usize = 16;
    type Bytes = __m512i;
    type Ints = __m512i;
    type Floats = __m512;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn prefetch(at: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn bytes(at: *const u8) -> __m512i {
        // SAFETY: the caller promises 64 bytes.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn field<const N: u32>(bytes: __m512i, mask: u8) -> __m512i {
        _mm512_and_si512(_mm512_srli_epi16::<N>(bytes), _mm512_set1_epi8(mask as i8))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn raised<const N: u32>(bytes: __m512i, mask: u8) -> __m512i {
        _mm512_slli_epi16::<N>(_mm512_and_si512(bytes, _mm512_set1_epi8(mask as i8)))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        _mm512_or_si512(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn lookup(table: &[i8; 16], bytes: __m512i) -> __m512i {
        // SAFETY: the table has 16 bytes.
        let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
        _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), bytes)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn signed(bytes: __m512i) -> __m512i {
        _mm512_xor_si512(bytes, _mm512_set1_epi8(-128))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn halves(at: *const u8) -> __m512 {
        // SAFETY: the caller promises 32 bytes.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(at.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn small(at: *const u8) -> __m512i {
        // SAFETY: the caller promises 16 bytes.
        _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(at.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn small_signed(at: *const u8) -> __m512i {
        // SAFETY: the caller promises 16 bytes.
        _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(at.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn bits(ints: __m512i, n: u32, mask: i32) -> __m512i {
        let shifted = _mm512_srl_epi32(ints, _mm_cvtsi32_si128(n as i32));
        _mm512_and_si512(shifted, _mm512_set1_epi32(mask))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn shifted<const N: u32>(ints: __m512i) -> __m512i {
        _mm512_slli_epi32::<N>(ints)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn or_ints(a: __m512i, b: __m512i) -> __m512i {
        _mm512_or_si512(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        _mm512_add_epi32(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn subtract(a: __m512i, b: __m512i) -> __m512i {
        _mm512_sub_epi32(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn int(value: i32) -> __m512i {
        _mm512_set1_epi32(value)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pair(low: __m512i, high: __m512i) -> __m512i {
        _mm512_mask_blend_epi16(0xaaaa_aaaa, low, _mm512_slli_epi32::<16>(high))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pair_dot(a: __m512i, b: __m512i) -> __m512i {
        _mm512_madd_epi16(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn to_floats(ints: __m512i) -> __m512 {
        _mm512_cvtepi32_ps(ints)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn float(value: f32) -> __m512 {
        _mm512_set1_ps(value)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn multiply(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn fnma(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fnmadd_ps(a, b, c)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(at: *const f32) -> __m512 {
        // SAFETY: the caller promises 16 numbers.
        unsafe { _mm512_loadu_ps(at) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store(floats: __m512, at: *mut f32) {
        // SAFETY: the caller promises room for 16 numbers.
        unsafe { _mm512_storeu_ps(at, floats) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn dot<const BITS: u32>(w: &[__m512i; 8], x: *const i8, start: __m512i) -> __m512i {
        // SAFETY: as promised by the caller.
        let [sum] = unsafe { Vnni::dots::<BITS, 1>(w, [x], [start]) };
        sum
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn dot_signed(w: &[__m512i; 8], x: *const i8, negative_sum: i32) -> __m512i {
        // SAFETY: as promised by the caller.
        let [sum] = unsafe { Vnni::dots_signed(w, [x], [negative_sum]) };
        sum
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn factor(scales: __m512i) -> __m512i {
        scales
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn dot_scaled<const BITS: u32, const HALF: usize>(
        w: &[__m512i; 8],
        x: *const i8,
        factor: __m512i,
    ) -> __m512i {
        // SAFETY: as promised by the caller.
        let [sum] = unsafe { Vnni::halves_from::<HALF, 1>(w, [x], [_mm512_setzero_si512()]) };
        _mm512_mullo_epi32(sum, factor)
    }

    /// In f32, where a multiplication takes a quarter of what it takes in 32-bit integers. The sums of 16 products less the offset (17 bits) and their products with a
    /// scale (7 bits and a sign) are exact there, so the one rounding is that of the whole.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn dots_of_halves<const BITS: u32, const OFFSET: i32, const N: usize>(
        w: &[__m512i; 8],
        x: [*const Record; N],
        scales: [__m512i; 2],
    ) -> [__m512; N] {
        let factors = scales.map(|scales| _mm512_cvtepi32_ps(scales));
        let mut starts = [[_mm512_setzero_si512(); N]; 2];
        if OFFSET > 0 {
            let offsets = [_mm512_set1_epi32(-OFFSET & 0xffff), _mm512_set1_epi32(-OFFSET << 16)];
            for (starts, offsets) in starts.iter_mut().zip(offsets) {
                for (start, x) in starts.iter_mut().zip(x) {
                    // SAFETY: the caller promises a record.
                    *start = _mm512_madd_epi16(unsafe { sums_of::<Vnni>(x) }, offsets);
                }
            }
        }
        let [first, second] = starts;
        // SAFETY: the caller promises records.
        let codes = x.map(|x| unsafe { (&raw const (*x).codes).cast::<i8>() });
        // SAFETY: these are the codes of a record.
        let first = unsafe { Vnni::halves_from::<0, N>(w, codes, first) };
        // SAFETY: as above, from their middle on.
        let second = unsafe { Vnni::halves_from::<1, N>(w, codes.map(|codes| codes.add(BLOCK / 2)), second) };
        let mut dots = [_mm512_setzero_ps(); N];
        for t in 0..N {
            let one = _mm512_mul_ps(factors[0], _mm512_cvtepi32_ps(first[t]));
            dots[t] = _mm512_fmadd_ps(factors[1], _mm512_cvtepi32_ps(second[t]), one);
        }
        dots
    }

    /// Side by side, because a sum takes five cycles and two can be begun in each.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn dots<const BITS: u32, const N: usize>(
        w: &[__m512i; 8],
        x: [*const i8; N],
        start: [__m512i; N],
    ) -> [__m512i; N] {
        let mut sums = start;
        for (k, w) in w.iter().enumerate() {
            for (sum, x) in sums.iter_mut().zip(x) {
                // SAFETY: the caller promises 32 bytes.
                *sum = _mm512_dpbusd_epi32(*sum, *w, unsafe { four(x, k) });
            }
        }
        sums
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn dots_signed<const N: usize>(
        w: &[__m512i; 8],
        x: [*const i8; N],
        negative_sums: [i32; N],
    ) -> [__m512i; N] {
        let mut start = [_mm512_setzero_si512(); N];
        for (start, sum) in start.iter_mut().zip(negative_sums) {
            *start = _mm512_slli_epi32::<7>(_mm512_set1_epi32(sum));
        }
        // SAFETY: as promised by the caller.
        unsafe { Vnni::dots::<8, N>(w, x, start) }
    }
}

impl Vnni {
    /// Returns `start` and 16 products of unsigned codes for each token: registers `4 * HALF` on, and the 16 bytes at `x`.
    ///
    /// # Safety
    /// 16 bytes lie at each `x`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn halves_from<const HALF: usize, const N: usize>(
        w: &[__m512i; 8],
        x: [*const i8; N],
        start: [__m512i; N],
    ) -> [__m512i; N] {
        let mut sums = start;
        for k in 0..4 {
            for (sum, x) in sums.iter_mut().zip(x) {
                // SAFETY: the caller promises the bytes.
                *sum = _mm512_dpbusd_epi32(*sum, w[4 * HALF + k], unsafe { four(x, k) });
            }
        }
        sums
    }
}
