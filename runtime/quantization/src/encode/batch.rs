//! Blocks side by side: how a codec gets the numbers of as many blocks as there are lanes, and how their bytes get back.
//!
//! Cost: turning numbers and bytes around takes about two loads and stores a number, some hundredths of what a search takes.

#[cfg(target_arch = "x86_64")]
use witness_instructions::{Isa, Level};

use crate::lanes::{ByteRow, Lanes, Row, Scalar};

/// A type whose blocks of `K` numbers take `B` bytes.
pub(super) trait Codec<const K: usize, const B: usize> {
    /// Whether the weights of numbers depend on the mean square of their whole row.
    const NEEDS_ROW_MEAN: bool = false;

    /// Encodes one block in each lane.
    ///
    /// `x` and `importance` are the numbers of the blocks; `row_mean` is the mean square of the row of each, where it is needed. `bytes` comes as zeros.
    fn encode<V: Lanes>(v: V, x: &[Row; K], importance: Option<&[Row; K]>, row_mean: &Row, bytes: &mut [ByteRow; B]);
}

/// Encodes whole blocks as vectors of what this processor has.
pub(super) fn encode<C: Codec<K, B>, const K: usize, const B: usize>(
    rows: &[f32],
    n_columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    #[cfg(target_arch = "x86_64")]
    match Isa::current() {
        isa if isa.at_least(Level::Avx512) => return vectors::avx512::<C, K, B>(rows, n_columns, importance, out),
        isa if isa.at_least(Level::Avx2) => return vectors::avx2::<C, K, B>(rows, n_columns, importance, out),
        _ => {}
    }
    blocks::<Scalar, C, K, B>(Scalar, rows, n_columns, importance, out);
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls of functions whose instructions were detected")]
mod vectors {
    use witness_instructions::{with_avx2, with_avx512};

    use super::{Codec, blocks};
    use crate::lanes::{Avx2, Avx512};

    /// Only for a processor that was seen to have AVX2.
    pub(super) fn avx2<C: Codec<K, B>, const K: usize, const B: usize>(
        rows: &[f32],
        n_columns: usize,
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) {
        // SAFETY: the only caller holds an `Isa` of this level or a higher one, which proves the instructions.
        unsafe {
            with_avx2(
                #[inline(always)]
                || blocks::<Avx2, C, K, B>(Avx2::new(), rows, n_columns, importance, out),
            );
        }
    }

    /// Only for a processor that was seen to have AVX-512.
    pub(super) fn avx512<C: Codec<K, B>, const K: usize, const B: usize>(
        rows: &[f32],
        n_columns: usize,
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) {
        // SAFETY: the only caller holds an `Isa` of this level or a higher one, which proves the instructions.
        unsafe {
            with_avx512(
                #[inline(always)]
                || blocks::<Avx512, C, K, B>(Avx512::new(), rows, n_columns, importance, out),
            );
        }
    }
}

#[inline(always)]
fn blocks<V: Lanes, C: Codec<K, B>, const K: usize, const B: usize>(
    v: V,
    rows: &[f32],
    n_columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    let (numbers, _) = rows.as_chunks::<K>();
    let (out, _) = out.as_chunks_mut::<B>();
    let weights = importance.map(|importance| importance.as_chunks::<K>().0);
    let row_blocks = n_columns / K;
    let means = match importance {
        Some(_) if C::NEEDS_ROW_MEAN => row_means(rows, n_columns),
        _ => Vec::new(),
    };
    let mut x = [Row::default(); K];
    let mut w = [Row::default(); K];
    let mut mean = Row::default();
    for (batch, (numbers, out)) in numbers.chunks(V::N).zip(out.chunks_mut(V::N)).enumerate() {
        let first = batch * V::N;
        gather(numbers, &mut x);
        let weights = match weights {
            None => None,
            Some(weights) => {
                for lane in 0..numbers.len() {
                    spread(&weights[(first + lane) % row_blocks], &mut w, lane);
                    if C::NEEDS_ROW_MEAN {
                        mean[lane] = means[(first + lane) / row_blocks];
                    }
                }
                Some(&w)
            }
        };
        let mut bytes = [ByteRow::default(); B];
        C::encode(v, &x, weights, &mean, &mut bytes);
        for (lane, block) in out.iter_mut().enumerate() {
            for (byte, row) in block.iter_mut().zip(&bytes) {
                *byte = row[lane];
            }
        }
    }
}

/// Puts the numbers of blocks side by side. Lanes without a block keep what they had, which nobody reads.
#[inline(always)]
fn gather<const K: usize>(numbers: &[[f32; K]], x: &mut [Row; K]) {
    for (lane, block) in numbers.iter().enumerate() {
        spread(block, x, lane);
    }
}

#[inline(always)]
fn spread<const K: usize>(block: &[f32; K], x: &mut [Row; K], lane: usize) {
    for (row, number) in x.iter_mut().zip(block) {
        row[lane] = *number;
    }
}

/// Returns the mean square of each row, summed in the order of its numbers; rows run side by side, so that one sum need not wait for another.
fn row_means(rows: &[f32], n_columns: usize) -> Vec<f32> {
    let mut means = Vec::with_capacity(rows.len() / n_columns);
    for rows in rows.chunks(8 * n_columns) {
        let mut sums = [0.0f32; 8];
        let n_rows = rows.len() / n_columns;
        for column in 0..n_columns {
            for (row, sum) in sums.iter_mut().take(n_rows).enumerate() {
                let number = rows[row * n_columns + column];
                *sum += number * number;
            }
        }
        means.extend(sums.iter().take(n_rows).map(|sum| sum / n_columns as f32));
    }
    means
}

/// Loads a part of a block.
#[inline(always)]
pub(super) fn part<V: Lanes, const K: usize, const G: usize>(v: V, x: &[Row; K], start: usize) -> [V::F; G] {
    let mut numbers = [v.splat(0.0); G];
    for (number, row) in numbers.iter_mut().zip(&x[start..start + G]) {
        *number = v.load(row);
    }
    numbers
}

/// Rounds the number of each lane to f16: stores it little-endian in two rows of bytes, and returns what it reads back as.
#[inline(always)]
pub(super) fn store_half<V: Lanes>(v: V, numbers: V::F, bytes: &mut [ByteRow]) -> V::F {
    let mut row = Row::default();
    v.store(numbers, &mut row);
    for lane in 0..V::N {
        let half = half::f16::from_f32_const(row[lane]);
        let [low, high] = half.to_le_bytes();
        (bytes[0][lane], bytes[1][lane]) = (low, high);
        row[lane] = half.to_f32_const();
    }
    v.load(&row)
}

/// Combines rows of bytes, lane by lane.
#[inline(always)]
pub(super) fn combine<const R: usize>(rows: [&ByteRow; R], of: impl Fn([u8; R]) -> u8) -> ByteRow {
    let mut combined = ByteRow::default();
    for (lane, byte) in combined.iter_mut().enumerate() {
        let mut bytes = [0; R];
        for (byte, row) in bytes.iter_mut().zip(rows) {
            *byte = row[lane];
        }
        *byte = of(bytes);
    }
    combined
}
