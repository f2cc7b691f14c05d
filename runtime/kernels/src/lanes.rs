//! One kernel for all processors: a tile of 16 rows times a group of tokens, written over [`Lanes`], the registers of an instruction set.
//!
//! ```text
//! for each superblock: load scales
//!   for each block of 32 columns, for each part of the 16 rows that fills a register:
//!     unpack 8 registers of codes (4 columns x rows each)         once for the whole group of tokens
//!     for some tokens at a time: 8 dot products of 4 with each token's codes, broadcast -> integer sums
//!       meanwhile the sums of the tokens before are scaled and added
//! ```
//! Every lane of every processor does what [`crate::scalar`] says, in its order, so the bits are equal.
//!
//! Cost of a block of 16 x 32 weights and one token: 8 dot products (512 bits; twice as many halves with AVX2, of two or three instructions each) and 3 to 4
//! operations in f32. A processor with a tile unit makes the integer sums of 32 tokens and more there instead ([`amx`]).
#![expect(
    unsafe_code,
    reason = "vector loads, and calls of functions whose instructions were detected"
)]

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(not(target_arch = "x86_64"))]
#[path = "lanes/untiled.rs"]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod dotprod;
#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod emulated;
mod unpack;
#[cfg(target_arch = "x86_64")]
mod vnni;

use std::ops::Range;

use witness_formats::gguf::GgmlType;
use witness_instructions::{Isa, Level};

use crate::activations::{Record, TOKENS_MAX};
use crate::format::{self, BLOCK, Codes, Format, Scales, TILE_ROWS, VECTOR};
use crate::scalar;
use unpack::{BlockScales, by_sixteen, halves_of_head, scales, unpack};

/// How many bytes ahead of the codes in use a product asks for those that follow: nothing where it is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// Into the second cache.
    pub(crate) far: usize,
    /// Into the first.
    pub(crate) near: usize,
}

impl Ahead {
    pub(crate) const NOTHING: Ahead = Ahead { far: 0, near: 0 };
    /// For a product that goes through weights once: what memory delivers while a line is on its way, and further than the processor looks by itself across pages. The
    /// first cache has few places for lines that are on their way (16 on Golden Cove), too few for what memory could deliver, so it gets them from the second one.
    /// Emerald Rapids, two threads, Q4_K: 16 to 18 GB/s without, 23 with the first cache alone (6 KiB), 25 with the second alone, 27 to 28 with both, of 28; 8 to 24 KiB and
    /// 2 to 4 KiB are much the same.
    pub(crate) const STREAM: Ahead = Ahead {
        far: 12_288,
        near: 2_048,
    };
}

/// Multiplies so many blocks of a tile of rows, whose heads and codes are given, with tokens and adds that to their sums: a group, or [`WIDE`] in groups whose records
/// lie so far apart.
type Run = unsafe fn(&[u8], &[u8], usize, Ahead, (&[Record], usize), &mut [[f32; TILE_ROWS]]);

/// Tokens that a kernel takes at once where there are so many: with 16, to unpack codes and scales takes a tenth of the time (Q4_K with VNNI), with these a fortieth.
pub(crate) const WIDE: usize = 4 * TOKENS_MAX;

/// A kernel that this processor can run.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    format: Format,
    /// Nothing for the specification.
    run: Option<Run>,
    /// Another way for whole groups of 16 tokens.
    tiles: Option<amx::Tiles>,
}

impl Kernel {
    /// Chooses the kernel of a type for a set of instructions.
    pub(crate) fn new(kind: GgmlType, format: Format, isa: Isa) -> Kernel {
        let run = match isa.level() {
            Level::Scalar => None,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 => avx2::kernel(kind),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni | Level::Avx512Bf16 | Level::Amx => vnni::kernel(kind),
            #[cfg(target_arch = "aarch64")]
            Level::DotProd => dotprod::kernel(kind),
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 | Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 | Level::Amx => None,
            #[cfg(not(target_arch = "aarch64"))]
            Level::DotProd => None,
        };
        Kernel {
            format,
            run,
            // SAFETY: holding the `Isa` proves the unit and the permission.
            tiles: (isa.level() == Level::Amx)
                .then(|| unsafe { amx::tiles(kind) })
                .flatten(),
        }
    }

    /// Returns the kernel whose registers are arrays.
    #[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub(crate) fn emulated(kind: GgmlType, format: Format) -> Option<Kernel> {
        Some(Kernel {
            format,
            run: Some(emulated::kernel(kind)?),
            tiles: None,
        })
    }

    /// Returns the way of whole groups of 16 tokens, where there is another one.
    pub(crate) fn tiles(self) -> Option<amx::Tiles> {
        self.tiles
    }

    /// Adds the products with some of a tile's `n_blocks` blocks to `sums[token][row]`; `x` holds the records of a group for these blocks, by block and token, or those of
    /// [`WIDE`] tokens, from the first of the first group to the last of the last one. Asks for what lies `ahead` of the codes in use.
    ///
    /// # Panics
    /// If the lengths do not fit together.
    #[inline]
    pub(crate) fn run(
        self,
        tile: &[u8],
        n_blocks: usize,
        blocks: Range<usize>,
        ahead: Ahead,
        x: &[Record],
        sums: &mut [[f32; TILE_ROWS]],
    ) {
        let format = self.format;
        assert!(
            blocks.end <= n_blocks
                && [blocks.start, blocks.end]
                    .iter()
                    .all(|at| at.is_multiple_of(format.blocks)),
            "whole superblocks"
        );
        assert_eq!(tile.len(), format.tile_bytes(n_blocks), "a tile's bytes");
        let stride = n_blocks * TOKENS_MAX;
        let n_tokens = sums.len().min(TOKENS_MAX);
        let from_first = (sums.len() / n_tokens - 1) * stride;
        assert_eq!(
            x.len(),
            from_first + blocks.len() * n_tokens,
            "a record for each block and token"
        );
        let Some(run) = self.run else {
            for (x, sums) in x.chunks(stride).zip(sums.chunks_mut(n_tokens)) {
                scalar::tile(
                    format,
                    tile,
                    n_blocks,
                    blocks.clone(),
                    &x[..blocks.len() * n_tokens],
                    sums,
                );
            }
            return;
        };
        let (heads, codes) = tile.split_at(format.heads_bytes(n_blocks));
        let heads = &heads[blocks.start / format.blocks * format.head_bytes()..];
        let codes = &codes[blocks.start * format.code_bytes()..];
        // SAFETY: `new` chose the function for an `Isa`, which proves the instructions; the lengths were just checked.
        unsafe { run(heads, codes, blocks.len(), ahead, (x, stride), sums) }
    }
}

/// A type as a parameter of the kernel.
trait Type {
    const FORMAT: Format;
}

macro_rules! types {
    ($($name:ident)*) => {
        #[expect(non_camel_case_types, reason = "the names are ggml's own")]
        mod types {
            use super::{Format, Type, format};
            $(
                pub(super) struct $name;
                impl Type for $name {
                    const FORMAT: Format = format::$name;
                }
            )*
        }

        /// Makes the kernels of an instruction set: `kernel(kind)` over `Lanes` of `$lanes`, compiled for `$features`.
        macro_rules! kernels {
            ($lanes:ty, $features:literal) => {
                /// Returns the kernel of a type.
                pub(super) fn kernel(kind: GgmlType) -> Option<Run> {
                    Some(match kind {
                        $(GgmlType::$name => run::<types::$name>,)*
                        _ => return None,
                    })
                }

                /// # Safety
                /// The processor has the instructions; the lengths fit together ([`Kernel::run`](super::Kernel::run)).
                unsafe fn run<K: Type>(
                    heads: &[u8],
                    codes: &[u8],
                    n_blocks: usize,
                    ahead: $crate::lanes::Ahead,
                    (x, stride): (&[Record], usize),
                    sums: &mut [[f32; TILE_ROWS]],
                ) {
                    let (tile, x) = ([heads.as_ptr(), codes.as_ptr()], (x.as_ptr(), stride));
                    // SAFETY: what the caller promises is what the kernel asks for; each branch has as many tokens as it says.
                    unsafe {
                        match sums.len() {
                            1 => with::<K, 1>(tile, n_blocks, ahead, x, sums),
                            2 => with::<K, 2>(tile, n_blocks, ahead, x, sums),
                            4 => with::<K, 4>(tile, n_blocks, ahead, x, sums),
                            8 => with::<K, 8>(tile, n_blocks, ahead, x, sums),
                            16 => with::<K, 16>(tile, n_blocks, ahead, x, sums),
                            $crate::lanes::WIDE => with::<K, { $crate::lanes::WIDE }>(tile, n_blocks, ahead, x, sums),
                            other => unreachable!("{other} tokens are no group"),
                        }
                    }
                }

                /// # Safety
                /// As for [`multiply`].
                #[target_feature(enable = $features)]
                unsafe fn with<K: Type, const T: usize>(
                    tile: [*const u8; 2],
                    n_blocks: usize,
                    ahead: $crate::lanes::Ahead,
                    x: (*const Record, usize),
                    sums: &mut [[f32; TILE_ROWS]],
                ) {
                    // SAFETY: what the caller promises, and the instructions are enabled here.
                    unsafe { multiply::<$lanes, K, T>(tile, n_blocks, ahead, x, sums) }
                }
            };
        }
    };
}
types!(Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS);
use kernels as kernels_of;

/// Registers of an instruction set, and what the kernel does with them. A lane belongs to a row; it is 4 bytes, an i32 or an f32.
///
/// # Safety
/// All functions need a processor that has the instructions; those that take a pointer need as many bytes behind it as they say, at any address.
trait Lanes: Sized {
    /// Rows in a register; divides 16.
    const ROWS: usize;
    /// Registers that 16 rows take.
    const PARTS: usize = TILE_ROWS / Self::ROWS;
    /// Tokens whose sums are made side by side where there are so many, and half as many of types with a scale for each 16 columns: 1 or 8.
    const TOGETHER: usize;
    type Bytes: Copy;
    type Ints: Copy;
    type Floats: Copy;

    /// Asks for the cache line at an address, which may be any.
    unsafe fn prefetch(at: *const u8);
    /// As [`Lanes::prefetch`], no further than the second cache.
    unsafe fn prefetch_far(at: *const u8);
    /// Loads 4 bytes a row.
    unsafe fn bytes(at: *const u8) -> Self::Bytes;
    /// Returns `bytes >> N` with the bits of `mask` kept of each byte; `N` below 8.
    unsafe fn field<const N: u32>(bytes: Self::Bytes, mask: u8) -> Self::Bytes;
    /// Returns the bits of `mask`, shifted left by `N`, which must stay within the byte.
    unsafe fn raised<const N: u32>(bytes: Self::Bytes, mask: u8) -> Self::Bytes;
    unsafe fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Replaces bytes below 16 by entries of a table.
    unsafe fn lookup(table: &[i8; 16], bytes: Self::Bytes) -> Self::Bytes;
    /// Makes signed codes what [`Lanes::dots`] takes as [`SIGNED`].
    unsafe fn signed(bytes: Self::Bytes) -> Self::Bytes;

    /// Loads an f16 a row.
    unsafe fn halves(at: *const u8) -> Self::Floats;
    /// Loads an unsigned byte a row.
    unsafe fn small(at: *const u8) -> Self::Ints;
    /// Loads a signed byte a row.
    unsafe fn small_signed(at: *const u8) -> Self::Ints;
    /// Returns `(ints >> n) & mask` of numbers that are not negative.
    unsafe fn bits(ints: Self::Ints, n: u32, mask: i32) -> Self::Ints;
    unsafe fn shifted<const N: u32>(ints: Self::Ints) -> Self::Ints;
    unsafe fn or_ints(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    unsafe fn add(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    unsafe fn subtract(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    unsafe fn int(value: i32) -> Self::Ints;
    /// Returns two 16-bit numbers a lane: the first below.
    unsafe fn pair(low: Self::Ints, high: Self::Ints) -> Self::Ints;
    /// Returns the sum of the two products of 16-bit numbers of each lane.
    unsafe fn pair_dot(a: Self::Ints, b: Self::Ints) -> Self::Ints;

    unsafe fn to_floats(ints: Self::Ints) -> Self::Floats;
    unsafe fn float(value: f32) -> Self::Floats;
    unsafe fn multiply(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// Returns `a b + c`, rounded once.
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// Returns `-a b + c`, rounded once.
    unsafe fn fnma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// Loads a number a row.
    unsafe fn load(at: *const f32) -> Self::Floats;
    /// Writes a number a row.
    unsafe fn store(floats: Self::Floats, at: *mut f32);

    /// Returns the products of a block and each of some tokens: of unsigned codes of at most `BITS` bits, 5 at most, each less `OFFSET`, which is 0, 8 or 16; or of codes that
    /// [`Lanes::signed`] made, where it is [`SIGNED`]. Does `meanwhile(t)` for each token too, which waits for none of these sums.
    unsafe fn dots<const BITS: u32, const OFFSET: i32, const N: usize>(
        w: &[Self::Bytes; 8],
        x: *const Record,
        meanwhile: impl FnMut(usize),
    ) -> [Self::Ints; N];
    /// Returns the scales of a block's two halves in the form that [`Lanes::dots_of_halves`] and [`Lanes::joined`] take.
    unsafe fn factors(scales: [Self::Ints; 2]) -> [Self::Ints; 3];
    /// Returns, for several tokens, what [`Lanes::joined`] makes the products of a block's two halves of: of codes of at most `BITS` bits, each less `OFFSET`.
    /// `meanwhile` as for [`Lanes::dots`].
    unsafe fn dots_of_halves<const BITS: u32, const OFFSET: i32, const N: usize>(
        w: &[Self::Bytes; 8],
        x: *const Record,
        factors: [Self::Ints; 3],
        meanwhile: impl FnMut(usize),
    ) -> [[Self::Ints; 2]; N];
    /// Returns the products of two halves times their scales, added and rounded once.
    unsafe fn joined(dots: [Self::Ints; 2], factors: [Self::Ints; 3]) -> Self::Floats;
}

/// What signed codes are moved by where the first factor of a dot product must be unsigned.
const SIGNED: i32 = 128;

/// Registers that take one token after the other, and scale products of halves while they are integers.
///
/// # Safety
/// As for [`Lanes`].
trait OneByOne: Lanes {
    /// As [`Lanes::dots`], for one token.
    unsafe fn dot<const BITS: u32, const OFFSET: i32>(w: &[Self::Bytes; 8], x: *const Record) -> Self::Ints;
    /// Returns scales in the form that [`OneByOne::dot_scaled`] takes.
    unsafe fn factor(scales: Self::Ints) -> Self::Ints;
    /// Returns a scale times 16 products of unsigned codes of at most `BITS` bits, 6 at most: registers `4 * HALF` on, and the 16 bytes at `x`.
    unsafe fn dot_scaled<const BITS: u32, const HALF: usize>(
        w: &[Self::Bytes; 8],
        x: *const i8,
        factor: Self::Ints,
    ) -> Self::Ints;

    /// As [`Lanes::dots_of_halves`], for one token: the whole, as an integer.
    #[inline(always)]
    unsafe fn dot_of_halves<const BITS: u32, const OFFSET: i32>(
        w: &[Self::Bytes; 8],
        x: *const Record,
        factors: [Self::Ints; 3],
    ) -> Self::Ints {
        // SAFETY: as promised by the caller.
        unsafe {
            let codes = (&raw const (*x).codes).cast::<i8>();
            let first = Self::dot_scaled::<BITS, 0>(w, codes, factors[0]);
            let dot = Self::add(first, Self::dot_scaled::<BITS, 1>(w, codes.add(BLOCK / 2), factors[1]));
            let moved = || Self::pair_dot(factors[2], sums_of::<Self>(x));
            match OFFSET {
                32 => Self::subtract(dot, Self::shifted::<5>(moved())),
                4 => Self::subtract(dot, Self::shifted::<2>(moved())),
                _ => dot,
            }
        }
    }
}

/// What is the same in all [`Lanes`] that are [`OneByOne`].
macro_rules! one_by_one {
    () => {
        #[inline(always)]
        unsafe fn dots<const BITS: u32, const OFFSET: i32, const N: usize>(
            w: &[Self::Bytes; 8],
            x: *const Record,
            mut meanwhile: impl FnMut(usize),
        ) -> [Self::Ints; N] {
            // SAFETY: as promised by the caller.
            let mut dots = unsafe { [Self::int(0); N] };
            for (t, dot) in dots.iter_mut().enumerate() {
                meanwhile(t);
                // SAFETY: as above.
                *dot = unsafe { Self::dot::<BITS, OFFSET>(w, x.add(t)) };
            }
            dots
        }

        #[inline(always)]
        unsafe fn factors(scales: [Self::Ints; 2]) -> [Self::Ints; 3] {
            let [first, second] = scales;
            // SAFETY: as promised by the caller.
            unsafe {
                [
                    Self::factor(first),
                    Self::factor(second),
                    Self::pair(first, second),
                ]
            }
        }

        #[inline(always)]
        unsafe fn dots_of_halves<const BITS: u32, const OFFSET: i32, const N: usize>(
            w: &[Self::Bytes; 8],
            x: *const Record,
            factors: [Self::Ints; 3],
            mut meanwhile: impl FnMut(usize),
        ) -> [[Self::Ints; 2]; N] {
            // SAFETY: as promised by the caller.
            let mut dots = unsafe { [[Self::int(0); 2]; N] };
            for (t, dot) in dots.iter_mut().enumerate() {
                meanwhile(t);
                // SAFETY: as above.
                dot[0] = unsafe { Self::dot_of_halves::<BITS, OFFSET>(w, x.add(t), factors) };
            }
            dots
        }

        #[inline(always)]
        unsafe fn joined(dots: [Self::Ints; 2], _: [Self::Ints; 3]) -> Self::Floats {
            // SAFETY: as promised by the caller.
            unsafe { Self::to_floats(dots[0]) }
        }
    };
}
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), expect(unused_imports))]
use one_by_one;

/// Multiplies a tile with `T` tokens.
///
/// # Safety
/// The processor has the instructions of `S`; at `tile` are the heads and the codes of `n_blocks` blocks, whole superblocks; `x` has `n_blocks * T` records, by block
/// and then by token, of 16 tokens at most, and those of the next 16 so many records further; `sums` has `T` entries.
#[inline(always)]
unsafe fn multiply<S: Lanes, K: Type, const T: usize>(
    tile: [*const u8; 2],
    n_blocks: usize,
    ahead: Ahead,
    x: (*const Record, usize),
    sums: &mut [[f32; TILE_ROWS]],
) {
    assert_eq!(sums.len(), T, "sums for each token");
    let sums = sums.as_mut_ptr();
    let halves = by_sixteen(const { K::FORMAT }.scales);
    // SAFETY: as promised by the caller; the parts together are the 16 rows.
    unsafe {
        if T <= 2 {
            // Limited by memory, so each vector is loaded whole before the next.
            return match S::PARTS {
                1 => once::<S, K, T, 1>(tile, n_blocks, ahead, x.0, sums),
                2 => once::<S, K, T, 2>(tile, n_blocks, ahead, x.0, sums),
                _ => once::<S, K, T, 4>(tile, n_blocks, ahead, x.0, sums),
            };
        }
        // Limited by registers, so each part takes its own way through the tile, which lies in a cache by then.
        for part in 0..S::PARTS {
            match S::TOGETHER {
                1 => pass::<S, K, T, 1>(tile, n_blocks, ahead, x, sums, part),
                _ if halves || T == 4 => pass::<S, K, T, 4>(tile, n_blocks, ahead, x, sums, part),
                _ => pass::<S, K, T, 8>(tile, n_blocks, ahead, x, sums, part),
            }
        }
    }
}

/// Multiplies the `C` parts of a tile with `T` tokens, whose sums stay in registers.
///
/// # Safety
/// As for [`multiply`]; there are as many parts.
#[inline(always)]
unsafe fn once<S: Lanes, K: Type, const T: usize, const C: usize>(
    tile: [*const u8; 2],
    n_blocks: usize,
    ahead: Ahead,
    x: *const Record,
    sums: *mut [f32; TILE_ROWS],
) {
    let format = const { K::FORMAT };
    // SAFETY: the pointers walk through the tile and the records once, whose sizes the caller promises; each part of each token's sums is one of a register's size.
    unsafe {
        let [mut head, mut codes] = tile;
        let mut x = x;
        let at = |t: usize, part: usize| sums.add(t).cast::<f32>().add(part * S::ROWS);
        let mut y: [[S::Floats; C]; T] = std::array::from_fn(|t| std::array::from_fn(|part| S::load(at(t, part))));
        for _ in 0..n_blocks / format.blocks {
            let d: [[S::Floats; 2]; C] =
                std::array::from_fn(|part| halves_of_head::<S, K>(head.add(2 * part * S::ROWS)));
            for j in 0..format.blocks {
                fetch::<S, K>(codes, ahead);
                for part in 0..C {
                    let w = unpack::<S, K>(codes.add(4 * part * S::ROWS));
                    let scales = scales::<S, K>(head.add(part * S::ROWS), j, d[part]);
                    for (t, y) in y.iter_mut().enumerate() {
                        let x = x.add(t);
                        let [dots] = dots::<S, K, 1>(&w, &scales, x, |_| {});
                        y[part] = scaled::<S, K>(dots, &scales, x, y[part]);
                    }
                }
                codes = codes.add(format.code_bytes());
                x = x.add(T);
            }
            head = head.add(format.head_bytes());
        }
        for (t, y) in y.into_iter().enumerate() {
            for (part, y) in y.into_iter().enumerate() {
                S::store(y, at(t, part));
            }
        }
    }
}

/// Integer sums of a block and `N` tokens, not yet scaled.
struct Waiting<S: Lanes, const N: usize> {
    dots: [[S::Ints; 2]; N],
    scales: BlockScales<S>,
    /// The tokens' records of the block.
    x: *const Record,
    /// The rows of this part of the first token's sums; those of the next are 16 further.
    y: *mut f32,
}

/// Multiplies a part of a tile with `T` tokens, `N` at a time, which divides `T`.
///
/// While the integer sums of some tokens are made, those before are scaled and added. Each kind of operation waits for its own kind (5 cycles for a sum of products,
/// 12 for a scaling), and a processor looks for work that need not wait among the next hundred operations at most; so what does not wait on each other has to stand
/// side by side. With the sums in registers and one kind after the other, Q4_K took 1.4 times as long (Emerald Rapids).
///
/// # Safety
/// As for [`multiply`]; there is such a part.
#[inline(always)]
unsafe fn pass<S: Lanes, K: Type, const T: usize, const N: usize>(
    tile: [*const u8; 2],
    n_blocks: usize,
    ahead: Ahead,
    (x, stride): (*const Record, usize),
    sums: *mut [f32; TILE_ROWS],
    part: usize,
) {
    let format = const { K::FORMAT };
    // SAFETY: the pointers walk through the tile and the records once, whose sizes the caller promises; sums are those of the tokens, or `nowhere`.
    unsafe {
        let mut head = tile[0].add(part * S::ROWS);
        let mut codes = tile[1].add(4 * part * S::ROWS);
        let sums = sums.cast::<f32>().add(part * S::ROWS);
        let mut x = x;
        let zero = S::int(0);
        // What waits at first is nothing, and goes nowhere.
        let mut nowhere = [[0.0; TILE_ROWS]; N];
        let mut waiting = Waiting::<S, N> {
            dots: [[zero; 2]; N],
            scales: BlockScales {
                d: S::float(0.0),
                m: S::float(0.0),
                factors: [zero; 3],
                counts: zero,
            },
            x,
            y: nowhere.as_mut_ptr().cast(),
        };
        for _ in 0..n_blocks / format.blocks {
            let d = halves_of_head::<S, K>(head.add(part * S::ROWS));
            for j in 0..format.blocks {
                fetch::<S, K>(codes, ahead);
                let w = unpack::<S, K>(codes);
                let scales = scales::<S, K>(head, j, d);
                for group in 0..T.div_ceil(TOKENS_MAX) {
                    let x = x.add(group * stride);
                    let y = sums.add(group * TOKENS_MAX * TILE_ROWS);
                    for first in (0..T.min(TOKENS_MAX)).step_by(N) {
                        let x = x.add(first);
                        let dots = dots::<S, K, N>(&w, &scales, x, |t| waiting.settle::<K>(t));
                        waiting = Waiting {
                            dots,
                            scales,
                            x,
                            y: y.add(first * TILE_ROWS),
                        };
                    }
                }
                codes = codes.add(format.code_bytes());
                x = x.add(T.min(TOKENS_MAX));
            }
            head = head.add(format.head_bytes());
        }
        for t in 0..N {
            waiting.settle::<K>(t);
        }
    }
}

impl<S: Lanes, const N: usize> Waiting<S, N> {
    /// Adds what waits to the sums of token `t`.
    ///
    /// # Safety
    /// The processor has the instructions; the pointers are good for `N` tokens.
    #[inline(always)]
    unsafe fn settle<K: Type>(&self, t: usize) {
        // SAFETY: as promised by the caller.
        unsafe {
            let y = self.y.add(t * TILE_ROWS);
            S::store(scaled::<S, K>(self.dots[t], &self.scales, self.x.add(t), S::load(y)), y);
        }
    }
}

/// Asks for the codes of blocks that lie ahead.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn fetch<S: Lanes, K: Type>(codes: *const u8, ahead: Ahead) {
    for vector in 0..const { K::FORMAT }.code_vectors() {
        let codes = codes.wrapping_add(vector * VECTOR);
        // SAFETY: any address will do.
        unsafe {
            if ahead.far > 0 {
                S::prefetch_far(codes.wrapping_add(ahead.far));
            }
            if ahead.near > 0 {
                S::prefetch(codes.wrapping_add(ahead.near));
            }
        }
    }
}

/// Returns the integer sums of a block and `N` tokens, those of its halves where these have a scale each; `meanwhile` as for [`Lanes::dots`].
///
/// # Safety
/// The processor has the instructions; at `x` are `N` records.
#[inline(always)]
unsafe fn dots<S: Lanes, K: Type, const N: usize>(
    w: &[S::Bytes; 8],
    scales: &BlockScales<S>,
    x: *const Record,
    meanwhile: impl FnMut(usize),
) -> [[S::Ints; 2]; N] {
    let format = const { K::FORMAT };
    // SAFETY: as promised by the caller.
    unsafe {
        if by_sixteen(format.scales) {
            return match format.codes {
                Codes::Sixes => S::dots_of_halves::<6, 32, N>(w, x, scales.factors, meanwhile),
                Codes::Threes => S::dots_of_halves::<3, 4, N>(w, x, scales.factors, meanwhile),
                _ => S::dots_of_halves::<2, 0, N>(w, x, scales.factors, meanwhile),
            };
        }
        let dots = match (format.codes, format.offset) {
            (Codes::Bytes | Codes::Values, _) => S::dots::<8, SIGNED, N>(w, x, meanwhile),
            (Codes::Fives, 16) => S::dots::<5, 16, N>(w, x, meanwhile),
            (Codes::Fives, _) => S::dots::<5, 0, N>(w, x, meanwhile),
            (_, 8) => S::dots::<4, 8, N>(w, x, meanwhile),
            _ => S::dots::<4, 0, N>(w, x, meanwhile),
        };
        let mut pairs = [[S::int(0); 2]; N];
        for (pair, dot) in pairs.iter_mut().zip(dots) {
            pair[0] = dot;
        }
        pairs
    }
}

/// Returns `y` and the sums of a block and a token, scaled.
///
/// # Safety
/// The processor has the instructions; a record lies at `x`.
#[inline(always)]
unsafe fn scaled<S: Lanes, K: Type>(
    dots: [S::Ints; 2],
    scales: &BlockScales<S>,
    x: *const Record,
    y: S::Floats,
) -> S::Floats {
    let format = const { K::FORMAT };
    // SAFETY: as promised by the caller.
    unsafe {
        let scale = S::float((*x).scale);
        let dot = match by_sixteen(format.scales) {
            true => S::joined(dots, scales.factors),
            false => S::to_floats(dots[0]),
        };
        let y = S::fma(S::multiply(scales.d, scale), dot, y);
        match format.scales {
            Scales::HalfMinimum => S::fma(scales.m, S::float((*x).scaled_sum), y),
            Scales::Six => S::fnma(scales.m, S::float((*x).scaled_sum), y),
            Scales::Nibble16 => {
                let counts = S::to_floats(S::pair_dot(scales.counts, sums_of::<S>(x)));
                S::fnma(S::multiply(scales.m, scale), counts, y)
            }
            _ => y,
        }
    }
}

/// Returns the sums of a block's first and last 16 codes as a pair in every lane.
///
/// # Safety
/// A record lies at `x`; the processor has the instructions of `S`.
#[inline(always)]
unsafe fn sums_of<S: Lanes>(x: *const Record) -> S::Ints {
    // SAFETY: as promised by the caller; two numbers of 16 bits are as many bytes as one of 32.
    unsafe { S::int((&raw const (*x).sums).cast::<i32>().read()) }
}
