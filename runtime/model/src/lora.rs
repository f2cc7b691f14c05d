//! Adapters: what they hold, and the wrapper that applies them to some rows of a batch.
//!
//! An adapter never touches its base. A batch is ordered by adapter; a [`Routed`] layer runs the base once over all rows and then adds
//! `scale * B (A x)` to the rows of each adapter that has a delta for this module. A module that an adapter replaces as a whole
//! (`modules_to_save`) is computed for its rows instead.
//! Cost over the base: `2 * rank * (in + out)` multiplications a token and pair.

use std::collections::HashMap;
use std::ops::Range;

use candle_core::Tensor;

use crate::error::Result;
use crate::linear::Linear;
use crate::weight::Weight;

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

/// What an adapter does to a module.
pub(crate) enum Delta {
    /// `scale * (B (A x) + bias)`: `a` is `[rank, in]`, `b` is `[out, rank]`, f32. For an embedding `in` is the vocabulary.
    LowRank {
        a: Tensor,
        b: Tensor,
        bias: Option<Tensor>,
        scale: f64,
    },
    /// DoRA: `(W x + scale * B (A x)) * direction`, then the base's bias. `direction` is `[out]` f32, the trained length of each row of
    /// `W + scale * B A` over the length that it has; until the base is known, the trained length alone.
    Directed {
        a: Tensor,
        b: Tensor,
        scale: f64,
        direction: Tensor,
    },
    /// The linear layer of this adapter.
    Linear(Box<dyn Linear>),
    /// The norm's weight of this adapter, f32.
    Norm(Tensor),
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

    /// Returns the rows that have a delta for `module`.
    pub(crate) fn deltas(&self, module: Module) -> Vec<(Range<usize>, &'a Delta)> {
        self.groups
            .iter()
            .filter_map(|(rows, adapter)| Some((rows.clone(), adapter.as_ref()?.deltas.get(&module)?)))
            .collect()
    }
}

fn same(a: Option<&Adapter>, b: Option<&Adapter>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => std::ptr::eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

/// A linear layer with the deltas of the adapters in a batch.
pub(crate) struct Routed<'a> {
    pub(crate) base: &'a dyn Linear,
    pub(crate) deltas: Vec<(Range<usize>, &'a Delta)>,
}

impl Linear for Routed<'_> {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.base.forward(x)?;
        splice(y, &self.deltas, |rows, y, delta| {
            let x = x.narrow(0, rows.start, rows.len())?;
            Ok(match delta {
                Delta::LowRank { a, b, bias, scale } => add_scaled(y, x.matmul(&a.t()?)?, b, bias.as_ref(), *scale)?,
                Delta::Directed { a, b, scale, direction } => {
                    let bias = self.base.bias();
                    let y = match bias {
                        Some(bias) => y.broadcast_sub(bias)?,
                        None => y,
                    };
                    let y = add_scaled(y, x.matmul(&a.t()?)?, b, None, *scale)?.broadcast_mul(direction)?;
                    match bias {
                        Some(bias) => y.broadcast_add(bias)?,
                        None => y,
                    }
                }
                Delta::Linear(own) => own.forward(&x.contiguous()?)?,
                Delta::Norm(_) | Delta::Table(_) => y,
            })
        })
    }

    fn weight(&self) -> Result<Tensor> {
        self.base.weight()
    }

    fn bias(&self) -> Option<&Tensor> {
        self.base.bias()
    }

    fn shape(&self) -> (usize, usize) {
        self.base.shape()
    }

    fn bytes(&self) -> u64 {
        0
    }
}

impl Delta {
    /// Turns DoRA's trained lengths into the factors of the rows of `base`, in f32 as PEFT does. Says whether all are numbers.
    pub(crate) fn direct(&mut self, base: &dyn Linear) -> Result<bool> {
        if let Delta::Directed { a, b, scale, direction } = self {
            let changed = (base.weight()? + (b.matmul(a)? * *scale)?)?;
            let lengths = changed.sqr()?.sum(1)?.sqrt()?;
            *direction = direction.div(&lengths)?;
            return Ok(direction.to_vec1::<f32>()?.iter().all(|factor| factor.is_finite()));
        }
        Ok(true)
    }
}

/// Returns `y + scale * (low B^T + bias)`.
pub(crate) fn add_scaled(y: Tensor, low: Tensor, b: &Tensor, bias: Option<&Tensor>, scale: f64) -> Result<Tensor> {
    let mut delta = low.matmul(&b.t()?)?;
    if let Some(bias) = bias {
        delta = delta.broadcast_add(bias)?;
    }
    Ok((y + (delta * scale)?)?)
}

/// Replaces the rows of each delta in `y` by what `f(rows, their part of y, delta)` makes of them.
pub(crate) fn splice(
    y: Tensor,
    deltas: &[(Range<usize>, &Delta)],
    f: impl Fn(&Range<usize>, Tensor, &Delta) -> Result<Tensor>,
) -> Result<Tensor> {
    if deltas.is_empty() {
        return Ok(y);
    }
    let n_rows = y.dim(0)?;
    let mut parts = Vec::with_capacity(2 * deltas.len() + 1);
    let mut done = 0;
    for (rows, delta) in deltas {
        if rows.start > done {
            parts.push(y.narrow(0, done, rows.start - done)?);
        }
        parts.push(f(rows, y.narrow(0, rows.start, rows.len())?, delta)?);
        done = rows.end;
    }
    if done < n_rows {
        parts.push(y.narrow(0, done, n_rows - done)?);
    }
    Ok(if parts.len() == 1 {
        parts.swap_remove(0)
    } else {
        Tensor::cat(&parts, 0)?
    })
}
