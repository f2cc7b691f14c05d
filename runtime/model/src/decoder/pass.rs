//! One pass of a batch through the graph.

use std::ops::Range;

use witness_kernels::Pool;

use super::{Model, SequenceStep};
use crate::attention::{Ask, HeadShape, attend};
use crate::config::Config;
use crate::error::Result;
use crate::linear::{Input, Linear};
use crate::logits::Logits;
use crate::lora::apply::{Room, Target, embed, project};
use crate::lora::{Delta, Module, NormSite, Observe, Routes, Site};
use crate::pointwise::{add_and_norm, gated};
use crate::split::each_chunk;
use crate::weight::Weight;
use crate::workspace::Workspace;

/// Rows of an embedding that a thread looks up at a time.
const ROWS_PER_TASK: usize = 8;

/// The last tokens of one sequence inside the batch's rows.
struct Span {
    sequence: usize,
    /// New tokens of the sequence; at first a row each.
    n_tokens: usize,
    rows: Range<usize>,
}

impl Span {
    /// Returns the numbers of its rows, of so many each.
    fn of(&self, width: usize) -> Range<usize> {
        self.rows.start * width..self.rows.end * width
    }
}

/// A batch, ordered by adapter, so that the rows of an adapter are one run.
pub(super) struct Pass<'a> {
    model: &'a Model,
    pool: &'a Pool,
    spans: Vec<Span>,
    routes: Routes<'a>,
    room: Room<'a>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        model: &'a Model,
        pool: &'a Pool,
        batch: &[SequenceStep<'a>],
        observer: Option<&'a dyn Observe>,
    ) -> Self {
        let mut order: Vec<usize> = (0..batch.len()).collect();
        order.sort_unstable_by_key(|&index| {
            (
                batch[index]
                    .adapter
                    .map_or(0, |adapter| std::ptr::from_ref(adapter).addr()),
                index,
            )
        });
        let mut spans = Vec::with_capacity(order.len());
        let mut routes = Routes {
            observer,
            ..Routes::default()
        };
        for sequence in order {
            let n_tokens = batch[sequence].tokens.len();
            let start = routes.n_rows();
            routes.push(n_tokens, batch[sequence].adapter);
            spans.push(Span {
                sequence,
                n_tokens,
                rows: start..start + n_tokens,
            });
        }
        Self {
            model,
            pool,
            spans,
            routes,
            room: Room::default(),
        }
    }

    /// Runs the batch: writes keys and values, and the logits asked for.
    pub(super) fn run<'b: 'a>(
        mut self,
        memory: &mut Workspace,
        batch: &mut [SequenceStep<'b>],
        logits: &mut Logits,
    ) -> Result<()> {
        let Model {
            config,
            blocks,
            frequencies,
            ..
        } = self.model;
        memory.tokens.clear();
        memory
            .tokens
            .extend(self.spans.iter().flat_map(|span| batch[span.sequence].tokens));
        memory.resize(self.routes.n_rows(), config);
        let positions = self.spans.iter().flat_map(|span| {
            let first = batch[span.sequence].cache.len();
            first..first + span.n_tokens
        });
        frequencies.rotation(positions, &mut memory.rotation);
        std::mem::swap(&mut self.room.low, &mut memory.low);
        self.embed(memory);
        for layer in 0..blocks.len() {
            self.look(layer, memory, batch)?;
            // Whoever looks on sees every row.
            if layer + 1 == blocks.len() && self.routes.observer.is_none() {
                self.keep_wanted(memory, batch);
            }
            self.mix(layer, memory, batch)?;
        }
        self.keep_wanted(memory, batch);
        self.logits(memory, batch, logits)?;
        std::mem::swap(&mut self.room.low, &mut memory.low);
        Ok(())
    }

    /// Writes `x`.
    fn embed(&mut self, memory: &mut Workspace) {
        let width = self.model.config.width;
        let Workspace { x, tokens, .. } = memory;
        let pool = self.pool;
        let look_up = |table: &Weight, x: &mut [f32], tokens: &[u32]| {
            each_chunk(pool, x, ROWS_PER_TASK * width, |task, x| {
                for (row, token) in x.chunks_exact_mut(width).zip(&tokens[task * ROWS_PER_TASK..]) {
                    table.row(*token as usize, row);
                }
            });
        };
        look_up(&self.model.embedding, x, tokens);
        for (rows, delta) in self.routes.deltas(Module::Embedding) {
            match delta {
                Delta::Table(table) => look_up(table, &mut x[rows.start * width..rows.end * width], &tokens[rows]),
                Delta::LowRank { pair, bias } => {
                    let tokens = tokens[rows.clone()].iter().copied();
                    embed(x, rows, tokens, pair, bias.as_deref(), &mut self.room, pool);
                }
                Delta::Linear(_) | Delta::Norm(_) | Delta::Directed { .. } => {}
            }
        }
    }

    /// Adds `branch` to `x`, where there is one, and writes the norm of the sum, with each adapter's own weight where it has one.
    fn norm(&self, module: Module, weight: &[f32], x: &mut [f32], branch: Option<&[f32]>, out: &mut [f32]) {
        let Config {
            width, norm_epsilon, ..
        } = self.model.config;
        let mut some = |rows: Range<usize>, weight: &[f32]| {
            let run = rows.start * width..rows.end * width;
            let branch = branch.map(|branch| &branch[run.clone()]);
            add_and_norm(
                &mut x[run.clone()],
                branch,
                weight,
                norm_epsilon as f32,
                &mut out[run],
                self.pool,
            );
        };
        let mut done = 0;
        for (rows, delta) in self.routes.deltas(module) {
            if let Delta::Norm(own) = delta {
                some(done..rows.start, weight);
                done = rows.end;
                some(rows, own);
            }
        }
        some(done..self.routes.n_rows(), weight);
    }

    /// The first part of a block: queries, keys and values of all rows, the latter two into the caches.
    fn look(&mut self, layer: usize, memory: &mut Workspace, batch: &mut [SequenceStep<'_>]) -> Result<()> {
        let Config {
            width,
            n_heads,
            n_kv_heads,
            head_dim,
            ..
        } = self.model.config;
        let block = &self.model.blocks[layer];
        let at = |site| Module::Linear { layer, site };
        let Workspace {
            x,
            normed,
            branch,
            query,
            key,
            value,
            rounded,
            rotation,
            ..
        } = memory;
        let before = (layer > 0).then_some(&branch[..]);
        let site = NormSite::Attention;
        self.norm(Module::Norm { layer, site }, &block.attention_norm, x, before, normed);
        let targets = [
            target(at(Site::Query), &*block.query, query),
            target(at(Site::Key), &*block.key, key),
            target(at(Site::Value), &*block.value, value),
        ];
        project(
            &mut Input::new(normed, width, rounded, self.pool)?,
            targets,
            &self.routes,
            &mut self.room,
        )?;
        rotation.apply(query, n_heads, self.pool);
        rotation.apply(key, n_kv_heads, self.pool);
        for span in &self.spans {
            let run = span.of(n_kv_heads * head_dim);
            batch[span.sequence].cache.write(layer, &key[run.clone()], &value[run]);
        }
        Ok(())
    }

    /// The rest of a block: from `x` and the queries to `x` and a `branch` that is still to be added.
    fn mix(&mut self, layer: usize, memory: &mut Workspace, batch: &[SequenceStep<'_>]) -> Result<()> {
        let Config {
            width,
            feed_forward,
            n_heads,
            n_kv_heads,
            head_dim,
            ..
        } = self.model.config;
        let n_rows = self.routes.n_rows();
        if n_rows == 0 {
            return Ok(());
        }
        let block = &self.model.blocks[layer];
        let at = |site| Module::Linear { layer, site };
        let Workspace {
            x,
            normed,
            branch,
            query,
            mixed,
            gate,
            up,
            rounded,
            ..
        } = memory;
        let shape = HeadShape {
            n_heads,
            n_kv_heads,
            head_dim,
            window: self.model.config.windows[layer],
        };
        let row = n_heads * head_dim;
        let asks = self.spans.iter().filter(|span| !span.rows.is_empty()).map(|span| Ask {
            queries: &query[span.of(row)],
            view: batch[span.sequence].cache.view(layer, span.n_tokens),
        });
        // Rows of sequences follow each other without gaps.
        attend(shape, &asks.collect::<Vec<_>>(), &mut mixed[..n_rows * row], self.pool);
        let mut input = Input::new(&mixed[..n_rows * row], row, rounded, self.pool)?;
        let branch = &mut branch[..n_rows * width];
        let targets = [target(at(Site::Output), &*block.output, branch)];
        project(&mut input, targets, &self.routes, &mut self.room)?;
        let (x, normed) = (&mut x[..n_rows * width], &mut normed[..n_rows * width]);
        let site = NormSite::FeedForward;
        self.norm(
            Module::Norm { layer, site },
            &block.feed_forward_norm,
            x,
            Some(branch),
            normed,
        );
        let (gate, up) = (&mut gate[..n_rows * feed_forward], &mut up[..n_rows * feed_forward]);
        let targets = [
            target(at(Site::Gate), &*block.gate, gate),
            target(at(Site::Up), &*block.up, up),
        ];
        let mut input = Input::new(normed, width, rounded, self.pool)?;
        project(&mut input, targets, &self.routes, &mut self.room)?;
        gated(gate, up, self.pool);
        let targets = [target(at(Site::Down), &*block.down, branch)];
        let mut input = Input::new(gate, feed_forward, rounded, self.pool)?;
        project(&mut input, targets, &self.routes, &mut self.room)
    }

    /// Leaves the rows alone that logits are asked for: moves their numbers to the front.
    fn keep_wanted(&mut self, memory: &mut Workspace, batch: &[SequenceStep<'a>]) {
        let Config {
            width,
            n_heads,
            head_dim,
            ..
        } = self.model.config;
        let mut routes = Routes {
            observer: self.routes.observer,
            ..Routes::default()
        };
        for span in &mut self.spans {
            let SequenceStep { n_logits, adapter, .. } = batch[span.sequence];
            let to = routes.n_rows();
            routes.push(n_logits, adapter);
            span.rows.start = span.rows.end - n_logits;
            // No row lies before its new place.
            let numbers = [
                (&mut memory.x, width),
                (&mut memory.branch, width),
                (&mut memory.query, n_heads * head_dim),
            ];
            for (buffer, width) in numbers {
                buffer.copy_within(span.of(width), to * width);
            }
            span.rows = to..to + n_logits;
        }
        self.routes = routes;
    }

    fn logits(&mut self, memory: &mut Workspace, batch: &[SequenceStep<'_>], logits: &mut Logits) -> Result<()> {
        let Config { width, vocab_size, .. } = self.model.config;
        let wanted = self.spans.iter().map(|span| (span.sequence, span.rows.clone()));
        let y = logits.lay_out(batch.len(), vocab_size, self.routes.n_rows(), wanted);
        if y.is_empty() {
            return Ok(());
        }
        let numbers = self.routes.n_rows() * width;
        let Workspace {
            x,
            normed,
            branch,
            rounded,
            ..
        } = memory;
        let (x, branch, normed) = (&mut x[..numbers], &branch[..numbers], &mut normed[..numbers]);
        self.norm(Module::FinalNorm, &self.model.final_norm, x, Some(branch), normed);
        let targets = [target(Module::Head, &*self.model.head, y)];
        let mut input = Input::new(normed, width, rounded, self.pool)?;
        project(&mut input, targets, &self.routes, &mut self.room)
    }
}

fn target<'a>(module: Module, base: &'a dyn Linear, y: &'a mut [f32]) -> Target<'a> {
    Target { module, base, y }
}
