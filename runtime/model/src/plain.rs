//! Products with plain weights: `y[t, o] = sum_i w[o, i] x[t, i]`, for f32, f16 and bf16 weights and any number of tokens.
//!
//! Rows are widened to f32 a band at a time, into memory that stays in a first- or second-level cache, and multiplied with every token; bands are spread over the
//! threads. One token reads 2 bytes a weight (4 of f32) and does one multiplication and addition with it, so memory is the limit: `bytes / bandwidth`. With many
//! tokens, blocks of rows and tokens are held in registers and runs of [`DEPTH`] numbers in the caches, and the multiplier is.
//!
//! **Invariant:** a product of a row and a token is the sum over runs of [`DEPTH`] columns, in order, of sums of [`LANES`] lanes that are added as a tree. It depends
//! on neither the tokens beside it, nor the rows, nor the threads. Multiplications and additions are fused where the processor can.
#![expect(unsafe_code, reason = "threads write disjoint rows of one output")]

use std::cell::RefCell;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use pulp::Simd;
use witness_kernels::Pool;

use crate::split::Shared;

/// Rows that a thread takes at a time: 64 rows of 2048 f16 are 256 KiB, enough to hide the cost of handing them out.
const ROWS_PER_TASK: usize = 64;
/// Partial sums of a product.
const LANES: usize = 16;
/// Columns that are summed at once: with the tokens of a panel they are 256 KiB.
const DEPTH: usize = 1024;
/// Tokens that share a pass over the rows of a band.
const PANEL: usize = 64;
/// Rows of a band when there are many tokens.
const BAND: usize = 16;

/// A float that can be widened a row at a time.
pub(crate) trait Narrow: Copy + Send + Sync {
    /// Returns rows as f32: themselves, or written to `room`, which has their length.
    fn widened<'a>(rows: &'a [Self], room: &'a mut [f32]) -> &'a [f32];
    /// Numbers of `room` for each number of a row.
    const ROOM: usize = 1;
}

impl Narrow for f32 {
    const ROOM: usize = 0;

    #[inline(always)]
    fn widened<'a>(rows: &'a [f32], _: &'a mut [f32]) -> &'a [f32] {
        rows
    }
}

impl Narrow for f16 {
    fn widened<'a>(rows: &'a [f16], room: &'a mut [f32]) -> &'a [f32] {
        rows.convert_to_f32_slice(room);
        room
    }
}

impl Narrow for bf16 {
    #[inline(always)]
    fn widened<'a>(rows: &'a [bf16], room: &'a mut [f32]) -> &'a [f32] {
        for (out, number) in room.iter_mut().zip(rows) {
            *out = f32::from_bits(u32::from(number.to_bits()) << 16);
        }
        room
    }
}

thread_local! {
    /// Widened rows, kept so that their memory is.
    static ROOM: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Computes `y`, `[n_tokens, n_rows]`, from weights `[n_rows, n_columns]` and `x` `[n_tokens, n_columns]`, all row-major.
///
/// # Panics
/// If the lengths are not those of the shapes, or `n_columns` is 0.
pub(crate) fn multiply<N: Narrow>(weights: &[N], x: &[f32], n_columns: usize, y: &mut [f32], pool: &Pool) {
    let (n_rows, n_tokens) = (weights.len() / n_columns, x.len() / n_columns);
    assert!(
        weights.len() == n_rows * n_columns && x.len() == n_tokens * n_columns && y.len() == n_rows * n_tokens,
        "slices hold whole rows"
    );
    let y = Shared::new(y);
    pool.run(n_rows.div_ceil(ROWS_PER_TASK), |task| {
        let rows = task * ROWS_PER_TASK..((task + 1) * ROWS_PER_TASK).min(n_rows);
        // SAFETY: a pool calls each number once, and the rows of different tasks do not overlap.
        unsafe { multiply_rows(weights, rows, x, n_columns, y, n_rows) };
    });
}

/// Does what [`multiply`] does for some rows, on this thread. `y` has `n_rows` numbers a token, of which those of `rows` are written.
///
/// # Safety
/// Nobody else holds those numbers meanwhile.
pub(crate) unsafe fn multiply_rows<N: Narrow>(
    weights: &[N],
    rows: Range<usize>,
    x: &[f32],
    n_columns: usize,
    y: Shared<'_>,
    n_rows: usize,
) {
    ROOM.with_borrow_mut(|room| {
        pulp::Arch::new().dispatch(Rows {
            weights,
            rows,
            x,
            n_columns,
            y,
            n_rows,
            room,
        });
    });
}

/// Some rows of a product.
struct Rows<'a, N> {
    weights: &'a [N],
    rows: Range<usize>,
    x: &'a [f32],
    n_columns: usize,
    y: Shared<'a>,
    n_rows: usize,
    room: &'a mut Vec<f32>,
}

impl<N: Narrow> pulp::WithSimd for Rows<'_, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // As many sums as there are registers for.
        match S::F32_LANES {
            16 => self.run::<S, 4, 4, 1>(simd),
            8 => self.run::<S, 2, 2, 2>(simd),
            4 => self.run::<S, 2, 1, 4>(simd),
            _ => self.run::<S, 1, 1, 16>(simd),
        }
    }
}

impl<N: Narrow> Rows<'_, N> {
    /// In blocks of `R` rows and `T` tokens, with `V` vectors for the lanes.
    #[inline(always)]
    fn run<S: Simd, const R: usize, const T: usize, const V: usize>(self, simd: S) {
        let Rows {
            weights,
            x,
            n_columns,
            y,
            n_rows,
            room,
            ..
        } = self;
        let n_tokens = x.len() / n_columns;
        let per_band = if n_tokens <= T { R } else { BAND };
        room.resize(room.len().max(per_band * n_columns * N::ROOM), 0.0);
        for first in self.rows.clone().step_by(per_band) {
            let n_band = per_band.min(self.rows.end - first);
            let stored = &weights[first * n_columns..(first + n_band) * n_columns];
            let band = N::widened(stored, &mut room[..stored.len() * N::ROOM]);
            for panel in (0..n_tokens).step_by(PANEL) {
                let n_panel = PANEL.min(n_tokens - panel);
                let tokens = &x[panel * n_columns..(panel + n_panel) * n_columns];
                let mut sums = [[0.0f32; BAND]; PANEL];
                for start in (0..n_columns).step_by(DEPTH) {
                    let columns = start..(start + DEPTH).min(n_columns);
                    let mut row = 0;
                    while row + R <= n_band {
                        across::<S, R, T, V>(simd, band, row, tokens, n_columns, columns.clone(), &mut sums);
                        row += R;
                    }
                    while row < n_band {
                        across::<S, 1, T, V>(simd, band, row, tokens, n_columns, columns.clone(), &mut sums);
                        row += 1;
                    }
                }
                for (token, sums) in sums[..n_panel].iter().enumerate() {
                    let at = (panel + token) * n_rows + first;
                    // SAFETY: whoever calls `multiply_rows` leaves these rows to it.
                    unsafe { y.part(at..at + n_band) }.copy_from_slice(&sums[..n_band]);
                }
            }
        }
    }
}

/// Adds to `sums[token][row..]` what `R` rows of a band and all tokens of a panel give over some columns.
#[inline(always)]
fn across<S: Simd, const R: usize, const T: usize, const V: usize>(
    simd: S,
    band: &[f32],
    row: usize,
    tokens: &[f32],
    n_columns: usize,
    columns: Range<usize>,
    sums: &mut [[f32; BAND]; PANEL],
) {
    let rows: [&[f32]; R] = std::array::from_fn(|r| &band[(row + r) * n_columns..][columns.clone()]);
    let n_tokens = tokens.len() / n_columns;
    let mut token = 0;
    while token + T <= n_tokens {
        let x: [&[f32]; T] = std::array::from_fn(|t| &tokens[(token + t) * n_columns..][columns.clone()]);
        let found = block::<S, R, T, V>(simd, rows, x);
        for t in 0..T {
            for r in 0..R {
                sums[token + t][row + r] += found[r][t];
            }
        }
        token += T;
    }
    while token < n_tokens {
        let found = block::<S, R, 1, V>(simd, rows, [&tokens[token * n_columns..][columns.clone()]]);
        for r in 0..R {
            sums[token][row + r] += found[r][0];
        }
        token += 1;
    }
}

/// Returns the sums of products of `R` rows and `T` tokens, all of one length.
#[inline(always)]
fn block<S: Simd, const R: usize, const T: usize, const V: usize>(
    simd: S,
    rows: [&[f32]; R],
    tokens: [&[f32]; T],
) -> [[f32; T]; R] {
    let mut sums = [[[simd.splat_f32s(0.0); V]; T]; R];
    let len = rows[0].len();
    let n_whole = len / LANES;
    let w: [&[[S::f32s; V]]; R] = std::array::from_fn(|r| &chunks::<S, V>(&rows[r][..n_whole * LANES])[..n_whole]);
    let x: [&[[S::f32s; V]]; T] = std::array::from_fn(|t| &chunks::<S, V>(&tokens[t][..n_whole * LANES])[..n_whole]);
    for at in 0..n_whole {
        add::<S, R, T, V>(
            simd,
            std::array::from_fn(|r| &w[r][at]),
            std::array::from_fn(|t| &x[t][at]),
            &mut sums,
        );
    }
    if len > n_whole * LANES {
        let rest = |numbers: &[f32]| {
            let mut padded = [0.0f32; LANES];
            padded[..len - n_whole * LANES].copy_from_slice(&numbers[n_whole * LANES..]);
            padded
        };
        let (w, x): ([_; R], [_; T]) = (rows.map(rest), tokens.map(rest));
        add::<S, R, T, V>(
            simd,
            std::array::from_fn(|r| &chunks::<S, V>(&w[r])[0]),
            std::array::from_fn(|t| &chunks::<S, V>(&x[t])[0]),
            &mut sums,
        );
    }
    let mut found = [[0.0; T]; R];
    for r in 0..R {
        for t in 0..T {
            let mut lanes = [0.0f32; LANES];
            S::as_mut_simd_f32s(&mut lanes).0.copy_from_slice(&sums[r][t]);
            found[r][t] = tree(lanes);
        }
    }
    found
}

/// Numbers as `V` vectors for each 16 of them.
#[inline(always)]
fn chunks<S: Simd, const V: usize>(numbers: &[f32]) -> &[[S::f32s; V]] {
    S::as_simd_f32s(numbers).0.as_chunks::<V>().0
}

#[inline(always)]
fn add<S: Simd, const R: usize, const T: usize, const V: usize>(
    simd: S,
    w: [&[S::f32s; V]; R],
    x: [&[S::f32s; V]; T],
    sums: &mut [[[S::f32s; V]; T]; R],
) {
    for v in 0..V {
        for t in 0..T {
            for r in 0..R {
                sums[r][t][v] = simd.mul_add_e_f32s(w[r][v], x[t][v], sums[r][t][v]);
            }
        }
    }
}

/// Adds lanes: the first half to the second, until one is left.
#[inline(always)]
pub(crate) fn tree(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product<N: Narrow>(weights: &[N], x: &[f32], n_columns: usize, pool: &Pool) -> Vec<f32> {
        let mut y = vec![f32::NAN; weights.len() / n_columns * (x.len() / n_columns)];
        multiply(weights, x, n_columns, &mut y, pool);
        y
    }

    /// Goal: equal to a plain f64 sum within the rounding of f32, for shapes around every block size; and a token's numbers the same bits alone, whatever the threads.
    #[test]
    fn it_equals_the_plain_sum_and_tokens_do_not_depend_on_each_other() {
        for (n_rows, n_columns, n_tokens) in [
            (1, 1, 1),
            (3, 63, 1),
            (64, 64, 2),
            (65, 65, 3),
            (130, 200, 16),
            (17, 16, 70),
            (5, 2100, 9),
            (70, 1040, 129),
        ] {
            let number = |index: usize| ((index * 7919 % 2003) as f32 - 1001.0) / 1001.0;
            let x: Vec<f32> = (0..n_tokens * n_columns).map(|index| number(index + 5)).collect();
            let weights: Vec<f32> = (0..n_rows * n_columns).map(number).collect();
            check(&weights, |w| w, &x, n_columns);
            let halves: Vec<f16> = weights.iter().map(|&w| f16::from_f32(w)).collect();
            check(&halves, f16::to_f32, &x, n_columns);
            let brains: Vec<bf16> = weights.iter().map(|&w| bf16::from_f32(w)).collect();
            check(&brains, bf16::to_f32, &x, n_columns);
        }
    }

    fn check<N: Narrow>(weights: &[N], widen: impl Fn(N) -> f32, x: &[f32], n_columns: usize) {
        let n_rows = weights.len() / n_columns;
        let found = product(weights, x, n_columns, &Pool::new(1));
        assert!(found == product(weights, x, n_columns, &Pool::new(3)), "threads");
        for (token, found) in x.chunks_exact(n_columns).zip(found.chunks_exact(n_rows)) {
            assert!(found == product(weights, token, n_columns, &Pool::new(1)), "alone");
            for (row, found) in weights.chunks_exact(n_columns).zip(found) {
                let products = || token.iter().zip(row).map(|(&x, &w)| f64::from(x) * f64::from(widen(w)));
                let (wanted, size): (f64, f64) = (products().sum(), products().map(f64::abs).sum());
                // Each of the sums rounds at most `n_columns` times.
                let tolerance = size * n_columns as f64 * f64::from(f32::EPSILON) + 1e-12;
                assert!((f64::from(*found) - wanted).abs() <= tolerance, "{found} for {wanted}");
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_in_its_row_and_token() {
        let mut x = vec![1.0; 3 * 20];
        x[25] = f32::NAN;
        let y = product(&[1.0f32; 2 * 20], &x, 20, &Pool::new(1));
        assert!(y[2].is_nan() && y[3].is_nan());
        assert_eq!((&y[..2], &y[4..]), (&[20.0; 2][..], &[20.0; 2][..]));
    }
}
