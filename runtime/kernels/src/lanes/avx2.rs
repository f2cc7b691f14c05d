//! AVX2: 8 rows a register. Four products of bytes and their sum take two instructions, of which the first gives sums of two in 16 bits: codes of few bits are
//! summed there as long as they fit, which spares the second instruction most of the time.

use std::arch::x86_64::*;

use witness_formats::gguf::GgmlType;

use super::{Lanes, OneByOne, Run, SIGNED, Type, kernels_of, multiply, one_by_one, types};
use crate::activations::Record;
use crate::format::TILE_ROWS;

struct Avx2;

kernels_of!(Avx2, "avx2,fma,f16c");

/// Returns 4 bytes in every lane.
///
/// # Safety
/// Four bytes lie at `x + 4 k`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn four(x: *const i8, k: usize) -> __m256i {
    // SAFETY: the caller promises the bytes.
    _mm256_set1_epi32(unsafe { x.cast::<i32>().add(k).read_unaligned() })
}

impl Lanes for Avx2 {
    const ROWS: usize = 8;
    const TOGETHER: usize = 1;
    type Bytes = __m256i;
    type Ints = __m256i;
    type Floats = __m256;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn prefetch(at: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn prefetch_far(at: *const u8) {
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn bytes(at: *const u8) -> __m256i {
        // SAFETY: the caller promises 32 bytes.
        unsafe { _mm256_loadu_si256(at.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn field<const N: u32>(bytes: __m256i, mask: u8) -> __m256i {
        let shifted = _mm256_srl_epi16(bytes, _mm_cvtsi32_si128(N as i32));
        _mm256_and_si256(shifted, _mm256_set1_epi8(mask as i8))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn raised<const N: u32>(bytes: __m256i, mask: u8) -> __m256i {
        let kept = _mm256_and_si256(bytes, _mm256_set1_epi8(mask as i8));
        _mm256_sll_epi16(kept, _mm_cvtsi32_si128(N as i32))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        _mm256_or_si256(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn lookup(table: &[i8; 16], bytes: __m256i) -> __m256i {
        // SAFETY: the table has 16 bytes.
        let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
        _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), bytes)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn signed(bytes: __m256i) -> __m256i {
        bytes
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn halves(at: *const u8) -> __m256 {
        // SAFETY: the caller promises 16 bytes.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(at.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn small(at: *const u8) -> __m256i {
        // SAFETY: the caller promises 8 bytes.
        _mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(at.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn small_signed(at: *const u8) -> __m256i {
        // SAFETY: the caller promises 8 bytes.
        _mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(at.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn bits(ints: __m256i, n: u32, mask: i32) -> __m256i {
        let shifted = _mm256_srl_epi32(ints, _mm_cvtsi32_si128(n as i32));
        _mm256_and_si256(shifted, _mm256_set1_epi32(mask))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn shifted<const N: u32>(ints: __m256i) -> __m256i {
        _mm256_sll_epi32(ints, _mm_cvtsi32_si128(N as i32))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn or_ints(a: __m256i, b: __m256i) -> __m256i {
        _mm256_or_si256(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add(a: __m256i, b: __m256i) -> __m256i {
        _mm256_add_epi32(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn subtract(a: __m256i, b: __m256i) -> __m256i {
        _mm256_sub_epi32(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn int(value: i32) -> __m256i {
        _mm256_set1_epi32(value)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn pair(low: __m256i, high: __m256i) -> __m256i {
        _mm256_blend_epi16::<0b1010_1010>(low, _mm256_slli_epi32::<16>(high))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn pair_dot(a: __m256i, b: __m256i) -> __m256i {
        _mm256_madd_epi16(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn to_floats(ints: __m256i) -> __m256 {
        _mm256_cvtepi32_ps(ints)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn float(value: f32) -> __m256 {
        _mm256_set1_ps(value)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn multiply(a: __m256, b: __m256) -> __m256 {
        _mm256_mul_ps(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        _mm256_fmadd_ps(a, b, c)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn fnma(a: __m256, b: __m256, c: __m256) -> __m256 {
        _mm256_fnmadd_ps(a, b, c)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(at: *const f32) -> __m256 {
        // SAFETY: the caller promises 8 numbers.
        unsafe { _mm256_loadu_ps(at) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn store(floats: __m256, at: *mut f32) {
        // SAFETY: the caller promises room for 8 numbers.
        unsafe { _mm256_storeu_ps(at, floats) }
    }

    one_by_one!();
}

impl OneByOne for Avx2 {
    /// Two products of 15 (4 bits) or 31 (5 bits) times 127 and another: eight such pairs of 4 bits (30,480) and four of 5 bits (31,496) fit into 16 bits.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn dot<const BITS: u32, const OFFSET: i32>(w: &[__m256i; 8], x: *const Record) -> __m256i {
        if OFFSET == SIGNED {
            // SAFETY: as promised by the caller.
            return unsafe { dot_signed(w, x) };
        }
        // SAFETY: the caller promises a record, which has 32 codes.
        unsafe {
            let negative_sum = _mm256_set1_epi32((*x).negative_sum);
            let start = match OFFSET {
                8 => _mm256_slli_epi32::<3>(negative_sum),
                16 => _mm256_slli_epi32::<4>(negative_sum),
                _ => _mm256_setzero_si256(),
            };
            let x = (&raw const (*x).codes).cast::<i8>();
            let a = _mm256_maddubs_epi16(w[0], four(x, 0));
            let b = _mm256_maddubs_epi16(w[4], four(x, 4));
            let a = _mm256_add_epi16(a, _mm256_maddubs_epi16(w[1], four(x, 1)));
            let b = _mm256_add_epi16(b, _mm256_maddubs_epi16(w[5], four(x, 5)));
            let a = _mm256_add_epi16(a, _mm256_maddubs_epi16(w[2], four(x, 2)));
            let b = _mm256_add_epi16(b, _mm256_maddubs_epi16(w[6], four(x, 6)));
            let a = _mm256_add_epi16(a, _mm256_maddubs_epi16(w[3], four(x, 3)));
            let b = _mm256_add_epi16(b, _mm256_maddubs_epi16(w[7], four(x, 7)));
            let ones = _mm256_set1_epi16(1);
            if BITS <= 4 {
                return _mm256_add_epi32(start, _mm256_madd_epi16(_mm256_add_epi16(a, b), ones));
            }
            let a = _mm256_add_epi32(start, _mm256_madd_epi16(a, ones));
            _mm256_add_epi32(a, _mm256_madd_epi16(b, ones))
        }
    }

    /// The scale twice in each lane: the second instruction of the dot product multiplies with it.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn factor(scales: __m256i) -> __m256i {
        _mm256_blend_epi16::<0b1010_1010>(scales, _mm256_slli_epi32::<16>(scales))
    }

    /// Two products of 63 times 127 and another (6 bits) fit into 16 bits, four (32,004 + 32,004) do not; of 3 bits all eight do.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn dot_scaled<const BITS: u32, const HALF: usize>(
        w: &[__m256i; 8],
        x: *const i8,
        factor: __m256i,
    ) -> __m256i {
        // SAFETY: the caller promises 16 bytes.
        unsafe {
            let a = _mm256_maddubs_epi16(w[4 * HALF], four(x, 0));
            let b = _mm256_maddubs_epi16(w[4 * HALF + 2], four(x, 2));
            let a = _mm256_add_epi16(a, _mm256_maddubs_epi16(w[4 * HALF + 1], four(x, 1)));
            let b = _mm256_add_epi16(b, _mm256_maddubs_epi16(w[4 * HALF + 3], four(x, 3)));
            if BITS <= 5 {
                return _mm256_madd_epi16(_mm256_add_epi16(a, b), factor);
            }
            _mm256_add_epi32(_mm256_madd_epi16(a, factor), _mm256_madd_epi16(b, factor))
        }
    }
}

/// Returns the products of a block's signed codes and a token. The first factor must be unsigned, so signs move to the second: `|w| * (x with the sign of w)`. Two products of at most 128 * 127 fit into 16 bits, four
/// do not.
///
/// # Safety
/// A record lies at `x`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dot_signed(w: &[__m256i; 8], x: *const Record) -> __m256i {
    // SAFETY: the caller promises a record, which has 32 codes.
    let x = unsafe { (&raw const (*x).codes).cast::<i8>() };
    let ones = _mm256_set1_epi16(1);
    let mut sums = [_mm256_setzero_si256(); 2];
    for k in 0..8 {
        // SAFETY: the caller promises 32 bytes.
        let x = unsafe { four(x, k) };
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w[k]), _mm256_sign_epi8(x, w[k]));
        sums[k % 2] = _mm256_add_epi32(sums[k % 2], _mm256_madd_epi16(pairs, ones));
    }
    _mm256_add_epi32(sums[0], sums[1])
}
