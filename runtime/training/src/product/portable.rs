//! Tiles without special instructions: what the others are held against, and what runs where there are none.
#![expect(unsafe_code, reason = "loads and stores at proven places")]

use super::Block;

/// Rows of a tile.
pub(super) const ROWS: usize = 4;
/// Columns of a tile.
pub(super) const COLUMNS: usize = 8;

/// Computes a block, tile by tile.
///
/// # Safety
/// `block` describes memory as [`Block`] says, packed in panels of [`ROWS`] and [`COLUMNS`].
pub(super) unsafe fn block_f32(block: &Block) {
    for top in (0..block.rows).step_by(ROWS) {
        for left in (0..block.columns).step_by(COLUMNS) {
            let mut sums = [[0.0f32; COLUMNS]; ROWS];
            // SAFETY: both panels hold `units` units from their first on.
            let (a, b) = unsafe {
                let a = block.left.add(top / ROWS * block.left_stride + block.left_unit * ROWS);
                let b = block
                    .right
                    .add(left / COLUMNS * block.right_stride + block.right_unit * COLUMNS);
                (
                    std::slice::from_raw_parts(a, block.units * ROWS),
                    std::slice::from_raw_parts(b, block.units * COLUMNS),
                )
            };
            for (a, b) in a.as_chunks::<ROWS>().0.iter().zip(b.as_chunks::<COLUMNS>().0) {
                for (sums, a) in sums.iter_mut().zip(a) {
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum += a * b;
                    }
                }
            }
            // SAFETY: as the caller promises.
            unsafe { store(block, top, left, &sums) };
        }
    }
}

/// Writes the sums of one tile, or adds them, as far as they lie in the target.
///
/// # Safety
/// The rows and columns of `block` lie in its target.
#[inline(always)]
unsafe fn store<const R: usize, const C: usize>(block: &Block, top: usize, left: usize, sums: &[[f32; C]; R]) {
    for (row, sums) in sums.iter().enumerate().take(block.rows - top) {
        for (column, sum) in sums.iter().enumerate().take(block.columns - left) {
            // SAFETY: the row is below `rows`, the column below `columns`.
            unsafe {
                let target = block.target.add((top + row) * block.target_stride + left + column);
                let before = if block.adds { *target } else { 0.0 };
                *target = before + block.scale * sum;
            }
        }
    }
}
