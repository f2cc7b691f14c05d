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

use half::{bf16, f16};
use witness_formats::gguf::GgmlType;

use crate::error::{KernelError, Result};
use crate::isa::Isa;
use crate::matrix::check_outputs;
use crate::memory::Bytes;
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
        if !is_plain(kind) {
            return Err(KernelError::Type { kind });
        }
        let len = kind
            .row_bytes(n_columns)
            .and_then(|bytes| bytes.checked_mul(n_rows as u64))
            .filter(|bytes| *bytes < isize::MAX as u64 / 4)
            .ok_or(KernelError::Shape {
                kind,
                n_rows,
                n_columns,
            })? as usize;
        let all: &[u8] = (*owner).as_ref();
        let found = all.get(range.clone()).map_or(all.len(), <[u8]>::len);
        if found != len || all.get(range.clone()).is_none() {
            return Err(KernelError::Length {
                what: "a matrix of plain numbers",
                found,
                expected: len,
            });
        }
        Ok(PlainMatrix {
            kind,
            n_rows,
            n_columns,
            bytes: Bytes::Lent {
                owner,
                offset: range.start,
                len,
            },
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

    /// Returns the numbers as they lie in the file.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// Writes row `index` as f32, exactly.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not as long as a row.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        assert!(index < self.n_rows, "row {index} of {}", self.n_rows);
        assert_eq!(out.len(), self.n_columns, "a row's length");
        let row_bytes = self.bytes().len() / self.n_rows;
        let row = &self.bytes()[index * row_bytes..][..row_bytes];
        match self.kind {
            GgmlType::F16 => {
                let numbers = row.as_chunks().0.iter();
                out.iter_mut()
                    .zip(numbers)
                    .for_each(|(out, n)| *out = f16::from_le_bytes(*n).to_f32());
            }
            GgmlType::BF16 => {
                let numbers = row.as_chunks().0.iter();
                out.iter_mut()
                    .zip(numbers)
                    .for_each(|(out, n)| *out = bf16::from_le_bytes(*n).to_f32());
            }
            _ => {
                let numbers = row.as_chunks().0.iter();
                out.iter_mut()
                    .zip(numbers)
                    .for_each(|(out, n)| *out = f32::from_le_bytes(*n));
            }
        }
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
}

/// Says whether numbers of a type can be multiplied as they lie in a file.
pub fn is_plain(kind: GgmlType) -> bool {
    matches!(kind, GgmlType::F16 | GgmlType::BF16 | GgmlType::F32)
}
