//! What computes logits: our own graph, or a family of candle-transformers. The rest of the plugin knows this trait only.

use std::sync::Arc;

use witness_diagnostics::Diagnostic;
use witness_model::{Adapter, KvCache, KvType, Logits, Model, SequenceStep};

use crate::foreign::ForeignState;

/// Keys and values of one sequence.
pub(crate) enum State {
    /// Of our graph: can be cut back and kept for the next request.
    Graph(KvCache),
    /// Of candle-transformers: grows only.
    Foreign(ForeignState),
}

/// One sequence's part of a batch.
pub(crate) struct Advance<'a> {
    pub(crate) tokens: &'a [u32],
    pub(crate) state: &'a mut State,
    pub(crate) adapter: Option<&'a Adapter>,
    pub(crate) n_logits: usize,
}

/// A base model that advances sequences.
pub(crate) trait Engine: Send {
    /// Makes a state that shares nothing with others, for up to `capacity_tokens`.
    fn new_state(&self, capacity_tokens: usize) -> State;
    /// Runs a batch; `logits` becomes the rows asked for, in its memory. After an error the states are of no use.
    fn forward(&mut self, batch: &mut [Advance<'_>], logits: &mut Logits) -> Result<(), Diagnostic>;
    /// Returns our graph, when this is it: only it takes adapters.
    fn graph(&self) -> Option<&Model>;
    /// Returns the bytes of the weights in memory.
    fn bytes(&self) -> u64;
    /// Returns the number of tokens that may be fed in.
    fn vocab_size(&self) -> usize;
}

impl State {
    /// Returns the number of positions held.
    pub(crate) fn len(&self) -> usize {
        match self {
            State::Graph(cache) => cache.len(),
            State::Foreign(state) => state.len(),
        }
    }
}

/// Our decoder graph. The weights are shared, so that nothing is loaded twice.
pub(crate) struct GraphEngine {
    pub(crate) model: Arc<Model>,
    /// How states of their own store keys and values.
    pub(crate) kv_type: KvType,
}

impl Engine for GraphEngine {
    fn new_state(&self, capacity_tokens: usize) -> State {
        State::Graph(KvCache::new(
            self.model.config().kv_shape(),
            self.kv_type,
            capacity_tokens,
        ))
    }

    fn forward(&mut self, batch: &mut [Advance<'_>], logits: &mut Logits) -> Result<(), Diagnostic> {
        let mut steps = Vec::with_capacity(batch.len());
        for advance in batch.iter_mut() {
            let State::Graph(cache) = &mut *advance.state else {
                return Err(crate::error::internal("a sequence holds the state of another engine"));
            };
            steps.push(SequenceStep {
                tokens: advance.tokens,
                cache,
                adapter: advance.adapter,
                n_logits: advance.n_logits,
            });
        }
        Ok(self.model.forward_into(&mut steps, None, logits)?)
    }

    fn graph(&self) -> Option<&Model> {
        Some(&self.model)
    }

    fn bytes(&self) -> u64 {
        self.model.bytes()
    }

    fn vocab_size(&self) -> usize {
        self.model.config().vocab_size
    }
}
