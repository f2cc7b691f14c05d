//! The one decoder graph: embedding, blocks of attention and gated feed-forward, a final norm and a head.
//!
//! A batch is a list of sequences, each with its own new tokens, cache and adapter. Linear layers run over all tokens of the batch at
//! once; attention runs for each sequence by itself. Letters: `n` new tokens of the whole batch, `w` width, `h` query heads, `g`
//! key-value heads, `d` head dimension. The residual stream is `[n, w] f32`.
//!
//! **Invariant:** a forward pass that fails leaves every cache as long as it was.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use candle_nn::ops::rms_norm;

use crate::attention::{HeadShape, attend};
use crate::cache::{KvCache, KvPool, KvType};
use crate::config::Config;
use crate::error::{ModelError, Result};
use crate::linear::Linear;
use crate::lora::{Adapter, Delta, Module, NormSite, Observe, Routed, Routes, Site, add_scaled, splice};
use crate::pointwise::gated;
use crate::rope::{Frequencies, Rotation};
use crate::weight::Weight;

/// Layers of one block.
pub(crate) struct Block {
    pub(crate) attention_norm: Tensor,
    pub(crate) query: Box<dyn Linear>,
    pub(crate) key: Box<dyn Linear>,
    pub(crate) value: Box<dyn Linear>,
    pub(crate) output: Box<dyn Linear>,
    pub(crate) feed_forward_norm: Tensor,
    pub(crate) gate: Box<dyn Linear>,
    pub(crate) up: Box<dyn Linear>,
    pub(crate) down: Box<dyn Linear>,
}

/// A base model. Immutable: sequences and adapters lie beside it, so one copy serves them all.
pub struct Model {
    pub(crate) config: Config,
    pub(crate) embedding: Weight,
    pub(crate) blocks: Vec<Block>,
    pub(crate) final_norm: Tensor,
    pub(crate) head: Box<dyn Linear>,
    pub(crate) frequencies: Frequencies,
    pub(crate) bytes: u64,
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

/// Rows of one sequence inside the batch's tensors.
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

    /// Runs a batch and returns, for each sequence in order, its last `n_logits` rows of `[n_logits, vocab] f32`; nothing where 0.
    ///
    /// # Errors
    /// A token outside the vocabulary, a sequence that outgrows its cache, an empty sequence. No cache changes then.
    pub fn forward(&self, batch: &mut [SequenceStep<'_>]) -> Result<Vec<Option<Tensor>>> {
        self.forward_observed(batch, None)
    }

    /// As [`Model::forward`], and `observer` sees what goes into each linear layer of the blocks and into the head.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn forward_observed(
        &self,
        batch: &mut [SequenceStep<'_>],
        observer: Option<&dyn Observe>,
    ) -> Result<Vec<Option<Tensor>>> {
        for step in batch.iter_mut() {
            self.check(step)?;
        }
        let (spans, mut routes) = plan(batch);
        routes.observer = observer;
        let tokens: Vec<u32> = spans
            .iter()
            .flat_map(|span| batch[span.sequence].tokens)
            .copied()
            .collect();
        let positions = spans.iter().flat_map(|span| {
            let first = batch[span.sequence].cache.len();
            first..first + span.n_tokens
        });
        let rotation = self.frequencies.rotation(positions);
        let mut x = self.embed(&tokens, &routes)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let normed = self.norm(&x, &block.attention_norm, &routes, norm_of(layer, NormSite::Attention))?;
            let mixed = self.attention(layer, &normed, &spans, &routes, &rotation, batch)?;
            x = (x + mixed)?;
            let normed = self.norm(
                &x,
                &block.feed_forward_norm,
                &routes,
                norm_of(layer, NormSite::FeedForward),
            )?;
            let gate = run(&*block.gate, &normed, &routes, linear_of(layer, Site::Gate))?;
            let up = run(&*block.up, &normed, &routes, linear_of(layer, Site::Up))?;
            let shape = gate.dims2()?;
            let (mut gate, up) = (numbers(&gate)?, numbers(&up)?);
            gated(&mut gate, &up);
            let gate = Tensor::from_vec(gate, shape, &Device::Cpu)?;
            x = (x + run(&*block.down, &gate, &routes, linear_of(layer, Site::Down))?)?;
        }
        let logits = self.logits(&x, &spans, batch, observer)?;
        for step in batch.iter_mut() {
            step.cache.commit(step.tokens.len());
        }
        Ok(logits)
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

    fn embed(&self, tokens: &[u32], routes: &Routes<'_>) -> Result<Tensor> {
        let ids = Tensor::from_slice(tokens, tokens.len(), &Device::Cpu)?;
        splice(
            self.embedding.lookup(&ids)?,
            &routes.deltas(Module::Embedding),
            |rows, x, delta| {
                let ids = ids.narrow(0, rows.start, rows.len())?;
                Ok(match delta {
                    Delta::Table(table) => table.lookup(&ids)?,
                    Delta::LowRank { a, b, bias, scale } => {
                        add_scaled(x, a.index_select(&ids, 1)?.t()?, b, bias.as_ref(), *scale)?
                    }
                    Delta::Linear(_) | Delta::Norm(_) | Delta::Directed { .. } => x,
                })
            },
        )
    }

    /// `[.., last] f32`, normed over the last dimension. Sums in f32.
    fn norm(&self, x: &Tensor, weight: &Tensor, routes: &Routes<'_>, module: Module) -> Result<Tensor> {
        let epsilon = self.config.norm_epsilon as f32;
        splice(
            rms_norm(&x.contiguous()?, weight, epsilon)?,
            &routes.deltas(module),
            |rows, y, delta| {
                Ok(match delta {
                    Delta::Norm(own) => rms_norm(&x.narrow(0, rows.start, rows.len())?.contiguous()?, own, epsilon)?,
                    _ => y,
                })
            },
        )
    }

    /// `[n, w] -> [n, w]`; writes the new keys and values of `layer`.
    fn attention(
        &self,
        layer: usize,
        x: &Tensor,
        spans: &[Span],
        routes: &Routes<'_>,
        rotation: &Rotation,
        batch: &mut [SequenceStep<'_>],
    ) -> Result<Tensor> {
        let Config {
            n_heads,
            n_kv_heads,
            head_dim,
            ..
        } = self.config;
        let block = &self.blocks[layer];
        let n_tokens = x.dim(0)?;
        let mut query = numbers(&run(&*block.query, x, routes, linear_of(layer, Site::Query))?)?;
        let mut key = numbers(&run(&*block.key, x, routes, linear_of(layer, Site::Key))?)?;
        let value = numbers(&run(&*block.value, x, routes, linear_of(layer, Site::Value))?)?;
        rotation.apply(&mut query, n_heads);
        rotation.apply(&mut key, n_kv_heads);
        let shape = HeadShape {
            n_heads,
            n_kv_heads,
            head_dim,
            window: self.config.windows[layer],
        };
        let (query_row, key_row) = (n_heads * head_dim, n_kv_heads * head_dim);
        let mut mixed = Vec::with_capacity(query.len());
        for span in spans {
            let cache = &mut *batch[span.sequence].cache;
            let rows = |width: usize| span.start * width..(span.start + span.n_tokens) * width;
            cache.write(layer, &key[rows(key_row)], &value[rows(key_row)]);
            mixed.extend(attend(
                shape,
                &query[rows(query_row)],
                &cache.view(layer, span.n_tokens),
            ));
        }
        let mixed = Tensor::from_vec(mixed, (n_tokens, query_row), &Device::Cpu)?;
        run(&*block.output, &mixed, routes, linear_of(layer, Site::Output))
    }

    fn logits(
        &self,
        x: &Tensor,
        spans: &[Span],
        batch: &[SequenceStep<'_>],
        observer: Option<&dyn Observe>,
    ) -> Result<Vec<Option<Tensor>>> {
        let mut routes = Routes {
            observer,
            ..Routes::default()
        };
        let mut rows = Vec::new();
        for span in spans {
            let step = &batch[span.sequence];
            let end = span.start + span.n_tokens;
            rows.extend((end - step.n_logits..end).map(|row| row as u32));
            routes.push(step.n_logits, step.adapter);
        }
        let mut logits: Vec<Option<Tensor>> = batch.iter().map(|_| None).collect();
        if rows.is_empty() {
            return Ok(logits);
        }
        let n_rows = rows.len();
        let x = x.index_select(&Tensor::from_vec(rows, n_rows, &Device::Cpu)?, 0)?;
        let x = self.norm(&x, &self.final_norm, &routes, Module::FinalNorm)?;
        let all = run(&*self.head, &x, &routes, Module::Head)?;
        let mut start = 0;
        for span in spans {
            let n_logits = batch[span.sequence].n_logits;
            if n_logits > 0 {
                logits[span.sequence] = Some(all.narrow(0, start, n_logits)?);
                start += n_logits;
            }
        }
        Ok(logits)
    }
}

fn numbers(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1::<f32>()?)
}

fn linear_of(layer: usize, site: Site) -> Module {
    Module::Linear { layer, site }
}

fn norm_of(layer: usize, site: NormSite) -> Module {
    Module::Norm { layer, site }
}

fn run(base: &dyn Linear, x: &Tensor, routes: &Routes<'_>, module: Module) -> Result<Tensor> {
    if let Some(observer) = routes.observer {
        observer.see(module, &numbers(x)?, base.shape().1);
    }
    Routed {
        base,
        deltas: routes.deltas(module),
    }
    .forward(x)
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
