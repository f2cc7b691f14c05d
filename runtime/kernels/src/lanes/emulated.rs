//! Registers of 16 rows as arrays, for tests: each operation is what AVX-512 with VNNI does, so that its way through the kernel is tested where the processor has none.

use witness_formats::gguf::GgmlType;

use super::{Lanes, Run, Type, kernels_of, multiply, types};
use crate::activations::Record;
use crate::format::TILE_ROWS;

struct Emulated;

#[cfg(target_arch = "aarch64")]
kernels_of!(Emulated, "neon");
#[cfg(target_arch = "x86_64")]
kernels_of!(Emulated, "sse2");

type Bytes = [u8; 64];
type Ints = [i32; 16];
type Floats = [f32; 16];

/// Works on 16-bit halves of the register, as shifts of bytes do: what crosses into a neighbour is masked off.
fn shifted(bytes: Bytes, shift: impl Fn(u16) -> u16) -> Bytes {
    let mut out = bytes;
    for pair in out.as_chunks_mut::<2>().0 {
        *pair = shift(u16::from_le_bytes(*pair)).to_le_bytes();
    }
    out
}

/// Returns `start` and four products of an unsigned and a signed byte in each lane.
fn dots(start: Ints, w: Bytes, x: [i8; 4]) -> Ints {
    std::array::from_fn(|row| {
        let products = w[4 * row..][..4]
            .iter()
            .zip(x)
            .map(|(w, x)| i32::from(*w) * i32::from(x));
        start[row] + products.sum::<i32>()
    })
}

fn halves_of(lane: i32) -> [i32; 2] {
    [i32::from(lane as i16), lane >> 16]
}

fn both<T: Copy, U: Copy + Default>(a: [T; 16], b: [T; 16], f: impl Fn(T, T) -> U) -> [U; 16] {
    std::array::from_fn(|lane| f(a[lane], b[lane]))
}

impl Lanes for Emulated {
    const ROWS: usize = 16;
    const TOGETHER: usize = 8;
    type Bytes = Bytes;
    type Ints = Ints;
    type Floats = Floats;

    unsafe fn prefetch(_: *const u8) {}

    unsafe fn prefetch_far(_: *const u8) {}

    unsafe fn bytes(at: *const u8) -> Bytes {
        // SAFETY: the caller promises 64 bytes.
        unsafe { at.cast::<Bytes>().read() }
    }

    unsafe fn field<const N: u32>(bytes: Bytes, mask: u8) -> Bytes {
        shifted(bytes, |pair| pair >> N).map(|byte| byte & mask)
    }

    unsafe fn raised<const N: u32>(bytes: Bytes, mask: u8) -> Bytes {
        shifted(bytes.map(|byte| byte & mask), |pair| pair << N)
    }

    unsafe fn or(a: Bytes, b: Bytes) -> Bytes {
        std::array::from_fn(|at| a[at] | b[at])
    }

    unsafe fn lookup(table: &[i8; 16], bytes: Bytes) -> Bytes {
        bytes.map(|byte| table[usize::from(byte)] as u8)
    }

    unsafe fn signed(bytes: Bytes) -> Bytes {
        bytes.map(|byte| byte ^ 0x80)
    }

    unsafe fn halves(at: *const u8) -> Floats {
        // SAFETY: the caller promises 32 bytes.
        let halves = unsafe { at.cast::<[[u8; 2]; 16]>().read() };
        halves.map(|half| half::f16::from_le_bytes(half).to_f32())
    }

    unsafe fn small(at: *const u8) -> Ints {
        // SAFETY: the caller promises 16 bytes.
        unsafe { at.cast::<[u8; 16]>().read() }.map(i32::from)
    }

    unsafe fn small_signed(at: *const u8) -> Ints {
        // SAFETY: the caller promises 16 bytes.
        unsafe { at.cast::<[i8; 16]>().read() }.map(i32::from)
    }

    unsafe fn bits(ints: Ints, n: u32, mask: i32) -> Ints {
        ints.map(|int| int >> n & mask)
    }

    unsafe fn shifted<const N: u32>(ints: Ints) -> Ints {
        ints.map(|int| int << N)
    }

    unsafe fn or_ints(a: Ints, b: Ints) -> Ints {
        both(a, b, |a, b| a | b)
    }

    unsafe fn add(a: Ints, b: Ints) -> Ints {
        both(a, b, |a, b| a + b)
    }

    unsafe fn subtract(a: Ints, b: Ints) -> Ints {
        both(a, b, |a, b| a - b)
    }

    unsafe fn int(value: i32) -> Ints {
        [value; 16]
    }

    unsafe fn pair(low: Ints, high: Ints) -> Ints {
        both(low, high, |low, high| low & 0xffff | high << 16)
    }

    unsafe fn pair_dot(a: Ints, b: Ints) -> Ints {
        both(a, b, |a, b| {
            let (a, b) = (halves_of(a), halves_of(b));
            a[0] * b[0] + a[1] * b[1]
        })
    }

    unsafe fn to_floats(ints: Ints) -> Floats {
        ints.map(|int| int as f32)
    }

    unsafe fn float(value: f32) -> Floats {
        [value; 16]
    }

    unsafe fn multiply(a: Floats, b: Floats) -> Floats {
        both(a, b, |a, b| a * b)
    }

    unsafe fn fma(a: Floats, b: Floats, c: Floats) -> Floats {
        std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }

    unsafe fn fnma(a: Floats, b: Floats, c: Floats) -> Floats {
        std::array::from_fn(|lane| (-a[lane]).mul_add(b[lane], c[lane]))
    }

    unsafe fn load(at: *const f32) -> Floats {
        // SAFETY: the caller promises 16 numbers.
        unsafe { at.cast::<Floats>().read() }
    }

    unsafe fn store(floats: Floats, at: *mut f32) {
        // SAFETY: the caller promises room for 16 numbers.
        unsafe { at.cast::<Floats>().write(floats) }
    }

    unsafe fn dots<const BITS: u32, const OFFSET: i32, const N: usize>(
        w: &[Bytes; 8],
        x: *const Record,
        mut meanwhile: impl FnMut(usize),
    ) -> [Ints; N] {
        std::array::from_fn(|t| {
            meanwhile(t);
            // SAFETY: the caller promises `N` records.
            let x = unsafe { *x.add(t) };
            let (codes, _) = x.codes.as_chunks::<4>();
            let start = [x.negative_sum * OFFSET; 16];
            w.iter().zip(codes).fold(start, |sums, (w, x)| dots(sums, *w, *x))
        })
    }

    unsafe fn factors(scales: [Ints; 2]) -> [Ints; 3] {
        [scales[0], scales[1], [0; 16]]
    }

    unsafe fn dots_of_halves<const BITS: u32, const OFFSET: i32, const N: usize>(
        w: &[Bytes; 8],
        x: *const Record,
        _: [Ints; 3],
        mut meanwhile: impl FnMut(usize),
    ) -> [[Ints; 2]; N] {
        std::array::from_fn(|t| {
            meanwhile(t);
            // SAFETY: the caller promises `N` records.
            let x = unsafe { *x.add(t) };
            let (codes, _) = x.codes.as_chunks::<4>();
            [0, 1].map(|half| {
                let start = [-OFFSET * i32::from(x.sums[half]); 16];
                let pairs = w.iter().zip(codes).skip(4 * half).take(4);
                pairs.fold(start, |sums, (w, x)| dots(sums, *w, *x))
            })
        })
    }

    unsafe fn joined(dots: [Ints; 2], factors: [Ints; 3]) -> Floats {
        let products = [0, 1].map(|half| both(dots[half], factors[half], |dot, factor| (dot * factor) as f32));
        both(products[0], products[1], |a, b| a + b)
    }
}
