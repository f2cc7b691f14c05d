//! Linear layers with the deltas of a batch's adapters.
//!
//! ```text
//! y = W x + b                     every layer, all rows, one after the other
//! l = A x                         every adapter and layer, in one go over the threads
//! y = y + scale (B l + bias)      the same
//! ```
//! Two goes for all layers that take one input, however many adapters there are; with one token an adapter each would be too short to be shared out by itself.
//!
//! **Invariant:** what a row becomes depends on its adapter and on nothing beside it. `A x` is summed as all plain weights are, `B l` by rank, in order, unfused.
#![expect(unsafe_code, reason = "threads write disjoint parts of the outputs")]

use std::cell::RefCell;
use std::ops::Range;

use witness_formats::gguf::GgmlType;
use witness_kernels::Pool;

use super::{Delta, Module, Pair, Routes, TILE};
use crate::error::{ModelError, Result};
use crate::linear::{Input, Linear};
use crate::split::Shared;
use crate::vectors;

/// Rows of `A` and of `B` (whole tiles) that a thread takes at a time: few of few pairs, so that threads share them, and many of many, because whoever goes through
/// memory for long is given it in time. Eight adapters on all layers of a model of 1B parameters: 0.81 -> 0.86 of the speed without.
const PART: [usize; 2] = [4, 8 * TILE];
const LONG_PART: [usize; 2] = [16, 32 * TILE];
/// Pairs a thread from which on there are many.
const MANY_PAIRS: usize = 2;
/// Tokens that a thread takes at a time.
const TOKENS_PER_TASK: usize = 64;
/// Tokens from which on bf16 numbers of `B` are widened once for all of them, instead of for each as they are used.
const WIDENED_TOKENS: usize = 4;
thread_local! {
    /// Widened numbers of `B`, kept so that their memory is.
    static ROOM: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A layer and where its outputs go, `[n, out]` f32.
pub(crate) struct Target<'a> {
    pub(crate) module: Module,
    pub(crate) base: &'a dyn Linear,
    pub(crate) y: &'a mut [f32],
}

/// A pair and the rows that it applies to.
struct Piece<'a> {
    target: usize,
    rows: Range<usize>,
    pair: &'a Pair,
    /// Of the pair itself.
    bias: Option<&'a [f32]>,
    direction: Option<&'a [f32]>,
    /// Where `A x` lies, `[rows, rank]`.
    low_at: usize,
    /// The first task of each go.
    first: [usize; 2],
}

/// Memory for the deltas of one batch.
#[derive(Default)]
pub(crate) struct Room<'a> {
    pieces: Vec<Piece<'a>>,
    /// Rows of `A` and of `B` a task, and how many tasks there are.
    part: [usize; 2],
    n_tasks: [usize; 2],
    /// Lent by the batch's memory.
    pub(crate) low: Vec<f32>,
}

/// Computes all layers of `targets` from one input.
///
/// # Errors
/// If a shape does not fit.
pub(crate) fn project<'a, const N: usize>(
    x: &mut Input<'_>,
    targets: [Target<'_>; N],
    routes: &Routes<'a>,
    room: &mut Room<'a>,
) -> Result<()> {
    if let Some(observer) = routes.observer {
        for target in &targets {
            observer.see(target.module, x.rows(), x.n_columns());
        }
    }
    let layers = targets.each_ref().map(|target| (target.module, target.base));
    let mut outputs = targets.map(|target| target.y);
    for ((_, base), y) in layers.iter().zip(&mut outputs) {
        base.forward(x, y)?;
    }
    room.clear();
    // Only now, for a replaced layer takes the memory of the rounded input for its own rows.
    for (index, ((module, base), y)) in layers.iter().zip(&mut outputs).enumerate() {
        let n_out = base.shape().0;
        for (rows, delta) in routes.deltas(*module) {
            match delta {
                Delta::Linear(own) => {
                    own.forward(&mut x.part(rows.clone()), &mut y[rows.start * n_out..rows.end * n_out])?
                }
                Delta::LowRank { pair, .. } | Delta::Directed { pair, .. } if !pair.fits(base.shape()) => {
                    return Err(ModelError::Batch("an adapter of another model"));
                }
                Delta::LowRank { pair, bias } => room.push(index, rows, pair, bias.as_deref(), None),
                Delta::Directed { pair, direction } => room.push(index, rows, pair, None, Some(direction)),
                Delta::Norm(_) | Delta::Table(_) => {}
            }
        }
    }
    if room.pieces.is_empty() {
        return Ok(());
    }
    room.share_out(x.pool().n_threads());
    room.lower(x);
    room.raise(layers.map(|(_, base)| base.bias()), outputs.map(Shared::new), x.pool());
    Ok(())
}

/// Adds what an adapter's pair gives for an embedding: `A x` are columns of `A`. `y` is `[n, w]` f32, of which `rows` are changed; `tokens` are those of the rows.
pub(crate) fn embed<'a>(
    y: &mut [f32],
    rows: Range<usize>,
    tokens: impl Iterator<Item = u32>,
    pair: &'a Pair,
    bias: Option<&'a [f32]>,
    room: &mut Room<'a>,
    pool: &Pool,
) {
    room.clear();
    room.push(0, rows, pair, bias, None);
    for (low, token) in room.low.chunks_exact_mut(pair.rank).zip(tokens) {
        for (rank, low) in low.iter_mut().enumerate() {
            pair.a.row_from(rank, token as usize, std::slice::from_mut(low));
        }
    }
    room.share_out(pool.n_threads());
    room.raise([None], [Shared::new(y)], pool);
}

impl<'a> Room<'a> {
    fn clear(&mut self) {
        self.pieces.clear();
        self.low.clear();
    }

    fn push(
        &mut self,
        target: usize,
        rows: Range<usize>,
        pair: &'a Pair,
        bias: Option<&'a [f32]>,
        direction: Option<&'a [f32]>,
    ) {
        let low_at = self.low.len();
        self.low.resize(low_at + rows.len() * pair.rank, 0.0);
        self.pieces.push(Piece {
            target,
            rows,
            pair,
            bias,
            direction,
            low_at,
            first: [0; 2],
        });
    }

    /// Cuts all pieces into tasks for so many threads.
    fn share_out(&mut self, n_threads: usize) {
        let many = self.pieces.len() >= MANY_PAIRS * n_threads;
        self.part = if many { LONG_PART } else { PART };
        self.n_tasks = [0; 2];
        for piece in &mut self.pieces {
            piece.first = self.n_tasks;
            let n_panels = piece.rows.len().div_ceil(TOKENS_PER_TASK);
            for (go, len) in [piece.pair.rank, piece.pair.b.n_out()].into_iter().enumerate() {
                self.n_tasks[go] += len.div_ceil(self.part[go]) * n_panels;
            }
        }
    }

    /// Returns what a task of a go is about: the piece, the tokens within its rows, and which of the piece's parts.
    fn task(pieces: &[Piece<'a>], go: usize, task: usize) -> (usize, Range<usize>, usize) {
        let index = pieces.partition_point(|piece| piece.first[go] <= task) - 1;
        let piece = &pieces[index];
        let n_panels = piece.rows.len().div_ceil(TOKENS_PER_TASK);
        let (part, panel) = ((task - piece.first[go]) / n_panels, (task - piece.first[go]) % n_panels);
        let start = panel * TOKENS_PER_TASK;
        (index, start..(start + TOKENS_PER_TASK).min(piece.rows.len()), part)
    }

    /// `l = A x` for all pieces.
    fn lower(&mut self, x: &Input<'_>) {
        let (pieces, low, per_task) = (&self.pieces, Shared::new(&mut self.low), self.part[0]);
        x.pool().run(self.n_tasks[0], |task| {
            let (index, tokens, part) = Self::task(pieces, 0, task);
            let Piece { rows, pair, low_at, .. } = &pieces[index];
            let (rank, n_columns) = (pair.rank, x.n_columns());
            let ranks = part * per_task..((part + 1) * per_task).min(rank);
            let given = rows.start + tokens.start..rows.start + tokens.end;
            let given = &x.rows()[given.start * n_columns..given.end * n_columns];
            let mut found = [0.0; TOKENS_PER_TASK * LONG_PART[0]];
            let found = &mut found[..tokens.len() * ranks.len()];
            pair.a.multiply_rows(ranks.clone(), given, found);
            for (token, found) in tokens.zip(found.chunks_exact(ranks.len())) {
                let at = low_at + token * rank;
                // SAFETY: a pool calls each number once, and tasks have other tokens or other ranks.
                unsafe { low.part(at + ranks.start..at + ranks.end) }.copy_from_slice(found);
            }
        });
    }

    /// `y = y + scale (B l + bias)` for all pieces, or DoRA's form of it. `biases` are those of the bases.
    fn raise<const N: usize>(&self, biases: [Option<&[f32]>; N], outputs: [Shared<'_>; N], pool: &Pool) {
        let per_task = self.part[1];
        pool.run(self.n_tasks[1], |task| {
            let (index, tokens, part) = Self::task(&self.pieces, 1, task);
            let Piece {
                target,
                rows,
                pair,
                bias,
                direction,
                low_at,
                ..
            } = &self.pieces[index];
            let n_out = pair.b.n_out();
            let columns = part * per_task..((part + 1) * per_task).min(n_out);
            let low = &self.low[low_at + tokens.start * pair.rank..low_at + tokens.end * pair.rank];
            let y = outputs[*target].behind((rows.start + tokens.start) * n_out);
            let end = match direction {
                Some(direction) => End::Turn(
                    &direction[columns.clone()],
                    biases[*target].map(|bias| &bias[columns.clone()]),
                ),
                None => End::Add(bias.map(|bias| &bias[columns.clone()])),
            };
            // SAFETY: a pool calls each number once, and tasks have other tokens, other columns or other layers.
            let rows = |token: usize| unsafe { y.part(token * n_out + columns.start..token * n_out + columns.end) };
            let (bytes, first) = (pair.b.bytes(), columns.start * pair.rank);
            match pair.b.kind() {
                GgmlType::F32 => add_rows::<Single>(pair, low, &bytes.as_chunks().0[first..], &end, rows),
                GgmlType::BF16 if tokens.len() < WIDENED_TOKENS => {
                    add_rows::<Brain>(pair, low, &bytes.as_chunks().0[first..], &end, rows);
                }
                _ => ROOM.with_borrow_mut(|room| {
                    let len = columns.len().next_multiple_of(TILE) * pair.rank;
                    room.resize(room.len().max(len), 0.0);
                    let b = &mut room[..len];
                    pair.b.widen(columns.start / TILE, b);
                    add_rows::<f32>(pair, low, b, &end, rows);
                }),
            }
        });
    }
}

/// What is done with `B l`, for some columns.
enum End<'a> {
    /// Added, with the pair's bias.
    Add(Option<&'a [f32]>),
    /// Added to the product without the base's bias, times a direction.
    Turn(&'a [f32], Option<&'a [f32]>),
}

/// Numbers of `B`: widened before, or as they lie in the pair.
trait Number {
    type Stored: Copy;
    fn get(stored: Self::Stored) -> f32;
}

impl Number for f32 {
    type Stored = f32;

    #[inline(always)]
    fn get(stored: f32) -> f32 {
        stored
    }
}

/// An f32 in the pair.
struct Single;

impl Number for Single {
    type Stored = [u8; 4];

    #[inline(always)]
    fn get(stored: [u8; 4]) -> f32 {
        f32::from_le_bytes(stored)
    }
}

/// A bf16 in the pair: the upper half of an f32.
struct Brain;

impl Number for Brain {
    type Stored = [u8; 2];

    #[inline(always)]
    fn get(stored: [u8; 2]) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(stored)) << 16)
    }
}

/// Some columns of all rows: `low` is `[tokens, rank]`, `b` begins at their first tile.
fn add_rows<'y, B: Number>(
    pair: &Pair,
    low: &[f32],
    b: &[B::Stored],
    end: &End<'_>,
    rows: impl Fn(usize) -> &'y mut [f32],
) {
    vectors::run(
        vectors::arch(),
        #[inline(always)]
        || {
            for (token, low) in low.chunks_exact(pair.rank).enumerate() {
                add_row::<B>(low, b, pair.scale, end, rows(token));
            }
        },
    );
}

/// Some columns of one row: `low` is `[rank]`.
#[inline(always)]
fn add_row<B: Number>(low: &[f32], b: &[B::Stored], scale: f32, end: &End<'_>, y: &mut [f32]) {
    for (start, tile) in (0..y.len()).step_by(TILE).zip(b.chunks_exact(low.len() * TILE)) {
        let mut sums = [0.0f32; TILE];
        for (low, b) in low.iter().zip(tile.as_chunks::<TILE>().0) {
            witness_kernels::fetch_ahead(b.as_ptr().cast());
            witness_kernels::fetch_ahead(b.as_ptr().wrapping_byte_add(64).cast());
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum += low * B::get(*b);
            }
        }
        let columns = start..(start + TILE).min(y.len());
        let (y, sums) = (&mut y[columns.clone()], &sums[..columns.len()]);
        match end {
            End::Add(None) => y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum * scale),
            End::Add(Some(bias)) => {
                for ((y, sum), bias) in y.iter_mut().zip(sums).zip(&bias[columns]) {
                    *y += (sum + bias) * scale;
                }
            }
            End::Turn(direction, bias) => {
                for (at, ((y, sum), direction)) in y.iter_mut().zip(sums).zip(&direction[columns]).enumerate() {
                    let bias = bias.map_or(0.0, |bias| bias[start + at]);
                    *y = (*y - bias + sum * scale) * direction + bias;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    /// Goal: bf16 is widened exactly, whatever it is.
    #[test]
    fn every_bf16_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (found, wanted) = (Brain::get(bits.to_le_bytes()), bf16::from_bits(bits).to_f32());
            assert!(
                found.to_bits() == wanted.to_bits() || found.is_nan() && wanted.is_nan(),
                "{bits:#x}"
            );
        }
    }
}
