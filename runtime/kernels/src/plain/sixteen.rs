//! Sixteen f32 numbers in the registers of an instruction set, and the ways through a product that are compiled for each.
#![expect(
    unsafe_code,
    reason = "vector loads, and calls of functions whose instructions were detected"
)]

use std::ops::Range;

use half::f16;
use witness_formats::gguf::GgmlType;
use witness_instructions::{Isa, Level};

use super::many::Turned;
use super::{few, many};
use crate::output::Output;

/// Sixteen numbers.
///
/// # Safety
/// All functions need a processor that has the instructions; those that take a pointer need 16 numbers behind it, at any address.
pub(super) trait Sixteen {
    type V: Copy;
    unsafe fn splat(number: f32) -> Self::V;
    unsafe fn load(at: *const f32) -> Self::V;
    unsafe fn of_f16(at: *const [u8; 2]) -> Self::V;
    unsafe fn of_bf16(at: *const [u8; 2]) -> Self::V;
    unsafe fn store(v: Self::V, at: *mut f32);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// Returns `a b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Asks for the cache line at an address, which may be any.
    unsafe fn prefetch(at: *const u8);
}

/// A type of weights as a parameter.
pub(super) trait Number {
    const BYTES: usize;
    /// Widens 16 numbers.
    ///
    /// # Safety
    /// The processor has the instructions; 16 numbers lie at `at`.
    unsafe fn widen<S: Sixteen>(at: *const u8) -> S::V;
}

pub(super) struct F16;
pub(super) struct Bf16;
pub(super) struct F32;

impl Number for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn widen<S: Sixteen>(at: *const u8) -> S::V {
        // SAFETY: as promised by the caller.
        unsafe { S::of_f16(at.cast()) }
    }
}

impl Number for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn widen<S: Sixteen>(at: *const u8) -> S::V {
        // SAFETY: as promised by the caller.
        unsafe { S::of_bf16(at.cast()) }
    }
}

impl Number for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn widen<S: Sixteen>(at: *const u8) -> S::V {
        // SAFETY: as promised by the caller.
        unsafe { S::load(at.cast()) }
    }
}

/// The ways of a type through a product. Holding one proves that the processor has the instructions.
#[derive(Clone, Copy)]
pub(super) struct Way {
    few: unsafe fn(&[u8], usize, &[f32], Range<usize>, Output<'_>),
    many: unsafe fn(&[u8], &Turned, Range<usize>, Output<'_>),
    widen: unsafe fn(&[u8], &mut [f32]),
    /// Tokens that are multiplied at a time, of many.
    panel: usize,
}

/// Makes the ways of an instruction set; of many tokens it takes so many rows and vectors of tokens at a time as fit into the registers.
macro_rules! ways {
    ($module:ident, $sixteen:ty, $rows:literal, $vectors:literal, $(#[$features:meta])*) => {
        mod $module {
            use std::ops::Range;

            use witness_formats::gguf::GgmlType;

            use super::{Bf16, F16, F32, Number, Output, Turned, Way, few, many};

            /// Returns the way of a type.
            ///
            /// # Safety
            /// The processor has the instructions.
            pub(super) unsafe fn way(kind: GgmlType) -> Way {
                let panel = 16 * $vectors;
                match kind {
                    GgmlType::F16 => Way { few: few::<F16>, many: many::<F16>, widen: widen::<F16>, panel },
                    GgmlType::BF16 => Way { few: few::<Bf16>, many: many::<Bf16>, widen: widen::<Bf16>, panel },
                    _ => Way { few: few::<F32>, many: many::<F32>, widen: widen::<F32>, panel },
                }
            }

            /// # Safety
            /// The processor has the instructions.
            $(#[$features])*
            unsafe fn few<K: Number>(w: &[u8], n_columns: usize, x: &[f32], rows: Range<usize>, y: Output<'_>) {
                // SAFETY: as promised by the caller.
                unsafe { few::multiply::<$sixteen, K>(w, n_columns, x, rows, y) }
            }

            /// # Safety
            /// The processor has the instructions.
            $(#[$features])*
            unsafe fn many<K: Number>(w: &[u8], x: &Turned, rows: Range<usize>, y: Output<'_>) {
                // SAFETY: as promised by the caller.
                unsafe { many::multiply::<$sixteen, K, $rows, $vectors>(w, x, rows, y) }
            }

            /// # Safety
            /// The processor has the instructions.
            $(#[$features])*
            unsafe fn widen<K: Number>(w: &[u8], out: &mut [f32]) {
                // SAFETY: as promised by the caller.
                unsafe { super::widen::<$sixteen, K>(w, out) }
            }
        }
    };
}
ways!(plain, super::Array, 4, 1,);
#[cfg(target_arch = "x86_64")]
ways!(avx2, super::Avx2, 4, 1, #[target_feature(enable = "avx2,fma,f16c")]);
#[cfg(target_arch = "x86_64")]
ways!(avx512, super::Avx512, 8, 3, #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]);

impl Way {
    pub(super) fn new(kind: GgmlType, isa: Isa) -> Way {
        // SAFETY: holding the `Isa` proves the instructions.
        unsafe {
            match isa.level() {
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => avx2::way(kind),
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 | Level::Amx => avx512::way(kind),
                #[cfg(not(target_arch = "x86_64"))]
                Level::Avx2 | Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 | Level::Amx => plain::way(kind),
                Level::Scalar | Level::DotProd => plain::way(kind),
            }
        }
    }

    /// Returns the tokens of a panel.
    pub(super) fn panel(self) -> usize {
        self.panel
    }

    /// Multiplies some rows with tokens as they lie, `[n_tokens, n_columns]`.
    pub(super) fn few(self, w: &[u8], n_columns: usize, x: &[f32], rows: Range<usize>, y: Output<'_>) {
        // SAFETY: `new` made this for an `Isa`.
        unsafe { (self.few)(w, n_columns, x, rows, y) }
    }

    /// Multiplies some rows with tokens that were turned round in panels of [`Way::panel`].
    pub(super) fn many(self, w: &[u8], x: &Turned, rows: Range<usize>, y: Output<'_>) {
        // SAFETY: `new` made this for an `Isa`.
        unsafe { (self.many)(w, x, rows, y) }
    }

    /// Widens as many numbers as there is room for.
    pub(super) fn widen(self, w: &[u8], out: &mut [f32]) {
        // SAFETY: `new` made this for an `Isa`.
        unsafe { (self.widen)(w, out) }
    }
}

/// Returns numbers as they lie in memory, which on machines whose lowest byte is first is as they lie in a file.
pub(super) fn stored(numbers: &[f16]) -> &[u8] {
    const { assert!(cfg!(target_endian = "little"), "files are read as they lie") };
    // SAFETY: each number is two bytes, of any value; bytes may lie anywhere.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

/// Widens all numbers of `w`, 16 at a time.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn widen<S: Sixteen, K: Number>(w: &[u8], out: &mut [f32]) {
    assert_eq!(w.len(), out.len() * K::BYTES, "room for the numbers");
    let (whole, rest) = out.as_chunks_mut::<16>();
    let (w, w_rest) = w.split_at(whole.len() * 16 * K::BYTES);
    for (w, out) in w.chunks_exact(16 * K::BYTES).zip(whole) {
        // SAFETY: the processor has the instructions, says the caller; both chunks are 16 numbers.
        unsafe { S::store(K::widen::<S>(w.as_ptr()), out.as_mut_ptr()) };
    }
    let (mut padded, mut widened) = ([0; 64], [0.0; 16]);
    padded[..w_rest.len()].copy_from_slice(w_rest);
    // SAFETY: as above; 64 bytes are 16 numbers or more.
    unsafe { S::store(K::widen::<S>(padded.as_ptr()), widened.as_mut_ptr()) };
    rest.copy_from_slice(&widened[..rest.len()]);
}

/// The specification, which compilers make registers of where they can.
struct Array;

/// Returns the number that 16 bits stand for. Without branches, so that it can be done for many at once.
#[inline(always)]
pub(super) fn widened(half: u16) -> f32 {
    let (sign, rest) = (u32::from(half & 0x8000) << 16, u32::from(half & 0x7fff) << 13);
    // The exponent counts from 15 in 16 bits and from 127 in 32; the product is exact also where the number is subnormal.
    let number = f32::from_bits(rest) * f32::from_bits((127 + 127 - 15) << 23);
    let bits = match rest >= 0x7c00 << 13 {
        true => rest | 0x7f80_0000,
        false => number.to_bits(),
    };
    f32::from_bits(sign | bits)
}

impl Sixteen for Array {
    type V = [f32; 16];

    #[inline(always)]
    unsafe fn splat(number: f32) -> [f32; 16] {
        [number; 16]
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> [f32; 16] {
        // SAFETY: the caller promises the numbers.
        let bytes = unsafe { at.cast::<[[u8; 4]; 16]>().read_unaligned() };
        bytes.map(f32::from_le_bytes)
    }

    #[inline(always)]
    unsafe fn of_f16(at: *const [u8; 2]) -> [f32; 16] {
        // SAFETY: the caller promises the numbers.
        let bytes = unsafe { at.cast::<[[u8; 2]; 16]>().read_unaligned() };
        bytes.map(|half| widened(u16::from_le_bytes(half)))
    }

    #[inline(always)]
    unsafe fn of_bf16(at: *const [u8; 2]) -> [f32; 16] {
        // SAFETY: the caller promises the numbers.
        let bytes = unsafe { at.cast::<[[u8; 2]; 16]>().read_unaligned() };
        bytes.map(|half| f32::from_bits(u32::from(u16::from_le_bytes(half)) << 16))
    }

    #[inline(always)]
    unsafe fn store(v: [f32; 16], at: *mut f32) {
        // SAFETY: the caller promises the room.
        unsafe { at.cast::<[f32; 16]>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn add(mut a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        for lane in 0..16 {
            a[lane] += b[lane];
        }
        a
    }

    #[inline(always)]
    unsafe fn fma(a: [f32; 16], b: [f32; 16], mut c: [f32; 16]) -> [f32; 16] {
        for lane in 0..16 {
            c[lane] = a[lane].mul_add(b[lane], c[lane]);
        }
        c
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
}

#[cfg(target_arch = "x86_64")]
use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Sixteen;

    /// Two registers of 8.
    pub(super) struct Avx2;
    /// One register of 16.
    pub(super) struct Avx512;

    impl Sixteen for Avx2 {
        type V = [__m256; 2];

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn splat(number: f32) -> [__m256; 2] {
            [_mm256_set1_ps(number); 2]
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn load(at: *const f32) -> [__m256; 2] {
            // SAFETY: the caller promises the numbers.
            unsafe { [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))] }
        }

        #[inline]
        #[target_feature(enable = "avx2,f16c")]
        unsafe fn of_f16(at: *const [u8; 2]) -> [__m256; 2] {
            // SAFETY: the caller promises the numbers.
            let halves = unsafe { [_mm_loadu_si128(at.cast()), _mm_loadu_si128(at.add(8).cast())] };
            [_mm256_cvtph_ps(halves[0]), _mm256_cvtph_ps(halves[1])]
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn of_bf16(at: *const [u8; 2]) -> [__m256; 2] {
            // SAFETY: the caller promises the numbers.
            let halves = unsafe { [_mm_loadu_si128(at.cast()), _mm_loadu_si128(at.add(8).cast())] };
            let [low, high] = [_mm256_cvtepu16_epi32(halves[0]), _mm256_cvtepu16_epi32(halves[1])];
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ]
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn store(v: [__m256; 2], at: *mut f32) {
            // SAFETY: the caller promises the room.
            unsafe {
                _mm256_storeu_ps(at, v[0]);
                _mm256_storeu_ps(at.add(8), v[1]);
            }
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn add(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
        }

        #[inline]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn fma(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
            [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn prefetch(at: *const u8) {
            _mm_prefetch::<_MM_HINT_T0>(at.cast());
        }
    }

    impl Sixteen for Avx512 {
        type V = __m512;

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn splat(number: f32) -> __m512 {
            _mm512_set1_ps(number)
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn load(at: *const f32) -> __m512 {
            // SAFETY: the caller promises the numbers.
            unsafe { _mm512_loadu_ps(at) }
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn of_f16(at: *const [u8; 2]) -> __m512 {
            // SAFETY: the caller promises the numbers.
            _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(at.cast()) })
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn of_bf16(at: *const [u8; 2]) -> __m512 {
            // SAFETY: the caller promises the numbers.
            let halves = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(at.cast()) });
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn store(v: __m512, at: *mut f32) {
            // SAFETY: the caller promises the room.
            unsafe { _mm512_storeu_ps(at, v) }
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            _mm512_add_ps(a, b)
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            _mm512_fmadd_ps(a, b, c)
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn prefetch(at: *const u8) {
            _mm_prefetch::<_MM_HINT_T0>(at.cast());
        }
    }
}
