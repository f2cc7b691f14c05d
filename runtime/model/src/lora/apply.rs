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

use super::{Delta, Module, Pair, Routes};
use crate::error::{ModelError, Result};
use crate::linear::{Input, Linear};
use crate::split::Shared;
use crate::vectors;

/// Rows of `A` that a thread takes at a time.
const RANKS_PER_TASK: usize = 4;
/// Columns of `B` turned round that a thread takes at a time.
const COLUMNS_PER_TASK: usize = 512;
/// Tokens that a thread takes at a time.
const TOKENS_PER_TASK: usize = 64;
/// Columns that are summed at once, in registers.
const WIDTH: usize = 64;

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
    /// The first task of each go, and how many there are.
    first: [usize; 2],
    n_tasks: [usize; 2],
}

/// Memory for the deltas of one batch.
#[derive(Default)]
pub(crate) struct Room<'a> {
    pieces: Vec<Piece<'a>>,
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
                Delta::LowRank { pair, bias } => room.push(index, rows, pair, bias.as_deref(), None, n_out),
                Delta::Directed { pair, direction } => room.push(index, rows, pair, None, Some(direction), n_out),
                Delta::Norm(_) | Delta::Table(_) => {}
            }
        }
    }
    if room.pieces.is_empty() {
        return Ok(());
    }
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
    let n_out = pair.b.n_columns();
    room.clear();
    room.push(0, rows, pair, bias, None, n_out);
    for (low, token) in room.low.chunks_exact_mut(pair.rank).zip(tokens) {
        for (rank, low) in low.iter_mut().enumerate() {
            pair.a.row_from(rank, token as usize, std::slice::from_mut(low));
        }
    }
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
        n_out: usize,
    ) {
        let first = self.n_tasks();
        let n_panels = rows.len().div_ceil(TOKENS_PER_TASK);
        let low_at = self.low.len();
        self.low.resize(low_at + rows.len() * pair.rank, 0.0);
        self.pieces.push(Piece {
            target,
            rows,
            pair,
            bias,
            direction,
            low_at,
            first,
            n_tasks: [pair.rank.div_ceil(RANKS_PER_TASK), n_out.div_ceil(COLUMNS_PER_TASK)].map(|n| n * n_panels),
        });
    }

    /// Returns the number of tasks of each go.
    fn n_tasks(&self) -> [usize; 2] {
        self.pieces.last().map_or([0; 2], |last| {
            std::array::from_fn(|go| last.first[go] + last.n_tasks[go])
        })
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
        let n_tasks = self.n_tasks()[0];
        let (pieces, low) = (&self.pieces, Shared::new(&mut self.low));
        x.pool().run(n_tasks, |task| {
            let (index, tokens, part) = Self::task(pieces, 0, task);
            let Piece { rows, pair, low_at, .. } = &pieces[index];
            let (rank, n_columns) = (pair.rank, x.n_columns());
            let ranks = part * RANKS_PER_TASK..((part + 1) * RANKS_PER_TASK).min(rank);
            let given = rows.start + tokens.start..rows.start + tokens.end;
            let given = &x.rows()[given.start * n_columns..given.end * n_columns];
            let mut found = [0.0; TOKENS_PER_TASK * RANKS_PER_TASK];
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
        pool.run(self.n_tasks()[1], |task| {
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
            let n_out = pair.b.n_columns();
            let columns = part * COLUMNS_PER_TASK..((part + 1) * COLUMNS_PER_TASK).min(n_out);
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
            let n_columns = columns.len();
            match pair.b.kind() {
                GgmlType::F32 => {
                    let b = &pair.b.bytes().as_chunks::<4>().0[columns.start..];
                    add_rows(pair, low, b, n_out, &end, rows);
                }
                _ => ROOM.with_borrow_mut(|room| {
                    room.resize(room.len().max(pair.rank * n_columns), 0.0);
                    let b = &mut room[..pair.rank * n_columns];
                    for (rank, b) in b.chunks_exact_mut(n_columns).enumerate() {
                        pair.b.row_from(rank, columns.start, b);
                    }
                    add_rows(pair, low, b, n_columns, &end, rows);
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

/// A number of `B`: widened, or an f32 as it lies in the pair.
trait Number: Copy {
    fn get(self) -> f32;
}

impl Number for f32 {
    #[inline(always)]
    fn get(self) -> f32 {
        self
    }
}

impl Number for [u8; 4] {
    #[inline(always)]
    fn get(self) -> f32 {
        f32::from_le_bytes(self)
    }
}

/// Some columns of all rows: `low` is `[tokens, rank]`, `b` has `stride` numbers from one rank to the next.
fn add_rows<'y, B: Number>(
    pair: &Pair,
    low: &[f32],
    b: &[B],
    stride: usize,
    end: &End<'_>,
    rows: impl Fn(usize) -> &'y mut [f32],
) {
    vectors::arch().dispatch(
        #[inline(always)]
        || {
            for (token, low) in low.chunks_exact(pair.rank).enumerate() {
                add_row(low, b, stride, pair.scale, end, rows(token));
            }
        },
    );
}

/// Some columns of one row: `low` is `[rank]`.
#[inline(always)]
fn add_row<B: Number>(low: &[f32], b: &[B], stride: usize, scale: f32, end: &End<'_>, y: &mut [f32]) {
    for start in (0..y.len()).step_by(WIDTH) {
        let mut sums = [0.0f32; WIDTH];
        for (rank, low) in low.iter().enumerate() {
            let b = &b[rank * stride + start..];
            // What lies behind the row's end is summed and not used.
            match b.first_chunk::<WIDTH>() {
                Some(b) => sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += low * b.get()),
                None => sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += low * b.get()),
            }
        }
        let columns = start..(start + WIDTH).min(y.len());
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
