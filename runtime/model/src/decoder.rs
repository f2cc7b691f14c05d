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
//! Rows that no logits are asked for end in the last block, once their keys and values are written.
//!
//! **Invariants:** a forward pass that fails leaves every cache as long as it was. What a sequence gets depends on nothing but itself, bit for bit: not on the others in
//! the batch, how its tokens are cut into passes, the threads or the instructions. A pass writes to memory that the last one left ([`crate::workspace`]).

mod pass;

use std::sync::Arc;

use witness_kernels::Pool;

use crate::cache::{KvCache, KvPool, KvType};
use crate::config::Config;
use crate::error::{ModelError, Result};
use crate::linear::Linear;
use crate::logits::Logits;
use crate::lora::{Adapter, Module, Observe, Site};
use crate::rope::Frequencies;
use crate::weight::Weight;
use crate::workspace::Spare;

use pass::Pass;

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
    /// The matrices by name, each once: clones of those above, for who keeps the packed form.
    pub(crate) matrices: Vec<(String, Weight)>,
    /// Bytes of those that are not as the files have them.
    pub(crate) made_bytes: u64,
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

    /// Returns whether the packed form is worth a place on the disk: most of it was made, and not only copied.
    pub fn is_mostly_made(&self) -> bool {
        self.made_bytes > self.bytes / 2
    }

    /// Returns the number of weights that each token of a prompt is multiplied with: those of the blocks' linear layers.
    pub fn n_block_weights(&self) -> u64 {
        let layers = self.blocks.iter().flat_map(|block| {
            let Block {
                query,
                key,
                value,
                output,
                gate,
                up,
                down,
                ..
            } = block;
            [query, key, value, output, gate, up, down]
        });
        layers
            .map(|linear| {
                let (rows, columns) = linear.shape();
                (rows * columns) as u64
            })
            .sum()
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
        Pass::new(self, &Pool::current(), batch, observer).run(&mut workspace, batch, logits)?;
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
}
