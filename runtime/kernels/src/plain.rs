//! Weights of f16, bf16 and f32 as they lie in a file, and their product with tokens.
//!
//! Weights are widened to f32, which is exact, and inputs are not rounded. The sum of a row and a token has a fixed order, whatever the instructions, the number of
//! tokens and of threads:
//!
//! ```text
//! for each lane l of 16: s[l] = 0; for each column c = l, l + 16, l + 32 ..: s[l] = fma(w[c], x[c], s[l])
//! for each h of 8, 4, 2, 1: for each l below h: s[l] = s[l] + s[l + h]
//! y = s[0]
//! ```
//! Few tokens go through rows and tokens as they lie, 16 columns at a time ([`few`]). Many tokens are first turned round, so that a register holds 16 tokens, and
//! go through the columns of one lane after the other ([`many`]); the order of each sum is the same.
//!
//! Cost: one token reads every weight once, `bytes / bandwidth`; many take one fma a weight and token, `2 * rows * columns * tokens / peak of f32`.

mod few;
mod many;
mod sixteen;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use half::f16;
use witness_formats::gguf::GgmlType;
use witness_instructions::Isa;

use crate::error::{KernelError, Result};
use crate::matrix::check_outputs;
use crate::memory::{Buffer, Bytes, Watch};
use crate::output::Output;
use crate::pool::Pool;
use sixteen::Way;

/// Tokens from which on they are turned round first: with fewer, that and widening cost more than they spare.
const MANY: usize = 32;
/// Tasks that each thread gets on average.
const TASKS_PER_THREAD: usize = 8;
/// Rows of a task that has many tokens, at most: widened they stay in a second-level cache.
const ROWS_MAX: usize = 64;

/// Weights `[n_rows, n_columns]` of f16, bf16 or f32, row-major and little-endian, in bytes that somebody keeps, at any address. Cloning shares them.
#[derive(Clone, Debug)]
pub struct PlainMatrix {
    kind: GgmlType,
    n_rows: usize,
    n_columns: usize,
    bytes: Bytes,
}

impl PlainMatrix {
    /// Takes a part of bytes such as a mapped file, without copying it.
    ///
    /// # Errors
    /// If the type is none of the three, the matrix is too large to address, or there are more or fewer bytes than the shape calls for.
    pub fn new(
        kind: GgmlType,
        n_rows: usize,
        n_columns: usize,
        owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
        range: Range<usize>,
    ) -> Result<PlainMatrix> {
        let len = measure(kind, n_rows, n_columns)?;
        let n_bytes = (*owner).as_ref().len();
        let bytes = Bytes::lent(owner, range).ok_or_else(|| wrong_length(n_bytes, len))?;
        let found = bytes.as_slice().len();
        if found != len {
            return Err(wrong_length(found, len));
        }
        Ok(PlainMatrix {
            kind,
            n_rows,
            n_columns,
            bytes,
        })
    }

    /// Copies bytes to memory like that of packed weights, on huge pages where the system has them.
    ///
    /// # Errors
    /// As [`PlainMatrix::new`], and if there is no memory.
    pub fn copied(kind: GgmlType, n_rows: usize, n_columns: usize, bytes: &[u8]) -> Result<PlainMatrix> {
        let len = measure(kind, n_rows, n_columns)?;
        if bytes.len() != len {
            return Err(wrong_length(bytes.len(), len));
        }
        let mut buffer = Buffer::zeroed(len)?;
        buffer.as_mut_slice().copy_from_slice(bytes);
        Ok(PlainMatrix {
            kind,
            n_rows,
            n_columns,
            bytes: Bytes::Owned(Arc::new(buffer)),
        })
    }

    /// Returns the type of the numbers.
    pub fn kind(&self) -> GgmlType {
        self.kind
    }

    /// Returns the number of rows, which is the length of an output.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Returns the length of a row, which is that of an input.
    pub fn n_columns(&self) -> usize {
        self.n_columns
    }

    /// As [`crate::PackedMatrix::take_over`].
    ///
    /// # Errors
    /// If there is no memory; then nothing has changed.
    pub fn take_over(&self, watch: &mut dyn Watch) -> Result<bool> {
        self.bytes.take_over(watch)
    }

    /// Returns the numbers as they lie in the file.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// Writes row `index` as f32, exactly.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not as long as a row.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.n_columns, "a row's length");
        self.row_from(index, 0, out);
    }

    /// Writes the numbers of row `index` from column `first` on, as many as `out` holds, as f32, exactly.
    ///
    /// # Panics
    /// If there are no such row or not so many columns.
    pub fn row_from(&self, index: usize, first: usize, out: &mut [f32]) {
        self.row_from_as(Isa::current(), index, first, out);
    }

    /// As [`PlainMatrix::row_from`], with other instructions than the current ones.
    pub(crate) fn row_from_as(&self, isa: Isa, index: usize, first: usize, out: &mut [f32]) {
        assert!(index < self.n_rows, "row {index} of {}", self.n_rows);
        let left = self.n_columns.checked_sub(first);
        assert!(left.is_some_and(|left| out.len() <= left), "columns of a row");
        let bytes = number_bytes(self.kind);
        let at = (index * self.n_columns + first) * bytes;
        Way::new(self.kind, isa).widen(&self.bytes()[at..at + out.len() * bytes], out);
    }

    /// Computes `y[n_tokens, n_rows] = x[n_tokens, n_columns] W^T`, row-major f32; the number of tokens follows from the length of `x`.
    ///
    /// A NaN or an infinity gives what the sum of its products gives: it stays with its token and its row.
    ///
    /// # Errors
    /// If the inputs are not whole rows, or `y` has another length than the outputs.
    pub fn multiply(&self, x: &[f32], y: &mut [f32], pool: &Pool) -> Result<()> {
        self.multiply_as(Isa::current(), x, y, pool)
    }

    /// As [`PlainMatrix::multiply`], with other instructions than the current ones.
    pub(crate) fn multiply_as(&self, isa: Isa, x: &[f32], y: &mut [f32], pool: &Pool) -> Result<()> {
        if self.n_columns == 0 || !x.len().is_multiple_of(self.n_columns) {
            return Err(KernelError::Length {
                what: "a batch of inputs",
                found: x.len(),
                expected: x.len() / self.n_columns.max(1) * self.n_columns,
            });
        }
        let n_tokens = x.len() / self.n_columns;
        check_outputs(y, n_tokens, self.n_rows)?;
        if y.is_empty() {
            return Ok(());
        }
        let output = Output::new(y, n_tokens, self.n_rows);
        let way = Way::new(self.kind, isa);
        let per_thread = self.n_rows.div_ceil(pool.n_threads() * TASKS_PER_THREAD);
        let run = |rows_max: usize, task: &(dyn Fn(Range<usize>) + Sync)| {
            let per_task = per_thread.next_multiple_of(many::ROWS_MAX).min(rows_max);
            pool.run(self.n_rows.div_ceil(per_task), |index| {
                task(index * per_task..((index + 1) * per_task).min(self.n_rows));
            });
        };
        if n_tokens < MANY {
            run(usize::MAX, &|rows| {
                way.few(self.bytes(), self.n_columns, x, rows, output)
            });
        } else {
            let turned = many::Turned::new(x, self.n_columns, way.panel(), pool);
            run(ROWS_MAX, &|rows| way.many(self.bytes(), &turned, rows, output));
        }
        Ok(())
    }

    /// Computes `y[n_tokens, rows]` of some rows on the thread that calls, for callers that share a small product out with others: bits are those of
    /// [`PlainMatrix::multiply`]. Made for a few rows or tokens; allocates nothing.
    ///
    /// # Panics
    /// If there are no such rows, the inputs are not whole rows, or `y` has another length than the outputs.
    pub fn multiply_rows(&self, rows: Range<usize>, x: &[f32], y: &mut [f32]) {
        self.multiply_rows_as(Isa::current(), rows, x, y);
    }

    /// As [`PlainMatrix::multiply_rows`], with other instructions than the current ones.
    pub(crate) fn multiply_rows_as(&self, isa: Isa, rows: Range<usize>, x: &[f32], y: &mut [f32]) {
        let (n_columns, n_rows) = (self.n_columns, self.n_rows);
        assert!(
            rows.start <= rows.end && rows.end <= n_rows,
            "{rows:?} of {n_rows} rows"
        );
        assert!(n_columns > 0 && x.len().is_multiple_of(n_columns), "whole rows");
        let row_bytes = n_columns * number_bytes(self.kind);
        let w = &self.bytes()[rows.start * row_bytes..rows.end * row_bytes];
        let output = Output::new(y, x.len() / n_columns, rows.len());
        Way::new(self.kind, isa).few(w, n_columns, x, 0..rows.len(), output);
    }
}

/// Says whether numbers of a type can be multiplied as they lie in a file.
pub fn is_plain(kind: GgmlType) -> bool {
    matches!(kind, GgmlType::F16 | GgmlType::BF16 | GgmlType::F32)
}

/// Writes numbers of f16 as f32, exactly.
///
/// # Panics
/// If there is not room for each of them.
pub fn widen_f16(numbers: &[f16], out: &mut [f32]) {
    Way::new(GgmlType::F16, Isa::current()).widen(sixteen::stored(numbers), out);
}

/// Returns the bytes of a number of one of the three types.
fn number_bytes(kind: GgmlType) -> usize {
    if kind == GgmlType::F32 { 4 } else { 2 }
}

/// Returns the bytes of a matrix.
fn measure(kind: GgmlType, n_rows: usize, n_columns: usize) -> Result<usize> {
    if !is_plain(kind) {
        return Err(KernelError::Type { kind });
    }
    let len = kind
        .row_bytes(n_columns)
        .and_then(|bytes| bytes.checked_mul(n_rows as u64))
        .filter(|bytes| *bytes < isize::MAX as u64 / 4);
    len.map(|len| len as usize).ok_or(KernelError::Shape {
        kind,
        n_rows,
        n_columns,
    })
}

fn wrong_length(found: usize, expected: usize) -> KernelError {
    KernelError::Length {
        what: "a matrix of plain numbers",
        found,
        expected,
    }
}
