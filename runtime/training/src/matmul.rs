//! Matrix products over slices with strides: f32 by [`crate::product`], anything else by the `gemm` crate.
//!
//! A transposed operand is the same slice with its strides swapped. The sums over the inner dimension are never split among threads; a result therefore has the
//! same bits with any number of them.

#![expect(
    unsafe_code,
    reason = "gemm takes pointers; the strides are proven to stay inside the slices first"
)]

use std::any::TypeId;

use witness_instructions::{Isa, Level};

use crate::product::{self, PackedLeft, Product, Right, Strided, multiply};
use crate::real::Real;
use crate::stored::{Rows, decode_all};

/// A matrix in a slice, row `r` and column `c` at `r * row_stride + c * column_stride`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a, T> {
    data: &'a [T],
    layout: Layout,
}

/// A matrix in a slice that is written.
#[derive(Debug)]
pub(crate) struct ViewMut<'a, T> {
    data: &'a mut [T],
    layout: Layout,
}

#[derive(Clone, Copy, Debug)]
struct Layout {
    n_rows: usize,
    n_columns: usize,
    row_stride: usize,
    column_stride: usize,
}

/// A left factor that several products share: packed once, where that is how products are made.
pub(crate) struct Prepared<'a, T> {
    view: View<'a, T>,
    packed: Option<PackedLeft>,
}

/// A left factor.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a, T> {
    /// Numbers.
    Plain(View<'a, T>),
    /// Numbers that are packed.
    Prepared(&'a Prepared<'a, T>),
}

/// What happens to the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Into {
    /// It replaces what was there.
    Replace,
    /// It is added to what was there.
    Add,
}

/// Who computes, and in what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Means {
    /// Who.
    pub(crate) workers: Workers,
    /// In what.
    pub(crate) compute: Compute,
}

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workers {
    /// The calling thread.
    One,
    /// All threads of the current rayon pool.
    All,
}

/// What the factors of a product are rounded to. Sums, and everything that is no product, stay f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compute {
    /// Nothing: products of f32.
    #[default]
    F32,
    /// bf16, to nearest with ties to even, as torch's autocast does: twice to ten times as fast where the processor has such products, and the same numbers, slower,
    /// where it has not.
    Bf16,
}

/// A right factor: numbers in memory, or a frozen matrix in its own form.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Matrix<'a, T> {
    /// Numbers.
    Plain(View<'a, T>),
    /// Rows to be decoded.
    Stored(&'a dyn Rows),
    /// The transposed matrix of rows to be decoded.
    StoredTransposed(&'a dyn Rows),
}

impl Means {
    /// All threads.
    pub(crate) fn all(compute: Compute) -> Means {
        let workers = Workers::All;
        Means { workers, compute }
    }

    /// The calling thread.
    pub(crate) fn one(compute: Compute) -> Means {
        let workers = Workers::One;
        Means { workers, compute }
    }
}

impl<'a, T: Real> Prepared<'a, T> {
    /// Packs a factor for products of some means.
    pub(crate) fn new(view: View<'a, T>, means: Means) -> Prepared<'a, T> {
        let Layout {
            n_rows,
            n_columns,
            row_stride,
            column_stride,
        } = view.layout;
        let packed = as_f32(view.data)
            .filter(|_| !is_library_quick(means) && n_rows > 0 && n_columns > 0)
            .map(|data| {
                let source = Strided::new(data, row_stride, column_stride);
                let is_threaded = means.workers == Workers::All;
                PackedLeft::new(&source, n_rows, n_columns, means.compute == Compute::Bf16, is_threaded)
            });
        Prepared { view, packed }
    }

    /// Returns its numbers.
    pub(crate) fn data(&self) -> &'a [T] {
        self.view.data
    }
}

impl<'a, T> From<View<'a, T>> for Left<'a, T> {
    fn from(view: View<'a, T>) -> Left<'a, T> {
        Left::Plain(view)
    }
}

impl<'a, T> From<&'a Prepared<'a, T>> for Left<'a, T> {
    fn from(prepared: &'a Prepared<'a, T>) -> Left<'a, T> {
        Left::Prepared(prepared)
    }
}

impl<'a, T> From<View<'a, T>> for Matrix<'a, T> {
    fn from(view: View<'a, T>) -> Matrix<'a, T> {
        Matrix::Plain(view)
    }
}

impl<'a, T> Matrix<'a, T> {
    /// Sees a slice as a row-major matrix.
    pub(crate) fn plain(data: &'a [T], n_rows: usize, n_columns: usize) -> Matrix<'a, T> {
        Matrix::Plain(View::new(data, n_rows, n_columns))
    }

    /// Sees the transposed matrix.
    pub(crate) fn transposed(self) -> Matrix<'a, T> {
        match self {
            Matrix::Plain(view) => Matrix::Plain(view.transposed()),
            Matrix::Stored(rows) => Matrix::StoredTransposed(rows),
            Matrix::StoredTransposed(rows) => Matrix::Stored(rows),
        }
    }

    fn shape(&self) -> (usize, usize) {
        match self {
            Matrix::Plain(view) => (view.layout.n_rows, view.layout.n_columns),
            Matrix::Stored(rows) => (rows.n_rows(), rows.n_columns()),
            Matrix::StoredTransposed(rows) => (rows.n_columns(), rows.n_rows()),
        }
    }
}

impl Layout {
    fn new(n_rows: usize, n_columns: usize, row_stride: usize, column_stride: usize, len: usize) -> Layout {
        let layout = Layout {
            n_rows,
            n_columns,
            row_stride,
            column_stride,
        };
        let last = |count: usize, stride: usize| (count - 1).checked_mul(stride);
        let is_inside = n_rows == 0
            || n_columns == 0
            || last(n_rows, row_stride)
                .zip(last(n_columns, column_stride))
                .and_then(|(row, column)| row.checked_add(column))
                .is_some_and(|end| end < len);
        assert!(is_inside, "a matrix {layout:?} does not lie in {len} elements");
        layout
    }
}

impl<'a, T> View<'a, T> {
    /// Sees a slice as a row-major matrix.
    pub(crate) fn new(data: &'a [T], n_rows: usize, n_columns: usize) -> View<'a, T> {
        View {
            layout: Layout::new(n_rows, n_columns, n_columns, 1, data.len()),
            data,
        }
    }

    /// Sees the transposed matrix.
    pub(crate) fn transposed(self) -> View<'a, T> {
        let Layout {
            n_rows,
            n_columns,
            row_stride,
            column_stride,
        } = self.layout;
        View {
            layout: Layout::new(n_columns, n_rows, column_stride, row_stride, self.data.len()),
            data: self.data,
        }
    }
}

impl<'a, T> ViewMut<'a, T> {
    /// Sees a slice as a row-major matrix.
    pub(crate) fn new(data: &'a mut [T], n_rows: usize, n_columns: usize) -> ViewMut<'a, T> {
        ViewMut {
            layout: Layout::new(n_rows, n_columns, n_columns, 1, data.len()),
            data,
        }
    }
}

/// Computes `target = scale * left * right`, or adds it to `target`.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn matmul<'a, T: Real>(
    target: ViewMut<'_, T>,
    into: Into,
    scale: T,
    left: impl std::convert::Into<Left<'a, T>>,
    right: impl std::convert::Into<Matrix<'a, T>>,
    means: Means,
) {
    let right = right.into();
    let (left, packed) = match left.into() {
        Left::Plain(view) => (view, None),
        Left::Prepared(prepared) => (prepared.view, prepared.packed.as_ref()),
    };
    let (m, k) = (left.layout.n_rows, left.layout.n_columns);
    let (right_rows, n) = right.shape();
    assert_eq!(right_rows, k, "inner dimensions differ");
    assert_eq!(
        (target.layout.n_rows, target.layout.n_columns),
        (m, n),
        "the target has another shape"
    );
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if into == Into::Replace {
            for row in 0..m {
                for column in 0..n {
                    target.data[row * target.layout.row_stride + column * target.layout.column_stride] = T::ZERO;
                }
            }
        }
        return;
    }
    if let (true, Matrix::Plain(right)) = (is_library_quick(means), right) {
        generic(target, into, scale, left, right, means.workers);
        return;
    }
    if let (Some(scale), Some(target_data), Some(left_data)) =
        (as_f32(&[scale]), as_f32_mut(target.data), as_f32(left.data))
    {
        let right = match right {
            Matrix::Plain(view) => {
                let Some(data) = as_f32(view.data) else { return };
                Right::Plain(Strided::new(data, view.layout.column_stride, view.layout.row_stride))
            }
            Matrix::Stored(rows) => Right::RowsAreDepth(rows),
            Matrix::StoredTransposed(rows) => Right::RowsAreColumns(rows),
        };
        multiply(&mut Product {
            m,
            n,
            k,
            left: match packed {
                Some(packed) => product::Left::Packed(packed),
                None => product::Left::Plain(Strided::new(
                    left_data,
                    left.layout.row_stride,
                    left.layout.column_stride,
                )),
            },
            right,
            target: target_data,
            target_stride: target.layout.row_stride,
            adds: into == Into::Add,
            scale: scale[0],
            rounds_to_bf16: means.compute == Compute::Bf16,
            is_threaded: means.workers == Workers::All,
        });
        return;
    }
    match right {
        Matrix::Plain(right) => generic(target, into, scale, left, right, means.workers),
        Matrix::Stored(rows) | Matrix::StoredTransposed(rows) => {
            let decoded: Vec<T> = decode_all(rows).into_iter().map(T::from_f32).collect();
            let view = View::new(&decoded, rows.n_rows(), rows.n_columns());
            let view = match right {
                Matrix::StoredTransposed(_) => view.transposed(),
                _ => view,
            };
            generic(target, into, scale, left, view, means.workers);
        }
    }
}

/// With AVX2 the library is as near to the peak as ours (150 of 175 GFLOP/s on two cores); it knows neither AVX-512 nor bf16 nor stored matrices.
fn is_library_quick(means: Means) -> bool {
    Isa::current().level() == Level::Avx2 && means.compute == Compute::F32
}

/// Sees numbers as f32, where that is what they are.
fn as_f32<T: 'static>(values: &[T]) -> Option<&[f32]> {
    // SAFETY: T is f32.
    (TypeId::of::<T>() == TypeId::of::<f32>())
        .then(|| unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) })
}

/// Sees numbers as f32, where that is what they are.
fn as_f32_mut<T: 'static>(values: &mut [T]) -> Option<&mut [f32]> {
    // SAFETY: T is f32, and the borrow is exclusive.
    (TypeId::of::<T>() == TypeId::of::<f32>())
        .then(|| unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) })
}

/// The product of numbers of any type, whose shapes fit and are not empty.
fn generic<T: Real>(
    target: ViewMut<'_, T>,
    into: Into,
    scale: T,
    left: View<'_, T>,
    right: View<'_, T>,
    workers: Workers,
) {
    let (m, k, n) = (left.layout.n_rows, left.layout.n_columns, right.layout.n_columns);
    let parallelism = match workers {
        Workers::One => gemm::Parallelism::None,
        Workers::All => gemm::Parallelism::Rayon(0),
    };
    // SAFETY: `Layout::new` proved for each of the three that its last element, and as strides are not negative every element, lies inside its slice; the caller
    // proved that m, n and k are the dimensions of those layouts. `target` is borrowed mutably, so it overlaps neither operand. Strides fit isize because a slice
    // is at most isize::MAX bytes long. That T is f32 or f64 is checked by the library itself, which panics on any other type.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            target.data.as_mut_ptr(),
            target.layout.column_stride as isize,
            target.layout.row_stride as isize,
            into == Into::Add,
            left.data.as_ptr(),
            left.layout.column_stride as isize,
            left.layout.row_stride as isize,
            right.data.as_ptr(),
            right.layout.column_stride as isize,
            right.layout.row_stride as isize,
            T::ONE,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Sizes around the blocks of the library, every transposition, with and without adding, against three loops.
    #[test]
    fn products_equal_three_loops() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (17, 33, 65), (64, 16, 1), (5, 4, 0), (0, 3, 2)] {
            let left: Vec<f64> = (0..m * k).map(|at| (at % 7) as f64 - 3.0).collect();
            let right: Vec<f64> = (0..k * n).map(|at| (at % 5) as f64 - 2.0).collect();
            let mut wanted = vec![0.0; m * n];
            for row in 0..m {
                for column in 0..n {
                    wanted[row * n + column] = (0..k)
                        .map(|at| left[row * k + at] * right[at * n + column])
                        .sum::<f64>()
                        * 2.0;
                }
            }
            let turned = |data: &[f64], rows: usize, columns: usize| -> Vec<f64> {
                (0..rows * columns)
                    .map(|at| data[(at % rows) * columns + at / rows])
                    .collect()
            };
            let (left_turned, right_turned) = (turned(&left, m, k), turned(&right, k, n));
            let lefts = [View::new(&left, m, k), View::new(&left_turned, k, m).transposed()];
            let rights = [View::new(&right, k, n), View::new(&right_turned, n, k).transposed()];
            for (a, b) in lefts.into_iter().flat_map(|a| rights.map(|b| (a, b))) {
                let mut found = vec![9.0; m * n];
                matmul(
                    ViewMut::new(&mut found, m, n),
                    Into::Replace,
                    2.0,
                    a,
                    b,
                    Means::one(Compute::F32),
                );
                assert_eq!(found, wanted);
                matmul(
                    ViewMut::new(&mut found, m, n),
                    Into::Add,
                    2.0,
                    a,
                    b,
                    Means::all(Compute::F32),
                );
                let twice: Vec<f64> = wanted.iter().map(|value| 2.0 * value).collect();
                assert_eq!(found, twice);
            }
        }
    }

    #[test]
    #[should_panic(expected = "does not lie in")]
    fn a_matrix_must_lie_in_its_slice() {
        let _ = View::new(&[0.0f32; 5], 2, 3);
    }
}
