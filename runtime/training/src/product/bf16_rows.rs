//! Packing of a matrix that lies in bf16: its bits are what the kernels of pairs read, so nothing is decoded, only moved.
//!
//! Cost: two bytes read and two written a number, about a third of the way through f32.
#![expect(
    unsafe_code,
    reason = "loads and stores at proven places; everything else is safe in these functions"
)]

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512::{LANES, Sixteen, mask_of, transpose};
use super::pack::Panels;

/// Rows of bf16, little-endian, row-major, at any address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bf16Matrix<'a> {
    bytes: &'a [u8],
    n_columns: usize,
}

impl<'a> Bf16Matrix<'a> {
    /// Sees the bytes of a matrix.
    pub(super) fn new(bytes: &'a [u8], n_rows: usize, n_columns: usize) -> Bf16Matrix<'a> {
        assert_eq!(
            n_rows.checked_mul(n_columns).and_then(|n| n.checked_mul(2)),
            Some(bytes.len()),
            "the bytes of a matrix in bf16"
        );
        Bf16Matrix { bytes, n_columns }
    }

    /// Says whether pairs of columns can be read as words: of every row, then.
    pub(super) fn has_pairs_of_columns(&self) -> bool {
        self.n_columns.is_multiple_of(2)
    }

    fn rows(&self, rows: &Range<usize>) -> &'a [u8] {
        &self.bytes[rows.start * self.n_columns * 2..rows.end * self.n_columns * 2]
    }

    /// Packs rows as lanes: pairs of columns `k` of the rows `rows` become the lanes from `first_lane` on.
    ///
    /// # Panics
    /// If a row or column lies outside the matrix, `k` begins at an odd column, or the number of columns is odd.
    ///
    /// # Safety
    /// The processor has the instructions; `panels` holds these lanes, whose first is a multiple of 16, and units up to `n_units`, and nobody else uses them.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn pack_rows(
        &self,
        rows: Range<usize>,
        k: &Range<usize>,
        n_units: usize,
        panels: &Panels,
        first_lane: usize,
    ) {
        assert!(self.has_pairs_of_columns() && k.start.is_multiple_of(2) && k.end <= self.n_columns);
        let data = self.rows(&rows);
        let n_words = k.len().div_ceil(2);
        for at in (0..rows.len()).step_by(LANES) {
            let n_lanes = (rows.len() - at).min(LANES);
            let place = Sixteen::of(panels, first_lane + at, 0);
            for unit in (0..n_units).step_by(LANES) {
                let mask = mask_of(n_words.saturating_sub(unit));
                let mut lanes = [_mm512_setzero_si512(); LANES];
                for (lane, words) in lanes.iter_mut().enumerate().take(n_lanes) {
                    // SAFETY: the row lies in `data`, and the mask leaves out words from the end of `k` on.
                    unsafe {
                        let row = data.as_ptr().wrapping_add((at + lane) * self.n_columns * 2);
                        let word = row.wrapping_add((k.start + 2 * unit) * 2);
                        *words = _mm512_maskz_loadu_epi32(mask, word.cast());
                    }
                }
                for (step, vector) in transpose(lanes).iter().enumerate().take(n_units - unit) {
                    // SAFETY: as the caller promises.
                    unsafe { place.write(unit + step, *vector) };
                }
            }
        }
    }

    /// Packs some columns as lanes, the first of them as lane 0: rows `k`, two a unit, from unit `first_unit` on.
    ///
    /// # Panics
    /// If a row or column lies outside the matrix.
    ///
    /// # Safety
    /// As for [`Bf16Matrix::pack_rows`], with units up to `first_unit + n_units`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn pack_columns(
        &self,
        columns: &Range<usize>,
        k: &Range<usize>,
        n_units: usize,
        panels: &Panels,
        first_unit: usize,
    ) {
        assert!(columns.end <= self.n_columns);
        let data = self.rows(k);
        for lane in (0..columns.len()).step_by(LANES) {
            let place = Sixteen::of(panels, lane, first_unit);
            let mask = mask_of(columns.len() - lane);
            let load = |row: usize| {
                // SAFETY: the row lies in `data`, and the mask leaves out columns from the end of `columns` on.
                let numbers = unsafe {
                    let row = data
                        .as_ptr()
                        .wrapping_add((row * self.n_columns + columns.start + lane) * 2);
                    _mm256_maskz_loadu_epi16(mask, row.cast())
                };
                _mm512_cvtepu16_epi32(numbers)
            };
            for unit in 0..n_units {
                let zero = _mm512_setzero_si512();
                let first = if 2 * unit < k.len() { load(2 * unit) } else { zero };
                let second = if 2 * unit + 1 < k.len() {
                    load(2 * unit + 1)
                } else {
                    zero
                };
                // SAFETY: as the caller promises.
                unsafe { place.write(unit, _mm512_or_si512(first, _mm512_slli_epi32::<16>(second))) };
            }
        }
    }
}
