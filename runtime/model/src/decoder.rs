//! The one decoder graph: embedding, blocks of attention and gated feed-forward, a final norm and a head.
//!
//! A batch is a list of sequences, each with its own new tokens, cache and adapter. Linear layers run over all tokens of the batch at
//! once; attention runs for each sequence by itself. Letters: `n` new tokens of the whole batch, `w` width, `h` query heads, `g`
//! key-value heads, `d` head dimension. The residual stream is `[n, w] f32`.
//!
//! ```text
//! x = embedding                                                   one input is rounded once for all
//! each block:   n = norm(x)      q, k, v = W n     m = attention     r = W m       layers that take it
//!               n = norm(x += r) g, u = W n        g = silu(g) u     r = W g
//! logits:       n = norm(x + r) of the rows asked for                W n
//! ```
//!
//! **Invariants:** a forward pass that fails leaves every cache as long as it was. What a sequence gets depends on nothing but itself, bit for bit: not on the others in
//! the batch, not on how its tokens are cut into passes, not on the threads. A pass writes to memory that the last one left ([`crate::workspace`]).

use std::ops::Range;
use std::sync::Arc;

use witness_kernels::Pool;

use crate::attention::{HeadShape, attend};
use crate::cache::{KvCache, KvPool, KvType};
use crate::config::Config;
use crate::error::{ModelError, Result};
use crate::linear::{Input, Linear};
use crate::logits::Logits;
use crate::lora::apply::{Room, Target, embed, project};
use crate::lora::{Adapter, Delta, Module, NormSite, Observe, Routes, Site};
use crate::pointwise::{add_and_norm, gated};
use crate::rope::Frequencies;
use crate::split::each_chunk;
use crate::weight::Weight;
use crate::workspace::{Spare, Workspace};

/// Rows of an embedding that a thread looks up at a time.
const ROWS_PER_TASK: usize = 8;

/// Layers of one block.
pub(crate) struct Block {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) query: Box<dyn Linear>,
    pub(crate) key: Box<dyn Linear>,
    pub(crate) value: Box<dyn Linear>,
    pub(crate) output: Box<dyn Linear>,
    pub(crate) feed_forward_norm: Vec<f32>,
    pub(crate) gate: Box<dyn Linear>,
    pub(crate) up: Box<dyn Linear>,
    pub(crate) down: Box<dyn Linear>,
}

/// A base model. Immutable: sequences and adapters lie beside it, so one copy serves them all.
pub struct Model {
    pub(crate) config: Config,
    pub(crate) embedding: Weight,
    pub(crate) blocks: Vec<Block>,
    pub(crate) final_norm: Vec<f32>,
    pub(crate) head: Box<dyn Linear>,
    pub(crate) frequencies: Frequencies,
    pub(crate) bytes: u64,
    pub(crate) spare: Spare,
}

/// What one sequence adds to a batch.
pub struct SequenceStep<'a> {
    /// Tokens that follow what the cache holds.
    pub tokens: &'a [u32],
    /// Keys and values so far; longer by `tokens` afterwards.
    pub cache: &'a mut KvCache,
    /// Adapter to apply; nothing = the base.
    pub adapter: Option<&'a Adapter>,
    /// Logits wanted, counted from the last token: 0 within a prompt, 1 to continue, more to score.
    pub n_logits: usize,
}

/// Rows of one sequence inside the batch's.
struct Span {
    sequence: usize,
    start: usize,
    n_tokens: usize,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("config", &self.config)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Model {
    /// Returns the configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the bytes of the weights in memory, each counted once.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes an empty cache for up to `capacity_tokens` positions, in f32 and on pages of its own.
    pub fn new_cache(&self, capacity_tokens: usize) -> KvCache {
        KvCache::new(self.config.kv_shape(), KvType::F32, capacity_tokens)
    }

    /// Makes a pool of pages for the caches of sequences that run together.
    pub fn new_pool(&self, kind: KvType, max_pages: usize) -> Arc<KvPool> {
        KvPool::new(self.config.kv_shape(), kind, max_pages)
    }

    /// Returns the linear layer of a module, if it is one.
    pub(crate) fn linear(&self, module: Module) -> Option<&dyn Linear> {
        match module {
            Module::Linear { layer, site } => {
                let block = self.blocks.get(layer)?;
                let linear = match site {
                    Site::Query => &block.query,
                    Site::Key => &block.key,
                    Site::Value => &block.value,
                    Site::Output => &block.output,
                    Site::Gate => &block.gate,
                    Site::Up => &block.up,
                    Site::Down => &block.down,
                };
                Some(&**linear)
            }
            Module::Head => Some(&*self.head),
            Module::Norm { .. } | Module::FinalNorm | Module::Embedding => None,
        }
    }

    /// Runs a batch and returns the logits of the last `n_logits` tokens of each sequence.
    ///
    /// # Errors
    /// A token outside the vocabulary, a sequence that outgrows its cache, an empty sequence. No cache changes then.
    pub fn forward(&self, batch: &mut [SequenceStep<'_>]) -> Result<Logits> {
        self.forward_observed(batch, None)
    }

    /// As [`Model::forward`], and `observer` sees what goes into each linear layer of the blocks and into the head.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn forward_observed(&self, batch: &mut [SequenceStep<'_>], observer: Option<&dyn Observe>) -> Result<Logits> {
        let mut logits = Logits::default();
        self.forward_into(batch, observer, &mut logits)?;
        Ok(logits)
    }

    /// As [`Model::forward_observed`], in the memory of `logits`, whose content is replaced; nothing is meant by it after an error.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn forward_into(
        &self,
        batch: &mut [SequenceStep<'_>],
        observer: Option<&dyn Observe>,
        logits: &mut Logits,
    ) -> Result<()> {
        for step in batch.iter_mut() {
            self.check(step)?;
        }
        let mut workspace = self.spare.take();
        self.run(batch, observer, &mut workspace, logits)?;
        for step in batch.iter_mut() {
            step.cache.commit(step.tokens.len());
        }
        let n_tokens = batch.iter().map(|step| step.tokens.len()).sum();
        self.spare.give(workspace, n_tokens);
        Ok(())
    }

    fn check(&self, step: &mut SequenceStep<'_>) -> Result<()> {
        let vocab_size = self.config.vocab_size;
        if let Some(&token) = step.tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(ModelError::Token { token, vocab_size });
        }
        if step.tokens.is_empty() {
            return Err(ModelError::Batch("a sequence without tokens"));
        }
        if step.n_logits > step.tokens.len() {
            return Err(ModelError::Batch("more logits wanted than tokens given"));
        }
        if step.cache.shape() != self.config.kv_shape() {
            return Err(ModelError::Batch("a cache of another model"));
        }
        step.cache.reserve(step.tokens.len())
    }

    fn run(
        &self,
        batch: &mut [SequenceStep<'_>],
        observer: Option<&dyn Observe>,
        workspace: &mut Workspace,
        logits: &mut Logits,
    ) -> Result<()> {
        let pool = Pool::current();
        let (spans, mut routes) = plan(batch);
        routes.observer = observer;
        workspace.tokens.clear();
        workspace
            .tokens
            .extend(spans.iter().flat_map(|span| batch[span.sequence].tokens));
        workspace.resize(workspace.tokens.len(), &self.config);
        let positions = spans.iter().flat_map(|span| {
            let first = batch[span.sequence].cache.len();
            first..first + span.n_tokens
        });
        self.frequencies.rotation(positions, &mut workspace.rotation);
        let mut room = Room::default();
        std::mem::swap(&mut room.low, &mut workspace.low);
        self.embed(workspace, &routes, &mut room, &pool);
        for layer in 0..self.blocks.len() {
            self.block(layer, workspace, &spans, &routes, &mut room, batch, &pool)?;
        }
        self.logits(workspace, &spans, batch, &mut room, observer, &pool, logits)?;
        std::mem::swap(&mut room.low, &mut workspace.low);
        Ok(())
    }

    /// Writes `x`.
    fn embed<'a>(&self, workspace: &mut Workspace, routes: &Routes<'a>, room: &mut Room<'a>, pool: &Pool) {
        let width = self.config.width;
        let Workspace { x, tokens, .. } = workspace;
        let look_up = |table: &Weight, x: &mut [f32], tokens: &[u32]| {
            each_chunk(pool, x, ROWS_PER_TASK * width, |task, x| {
                for (row, token) in x.chunks_exact_mut(width).zip(&tokens[task * ROWS_PER_TASK..]) {
                    table.row(*token as usize, row);
                }
            });
        };
        look_up(&self.embedding, x, tokens);
        for (rows, delta) in routes.deltas(Module::Embedding) {
            match delta {
                Delta::Table(table) => look_up(table, &mut x[rows.start * width..rows.end * width], &tokens[rows]),
                Delta::LowRank { pair, bias } => {
                    let tokens = tokens[rows.clone()].iter().copied();
                    embed(x, rows, tokens, pair, bias.as_deref(), room, pool);
                }
                Delta::Linear(_) | Delta::Norm(_) | Delta::Directed { .. } => {}
            }
        }
    }

    /// Adds `branch` to `x`, where there is one, and writes its norm, with each adapter's own weight where it has one.
    fn norm(
        &self,
        (x, branch, out): (&mut [f32], Option<&[f32]>, &mut [f32]),
        weight: &[f32],
        routes: &Routes<'_>,
        module: Module,
        pool: &Pool,
    ) {
        let (width, epsilon) = (self.config.width, self.config.norm_epsilon as f32);
        let mut some = |rows: Range<usize>, weight: &[f32]| {
            let run = rows.start * width..rows.end * width;
            let branch = branch.map(|branch| &branch[run.clone()]);
            add_and_norm(&mut x[run.clone()], branch, weight, epsilon, &mut out[run], pool);
        };
        let mut done = 0;
        for (rows, delta) in routes.deltas(module) {
            if let Delta::Norm(own) = delta {
                some(done..rows.start, weight);
                done = rows.end;
                some(rows, own);
            }
        }
        some(done..routes.n_rows(), weight);
    }

    /// One block: from `x` and the `branch` of the block before to those that the next one takes. Writes the new keys and values.
    #[expect(
        clippy::too_many_arguments,
        reason = "what a pass is about, taken apart for the borrow checker"
    )]
    fn block<'a>(
        &self,
        layer: usize,
        workspace: &mut Workspace,
        spans: &[Span],
        routes: &Routes<'a>,
        room: &mut Room<'a>,
        batch: &mut [SequenceStep<'_>],
        pool: &Pool,
    ) -> Result<()> {
        let Config {
            width,
            feed_forward,
            n_heads,
            n_kv_heads,
            head_dim,
            ..
        } = self.config;
        let (query_row, key_row) = (n_heads * head_dim, n_kv_heads * head_dim);
        let block = &self.blocks[layer];
        let at = |site| Module::Linear { layer, site };
        let norm_at = |site| Module::Norm { layer, site };
        let Workspace {
            x,
            normed,
            branch,
            query,
            mixed,
            key,
            value,
            gate,
            up,
            rounded,
            rotation,
            ..
        } = workspace;
        let before = (layer > 0).then_some(&branch[..]);
        self.norm(
            (x, before, normed),
            &block.attention_norm,
            routes,
            norm_at(NormSite::Attention),
            pool,
        );
        let targets = [
            target(at(Site::Query), &*block.query, query),
            target(at(Site::Key), &*block.key, key),
            target(at(Site::Value), &*block.value, value),
        ];
        project(&mut Input::new(normed, width, rounded, pool)?, targets, routes, room)?;
        rotation.apply(query, n_heads, pool);
        rotation.apply(key, n_kv_heads, pool);
        let shape = HeadShape {
            n_heads,
            n_kv_heads,
            head_dim,
            window: self.config.windows[layer],
        };
        for span in spans {
            let cache = &mut *batch[span.sequence].cache;
            let rows = |width: usize| span.start * width..(span.start + span.n_tokens) * width;
            cache.write(layer, &key[rows(key_row)], &value[rows(key_row)]);
            let view = cache.view(layer, span.n_tokens);
            mixed[rows(query_row)].copy_from_slice(&attend(shape, &query[rows(query_row)], &view));
        }
        let targets = [target(at(Site::Output), &*block.output, branch)];
        project(&mut Input::new(mixed, query_row, rounded, pool)?, targets, routes, room)?;
        let module = norm_at(NormSite::FeedForward);
        self.norm(
            (x, Some(branch), normed),
            &block.feed_forward_norm,
            routes,
            module,
            pool,
        );
        let targets = [
            target(at(Site::Gate), &*block.gate, gate),
            target(at(Site::Up), &*block.up, up),
        ];
        project(&mut Input::new(normed, width, rounded, pool)?, targets, routes, room)?;
        gated(gate, up, pool);
        let targets = [target(at(Site::Down), &*block.down, branch)];
        project(
            &mut Input::new(gate, feed_forward, rounded, pool)?,
            targets,
            routes,
            room,
        )
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "what a pass is about, taken apart for the borrow checker"
    )]
    fn logits<'a>(
        &self,
        workspace: &mut Workspace,
        spans: &[Span],
        batch: &[SequenceStep<'a>],
        room: &mut Room<'a>,
        observer: Option<&'a dyn Observe>,
        pool: &Pool,
        logits: &mut Logits,
    ) -> Result<()> {
        let width = self.config.width;
        let Workspace {
            x,
            normed,
            branch,
            rounded,
            ..
        } = workspace;
        let mut routes = Routes {
            observer,
            ..Routes::default()
        };
        let n_wanted = spans.iter().map(|span| (span.sequence, batch[span.sequence].n_logits));
        let y = logits.lay_out(batch.len(), self.config.vocab_size, n_wanted);
        if y.is_empty() {
            return Ok(());
        }
        // Rows asked for move to the front; none is behind its new place.
        let mut n_rows = 0;
        for span in spans {
            let SequenceStep { n_logits, adapter, .. } = batch[span.sequence];
            routes.push(n_logits, adapter);
            let run = (span.start + span.n_tokens - n_logits) * width..(span.start + span.n_tokens) * width;
            x.copy_within(run.clone(), n_rows * width);
            branch.copy_within(run, n_rows * width);
            n_rows += n_logits;
        }
        let numbers = n_rows * width;
        let before = (!self.blocks.is_empty()).then_some(&branch[..numbers]);
        let rows = (&mut x[..numbers], before, &mut normed[..numbers]);
        self.norm(rows, &self.final_norm, &routes, Module::FinalNorm, pool);
        let targets = [target(Module::Head, &*self.head, y)];
        project(
            &mut Input::new(&normed[..numbers], width, rounded, pool)?,
            targets,
            &routes,
            room,
        )
    }
}

fn target<'a>(module: Module, base: &'a dyn Linear, y: &'a mut [f32]) -> Target<'a> {
    Target { module, base, y }
}

/// Orders the batch by adapter, so that the rows of an adapter are one run.
fn plan<'a>(batch: &[SequenceStep<'a>]) -> (Vec<Span>, Routes<'a>) {
    let mut order: Vec<usize> = (0..batch.len()).collect();
    order.sort_by_key(|&index| {
        batch[index]
            .adapter
            .map_or(0, |adapter| std::ptr::from_ref(adapter).addr())
    });
    let mut spans = Vec::with_capacity(order.len());
    let mut routes = Routes::default();
    let mut start = 0;
    for sequence in order {
        let n_tokens = batch[sequence].tokens.len();
        routes.push(n_tokens, batch[sequence].adapter);
        spans.push(Span {
            sequence,
            start,
            n_tokens,
        });
        start += n_tokens;
    }
    (spans, routes)
}
