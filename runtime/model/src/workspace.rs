//! Memory of a forward pass, kept between passes so that a step of generation allocates none.

use std::sync::Mutex;

use witness_kernels::Activations;

use crate::config::Config;
use crate::rope::Rotation;

/// Tokens of a batch up to which its memory is kept for the next.
const KEPT_TOKENS: usize = 1024;

/// Buffers for `n` tokens. Letters as in [`crate::decoder`]; `f` is the width inside the feed-forward part.
///
/// | buffer | shape |
/// | --- | --- |
/// | `x`, `normed`, `branch` | `[n, w]` |
/// | `query`, `mixed` | `[n, h d]` |
/// | `key`, `value` | `[n, g d]` |
/// | `gate`, `up` | `[n, f]` |
/// | `low` | `A x` of the adapters of layers that take one input, one behind the other |
/// | `rounded` | an input, rounded |
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    pub(crate) x: Vec<f32>,
    pub(crate) normed: Vec<f32>,
    pub(crate) branch: Vec<f32>,
    pub(crate) query: Vec<f32>,
    pub(crate) mixed: Vec<f32>,
    pub(crate) key: Vec<f32>,
    pub(crate) value: Vec<f32>,
    pub(crate) gate: Vec<f32>,
    pub(crate) up: Vec<f32>,
    pub(crate) low: Vec<f32>,
    pub(crate) rounded: Activations,
    pub(crate) rotation: Rotation,
    pub(crate) tokens: Vec<u32>,
}

impl Workspace {
    /// Makes room for so many tokens. What the buffers hold then is not defined.
    pub(crate) fn resize(&mut self, n_tokens: usize, config: &Config) {
        let Config {
            width,
            feed_forward,
            n_heads,
            n_kv_heads,
            head_dim,
            ..
        } = *config;
        let sizes = [
            (&mut self.x, width),
            (&mut self.normed, width),
            (&mut self.branch, width),
            (&mut self.query, n_heads * head_dim),
            (&mut self.mixed, n_heads * head_dim),
            (&mut self.key, n_kv_heads * head_dim),
            (&mut self.value, n_kv_heads * head_dim),
            (&mut self.gate, feed_forward),
            (&mut self.up, feed_forward),
        ];
        for (buffer, numbers) in sizes {
            buffer.resize(n_tokens * numbers, 0.0);
        }
    }
}

/// A workspace that nobody uses now. Callers that run a model at the same time make their own; the last to end leaves its.
#[derive(Debug, Default)]
pub(crate) struct Spare(Mutex<Option<Box<Workspace>>>);

impl Spare {
    /// Takes it, or makes another. Waits for nobody.
    pub(crate) fn take(&self) -> Box<Workspace> {
        let spare = self.0.try_lock().ok().and_then(|mut spare| spare.take());
        spare.unwrap_or_default()
    }

    /// Gives it back after a pass over so many tokens.
    pub(crate) fn give(&self, workspace: Box<Workspace>, n_tokens: usize) {
        if n_tokens <= KEPT_TOKENS
            && let Ok(mut spare) = self.0.try_lock()
        {
            *spare = Some(workspace);
        }
    }
}
