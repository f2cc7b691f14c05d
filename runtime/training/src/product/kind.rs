//! Which kernel computes, and what it wants its operands to look like.

#![expect(unsafe_code, reason = "calls of kernels whose instructions the kind proves")]

use std::ops::Range;

use witness_instructions::{Isa, Level};

use crate::stored::Rows;

use super::pack::{self, Panels, Strided};
use super::{Block, portable};
#[cfg(target_arch = "x86_64")]
use super::{amx, avx2, avx512, bf16_rows::Bf16Matrix};

/// A kernel that this processor executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    tile: Tile,
    /// Numbers are rounded to bf16 and computed as f32.
    rounds: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tile {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Amx,
}

impl Kind {
    /// Returns the kernel for a set of instructions.
    pub(super) fn of(isa: Isa, is_bf16: bool) -> Kind {
        #[cfg(target_arch = "x86_64")]
        let tile = match isa.level() {
            Level::Scalar | Level::DotProd => Tile::Portable,
            Level::Avx2 => Tile::Avx2,
            Level::Avx512Bf16 if is_bf16 => Tile::Avx512Bf16,
            Level::Amx if is_bf16 => Tile::Amx,
            Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 | Level::Amx => Tile::Avx512,
        };
        #[cfg(not(target_arch = "x86_64"))]
        let tile = match isa.level() {
            Level::Scalar | Level::DotProd => Tile::Portable,
            Level::Avx2 | Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 | Level::Amx => Tile::Portable,
        };
        Kind {
            tile,
            rounds: is_bf16 && !tile.has_pairs(),
        }
    }

    /// Returns how many rows of A a panel has.
    pub(super) fn left_lanes(self) -> usize {
        match self.tile {
            Tile::Portable => portable::ROWS,
            #[cfg(target_arch = "x86_64")]
            Tile::Avx2 => avx2::ROWS,
            #[cfg(target_arch = "x86_64")]
            Tile::Avx512 | Tile::Avx512Bf16 => avx512::ROWS,
            #[cfg(target_arch = "x86_64")]
            Tile::Amx => amx::LANES,
        }
    }

    /// Returns how many columns of B a panel has.
    pub(super) fn right_lanes(self) -> usize {
        match self.tile {
            Tile::Portable => portable::COLUMNS,
            #[cfg(target_arch = "x86_64")]
            Tile::Avx2 => avx2::COLUMNS,
            #[cfg(target_arch = "x86_64")]
            Tile::Avx512 | Tile::Avx512Bf16 => avx512::COLUMNS,
            #[cfg(target_arch = "x86_64")]
            Tile::Amx => amx::LANES,
        }
    }

    /// Returns what the number of columns is rounded up to.
    pub(super) fn right_multiple(self) -> usize {
        match self.tile {
            Tile::Portable => portable::COLUMNS,
            #[cfg(target_arch = "x86_64")]
            Tile::Avx2 => avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            Tile::Avx512 | Tile::Avx512Bf16 | Tile::Amx => avx512::LANES,
        }
    }

    /// Returns what the number of rows is rounded up to.
    pub(super) fn left_multiple(self) -> usize {
        match self.tile {
            Tile::Portable => portable::ROWS,
            #[cfg(target_arch = "x86_64")]
            Tile::Avx2 => avx2::ROWS,
            #[cfg(target_arch = "x86_64")]
            Tile::Avx512 | Tile::Avx512Bf16 | Tile::Amx => avx512::LANES,
        }
    }

    /// Returns how many units hold so many steps of k.
    pub(super) fn units(self, k: usize) -> usize {
        match self.tile.has_pairs() {
            true => k.div_ceil(2).next_multiple_of(self.unit_multiple()),
            false => k,
        }
    }

    /// Returns which unit an even step begins.
    pub(super) fn unit_of(self, k: usize) -> usize {
        if self.tile.has_pairs() { k / 2 } else { k }
    }

    /// Returns what the units of a pass are a multiple of.
    pub(super) fn unit_multiple(self) -> usize {
        match self.tile {
            #[cfg(target_arch = "x86_64")]
            Tile::Amx => amx::LANES,
            _ => 1,
        }
    }

    /// Returns the most units of one pass over a tile: the panel of A (of AMX, two) is to stay in the first-level cache.
    pub(super) fn units_of_a_pass_max(self) -> usize {
        match self.tile {
            #[cfg(target_arch = "x86_64")]
            Tile::Amx => 192,
            _ => 512,
        }
    }

    /// Packs some rows of A: the first `n_k` steps of the first lanes of `source` become the lanes `lanes`.
    ///
    /// # Safety
    /// `panels` holds these lanes in panels of this kind, and nobody else uses them.
    pub(super) unsafe fn pack_left(self, source: &Strided<'_>, lanes: Range<usize>, n_k: usize, panels: &Panels) {
        // SAFETY: as the caller promises; the kind is one that the processor has.
        unsafe {
            match self.tile {
                #[cfg(target_arch = "x86_64")]
                Tile::Amx => amx::pack_left(source, lanes, n_k, panels),
                _ => self.pack(source, lanes, n_k, panels, 0, self.left_multiple()),
            }
        }
    }

    /// Packs some columns of B from unit `first_unit` on.
    ///
    /// # Safety
    /// `panels` holds these lanes and units in panels of this kind, and nobody else uses them.
    pub(super) unsafe fn pack_right(
        self,
        source: &Strided<'_>,
        lanes: Range<usize>,
        n_k: usize,
        panels: &Panels,
        first_unit: usize,
    ) {
        // SAFETY: as the caller promises.
        unsafe { self.pack(source, lanes, n_k, panels, first_unit, self.right_multiple()) }
    }

    /// Says whether a stored matrix is in the form that this kernel computes with, so that [`Kind::pack_bf16_rows`] or [`Kind::pack_bf16_columns`] packs it.
    pub(super) fn takes_bf16(self, rows: &dyn Rows, rows_are_lanes: bool) -> bool {
        self.tile.has_pairs() && rows.as_bf16().is_some() && (!rows_are_lanes || rows.n_columns().is_multiple_of(2))
    }

    /// Packs columns `k` of some rows of a matrix in bf16 as lanes from `first_lane` on. Does nothing where [`Kind::takes_bf16`] is false.
    ///
    /// # Safety
    /// As for [`Kind::pack_right`].
    pub(super) unsafe fn pack_bf16_rows(
        self,
        rows: &dyn Rows,
        lanes: Range<usize>,
        k: &Range<usize>,
        panels: &Panels,
        first_lane: usize,
    ) {
        #[cfg(target_arch = "x86_64")]
        if let Some(bytes) = rows.as_bf16() {
            let matrix = Bf16Matrix::new(bytes, rows.n_rows(), rows.n_columns());
            // SAFETY: as the caller promises; kernels of pairs need these instructions too.
            unsafe { matrix.pack_rows(lanes, k, self.units(k.len()), panels, first_lane) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (rows, lanes, k, panels, first_lane);
    }

    /// Packs rows `k` of some columns of a matrix in bf16 as steps, from unit `first_unit` on. Does nothing where [`Kind::takes_bf16`] is false.
    ///
    /// # Safety
    /// As for [`Kind::pack_right`].
    pub(super) unsafe fn pack_bf16_columns(
        self,
        rows: &dyn Rows,
        columns: &Range<usize>,
        k: &Range<usize>,
        panels: &Panels,
        first_unit: usize,
    ) {
        #[cfg(target_arch = "x86_64")]
        if let Some(bytes) = rows.as_bf16() {
            let matrix = Bf16Matrix::new(bytes, rows.n_rows(), rows.n_columns());
            // SAFETY: as above.
            unsafe { matrix.pack_columns(columns, k, self.units(k.len()), panels, first_unit) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (rows, columns, k, panels, first_unit);
    }

    /// # Safety
    /// As for [`Kind::pack_right`]; `panels` holds lanes up to a `multiple`.
    unsafe fn pack(
        self,
        source: &Strided<'_>,
        lanes: Range<usize>,
        n_k: usize,
        panels: &Panels,
        first_unit: usize,
        multiple: usize,
    ) {
        // SAFETY: as the caller promises; the kind is one that the processor has.
        unsafe {
            match (self.tile, self.rounds) {
                #[cfg(target_arch = "x86_64")]
                (Tile::Avx512, false) => avx512::pack(source, lanes, n_k, panels, first_unit),
                #[cfg(target_arch = "x86_64")]
                (Tile::Avx512, true) => avx512::pack_rounded(source, lanes, n_k, panels, first_unit),
                #[cfg(target_arch = "x86_64")]
                (Tile::Avx512Bf16 | Tile::Amx, _) => {
                    let n_units = self.units(n_k);
                    avx512::pack_pairs(source, lanes, n_k, n_units, panels, first_unit);
                }
                (_, false) => pack::pack::<false>(source, lanes, n_k, panels, first_unit, multiple),
                (_, true) => pack::pack::<true>(source, lanes, n_k, panels, first_unit, multiple),
            }
        }
    }

    /// Computes a block.
    ///
    /// # Safety
    /// `block` describes memory as [`Block`] says, packed by this kind.
    pub(super) unsafe fn run(self, block: &Block) {
        // SAFETY: as the caller promises; the kind is one that the processor has.
        unsafe {
            match self.tile {
                Tile::Portable => portable::block_f32(block),
                #[cfg(target_arch = "x86_64")]
                Tile::Avx2 => avx2::block_f32(block),
                #[cfg(target_arch = "x86_64")]
                Tile::Avx512 => avx512::block_f32(block),
                #[cfg(target_arch = "x86_64")]
                Tile::Avx512Bf16 => avx512::block_bf16(block),
                #[cfg(target_arch = "x86_64")]
                Tile::Amx => amx::block_bf16(block),
            }
        }
    }
}

impl Tile {
    /// Says whether a unit is a pair of bf16.
    fn has_pairs(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Tile::Avx512Bf16 | Tile::Amx => true,
            _ => false,
        }
    }
}
