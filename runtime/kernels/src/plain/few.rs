//! Few tokens: blocks of rows times tokens, 16 columns at a time.
//!
//! Weights stream from memory, each row its own stream; with several tokens a block of rows is read again from the first-level cache for each four of them.
#![expect(unsafe_code, reason = "vector loads within lengths that are checked")]

use std::ops::Range;

use super::sixteen::{Number, Sixteen};
use crate::output::Output;

/// Rows that are multiplied at a time: four sums at a time keep the units of any processor busy enough to wait for memory alone.
const ROWS: usize = 4;
/// Bytes ahead of the weights in use that are asked for, where the next rows are too far away to stay in a first-level cache until they are used.
const AHEAD: usize = 4_096;
/// Bytes of rows that are not.
const NEAR: usize = 24 << 10;

/// Multiplies some rows with tokens `[n_tokens, n_columns]`.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
pub(super) unsafe fn multiply<S: Sixteen, K: Number>(
    w: &[u8],
    n_columns: usize,
    x: &[f32],
    rows: Range<usize>,
    y: Output<'_>,
) {
    let row_bytes = n_columns * K::BYTES;
    let mut row = rows.start;
    while row < rows.end {
        let n_rows = if row + ROWS <= rows.end { ROWS } else { 1 };
        let w = &w[row * row_bytes..][..n_rows * row_bytes];
        let mut left = x;
        while !left.is_empty() {
            let n_tokens = match left.len() / n_columns {
                4.. => 4,
                2 | 3 => 2,
                _ => 1,
            };
            let token = (x.len() - left.len()) / n_columns;
            let (x, rest) = left.split_at(n_tokens * n_columns);
            // SAFETY: the processor has the instructions, says the caller; there are so many whole rows and tokens, and this task alone has the rows.
            unsafe {
                match (n_rows, n_tokens) {
                    (ROWS, 4) => block::<S, K, ROWS, 4>(w, n_columns, x, y, token, row),
                    (ROWS, 2) => block::<S, K, ROWS, 2>(w, n_columns, x, y, token, row),
                    (ROWS, _) => block::<S, K, ROWS, 1>(w, n_columns, x, y, token, row),
                    (_, 4) => block::<S, K, 1, 4>(w, n_columns, x, y, token, row),
                    (_, 2) => block::<S, K, 1, 2>(w, n_columns, x, y, token, row),
                    _ => block::<S, K, 1, 1>(w, n_columns, x, y, token, row),
                }
            }
            left = rest;
        }
        row += n_rows;
    }
}

/// Multiplies `R` rows with `T` tokens.
///
/// # Safety
/// The processor has the instructions; `w` has `R` rows and `x` has `T` tokens; nobody else has these rows.
#[inline(always)]
unsafe fn block<S: Sixteen, K: Number, const R: usize, const T: usize>(
    w: &[u8],
    n_columns: usize,
    x: &[f32],
    y: Output<'_>,
    token: usize,
    row: usize,
) {
    let row_bytes = n_columns * K::BYTES;
    assert!(w.len() == R * row_bytes && x.len() == T * n_columns, "whole rows");
    // SAFETY: 16 columns at a time as long as there are so many, within rows and tokens that were just checked.
    unsafe {
        let mut sums = [[S::splat(0.0); T]; R];
        let whole = n_columns / 16 * 16;
        // The same columns of the next rows; what is a few lines further in these is what the processor asks for by itself.
        let ahead = if R * row_bytes <= NEAR { R * row_bytes } else { AHEAD };
        for column in (0..whole).step_by(16) {
            let x: [S::V; T] = std::array::from_fn(|t| S::load(x.as_ptr().add(t * n_columns + column)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let at = w.as_ptr().add(r * row_bytes + column * K::BYTES);
                if T == 1 {
                    S::prefetch(at.wrapping_add(ahead));
                }
                let w = K::widen::<S>(at);
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = S::fma(w, x, *sum);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (t, sums) in sums.into_iter().enumerate() {
                let mut lanes = [0.0; 16];
                S::store(sums, lanes.as_mut_ptr());
                let mut rest = [0; 64];
                let (w, x) = (
                    &w[r * row_bytes + whole * K::BYTES..(r + 1) * row_bytes],
                    &x[t * n_columns + whole..],
                );
                rest[..w.len()].copy_from_slice(w);
                let mut widened = [0.0; 16];
                S::store(K::widen::<S>(rest.as_ptr()), widened.as_mut_ptr());
                for ((lane, w), x) in lanes.iter_mut().zip(widened).zip(x).take(n_columns - whole) {
                    *lane = w.mul_add(*x, *lane);
                }
                y.put(token + t, row + r, &[tree(lanes)]);
            }
        }
    }
}

/// Returns the sum of lanes, in the order of the specification.
#[inline(always)]
fn tree(mut lanes: [f32; 16]) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}
