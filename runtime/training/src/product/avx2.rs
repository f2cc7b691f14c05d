//! Tiles with AVX2 and FMA: 4 rows by 24 columns, 12 sums, three vectors of the right factor and one broadcast number in the 16 registers.
#![expect(unsafe_code, reason = "loads and stores at proven places")]

use std::arch::x86_64::*;

use super::Block;

/// Rows of a tile.
pub(super) const ROWS: usize = 4;
/// Columns of a tile.
pub(super) const COLUMNS: usize = 24;
/// Lanes of a vector.
pub(super) const LANES: usize = 8;

/// Computes a block, tile by tile.
///
/// # Safety
/// The processor has AVX2 and FMA; `block` describes memory as [`Block`] says, packed in panels of [`ROWS`] and [`COLUMNS`].
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn block_f32(block: &Block) {
    for top in (0..block.rows).step_by(ROWS) {
        for left in (0..block.columns).step_by(COLUMNS) {
            // SAFETY: `top` and `left` begin panels of the block.
            unsafe {
                match (block.columns - left).min(COLUMNS).div_ceil(LANES) {
                    3 => tile::<3>(block, top, left),
                    2 => tile::<2>(block, top, left),
                    _ => tile::<1>(block, top, left),
                }
            }
        }
    }
}

/// # Safety
/// As for [`block_f32`]; `top` and `left` begin panels of the block.
#[inline]
#[target_feature(enable = "avx2,fma")]
#[expect(clippy::needless_range_loop, reason = "constant indices keep the sums in registers")]
unsafe fn tile<const VECTORS: usize>(block: &Block, top: usize, left: usize) {
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; ROWS];
    // SAFETY: both panels hold `units` units from theirs on, of ROWS and VECTORS * LANES numbers.
    unsafe {
        let width = VECTORS * LANES;
        let mut a = block.left.add(top / ROWS * block.left_stride + block.left_unit * ROWS);
        let mut b = block
            .right
            .add(left / COLUMNS * block.right_stride + block.right_unit * width);
        for _ in 0..block.units {
            let mut columns = [_mm256_setzero_ps(); VECTORS];
            for vector in 0..VECTORS {
                columns[vector] = _mm256_loadu_ps(b.add(vector * LANES));
            }
            for row in 0..ROWS {
                let value = _mm256_broadcast_ss(&*a.add(row));
                for vector in 0..VECTORS {
                    sums[row][vector] = _mm256_fmadd_ps(value, columns[vector], sums[row][vector]);
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

/// Writes eight sums of a row, or adds them, as far as they lie in the target.
///
/// # Safety
/// The rows and columns of `block` lie in its target.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn store(block: &Block, row: usize, column: usize, sums: __m256) {
    if row >= block.rows || column >= block.columns {
        return;
    }
    let n = i32::try_from(block.columns - column).unwrap_or(i32::MAX);
    let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    let scale = _mm256_set1_ps(block.scale);
    let target = block.target.wrapping_add(row * block.target_stride + column);
    // SAFETY: the row is below `rows`, and the mask leaves out columns from `columns` on.
    unsafe {
        let value = match block.adds {
            true => _mm256_fmadd_ps(sums, scale, _mm256_maskload_ps(target, mask)),
            false => _mm256_mul_ps(sums, scale),
        };
        _mm256_maskstore_ps(target, mask, value);
    }
}
