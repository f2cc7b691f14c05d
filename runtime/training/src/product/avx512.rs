//! Tiles and packing with AVX-512.
//!
//! A tile is 8 rows by 48 columns: 24 sums, three vectors of the right factor and one broadcast number stay in the 32 registers, and a step of 24 multiply-adds
//! takes 11 loads. The dot product of bf16 pairs has the same shape, as a pair fills the place of one f32.
//!
//! Packing turns 16 lanes by 16 units at a time, in registers.
#![expect(
    unsafe_code,
    reason = "loads and stores at proven places; everything else is safe in these functions"
)]

use std::arch::x86_64::*;
use std::ops::Range;

use super::Block;
use super::pack::{Panels, Strided};

/// Rows of a tile.
pub(super) const ROWS: usize = 8;
/// Columns of a tile.
pub(super) const COLUMNS: usize = 48;
/// Lanes of a vector.
pub(super) const LANES: usize = 16;

/// Defines a kernel: its name, that of its tile, the instructions, and how a unit of a row and 16 of columns are added to 16 sums.
///
/// Sums are named by constant indices throughout: whatever takes the address of the array puts them into memory, at a third of the speed.
macro_rules! kernel {
    ($block:ident, $tile:ident, $features:literal, $add:expr) => {
        /// Computes a block, tile by tile.
        ///
        /// # Safety
        /// The processor has these instructions; `block` describes memory as [`Block`] says, packed in panels of [`ROWS`] and [`COLUMNS`].
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $block(block: &Block) {
            for top in (0..block.rows).step_by(ROWS) {
                for left in (0..block.columns).step_by(COLUMNS) {
                    // SAFETY: `top` and `left` begin panels of the block.
                    unsafe {
                        match (block.columns - left).min(COLUMNS).div_ceil(LANES) {
                            3 => $tile::<3>(block, top, left),
                            2 => $tile::<2>(block, top, left),
                            _ => $tile::<1>(block, top, left),
                        }
                    }
                }
            }
        }

        /// # Safety
        /// As for the block; `top` and `left` begin panels of it.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn $tile<const VECTORS: usize>(block: &Block, top: usize, left: usize) {
            let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
            // SAFETY: both panels hold `units` units from theirs on, of ROWS and VECTORS * LANES numbers.
            unsafe {
                let width = VECTORS * LANES;
                let mut a = block
                    .left
                    .add(top / ROWS * block.left_stride + block.left_unit * ROWS);
                let mut b = block
                    .right
                    .add(left / COLUMNS * block.right_stride + block.right_unit * width);
                for _ in 0..block.units {
                    let mut columns = [_mm512_setzero_ps(); VECTORS];
                    for vector in 0..VECTORS {
                        columns[vector] = _mm512_loadu_ps(b.add(vector * LANES));
                    }
                    for row in 0..ROWS {
                        let value = _mm512_set1_ps(*a.add(row));
                        for vector in 0..VECTORS {
                            sums[row][vector] = ($add)(sums[row][vector], value, columns[vector]);
                        }
                    }
                    a = a.add(ROWS);
                    b = b.add(width);
                }
            }
            for row in 0..ROWS {
                for vector in 0..VECTORS {
                    // SAFETY: as the caller promises.
                    unsafe { store(block, top + row, left + vector * LANES, sums[row][vector]) };
                }
            }
        }
    };
}

kernel!(
    block_f32,
    tile_f32,
    "avx512f,avx512bw,avx512dq,avx512vl",
    |sum, value, column| _mm512_fmadd_ps(value, column, sum)
);
kernel!(
    block_bf16,
    tile_bf16,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16",
    |sum, value, column| _mm512_dpbf16_ps(sum, pairs(value), pairs(column))
);

/// Sees a vector as 32 bf16.
#[inline]
#[target_feature(enable = "avx512f")]
fn pairs(vector: __m512) -> __m512bh {
    // SAFETY: both are 64 bytes of which every pattern is a value.
    unsafe { std::mem::transmute(vector) }
}

/// Writes 16 sums of a row, or adds them, as far as they lie in the target.
///
/// # Safety
/// The rows and columns of `block` lie in its target.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store(block: &Block, row: usize, column: usize, sums: __m512) {
    if row >= block.rows {
        return;
    }
    let mask = mask_of(block.columns.saturating_sub(column));
    let scale = _mm512_set1_ps(block.scale);
    let target = block.target.wrapping_add(row * block.target_stride + column);
    // SAFETY: the row is below `rows`, and the mask leaves out columns from `columns` on.
    unsafe {
        let value = match block.adds {
            true => _mm512_fmadd_ps(sums, scale, _mm512_maskz_loadu_ps(mask, target)),
            false => _mm512_mul_ps(sums, scale),
        };
        _mm512_mask_storeu_ps(target, mask, value);
    }
}

/// Returns the mask of the first `n` lanes.
#[inline(always)]
pub(super) fn mask_of(n: usize) -> __mmask16 {
    match n {
        LANES.. => !0,
        _ => (1u16 << n) - 1,
    }
}

/// Where 16 lanes lie in the panels. A panel's lanes are a multiple of 8, so each half of them lies in one panel.
pub(super) struct Sixteen {
    low: *mut f32,
    low_width: usize,
    high: *mut f32,
    high_width: usize,
}

impl Sixteen {
    /// Returns the place of lanes, the first of which is a multiple of 16, from a unit on.
    #[inline(always)]
    pub(super) fn of(panels: &Panels, lane: usize, first_unit: usize) -> Sixteen {
        let (low, low_width) = panels.place(lane, first_unit);
        let (high, high_width) = panels.place(lane + LANES / 2, first_unit);
        Sixteen {
            low,
            low_width,
            high,
            high_width,
        }
    }

    /// Writes one unit of all 16.
    ///
    /// # Safety
    /// The panels hold the lanes up to this unit, counted from the first, and nobody else uses them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    pub(super) unsafe fn write(&self, unit: usize, vector: __m512i) {
        let vector = _mm512_castsi512_ps(vector);
        // SAFETY: as the caller promises.
        unsafe {
            _mm256_storeu_ps(self.low.add(unit * self.low_width), _mm512_castps512_ps256(vector));
            _mm256_storeu_ps(
                self.high.add(unit * self.high_width),
                _mm512_extractf32x8_ps::<1>(vector),
            );
        }
    }
}

/// Defines packing: its name, the instructions, steps of k in a unit, and how 16 units are made: of one lane from numbers that lie behind each other, or of 16 lanes
/// from one (or two) steps.
macro_rules! packing {
    ($pack:ident, $features:literal, $per_unit:literal, $across:expr, $along:expr) => {
        /// Packs the first `n_k` steps of the first lanes of `source` as the lanes `lanes` of panels, from unit `first_unit` on; lanes up to a multiple of 16, and
        /// units up to `n_units`, are filled with zeros.
        ///
        /// # Safety
        /// The processor has these instructions; `panels` holds these lanes, whose first is a multiple of 16, and these units, and nobody else uses them.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $pack(
            source: &Strided<'_>,
            lanes: Range<usize>,
            n_k: usize,
            n_units: usize,
            panels: &Panels,
            first_unit: usize,
        ) {
            source.check(lanes.len(), n_k);
            for lane in lanes.clone().step_by(LANES) {
                let n_lanes = (lanes.end - lane).min(LANES);
                let source = source.skip_lanes(lane - lanes.start);
                let place = Sixteen::of(panels, lane, first_unit);
                for unit in (0..n_units).step_by(LANES) {
                    let k = unit * $per_unit;
                    // SAFETY: `check` proved lanes and steps to lie in the source, and masks leave out others.
                    let units = unsafe {
                        match source.k_stride == 1 {
                            true => transpose(across(&source, n_lanes, k, n_k, $per_unit * LANES, $across)),
                            false => along(&source, n_lanes, k, n_k, $per_unit, $along),
                        }
                    };
                    for (at, vector) in units.iter().enumerate().take(n_units - unit) {
                        // SAFETY: the caller promises the places of these 16 lanes up to `n_units`.
                        unsafe { place.write(unit + at, *vector) };
                    }
                }
            }
        }
    };
}

packing!(
    pack_numbers,
    "avx512f,avx512bw,avx512dq,avx512vl",
    1,
    |first, _| _mm512_castps_si512(first),
    |first, _| _mm512_castps_si512(first)
);
packing!(
    pack_rounded_numbers,
    "avx512f,avx512bw,avx512dq,avx512vl",
    1,
    |first, _| round(first),
    |first, _| round(first)
);
packing!(
    pack_pairs,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16",
    2,
    |first, second| join(first, second),
    |first, second| interleave(first, second)
);

/// Packs f32.
///
/// # Safety
/// As for [`pack_numbers`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn pack(source: &Strided<'_>, lanes: Range<usize>, n_k: usize, panels: &Panels, first_unit: usize) {
    // SAFETY: as the caller promises.
    unsafe { pack_numbers(source, lanes, n_k, n_k, panels, first_unit) };
}

/// Packs f32 that are rounded to bf16.
///
/// # Safety
/// As for [`pack_numbers`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn pack_rounded(
    source: &Strided<'_>,
    lanes: Range<usize>,
    n_k: usize,
    panels: &Panels,
    first_unit: usize,
) {
    // SAFETY: as the caller promises.
    unsafe { pack_rounded_numbers(source, lanes, n_k, n_k, panels, first_unit) };
}

/// Makes 16 units of each of 16 lanes, whose numbers lie behind each other.
///
/// # Safety
/// `source` holds `n_lanes` lanes of `n_k` steps.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn across(
    source: &Strided<'_>,
    n_lanes: usize,
    k: usize,
    n_k: usize,
    step: usize,
    unit: impl Fn(__m512, __m512) -> __m512i,
) -> [__m512i; LANES] {
    let n = n_k.saturating_sub(k);
    let masks = (mask_of(n), mask_of(n.saturating_sub(LANES)));
    let mut lanes = [_mm512_setzero_si512(); LANES];
    for (lane, units) in lanes.iter_mut().enumerate().take(n_lanes) {
        // SAFETY: the masks leave out steps from `n_k` on; no address is formed beyond what they leave.
        unsafe {
            let numbers = source.data.as_ptr().wrapping_add(lane * source.lane_stride + k);
            let first = _mm512_maskz_loadu_ps(masks.0, numbers);
            let second = match step > LANES {
                true => _mm512_maskz_loadu_ps(masks.1, numbers.wrapping_add(LANES)),
                false => first,
            };
            *units = unit(first, second);
        }
    }
    lanes
}

/// Makes 16 lanes of each of 16 units, from steps whose lanes lie behind each other, or anywhere.
///
/// # Safety
/// `source` holds `n_lanes` lanes of `n_k` steps.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn along(
    source: &Strided<'_>,
    n_lanes: usize,
    k: usize,
    n_k: usize,
    per_unit: usize,
    unit: impl Fn(__m512, __m512) -> __m512i,
) -> [__m512i; LANES] {
    let (mut units, zero) = ([_mm512_setzero_si512(); LANES], _mm512_setzero_ps());
    let load = |k: usize| -> __m512 {
        if k >= n_k {
            return zero;
        }
        if source.lane_stride == 1 {
            // SAFETY: the mask leaves out lanes from `n_lanes` on.
            return unsafe {
                _mm512_maskz_loadu_ps(mask_of(n_lanes), source.data.as_ptr().wrapping_add(k * source.k_stride))
            };
        }
        let mut numbers = [0.0f32; LANES];
        for (lane, number) in numbers.iter_mut().enumerate().take(n_lanes) {
            *number = source.data[lane * source.lane_stride + k * source.k_stride];
        }
        // SAFETY: sixteen numbers.
        unsafe { _mm512_loadu_ps(numbers.as_ptr()) }
    };
    for (at, vector) in units.iter_mut().enumerate() {
        let k = k + at * per_unit;
        if k >= n_k {
            break;
        }
        let first = load(k);
        *vector = unit(first, if per_unit == 2 { load(k + 1) } else { first });
    }
    units
}

/// Rounds to bf16 and back, to nearest with ties to even; numbers too small for a full mantissa become zero, as in the instruction.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn round(numbers: __m512) -> __m512i {
    let bits = _mm512_castps_si512(numbers);
    let exponent = _mm512_set1_epi32(0x7f80_0000);
    let sign = _mm512_set1_epi32(i32::MIN);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    let rounded = _mm512_and_si512(rounded, _mm512_set1_epi32(!0xffff));
    let is_small = _mm512_cmpeq_epi32_mask(_mm512_and_si512(bits, exponent), _mm512_setzero_si512());
    let rounded = _mm512_mask_and_epi32(rounded, is_small, bits, sign);
    let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(numbers, numbers);
    _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x0040_0000))
}

/// Rounds 32 numbers that lie behind each other: 16 pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn join(first: __m512, second: __m512) -> __m512i {
    // SAFETY: both are 64 bytes of which every pattern is a value.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(second, first)) }
}

/// Rounds two steps of 16 lanes: a pair for each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn interleave(first: __m512, second: __m512) -> __m512i {
    let lanes = join(first, second);
    let low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(lanes));
    let high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(lanes));
    _mm512_or_si512(low, _mm512_slli_epi32::<16>(high))
}

/// Turns 16 by 16 words.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    let mut pairs = rows;
    for at in 0..8 {
        pairs[2 * at] = _mm512_unpacklo_epi32(rows[2 * at], rows[2 * at + 1]);
        pairs[2 * at + 1] = _mm512_unpackhi_epi32(rows[2 * at], rows[2 * at + 1]);
    }
    // In each quarter of a register, column 4 q + j of rows 4 g to 4 g + 3.
    let mut fours = pairs;
    for g in 0..4 {
        fours[4 * g] = _mm512_unpacklo_epi64(pairs[4 * g], pairs[4 * g + 2]);
        fours[4 * g + 1] = _mm512_unpackhi_epi64(pairs[4 * g], pairs[4 * g + 2]);
        fours[4 * g + 2] = _mm512_unpacklo_epi64(pairs[4 * g + 1], pairs[4 * g + 3]);
        fours[4 * g + 3] = _mm512_unpackhi_epi64(pairs[4 * g + 1], pairs[4 * g + 3]);
    }
    let mut columns = fours;
    for j in 0..4 {
        let even_low = _mm512_shuffle_i32x4::<0b10_00_10_00>(fours[j], fours[4 + j]);
        let odd_low = _mm512_shuffle_i32x4::<0b11_01_11_01>(fours[j], fours[4 + j]);
        let even_high = _mm512_shuffle_i32x4::<0b10_00_10_00>(fours[8 + j], fours[12 + j]);
        let odd_high = _mm512_shuffle_i32x4::<0b11_01_11_01>(fours[8 + j], fours[12 + j]);
        columns[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(even_low, even_high);
        columns[8 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(even_low, even_high);
        columns[4 + j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odd_low, odd_high);
        columns[12 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odd_low, odd_high);
    }
    columns
}
