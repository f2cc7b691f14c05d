//! One kernel for all processors: a tile of 16 rows times a group of tokens, written over [`Lanes`], the registers of an instruction set.
//!
//! ```text
//! for each superblock: load scales
//!   for each block of 32 columns, for each part of the 16 rows that fills a register:
//!     unpack 8 registers of codes (4 columns x rows each)         once for the whole group of tokens
//!     for each token: 8 dot products of 4 with the token's codes, broadcast -> integer sums -> scaled, added to the token's sums
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

use crate::activations::Record;
use crate::format::{self, BLOCK, Codes, Format, Scales, TILE_ROWS, VECTOR};
use crate::scalar;
use unpack::{by_sixteen, has_minimum, scales_of_block, scales_of_halves, unpack};

/// Bytes ahead of the codes in use that a product asks for which goes through weights once: what memory delivers while a line is on its way, and further than the processor looks by
/// itself across pages. Sapphire Rapids, two threads, Q4_K: 17.9 GB/s with none, 22.5 with 2 KiB, 26.3 with 4 KiB, 26.1 with 6, 26.8 with 8, of 29.
pub(crate) const AHEAD: usize = 6_144;

/// Multiplies so many blocks of a tile of rows, whose heads and codes are given, with a group of tokens, and adds that to its sums.
type Run = unsafe fn(&[u8], &[u8], usize, usize, &[Record], &mut [[f32; TILE_ROWS]]);

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

    /// Adds the products with some of a tile's `n_blocks` blocks to `sums[token][row]`; `x` holds the records of a group for these blocks, by block and token. Asks for
    /// what lies so many bytes `ahead` of the codes in use, unless that is 0.
    ///
    /// # Panics
    /// If the lengths do not fit together.
    #[inline]
    pub(crate) fn run(
        self,
        tile: &[u8],
        n_blocks: usize,
        blocks: Range<usize>,
        ahead: usize,
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
        assert_eq!(x.len(), blocks.len() * sums.len(), "a record for each block and token");
        let Some(run) = self.run else {
            return scalar::tile(format, tile, n_blocks, blocks, x, sums);
        };
        let (heads, codes) = tile.split_at(format.heads_bytes(n_blocks));
        let heads = &heads[blocks.start / format.blocks * format.head_bytes()..];
        let codes = &codes[blocks.start * format.code_bytes()..];
        // SAFETY: `new` chose the function for an `Isa`, which proves the instructions; the lengths were just checked.
        unsafe { run(heads, codes, blocks.len(), ahead, x, sums) }
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

        /// Makes the kernels of an instruction set: `kernel(kind)` over `Lanes` of `$lanes`, compiled for `$features`; of 4 tokens and more it takes `$together`
        /// at a time.
        macro_rules! kernels {
            ($lanes:ty, $features:literal, $together:literal) => {
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
                    ahead: usize,
                    x: &[Record],
                    sums: &mut [[f32; TILE_ROWS]],
                ) {
                    let (tile, x) = ([heads.as_ptr(), codes.as_ptr()], x.as_ptr());
                    // SAFETY: what the caller promises is what the kernel asks for; each branch has as many tokens as it says.
                    unsafe {
                        match sums.len() {
                            1 => with::<K, 1, 1>(tile, n_blocks, ahead, x, sums),
                            2 => with::<K, 2, 1>(tile, n_blocks, ahead, x, sums),
                            4 => with::<K, 4, $together>(tile, n_blocks, ahead, x, sums),
                            8 => with::<K, 8, $together>(tile, n_blocks, ahead, x, sums),
                            16 => with::<K, 16, $together>(tile, n_blocks, ahead, x, sums),
                            other => unreachable!("{other} tokens are no group"),
                        }
                    }
                }

                /// # Safety
                /// As for [`multiply`].
                #[target_feature(enable = $features)]
                unsafe fn with<K: Type, const T: usize, const N: usize>(
                    tile: [*const u8; 2],
                    n_blocks: usize,
                    ahead: usize,
                    x: *const Record,
                    sums: &mut [[f32; TILE_ROWS]],
                ) {
                    // SAFETY: what the caller promises, and the instructions are enabled here.
                    unsafe { multiply::<$lanes, K, T, N>(tile, n_blocks, ahead, x, sums) }
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
    type Bytes: Copy;
    type Ints: Copy;
    type Floats: Copy;

    /// Asks for the cache line at an address, which may be any.
    unsafe fn prefetch(at: *const u8);
    /// Loads 4 bytes a row.
    unsafe fn bytes(at: *const u8) -> Self::Bytes;
    /// Returns `bytes >> N` with the bits of `mask` kept of each byte; `N` below 8.
    unsafe fn field<const N: u32>(bytes: Self::Bytes, mask: u8) -> Self::Bytes;
    /// Returns the bits of `mask`, shifted left by `N`, which must stay within the byte.
    unsafe fn raised<const N: u32>(bytes: Self::Bytes, mask: u8) -> Self::Bytes;
    unsafe fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Replaces bytes below 16 by entries of a table.
    unsafe fn lookup(table: &[i8; 16], bytes: Self::Bytes) -> Self::Bytes;
    /// Makes signed codes what [`Lanes::dot_signed`] takes.
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

    /// Returns `start` and 32 products of unsigned codes of at most `BITS` bits, 5 at most, with the 32 bytes at `x`.
    unsafe fn dot<const BITS: u32>(w: &[Self::Bytes; 8], x: *const i8, start: Self::Ints) -> Self::Ints;
    /// Returns 32 products of codes that [`Lanes::signed`] made; `negative_sum` is the negated sum of the bytes at `x`.
    unsafe fn dot_signed(w: &[Self::Bytes; 8], x: *const i8, negative_sum: i32) -> Self::Ints;
    /// Returns scales in the form that [`Lanes::dot_scaled`] takes.
    unsafe fn factor(scales: Self::Ints) -> Self::Ints;
    /// Returns a scale times 16 products of unsigned codes of at most `BITS` bits, 6 at most: registers `4 * HALF` on, and the 16 bytes at `x`.
    unsafe fn dot_scaled<const BITS: u32, const HALF: usize>(
        w: &[Self::Bytes; 8],
        x: *const i8,
        factor: Self::Ints,
    ) -> Self::Ints;

    /// As [`Lanes::dot`], for several tokens.
    #[inline(always)]
    unsafe fn dots<const BITS: u32, const N: usize>(
        w: &[Self::Bytes; 8],
        x: [*const i8; N],
        start: [Self::Ints; N],
    ) -> [Self::Ints; N] {
        let mut sums = start;
        for (sum, x) in sums.iter_mut().zip(x) {
            // SAFETY: as promised by the caller.
            *sum = unsafe { Self::dot::<BITS>(w, x, *sum) };
        }
        sums
    }

    /// As [`Lanes::dot_signed`], for several tokens.
    #[inline(always)]
    unsafe fn dots_signed<const N: usize>(
        w: &[Self::Bytes; 8],
        x: [*const i8; N],
        negative_sums: [i32; N],
    ) -> [Self::Ints; N] {
        // SAFETY: as promised by the caller.
        let mut sums = unsafe { [Self::int(0); N] };
        for t in 0..N {
            // SAFETY: as above.
            sums[t] = unsafe { Self::dot_signed(w, x[t], negative_sums[t]) };
        }
        sums
    }

    /// Returns, for several tokens, the products of a block's two halves times their scales, added and rounded once: of codes of at most `BITS` bits, each less `OFFSET`.
    #[inline(always)]
    unsafe fn dots_of_halves<const BITS: u32, const OFFSET: i32, const N: usize>(
        w: &[Self::Bytes; 8],
        x: [*const Record; N],
        scales: [Self::Ints; 2],
    ) -> [Self::Floats; N] {
        // SAFETY: as promised by the caller.
        unsafe {
            let pair = Self::pair(scales[0], scales[1]);
            let factors = [Self::factor(scales[0]), Self::factor(scales[1])];
            let mut dots = [Self::float(0.0); N];
            for t in 0..N {
                let codes = (&raw const (*x[t]).codes).cast::<i8>();
                let first = Self::dot_scaled::<BITS, 0>(w, codes, factors[0]);
                let dot = Self::add(first, Self::dot_scaled::<BITS, 1>(w, codes.add(BLOCK / 2), factors[1]));
                let moved = || Self::pair_dot(pair, sums_of::<Self>(x[t]));
                dots[t] = Self::to_floats(match OFFSET {
                    32 => Self::subtract(dot, Self::shifted::<5>(moved())),
                    4 => Self::subtract(dot, Self::shifted::<2>(moved())),
                    _ => dot,
                });
            }
            dots
        }
    }
}

/// Multiplies a tile with `T` tokens, `N` at a time, which divides `T`.
///
/// # Safety
/// The processor has the instructions of `S`; at `tile` are the heads and the codes of `n_blocks` blocks, whole superblocks; `x` has `n_blocks * T` records, by block
/// and then by token; `sums` has `T` entries.
#[inline(always)]
unsafe fn multiply<S: Lanes, K: Type, const T: usize, const N: usize>(
    tile: [*const u8; 2],
    n_blocks: usize,
    ahead: usize,
    x: *const Record,
    sums: &mut [[f32; TILE_ROWS]],
) {
    // SAFETY: as promised by the caller; the parts together are the 16 rows.
    unsafe {
        if T <= 2 {
            // Limited by memory, so each vector is loaded whole before the next.
            match S::PARTS {
                1 => pass::<S, K, T, N, 1>(tile, n_blocks, ahead, x, sums, 0),
                2 => pass::<S, K, T, N, 2>(tile, n_blocks, ahead, x, sums, 0),
                _ => pass::<S, K, T, N, 4>(tile, n_blocks, ahead, x, sums, 0),
            }
        } else {
            // Limited by registers, so each part takes its own way through the tile, which lies in a cache by then.
            for part in 0..S::PARTS {
                pass::<S, K, T, N, 1>(tile, n_blocks, ahead, x, sums, part);
            }
        }
    }
}

/// Multiplies `C` parts of a tile, from part `first` on, with `T` tokens.
///
/// # Safety
/// As for [`multiply`]; there are as many parts.
#[inline(always)]
unsafe fn pass<S: Lanes, K: Type, const T: usize, const N: usize, const C: usize>(
    tile: [*const u8; 2],
    n_blocks: usize,
    ahead: usize,
    x: *const Record,
    sums: &mut [[f32; TILE_ROWS]],
    first: usize,
) {
    let format = const { K::FORMAT };
    // SAFETY: the pointers walk through the tile and the records once, whose sizes the caller promises; `sums` is indexed with checks.
    unsafe {
        let mut head = tile[0].add(first * S::ROWS);
        let mut codes = tile[1].add(4 * first * S::ROWS);
        let mut x = x;
        let zero = S::float(0.0);
        let mut y = [[zero; T]; C];
        for part in 0..C {
            for t in 0..T {
                let rows = &sums[t][(first + part) * S::ROWS..][..S::ROWS];
                y[part][t] = S::load(rows.as_ptr());
            }
        }
        for _ in 0..n_blocks / format.blocks {
            let (mut d, mut m) = ([zero; C], [zero; C]);
            for part in 0..C {
                d[part] = S::halves(head.add((first + 2 * part) * S::ROWS));
                if has_minimum(format.scales) {
                    m[part] = S::halves(head.add(2 * TILE_ROWS + (first + 2 * part) * S::ROWS));
                }
            }
            for j in 0..format.blocks {
                if ahead > 0 {
                    for vector in 0..format.code_vectors() {
                        S::prefetch(codes.wrapping_add(ahead + vector * VECTOR));
                    }
                }
                for part in 0..C {
                    let w = unpack::<S, K>(codes.add(4 * part * S::ROWS));
                    let fields = head.add(part * S::ROWS);
                    let (d, m) = (d[part], m[part]);
                    if by_sixteen(format.scales) {
                        add_sixteens::<S, K, T, N>(&w, fields, j, d, m, x, &mut y[part]);
                    } else {
                        add_block::<S, K, T, N>(&w, fields, j, d, m, x, &mut y[part]);
                    }
                }
                codes = codes.add(format.code_bytes());
                x = x.add(T);
            }
            head = head.add(format.head_bytes());
        }
        for part in 0..C {
            for t in 0..T {
                let rows = &mut sums[t][(first + part) * S::ROWS..][..S::ROWS];
                S::store(y[part][t], rows.as_mut_ptr());
            }
        }
    }
}

/// Adds the products of a block that has one scale.
///
/// # Safety
/// As for [`multiply`]; `fields` is a head, moved on to the bytes of this part's rows.
#[inline(always)]
unsafe fn add_block<S: Lanes, K: Type, const T: usize, const N: usize>(
    w: &[S::Bytes; 8],
    fields: *const u8,
    j: usize,
    d: S::Floats,
    m: S::Floats,
    x: *const Record,
    y: &mut [S::Floats; T],
) {
    let format = const { K::FORMAT };
    // SAFETY: fields are read within the head, records within the group.
    unsafe {
        let (scale, minimum) = scales_of_block::<S, K>(fields, j, d, m);
        for (at, y) in y.as_chunks_mut::<N>().0.iter_mut().enumerate() {
            let x: [*const Record; N] = std::array::from_fn(|t| x.add(N * at + t));
            let codes = x.map(|x| (&raw const (*x).codes).cast::<i8>());
            let sums = x.map(|x| (*x).negative_sum);
            let dots = match format.codes {
                Codes::Bytes | Codes::Values => S::dots_signed(w, codes, sums),
                Codes::Fives if format.offset == 16 => {
                    S::dots::<5, N>(w, codes, sums.map(|sum| S::shifted::<4>(S::int(sum))))
                }
                Codes::Fives => S::dots::<5, N>(w, codes, [S::int(0); N]),
                _ if format.offset == 8 => S::dots::<4, N>(w, codes, sums.map(|sum| S::shifted::<3>(S::int(sum)))),
                _ => S::dots::<4, N>(w, codes, [S::int(0); N]),
            };
            for t in 0..N {
                let (x, y) = (x[t], &mut y[t]);
                *y = S::fma(S::multiply(scale, S::float((*x).scale)), S::to_floats(dots[t]), *y);
                match format.scales {
                    Scales::HalfMinimum => *y = S::fma(minimum, S::float((*x).scaled_sum), *y),
                    Scales::Six => *y = S::fnma(minimum, S::float((*x).scaled_sum), *y),
                    _ => {}
                }
            }
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

/// Adds the products of a block that has a scale for each 16 columns.
///
/// # Safety
/// As for [`add_block`].
#[inline(always)]
unsafe fn add_sixteens<S: Lanes, K: Type, const T: usize, const N: usize>(
    w: &[S::Bytes; 8],
    fields: *const u8,
    j: usize,
    d: S::Floats,
    m: S::Floats,
    x: *const Record,
    y: &mut [S::Floats; T],
) {
    let format = const { K::FORMAT };
    // SAFETY: fields are read within the head, records within the group.
    unsafe {
        let (scales, counts) = scales_of_halves::<S, K>(fields, j);
        for (at, y) in y.as_chunks_mut::<N>().0.iter_mut().enumerate() {
            let x: [*const Record; N] = std::array::from_fn(|t| x.add(N * at + t));
            let dots = match format.codes {
                Codes::Sixes => S::dots_of_halves::<6, 32, N>(w, x, scales),
                Codes::Threes => S::dots_of_halves::<3, 4, N>(w, x, scales),
                _ => S::dots_of_halves::<2, 0, N>(w, x, scales),
            };
            for t in 0..N {
                let (x, y) = (x[t], &mut y[t]);
                let scale = S::float((*x).scale);
                *y = S::fma(S::multiply(d, scale), dots[t], *y);
                if let Scales::Nibble16 = format.scales {
                    let counts = S::to_floats(S::pair_dot(counts, sums_of::<S>(x)));
                    *y = S::fnma(S::multiply(m, scale), counts, *y);
                }
            }
        }
    }
}
