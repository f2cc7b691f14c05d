//! The order of the rows of q and k, which differs between Hugging Face and GGUF for the `llama` architecture.
//!
//! Rotary embedding turns pairs of rows of a head of `d` rows. Hugging Face pairs row `i` with `i + d/2` (two halves); llama.cpp's
//! rotation for `llama` pairs `2i` with `2i + 1`, so its converter reorders the rows of `q_proj` and `k_proj`:
//! `w.reshape(n_heads, 2, d/2, in).swapaxes(1, 2).reshape(w.shape)`. Row `(h, half, j)` of the one is row `(h, j, half)` of the other.
//! `qwen2` is rotated by halves in llama.cpp too and is not reordered.
//!
//! A LoRA on q or k adds `B @ A`: rows of the sum are rows of B, columns are columns of A. So **B (`[out, r]`) is reordered like the
//! weight, and A (`[r, in]`) never is**. An adapter in the wrong order does not fail, it answers nonsense; hence one function, here.
//!
//! Whole rows move as bytes, so that the result is exact for every type, also for rows of quantized blocks.

use crate::{FormatError, Result};

/// Which rows of a head are turned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowOrder {
    /// Hugging Face, and GGUF of `qwen2`: row `i` with row `i + d/2`.
    Halves,
    /// GGUF of `llama`: row `2i` with row `2i + 1`.
    Interleaved,
}

/// Returns the order in which a GGUF file of this architecture stores the rows of q and k.
pub fn stored_order(arch: &str) -> RowOrder {
    match arch {
        "llama" => RowOrder::Interleaved,
        _ => RowOrder::Halves,
    }
}

/// Returns which row of the other order becomes row `row` of the order `to`, in heads of `head_rows` rows (even).
pub fn source_row(row: usize, head_rows: usize, to: RowOrder) -> usize {
    let (half, inside) = (head_rows / 2, row % head_rows);
    let source = match to {
        RowOrder::Interleaved => (inside % 2) * half + inside / 2,
        RowOrder::Halves => (inside % half) * 2 + inside / half,
    };
    row - inside + source
}

/// Copies `n_rows` rows of `n_heads` heads from one order to another. `bytes` holds the rows one after the other, of any type.
pub fn reorder(bytes: &[u8], n_rows: usize, n_heads: usize, from: RowOrder, to: RowOrder) -> Result<Vec<u8>> {
    let refuse = |expected: String, found: String| FormatError::malformed("rotary weight", "its rows", expected, found);
    if n_heads == 0 || n_rows == 0 || !n_rows.is_multiple_of(n_heads) || !(n_rows / n_heads).is_multiple_of(2) {
        return Err(refuse(
            format!("an even number of rows in each of {n_heads} heads"),
            format!("{n_rows} rows"),
        ));
    }
    if !bytes.len().is_multiple_of(n_rows) {
        return Err(refuse(
            format!("{n_rows} rows of equal length"),
            format!("{} bytes", bytes.len()),
        ));
    }
    if from == to {
        return Ok(bytes.to_vec());
    }
    let row_bytes = bytes.len() / n_rows;
    let head_rows = n_rows / n_heads;
    let mut out = Vec::with_capacity(bytes.len());
    for head in 0..n_heads {
        for row in 0..head_rows {
            let start = source_row(head * head_rows + row, head_rows, to) * row_bytes;
            out.extend_from_slice(&bytes[start..start + row_bytes]);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, spelled as the reshape it is: `[heads, 2, d/2] -> [heads, d/2, 2]`.
    fn reference(rows: &[u8], n_heads: usize) -> Vec<u8> {
        let half = rows.len() / n_heads / 2;
        let mut out = vec![0; rows.len()];
        for head in 0..n_heads {
            for s in 0..2 {
                for j in 0..half {
                    out[head * 2 * half + j * 2 + s] = rows[head * 2 * half + s * half + j];
                }
            }
        }
        out
    }

    #[test]
    fn reordering_is_the_converters_reshape_and_its_inverse_undoes_it() {
        for (n_heads, head_rows) in [(1, 2), (1, 8), (3, 6), (4, 32)] {
            let n_rows = n_heads * head_rows;
            let rows: Vec<u8> = (0..n_rows as u8).collect();
            let there = reorder(&rows, n_rows, n_heads, RowOrder::Halves, RowOrder::Interleaved).unwrap();
            assert_eq!(there, reference(&rows, n_heads));
            let back = reorder(&there, n_rows, n_heads, RowOrder::Interleaved, RowOrder::Halves).unwrap();
            assert_eq!(back, rows);
        }
        let one_head = reorder(b"aabbccdd", 4, 1, RowOrder::Halves, RowOrder::Interleaved).unwrap();
        assert_eq!(one_head, b"aaccbbdd");
    }

    #[test]
    fn rows_that_are_no_heads_are_refused() {
        for (bytes, n_rows, n_heads) in [(8, 4, 3), (8, 0, 1), (8, 4, 0), (9, 4, 1), (9, 3, 1)] {
            assert!(
                reorder(
                    &vec![0; bytes],
                    n_rows,
                    n_heads,
                    RowOrder::Halves,
                    RowOrder::Interleaved
                )
                .is_err()
            );
        }
    }

    /// Why only B moves: with `W' = P W` and `B' = P B`, `W' + B' A = P (W + B A)`; with A reordered it is not.
    #[test]
    fn a_lora_on_reordered_rows_needs_b_reordered_and_a_as_it_is() {
        let (rows, rank, columns) = (4usize, 2usize, 3usize);
        let b: Vec<i8> = (0..rows * rank).map(|i| i as i8 - 3).collect();
        let a: Vec<i8> = (0..rank * columns).map(|i| 2 - i as i8).collect();
        let product = |b: &[u8]| -> Vec<u8> {
            let mut out = Vec::new();
            for row in 0..rows {
                for column in 0..columns {
                    let sum: i8 = (0..rank)
                        .map(|k| b[row * rank + k] as i8 * a[k * columns + column])
                        .sum();
                    out.push(sum as u8);
                }
            }
            out
        };
        let b: Vec<u8> = b.iter().map(|value| *value as u8).collect();
        let turn = |bytes: &[u8]| reorder(bytes, rows, 1, RowOrder::Halves, RowOrder::Interleaved).unwrap();
        assert_eq!(product(&turn(&b)), turn(&product(&b)));
    }
}
