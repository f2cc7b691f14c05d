//! NEON with dot products of bytes: 4 rows a register, and one instruction for four signed products and their sum, whose second factor is taken from a quarter of a
//! register: one load serves 16 columns.
//!
//! Compiled for aarch64 alone. The bits are those of the specification by the same reasoning as on the other processors; the tests say so where they run.

use std::arch::aarch64::*;
use std::arch::asm;

use half::f16;
use witness_formats::gguf::GgmlType;

use super::{Lanes, OneByOne, Run, SIGNED, Type, kernels_of, multiply, one_by_one, types};
use crate::activations::Record;
use crate::format::TILE_ROWS;

struct DotProd;

kernels_of!(DotProd, "neon,dotprod");

impl Lanes for DotProd {
    const ROWS: usize = 4;
    const TOGETHER: usize = 1;
    type Bytes = uint8x16_t;
    type Ints = int32x4_t;
    type Floats = float32x4_t;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: a prefetch reads nothing, whatever the address. It has no stable intrinsic.
        unsafe { asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly)) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn prefetch_far(at: *const u8) {
        // SAFETY: as above.
        unsafe { asm!("prfm pldl2keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly)) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn bytes(at: *const u8) -> uint8x16_t {
        // SAFETY: the caller promises 16 bytes.
        unsafe { vld1q_u8(at) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn field<const N: u32>(bytes: uint8x16_t, mask: u8) -> uint8x16_t {
        vandq_u8(vshlq_u8(bytes, vdupq_n_s8(-(N as i8))), vdupq_n_u8(mask))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn raised<const N: u32>(bytes: uint8x16_t, mask: u8) -> uint8x16_t {
        vshlq_u8(vandq_u8(bytes, vdupq_n_u8(mask)), vdupq_n_s8(N as i8))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn or(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
        vorrq_u8(a, b)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn lookup(table: &[i8; 16], bytes: uint8x16_t) -> uint8x16_t {
        // SAFETY: the table has 16 bytes.
        let table = unsafe { vld1q_s8(table.as_ptr()) };
        vreinterpretq_u8_s8(vqtbl1q_s8(table, bytes))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn signed(bytes: uint8x16_t) -> uint8x16_t {
        bytes
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn halves(at: *const u8) -> float32x4_t {
        // SAFETY: the caller promises 8 bytes.
        let halves = unsafe { at.cast::<[[u8; 2]; 4]>().read() };
        let floats = halves.map(|half| f16::from_le_bytes(half).to_f32());
        // SAFETY: the array has four numbers.
        unsafe { vld1q_f32(floats.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn small(at: *const u8) -> int32x4_t {
        // SAFETY: the caller promises 4 bytes.
        let bytes = unsafe { at.cast::<[u8; 4]>().read() }.map(i32::from);
        // SAFETY: the array has four numbers.
        unsafe { vld1q_s32(bytes.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn small_signed(at: *const u8) -> int32x4_t {
        // SAFETY: the caller promises 4 bytes.
        let bytes = unsafe { at.cast::<[i8; 4]>().read() }.map(i32::from);
        // SAFETY: the array has four numbers.
        unsafe { vld1q_s32(bytes.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn bits(ints: int32x4_t, n: u32, mask: i32) -> int32x4_t {
        vandq_s32(vshlq_s32(ints, vdupq_n_s32(-(n as i32))), vdupq_n_s32(mask))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn shifted<const N: u32>(ints: int32x4_t) -> int32x4_t {
        vshlq_s32(ints, vdupq_n_s32(N as i32))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn or_ints(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        vorrq_s32(a, b)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        vaddq_s32(a, b)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn subtract(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        vsubq_s32(a, b)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn int(value: i32) -> int32x4_t {
        vdupq_n_s32(value)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn pair(low: int32x4_t, high: int32x4_t) -> int32x4_t {
        vorrq_s32(vandq_s32(low, vdupq_n_s32(0xffff)), vshlq_n_s32::<16>(high))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn pair_dot(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
        vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn to_floats(ints: int32x4_t) -> float32x4_t {
        vcvtq_f32_s32(ints)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn float(value: f32) -> float32x4_t {
        vdupq_n_f32(value)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn multiply(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vmulq_f32(a, b)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        vfmaq_f32(c, a, b)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn fnma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        vfmsq_f32(c, a, b)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(at: *const f32) -> float32x4_t {
        // SAFETY: the caller promises 4 numbers.
        unsafe { vld1q_f32(at) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store(floats: float32x4_t, at: *mut f32) {
        // SAFETY: the caller promises room for 4 numbers.
        unsafe { vst1q_f32(at, floats) }
    }

    one_by_one!();
}

impl OneByOne for DotProd {
    /// Codes below 128 are the same signed and unsigned, and signed ones are not moved.
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn dot<const BITS: u32, const OFFSET: i32>(w: &[uint8x16_t; 8], x: *const Record) -> int32x4_t {
        // SAFETY: the caller promises a record, which has 32 codes.
        unsafe {
            let moved_by = if OFFSET == SIGNED { 0 } else { OFFSET };
            let start = vdupq_n_s32((*x).negative_sum * moved_by);
            let x = (&raw const (*x).codes).cast::<i8>();
            sixteen(w, 4, vld1q_s8(x.add(16)), sixteen(w, 0, vld1q_s8(x), start))
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn factor(scales: int32x4_t) -> int32x4_t {
        scales
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn dot_scaled<const BITS: u32, const HALF: usize>(
        w: &[uint8x16_t; 8],
        x: *const i8,
        factor: int32x4_t,
    ) -> int32x4_t {
        // SAFETY: the caller promises 16 bytes.
        let x = unsafe { vld1q_s8(x) };
        vmulq_s32(sixteen(w, 4 * HALF, x, vdupq_n_s32(0)), factor)
    }
}

/// Returns `start` and 16 products: registers `first` on with the bytes of `x`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sixteen(w: &[uint8x16_t; 8], first: usize, x: int8x16_t, start: int32x4_t) -> int32x4_t {
    let sum = quarter::<0>(start, w[first], x);
    let sum = quarter::<1>(sum, w[first + 1], x);
    let sum = quarter::<2>(sum, w[first + 2], x);
    quarter::<3>(sum, w[first + 3], x)
}

/// Returns `start` and four products a lane, with the four bytes of quarter `LANE` of `x`. Spelled out, since the intrinsic is not in stable Rust yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn quarter<const LANE: usize>(start: int32x4_t, w: uint8x16_t, x: int8x16_t) -> int32x4_t {
    let mut sum = start;
    // SAFETY: one instruction over registers, which the processor has where this feature is enabled.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
