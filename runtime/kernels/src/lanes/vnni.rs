//! AVX-512 with VNNI: 16 rows a register, and one instruction for four products of bytes and their sum. Its first factor is unsigned, so signed codes are moved
//! by 128, and 128 times the sum of the other factor is taken off.

use std::arch::x86_64::*;

use witness_formats::gguf::GgmlType;

use super::{Lanes, Run, Type, kernels_of, multiply, sums_of, types};
use crate::activations::Record;
use crate::format::TILE_ROWS;

pub(super) struct Vnni;

kernels_of!(Vnni, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni");

impl Lanes for Vnni {
    const ROWS: usize = 16;
    const TOGETHER: usize = 8;
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
    unsafe fn prefetch_far(at: *const u8) {
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
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

    /// The scales as f32, where a multiplication takes a quarter of what it takes in 32-bit integers.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn factors(scales: [__m512i; 2]) -> [__m512i; 3] {
        let [first, second] = scales.map(|scales| _mm512_castps_si512(_mm512_cvtepi32_ps(scales)));
        [first, second, _mm512_setzero_si512()]
    }

    #[inline(always)]
    unsafe fn dots_of_halves<const BITS: u32, const OFFSET: i32, const N: usize>(
        w: &[__m512i; 8],
        x: *const Record,
        _: [__m512i; 3],
        mut meanwhile: impl FnMut(usize),
    ) -> [[__m512i; 2]; N] {
        // SAFETY: the caller promises the instructions and `N` records.
        unsafe {
            let mut dots = [[_mm512_setzero_si512(); 2]; N];
            if OFFSET > 0 {
                for (t, dots) in dots.iter_mut().enumerate() {
                    let sums = sums_of::<Vnni>(x.add(t));
                    dots[0] = _mm512_madd_epi16(sums, _mm512_set1_epi32(-OFFSET & 0xffff));
                    dots[1] = _mm512_madd_epi16(sums, _mm512_set1_epi32(-OFFSET << 16));
                }
            }
            for k in 0..4 {
                for (t, [first, second]) in dots.iter_mut().enumerate() {
                    *first = add_four(*first, w[k], x.add(t), k);
                    *second = add_four(*second, w[4 + k], x.add(t), 4 + k);
                }
                for t in k * N / 4..(k + 1) * N / 4 {
                    meanwhile(t);
                }
            }
            dots
        }
    }

    /// The sums of 16 products less the offset (17 bits) and their products with a scale (7 bits and a sign) are exact in f32, so the one rounding is that of the whole.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn joined(dots: [__m512i; 2], factors: [__m512i; 3]) -> __m512 {
        let [first, second] = dots.map(|dots| _mm512_cvtepi32_ps(dots));
        let [a, b, _] = factors.map(|factors| _mm512_castsi512_ps(factors));
        _mm512_fmadd_ps(b, second, _mm512_mul_ps(a, first))
    }

    /// Side by side, because a sum takes five cycles and two can be begun in each.
    #[inline(always)]
    unsafe fn dots<const BITS: u32, const OFFSET: i32, const N: usize>(
        w: &[__m512i; 8],
        x: *const Record,
        mut meanwhile: impl FnMut(usize),
    ) -> [__m512i; N] {
        // SAFETY: the caller promises the instructions and `N` records.
        unsafe {
            let mut dots = [_mm512_setzero_si512(); N];
            if OFFSET > 0 {
                for (t, dot) in dots.iter_mut().enumerate() {
                    let negative_sum = _mm512_set1_epi32((*x.add(t)).negative_sum);
                    *dot = match OFFSET {
                        8 => _mm512_slli_epi32::<3>(negative_sum),
                        16 => _mm512_slli_epi32::<4>(negative_sum),
                        _ => _mm512_slli_epi32::<7>(negative_sum),
                    };
                }
            }
            for (k, w) in w.iter().enumerate() {
                for (t, dot) in dots.iter_mut().enumerate() {
                    *dot = add_four(*dot, *w, x.add(t), k);
                }
                for t in k * N / 8..(k + 1) * N / 8 {
                    meanwhile(t);
                }
            }
            dots
        }
    }
}

/// Returns `sum` and 4 products of each lane: of unsigned codes, and group `k` of 4 codes of a token.
///
/// # Safety
/// A record lies at `x`; `k` is below 8.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add_four(sum: __m512i, w: __m512i, x: *const Record, k: usize) -> __m512i {
    // SAFETY: the caller promises a record, which has 32 codes.
    let four = unsafe { (&raw const (*x).codes).cast::<i32>().add(k).read_unaligned() };
    _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(four))
}
