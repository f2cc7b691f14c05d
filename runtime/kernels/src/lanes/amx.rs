//! AMX: a tile register holds the codes of 16 tokens, another those of 16 rows, and one instruction makes all 256 sums of their products.
//!
//! ```text
//! for each slab of columns, for each tile of rows:
//!   unpack: codes to signed bytes, their offset taken off; scales to f32         once for all tokens
//!   for each group of tokens, for each block of 32 columns:
//!     load 16 x 32 codes of tokens, 8 x 64 of weights; multiply; store 16 x 16 sums
//!     for each token: the block's sums -> f32 -> scaled, added to the token's sums
//! ```
//! The sums of a block are integers, so it does not matter that they come from another unit; the f32 operations are those of [`crate::scalar`], in its order.
//!
//! Types with a scale for each 16 columns have it multiplied into the codes: `(q - offset) scale` of 2 and 3 bits fits into a byte (of 3 bits negated, for
//! `-4 * -32` does not). Of 6 bits it takes 13: it becomes `64 high + low`, and two products.
//!
//! Cost of a block of 16 x 32 weights and 16 tokens: 16 cycles of the tile unit for each product and 16 to store it, and 3 to 5 vector operations a token, of
//! which those in f32 run at half their rate while tiles are in use (Sapphire Rapids: 48 or 64 cycles). Dot products of VNNI take 64 cycles and all of the
//! f32 operations beside them.
//!
//! Tried on Sapphire Rapids, in loops by themselves, and left out: all products of 4 to 16 blocks before their scaling (the halves add up to the same time, for
//! neither runs beside the other); two tiles of rows times two groups of tokens (fewer loads, which are not the limit); groups of 8 tokens (storing sums takes as long
//! as for 16); products of bf16, whose sums are whole numbers below 2^24 in f32 and need no conversion (a fifth less time for one product a block, but codes of
//! twice the size on both sides).

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;

use witness_formats::gguf::GgmlType;

use super::unpack::{by_sixteen, halves_of_head, scales, unpack};
use super::vnni::Vnni;
use super::{Lanes, Type, types};
use crate::activations::Record;
use crate::format::{Codes, Format, Scales, TILE_ROWS, VECTOR};

/// Tokens that are multiplied at a time: rows of a tile register.
pub(crate) const TOKENS: usize = 16;
/// Blocks that are unpacked at a time, whole superblocks: some 40 KiB, or twice that.
pub(crate) const SLAB_BLOCKS: usize = 64;
/// Bytes from a token's codes to those of the next.
const RECORD: usize = size_of::<Record>();
/// Bytes of a row of a tile register.
const LINE: usize = 64;

/// The way of a type through the tile unit. Holding one proves that the processor has the unit and the system lets this process use it.
#[derive(Clone, Copy)]
pub(crate) struct Tiles {
    unpack: unsafe fn(*const u8, usize, Range<usize>, &mut Slab),
    multiply: unsafe fn(&Slab, usize, *const Record, &mut [Sums; 4], Rows),
}

/// Where the outputs of a tile of rows for a group of tokens are.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    /// The first token's first row.
    pub(crate) start: *mut f32,
    /// Numbers from a token to the next.
    pub(crate) stride: usize,
    /// Rows that there are, 16 at most.
    pub(crate) n_rows: usize,
    /// Whether sums begin at zero, else they go on from what is there.
    pub(crate) begins: bool,
}

/// A thread's tile registers, in the shapes that are used here, and its memory beside them.
pub(crate) struct Unit {
    tiles: Tiles,
    n_blocks: usize,
    /// There until this is dropped.
    memory: Option<Box<Memory>>,
    /// Registers belong to the thread that shaped them.
    _thread: PhantomData<*const ()>,
}

struct Memory {
    slab: Slab,
    sums: [Sums; 4],
}

thread_local! {
    /// The memory of the last unit, so that a task does not have to clear some of its own.
    static KEPT: Cell<Option<Box<Memory>>> = const { Cell::new(None) };
}

type Vectors = [[i8; VECTOR]; 8];

/// Columns of a tile of rows, ready to be multiplied.
#[repr(C, align(64))]
struct Slab {
    scales: [[f32; TILE_ROWS]; SLAB_BLOCKS],
    minimums: [[f32; TILE_ROWS]; SLAB_BLOCKS],
    /// Two 16-bit factors of the minimum a row, of types that have a minimum for each 16 columns.
    counts: [[i32; TILE_ROWS]; SLAB_BLOCKS],
    codes: [Vectors; SLAB_BLOCKS],
    /// What is above 6 bits of codes with their scale multiplied in, where those do not fit into bytes.
    high: [Vectors; SLAB_BLOCKS],
}

/// Sums of a block, `[tokens, rows]`.
#[repr(C, align(64))]
struct Sums([[i32; TILE_ROWS]; TOKENS]);

macro_rules! tiles_of {
    ($($name:ident)*) => {
        /// Returns the way of a type.
        ///
        /// # Safety
        /// The processor has the tile unit and AVX-512 with VNNI, and the system lets this process use them.
        pub(super) unsafe fn tiles(kind: GgmlType) -> Option<Tiles> {
            Some(match kind {
                $(GgmlType::$name => Tiles {
                    unpack: fill::<types::$name>,
                    multiply: multiply::<types::$name>,
                },)*
                _ => return None,
            })
        }
    };
}
tiles_of!(Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS);

impl Memory {
    fn new() -> Box<Memory> {
        // SAFETY: all of it is numbers, for which zeroes are a value.
        unsafe { Box::new_zeroed().assume_init() }
    }
}

impl Unit {
    /// Shapes the tile registers of this thread.
    pub(crate) fn new(tiles: Tiles) -> Unit {
        // SAFETY: `tiles` proves that there are registers.
        unsafe { shape() };
        Unit {
            tiles,
            n_blocks: 0,
            memory: Some(KEPT.take().unwrap_or_else(Memory::new)),
            _thread: PhantomData,
        }
    }

    /// Unpacks blocks of a tile whose rows have `n_blocks`.
    ///
    /// # Panics
    /// If there are no such blocks, or more than [`SLAB_BLOCKS`].
    pub(crate) fn unpack(&mut self, format: Format, tile: &[u8], n_blocks: usize, blocks: Range<usize>) {
        assert!(
            blocks.end <= n_blocks && blocks.len() <= SLAB_BLOCKS,
            "blocks of a slab"
        );
        assert_eq!(tile.len(), format.tile_bytes(n_blocks), "a tile's bytes");
        self.n_blocks = blocks.len();
        let unpack = self.tiles.unpack;
        // SAFETY: `tiles` proves the instructions; the lengths were just checked.
        unsafe { unpack(tile.as_ptr(), n_blocks, blocks, &mut self.memory().slab) }
    }

    fn memory(&mut self) -> &mut Memory {
        self.memory.get_or_insert_with(Memory::new)
    }

    /// Multiplies what was unpacked last with a group of tokens; `x` holds their records by block and token.
    ///
    /// # Panics
    /// If there is not a record for each block and token, or there are too many rows.
    ///
    /// # Safety
    /// The rows of all tokens of the group can be read and written, and nobody else does meanwhile.
    pub(crate) unsafe fn multiply(&mut self, x: &[Record], rows: Rows) {
        assert_eq!(x.len(), self.n_blocks * TOKENS, "a record for each block and token");
        assert!(rows.n_rows <= TILE_ROWS && self.n_blocks > 0, "rows of a tile");
        let (multiply, n_blocks) = (self.tiles.multiply, self.n_blocks);
        let Memory { slab, sums } = self.memory();
        // SAFETY: `tiles` proves the instructions and `new` has shaped this thread's registers; the caller answers for the rows.
        unsafe { multiply(slab, n_blocks, x.as_ptr(), sums, rows) }
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // SAFETY: whoever holds a unit has the registers. Empty ones cost nothing when threads are switched.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
        KEPT.set(self.memory.take());
    }
}

/// Gives tile registers their shapes: 0 to 3 sums `[tokens, 16]`, 4 and 5 codes of tokens `[tokens, 32]`, 6 and 7 codes of weights `[8, 16 x 4]`.
///
/// # Safety
/// The processor has tile registers and the system lets this process use them.
unsafe fn shape() {
    /// As `ldtilecfg` reads it.
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        n_rows: [u8; 16],
    }
    let mut configuration = Configuration {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [0; 16],
        n_rows: [0; 16],
    };
    for register in 0..8 {
        let (n_rows, row_bytes) = match register {
            0..4 => (TOKENS as u8, 64),
            4..6 => (TOKENS as u8, 32),
            _ => (8, 64),
        };
        configuration.row_bytes[register] = row_bytes;
        configuration.n_rows[register] = n_rows;
    }
    // SAFETY: the caller answers for the registers; the configuration is one that palette 1 allows.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const configuration,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags, readonly));
    }
}

/// Whether codes with their scale multiplied in take two bytes.
const fn in_two(codes: Codes) -> bool {
    matches!(codes, Codes::Sixes)
}

/// Whether codes with their scale multiplied in are kept negated.
const fn negated(codes: Codes) -> bool {
    matches!(codes, Codes::Threes)
}

/// Unpacks blocks.
///
/// # Safety
/// The processor has the instructions; `tile` has the bytes of a tile of `n_blocks` blocks, and `blocks` are some of them, no more than a slab has.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn fill<K: Type>(tile: *const u8, n_blocks: usize, blocks: Range<usize>, slab: &mut Slab) {
    let format = const { K::FORMAT };
    for (at, block) in blocks.enumerate() {
        let j = block % format.blocks;
        // SAFETY: heads and codes of the block lie within the tile; the rest writes to arrays of the slab.
        unsafe {
            let head = tile.add(block / format.blocks * format.head_bytes());
            let codes = tile.add(format.heads_bytes(n_blocks) + block * format.code_bytes());
            let scales = scales::<Vnni, K>(head, j, halves_of_head::<Vnni, K>(head));
            let mut w = unpack::<Vnni, K>(codes).map(|w| match format.codes {
                // Back from where VNNI wants them.
                Codes::Bytes | Codes::Values => Vnni::signed(w),
                _ => _mm512_sub_epi8(w, _mm512_set1_epi8(format.offset as i8)),
            });
            if by_sixteen(format.scales) {
                _mm512_store_si512(slab.counts[at].as_mut_ptr().cast(), scales.counts);
                for (k, w) in w.iter_mut().enumerate() {
                    // Whole numbers in f32, as VNNI wants them.
                    let factor = _mm512_cvtps_epi32(_mm512_castsi512_ps(scales.factors[k / 4]));
                    let (even, odd) = products(*w, factor);
                    *w = low_bytes(even, odd);
                    if in_two(format.codes) {
                        let high = low_bytes(_mm512_srai_epi16::<6>(even), _mm512_srai_epi16::<6>(odd));
                        _mm512_store_si512(slab.high[at][k].as_mut_ptr().cast(), high);
                        *w = _mm512_and_si512(*w, _mm512_set1_epi8(63));
                    } else if negated(format.codes) {
                        *w = _mm512_sub_epi8(_mm512_setzero_si512(), *w);
                    }
                }
            }
            _mm512_store_ps(slab.scales[at].as_mut_ptr(), scales.d);
            _mm512_store_ps(slab.minimums[at].as_mut_ptr(), scales.m);
            for (w, to) in w.iter().zip(&mut slab.codes[at]) {
                _mm512_store_si512(to.as_mut_ptr().cast(), *w);
            }
        }
    }
}

/// Multiplies signed bytes with the scale of their row: the products of even and of odd bytes, of 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn products(w: __m512i, scales: __m512i) -> (__m512i, __m512i) {
    let scales = _mm512_mask_blend_epi16(0xaaaa_aaaa, scales, _mm512_slli_epi32::<16>(scales));
    let even = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(w));
    let odd = _mm512_srai_epi16::<8>(w);
    (_mm512_mullo_epi16(even, scales), _mm512_mullo_epi16(odd, scales))
}

/// Joins the low bytes of even and odd 16-bit numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn low_bytes(even: __m512i, odd: __m512i) -> __m512i {
    _mm512_mask_blend_epi8(0xaaaa_aaaa_aaaa_aaaa, even, _mm512_slli_epi16::<8>(odd))
}

/// Adds the products of a slab of so many blocks, at least one, to the rows of a group of tokens.
///
/// A block's sums are asked for before those of the block before are used, so that the two units work at the same time.
///
/// # Safety
/// The processor has the instructions and this thread's registers are shaped; there are as many blocks, and records for them; the rows can be read and written.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn multiply<K: Type>(slab: &Slab, n_blocks: usize, x: *const Record, sums: &mut [Sums; 4], rows: Rows) {
    let mask = ((1u32 << rows.n_rows) - 1) as u16;
    let [even, odd, even_high, odd_high] = sums;
    // SAFETY: as promised by the caller; the last block is asked for again where there is none behind it.
    unsafe {
        let mut y = [_mm512_setzero_ps(); TOKENS];
        if !rows.begins {
            for (t, y) in y.iter_mut().enumerate() {
                *y = _mm512_maskz_loadu_ps(mask, rows.start.add(t * rows.stride));
            }
        }
        let last = n_blocks - 1;
        let of = |block: usize| x.add(block * TOKENS);
        dots_even::<K>(slab, 0, of(0), even, even_high);
        for pair in 0..n_blocks / 2 {
            let (first, second, third) = (2 * pair, 2 * pair + 1, (2 * pair + 2).min(last));
            dots_odd::<K>(slab, second, of(second), odd, odd_high);
            add::<K>(slab, first, of(first), even, even_high, &mut y);
            dots_even::<K>(slab, third, of(third), even, even_high);
            add::<K>(slab, second, of(second), odd, odd_high, &mut y);
        }
        if n_blocks % 2 == 1 {
            add::<K>(slab, last, of(last), even, even_high, &mut y);
        }
        for (t, y) in y.iter().enumerate() {
            _mm512_mask_storeu_ps(rows.start.add(t * rows.stride), mask, *y);
        }
    }
}

macro_rules! dots {
    ($name:ident, $x:tt, $sums:tt, $high:tt) => {
        /// Multiplies the codes of a block with those of the tokens.
        ///
        /// # Safety
        /// As for [`multiply`]; there is such a block, and `x` are its records.
        #[inline(always)]
        unsafe fn $name<K: Type>(slab: &Slab, at: usize, x: *const Record, sums: &mut Sums, high: &mut Sums) {
            // SAFETY: the instructions read 16 tokens' codes, which come first in a record, and 8 lines of weights, and write 16 lines of sums. Nobody else
            // uses tile registers.
            unsafe {
                asm!(
                    concat!("tileloadd ", $x, ", [{x} + {record}]"),
                    "tileloadd tmm6, [{w} + {line}]",
                    concat!("tilezero ", $sums),
                    concat!("tdpbssd ", $sums, ", ", $x, ", tmm6"),
                    concat!("tilestored [{sums} + {line}], ", $sums),
                    x = in(reg) x,
                    w = in(reg) slab.codes.as_ptr().add(at),
                    sums = in(reg) &raw mut *sums,
                    record = in(reg) RECORD,
                    line = in(reg) LINE,
                    out($x) _, out($sums) _, out("tmm6") _,
                    options(nostack, preserves_flags),
                );
                if in_two(const { K::FORMAT }.codes) {
                    asm!(
                        "tileloadd tmm7, [{w} + {line}]",
                        concat!("tilezero ", $high),
                        concat!("tdpbssd ", $high, ", ", $x, ", tmm7"),
                        concat!("tilestored [{sums} + {line}], ", $high),
                        w = in(reg) slab.high.as_ptr().add(at),
                        sums = in(reg) &raw mut *high,
                        line = in(reg) LINE,
                        out($high) _, out("tmm7") _,
                        options(nostack, preserves_flags),
                    );
                }
            }
        }
    };
}
dots!(dots_even, "tmm4", "tmm0", "tmm1");
dots!(dots_odd, "tmm5", "tmm2", "tmm3");

/// Adds a block's sums, scaled, to those of the tokens.
///
/// # Safety
/// As for [`dots_even`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn add<K: Type>(slab: &Slab, at: usize, x: *const Record, sums: &Sums, high: &Sums, y: &mut [__m512; TOKENS]) {
    let format = const { K::FORMAT };
    // SAFETY: the block is one of the slab's and has a record for each token.
    unsafe {
        let scale = _mm512_load_ps(slab.scales.as_ptr().add(at).cast());
        let minimum = _mm512_load_ps(slab.minimums.as_ptr().add(at).cast());
        let counts = _mm512_load_si512(slab.counts.as_ptr().add(at).cast());
        for (t, y) in y.iter_mut().enumerate() {
            let x = x.add(t);
            let mut dot = _mm512_load_si512(sums.0[t].as_ptr().cast());
            if in_two(format.codes) {
                let high = _mm512_load_si512(high.0[t].as_ptr().cast());
                dot = _mm512_add_epi32(_mm512_slli_epi32::<6>(high), dot);
            }
            let factor = _mm512_mul_ps(scale, _mm512_set1_ps((*x).scale));
            *y = match negated(format.codes) {
                true => _mm512_fnmadd_ps(factor, _mm512_cvtepi32_ps(dot), *y),
                false => _mm512_fmadd_ps(factor, _mm512_cvtepi32_ps(dot), *y),
            };
            match format.scales {
                Scales::HalfMinimum => *y = _mm512_fmadd_ps(minimum, _mm512_set1_ps((*x).scaled_sum), *y),
                Scales::Six => *y = _mm512_fnmadd_ps(minimum, _mm512_set1_ps((*x).scaled_sum), *y),
                Scales::Nibble16 => {
                    let sums = _mm512_set1_epi32((&raw const (*x).sums).cast::<i32>().read());
                    let sum = _mm512_cvtepi32_ps(_mm512_madd_epi16(counts, sums));
                    let factor = _mm512_mul_ps(minimum, _mm512_set1_ps((*x).scale));
                    *y = _mm512_fnmadd_ps(factor, sum, *y);
                }
                _ => {}
            }
        }
    }
}
