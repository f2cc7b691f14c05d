//! Many tokens: a register holds 16 of them, and a weight is the same in all its lanes.
//!
//! ```text
//! turn tokens round: for each panel of tokens, for each lane of columns, for each column of the lane: the numbers of the panel
//! for each task of rows: widen them, by lane, column and row
//!   for each panel, for each lane, for some rows: for each column of the lane: their weights times the panel -> rows x panel sums
//!     sums of lanes that belong together in the tree are added as soon as both are there
//! ```
//! A lane's columns of a panel stay in the first-level cache while the rows go by. Lanes come in the order in which the tree joins them, so that no more than four
//! sums wait at a time: `0 8 4 12 2 10 6 14 1 9 5 13 3 11 7 15`.
#![expect(unsafe_code, reason = "vector loads within lengths that are checked")]

use std::ops::Range;

use super::sixteen::{Number, Sixteen};
use crate::output::Output;
use crate::pool::Pool;

/// Most rows that are multiplied at a time.
pub(super) const ROWS_MAX: usize = 8;
/// Most sums of rows and vectors of tokens.
const SUMS_MAX: usize = 24;
/// Lanes in the order in which the tree joins their sums.
const ORDER: [usize; 16] = [0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15];

/// Tokens turned round.
pub(super) struct Turned {
    n_tokens: usize,
    n_columns: usize,
    /// Tokens of a panel; the last has as many as are left, rounded up to 16, of which those that are not there are zero.
    panel: usize,
    numbers: Vec<f32>,
}

impl Turned {
    /// Turns tokens `[n_tokens, n_columns]` round.
    pub(super) fn new(x: &[f32], n_columns: usize, panel: usize, pool: &Pool) -> Turned {
        let n_tokens = x.len() / n_columns;
        let mut numbers = vec![0.0; n_tokens.next_multiple_of(16) * padded(n_columns)];
        let panels = numbers
            .chunks_mut(panel * padded(n_columns))
            .zip(x.chunks(panel * n_columns));
        pool.run_on_each(panels, |(numbers, x)| turn(x, n_columns, numbers));
        Turned {
            n_tokens,
            n_columns,
            panel,
            numbers,
        }
    }
}

/// Turns a panel round, 16 tokens and 16 columns at a time.
fn turn(x: &[f32], n_columns: usize, numbers: &mut [f32]) {
    let width = numbers.len() / padded(n_columns);
    for (vector, x) in x.chunks(16 * n_columns).enumerate() {
        for first in (0..n_columns).step_by(16) {
            let len = 16.min(n_columns - first);
            let mut block = [[0.0; 16]; 16];
            for (block, x) in block.iter_mut().zip(x.chunks_exact(n_columns)) {
                block[..len].copy_from_slice(&x[first..first + len]);
            }
            for (column, start) in starts(n_columns).into_iter().enumerate().take(len) {
                let at = (start + first / 16) * width + 16 * vector;
                let place = &mut numbers[at..at + 16];
                place.copy_from_slice(&std::array::from_fn::<f32, 16, _>(|t| block[t][column]));
            }
        }
    }
}

/// Returns the place of a lane's first column: its lanes before it, and a column between each two, without which the same column of all lanes would fall into one
/// set of a cache wherever rows are powers of two long.
#[inline(always)]
fn start(n_columns: usize, lane: usize) -> usize {
    lane * (n_columns / 16 + 1) + lane.min(n_columns % 16)
}

/// The same of all lanes.
#[inline(always)]
fn starts(n_columns: usize) -> [usize; 16] {
    std::array::from_fn(|lane| start(n_columns, lane))
}

/// Returns the places of all columns.
fn padded(n_columns: usize) -> usize {
    n_columns + 16
}

/// Sums that wait for others, 16 tokens each, by the level of the tree and then by row and vector.
type Waiting = [[[f32; 16]; SUMS_MAX]; 5];

/// Multiplies some rows with all tokens, `R` rows and `V` vectors of tokens at a time.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
pub(super) unsafe fn multiply<S: Sixteen, K: Number, const R: usize, const V: usize>(
    w: &[u8],
    x: &Turned,
    rows: Range<usize>,
    y: Output<'_>,
) {
    const { assert!(R <= ROWS_MAX && R * V <= SUMS_MAX) };
    assert_eq!(x.panel, 16 * V, "tokens of a panel");
    let n_columns = x.n_columns;
    // SAFETY: the processor has the instructions, says the caller.
    let widened = unsafe { widen::<S, K, R>(w, n_columns, rows.clone()) };
    let mut waiting = vec![[[[0.0; 16]; SUMS_MAX]; 5]; rows.len().div_ceil(R)];
    for (index, panel) in x.numbers.chunks(x.panel * padded(n_columns)).enumerate() {
        let n_vectors = panel.len() / padded(n_columns) / 16;
        for (joined, lane) in ORDER.into_iter().enumerate() {
            let columns = start(n_columns, lane)..start(n_columns, lane + 1) - 1;
            let panel = &panel[columns.start * 16 * n_vectors..columns.end * 16 * n_vectors];
            for (group, waiting) in widened.chunks_exact(R * padded(n_columns)).zip(&mut waiting) {
                let group = &group[columns.start * R..columns.end * R];
                // SAFETY: the processor has the instructions, says the caller; there are at most `V` vectors.
                unsafe {
                    match n_vectors {
                        1 => lane_sums::<S, R, 1>(group, panel, joined, waiting),
                        2 if V >= 2 => lane_sums::<S, R, 2>(group, panel, joined, waiting),
                        _ => lane_sums::<S, R, V>(group, panel, joined, waiting),
                    }
                }
            }
        }
        let first = index * x.panel;
        for (row, waiting) in rows.clone().step_by(R).zip(&waiting) {
            let n_rows = R.min(rows.end - row);
            for token in first..x.n_tokens.min(first + x.panel) {
                let (vector, lane) = ((token - first) / 16, token % 16);
                let numbers: [f32; R] = std::array::from_fn(|r| waiting[4][r * n_vectors + vector][lane]);
                // SAFETY: this task alone has these rows.
                unsafe { y.put(token, row, &numbers[..n_rows]) };
            }
        }
    }
}

/// Adds up the columns of a lane, `[columns, R]` times `[columns, 16 V]`, joins the sums with those that wait for them and leaves the result there: entry `n` holds
/// sums of `2^n` lanes, by row and vector.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn lane_sums<S: Sixteen, const R: usize, const V: usize>(
    w: &[f32],
    x: &[f32],
    joined: usize,
    waiting: &mut Waiting,
) {
    let n_columns = w.len() / R;
    assert!(
        w.len() == n_columns * R && x.len() == n_columns * 16 * V,
        "a lane's columns"
    );
    // SAFETY: both slices have been checked to hold so many columns; arrays hold 16 numbers.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; R];
        let (mut w, mut x) = (w.as_ptr(), x.as_ptr());
        for _ in 0..n_columns {
            let tokens: [S::V; V] = std::array::from_fn(|v| S::load(x.add(16 * v)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let weight = S::splat(*w.add(r));
                for (sum, x) in sums.iter_mut().zip(tokens) {
                    *sum = S::fma(weight, x, *sum);
                }
            }
            w = w.add(R);
            x = x.add(16 * V);
        }
        let level = joined.trailing_ones() as usize;
        for (r, sums) in sums.into_iter().enumerate() {
            for (v, mut sum) in sums.into_iter().enumerate() {
                for waiting in &waiting[..level] {
                    sum = S::add(S::load(waiting[r * V + v].as_ptr()), sum);
                }
                S::store(sum, waiting[level][r * V + v].as_mut_ptr());
            }
        }
    }
}

/// Widens rows: by group of `R`, lane, column of the lane and row; rows that are not there are zero.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn widen<S: Sixteen, K: Number, const R: usize>(w: &[u8], n_columns: usize, rows: Range<usize>) -> Vec<f32> {
    let row_bytes = n_columns * K::BYTES;
    let mut widened = vec![0.0; rows.len().next_multiple_of(R) * padded(n_columns)];
    let groups = widened.chunks_exact_mut(R * padded(n_columns));
    for (group, w) in groups.zip(w[rows.start * row_bytes..rows.end * row_bytes].chunks(R * row_bytes)) {
        for first in (0..n_columns).step_by(16) {
            let len = 16.min(n_columns - first);
            let mut block = [[0.0; 16]; R];
            for (block, w) in block.iter_mut().zip(w.chunks_exact(row_bytes)) {
                let w = &w[first * K::BYTES..(first + len) * K::BYTES];
                let mut bytes = [0; 64];
                bytes[..w.len()].copy_from_slice(w);
                // SAFETY: the processor has the instructions, says the caller; 64 bytes are 16 numbers or more.
                unsafe { S::store(K::widen::<S>(bytes.as_ptr()), block.as_mut_ptr()) };
            }
            for (column, start) in starts(n_columns).into_iter().enumerate().take(len) {
                let at = R * (start + first / 16);
                let place = &mut group[at..at + R];
                place.copy_from_slice(&std::array::from_fn::<f32, R, _>(|r| block[r][column]));
            }
        }
    }
    widened
}
