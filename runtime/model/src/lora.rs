//! Adapters: what they hold, and which rows of a batch they apply to.
//!
//! An adapter never touches its base. A batch is ordered by adapter; layers that take one input run their bases once over all rows, and then `scale * B (A x)` is
//! added to the rows of each adapter that has a delta for one of them ([`apply`]). A module that an adapter replaces as a whole (`modules_to_save`) is computed for
//! its rows instead.
//!
//! Cost over the base: `2 * rank * (in + out)` multiplications a token and pair, and `A` and `B` are read once a batch, in 16 bits where that loses nothing.

pub(crate) mod apply;

use std::collections::HashMap;
use std::ops::Range;

use witness_formats::gguf::GgmlType;
use witness_kernels::{PlainMatrix, Pool};

use crate::error::{ModelError, Result};
use crate::linear::Linear;
use crate::split::each_chunk;
use crate::weight::{Weight, narrowest, widened};

/// Rows of a base that a thread measures at a time.
const ROWS_PER_TASK: usize = 16;

/// A part of the graph that an adapter may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Module {
    /// A linear layer of a block.
    Linear {
        /// Block.
        layer: usize,
        /// Which of its layers.
        site: Site,
    },
    /// A norm of a block.
    Norm {
        /// Block.
        layer: usize,
        /// Which of its norms.
        site: NormSite,
    },
    /// The norm before the head.
    FinalNorm,
    /// Token embedding.
    Embedding,
    /// Output head.
    Head,
}

/// Linear layers of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// Queries.
    Query,
    /// Keys.
    Key,
    /// Values.
    Value,
    /// Attention's output.
    Output,
    /// Gate of the feed-forward part.
    Gate,
    /// Up projection.
    Up,
    /// Down projection.
    Down,
}

/// Norms of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NormSite {
    /// Before attention.
    Attention,
    /// Before the feed-forward part.
    FeedForward,
}

/// Two matrices whose product is added to a weight: `scale * B A`.
pub(crate) struct Pair {
    /// `[rank, in]`. For an embedding `in` is the vocabulary.
    pub(crate) a: PlainMatrix,
    /// `B`, `[out, rank]`.
    pub(crate) b: Tiles,
    pub(crate) rank: usize,
    pub(crate) scale: f32,
}

/// Rows of `B` in a tile.
pub(crate) const TILE: usize = 64;

/// `B` in tiles of 64 rows, each turned round, `[rank, 64]`: a sum over the rank is one of whole vectors, and whoever goes through rows goes through memory from one end
/// to the other. Rows beyond the last are zero.
pub(crate) struct Tiles {
    /// `[tiles * rank, 64]`.
    numbers: PlainMatrix,
    n_out: usize,
    rank: usize,
}

impl Tiles {
    /// Takes `B`, `[out, rank]`, in as few bits as lose nothing.
    ///
    /// # Errors
    /// If the numbers are not whole rows.
    pub(crate) fn new(b: &[f32], rank: usize) -> Result<Tiles> {
        if rank == 0 || !b.len().is_multiple_of(rank) {
            return Err(ModelError::Batch("an adapter's matrix that is not whole rows"));
        }
        let n_out = b.len() / rank;
        let mut tiles = vec![0.0; n_out.div_ceil(TILE) * TILE * rank];
        for (out, row) in b.chunks_exact(rank).enumerate() {
            let tile = &mut tiles[out / TILE * TILE * rank..];
            for (number, to) in row.iter().zip(tile[out % TILE..].iter_mut().step_by(TILE)) {
                *to = *number;
            }
        }
        Ok(Tiles {
            numbers: narrowest(&tiles, n_out.div_ceil(TILE) * rank, TILE)?,
            n_out,
            rank,
        })
    }

    /// Returns the number of outputs.
    pub(crate) fn n_out(&self) -> usize {
        self.n_out
    }

    /// Returns the type of the numbers.
    pub(crate) fn kind(&self) -> GgmlType {
        self.numbers.kind()
    }

    /// Returns the numbers as they are held, tile by tile.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.numbers.bytes()
    }

    /// Writes tiles from `first` on, as many as `out` holds, as f32.
    pub(crate) fn widen(&self, first: usize, out: &mut [f32]) {
        for (row, out) in out.chunks_exact_mut(TILE).enumerate() {
            self.numbers.row(first * self.rank + row, out);
        }
    }
}

/// What an adapter does to a module.
pub(crate) enum Delta {
    /// Adds `scale * (B (A x) + bias)`; the bias is `[out]`.
    LowRank { pair: Pair, bias: Option<Vec<f32>> },
    /// DoRA: `(W x + scale * B (A x)) * direction`, then the base's bias. `direction` is `[out]`, the trained length of each row of
    /// `W + scale * B A` over the length that it has; until the base is known, the trained length alone.
    Directed { pair: Pair, direction: Vec<f32> },
    /// The linear layer of this adapter.
    Linear(Box<dyn Linear>),
    /// The norm's weight of this adapter.
    Norm(Vec<f32>),
    /// The embedding table of this adapter.
    Table(Weight),
}

/// A loaded adapter. Holds no weight of its base.
pub struct Adapter {
    pub(crate) deltas: HashMap<Module, Delta>,
    pub(crate) bytes: u64,
    pub(crate) pairs: usize,
}

impl std::fmt::Debug for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adapter")
            .field("deltas", &self.deltas.len())
            .field("bytes", &self.bytes)
            .finish()
    }
}

impl Adapter {
    /// Returns the bytes that it takes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the number of low-rank pairs.
    pub fn pairs(&self) -> usize {
        self.pairs
    }

    /// Returns the modules that it changes, in order.
    pub fn modules(&self) -> Vec<Module> {
        let mut modules: Vec<Module> = self.deltas.keys().copied().collect();
        modules.sort();
        modules
    }
}

/// Which rows of a batch belong to which adapter, in order and without gaps.
#[derive(Default)]
pub(crate) struct Routes<'a> {
    pub(crate) groups: Vec<(Range<usize>, Option<&'a Adapter>)>,
    /// Whoever looks on.
    pub(crate) observer: Option<&'a dyn Observe>,
}

/// Looks on at what linear layers are given.
pub trait Observe: Sync {
    /// Sees the input of a layer, `[n, n_columns] f32`, row-major, before it is multiplied.
    fn see(&self, module: Module, x: &[f32], n_columns: usize);
}

impl<'a> Routes<'a> {
    /// Appends `n_rows` rows of an adapter.
    pub(crate) fn push(&mut self, n_rows: usize, adapter: Option<&'a Adapter>) {
        let start = self.groups.last().map_or(0, |(rows, _)| rows.end);
        match self.groups.last_mut() {
            Some((rows, last)) if same(*last, adapter) => rows.end += n_rows,
            _ => self.groups.push((start..start + n_rows, adapter)),
        }
    }

    /// Returns the number of rows.
    pub(crate) fn n_rows(&self) -> usize {
        self.groups.last().map_or(0, |(rows, _)| rows.end)
    }

    /// Returns the rows that have a delta for `module`.
    pub(crate) fn deltas(&self, module: Module) -> impl Iterator<Item = (Range<usize>, &'a Delta)> {
        let groups = self.groups.iter().filter(|(rows, _)| !rows.is_empty());
        groups.filter_map(move |(rows, adapter)| Some((rows.clone(), adapter.as_ref()?.deltas.get(&module)?)))
    }
}

fn same(a: Option<&Adapter>, b: Option<&Adapter>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => std::ptr::eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

impl Pair {
    /// Says whether it belongs to a layer of this shape, `(out, in)`.
    pub(crate) fn fits(&self, shape: (usize, usize)) -> bool {
        (self.b.n_out(), self.a.n_columns()) == shape
    }

    /// Returns the bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        (self.a.bytes().len() + self.b.bytes().len()) as u64
    }
}

impl Delta {
    /// Turns DoRA's trained lengths into the factors of the rows of `base`, in f32 as PEFT does. Says whether all are numbers.
    pub(crate) fn direct(&mut self, base: &dyn Linear, pool: &Pool) -> bool {
        let Delta::Directed { pair, direction } = self else {
            return true;
        };
        let n_in = base.shape().1;
        let (a, b, scale) = (widened(&pair.a), widened(&pair.b.numbers), pair.scale);
        each_chunk(pool, direction, ROWS_PER_TASK, |task, direction| {
            let (mut row, mut change) = (vec![0.0f32; n_in], vec![0.0f32; n_in]);
            for (at, length) in direction.iter_mut().enumerate() {
                let out = task * ROWS_PER_TASK + at;
                base.row(out, &mut row);
                change.fill(0.0);
                let b = b[out / TILE * TILE * pair.rank..][out % TILE..].iter().step_by(TILE);
                for (b, a) in b.zip(a.chunks_exact(n_in)) {
                    for (change, a) in change.iter_mut().zip(a) {
                        *change += b * a;
                    }
                }
                let changed = row.iter().zip(&change).map(|(row, change)| row + change * scale);
                let squares: f64 = changed.map(|number| f64::from(number * number)).sum();
                *length /= squares.sqrt() as f32;
            }
        });
        direction.iter().all(|factor| factor.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: every number of `B` is in its tile, in the type of the whole, whatever the number of rows; what is no matrix is an error.
    #[test]
    fn tiles_hold_every_number() {
        for (n_out, rank) in [(1, 1), (63, 3), (64, 16), (130, 5)] {
            let b: Vec<f32> = (0..n_out * rank).map(|at| at as f32 / 2.0).collect();
            let tiles = Tiles::new(&b, rank).expect("whole rows");
            assert_eq!(tiles.n_out(), n_out);
            let mut widened = vec![f32::NAN; n_out.div_ceil(TILE) * TILE * rank];
            tiles.widen(0, &mut widened);
            for (tile, numbers) in widened.chunks_exact(TILE * rank).enumerate() {
                for (at, number) in numbers.iter().enumerate() {
                    let (of_rank, out) = (at / TILE, tile * TILE + at % TILE);
                    let wanted = if out < n_out { b[out * rank + of_rank] } else { 0.0 };
                    assert_eq!(*number, wanted, "{n_out} {rank} {out} {of_rank}");
                }
            }
        }
        assert!(Tiles::new(&[1.0; 5], 2).is_err() && Tiles::new(&[], 0).is_err());
    }
}
