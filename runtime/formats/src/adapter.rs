//! LoRA adapters: a PEFT directory or a GGUF LoRA file, as the same list of pairs on modules of the base.
//!
//! An adapter is applied exactly or refused. Nothing in its files is passed over in silence: every tensor must find its place, every
//! setting that changes the arithmetic must be one that is known here, every shape must fit the base ([`Adapter::check_against`]),
//! and the rows of q and k must be in the base's order ([`Adapter::in_row_order`]). Refusals name both sides.
//!
//! Letters: `r` rank, `in` and `out` the columns and rows of the base's weight. The change to a weight is `scale * B @ A`.

mod base;
mod config;
mod gguf_lora;
mod pattern;
mod peft;

pub use base::BaseShape;
pub use config::{Bias, PeftConfig, Targets};

use std::path::PathBuf;

use crate::{
    FileSet, Result, TensorRef,
    gguf::rows::{self, RowOrder},
};

/// The longest `adapter_config.json` that is read; known ones are below 100 KB.
pub const CONFIG_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// The largest rank accepted.
pub const RANK_MAX: usize = 16_384;

/// An open adapter.
#[derive(Clone, Debug)]
pub struct Adapter {
    label: String,
    pairs: Vec<LoraPair>,
    saved: Vec<SavedModule>,
    config: Option<PeftConfig>,
    base_model: Option<String>,
    row_order: RowOrder,
}

/// The low-rank change to one module.
#[derive(Clone, Debug)]
pub struct LoraPair {
    /// The module's Hugging Face name, such as `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// `[r, in]`; for an embedding `[r, vocab]`.
    pub a: TensorRef,
    /// `[out, r]`; for an embedding `[hidden, r]`.
    pub b: TensorRef,
    /// `[out]`, from PEFT's `lora_bias`: the output also gains `scale * b_bias`. Whoever cannot add it must refuse.
    pub b_bias: Option<TensorRef>,
    /// `[out]`, from DoRA: the length that each row of `W + scale B A` is brought to. Whoever cannot do so must refuse.
    pub magnitude: Option<TensorRef>,
    /// `r`.
    pub rank: usize,
    /// `alpha / r`, or `alpha / sqrt(r)` for rank-stabilised LoRA.
    pub scale: f64,
    /// What the module is.
    pub kind: LoraKind,
}

/// What a pair changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoraKind {
    /// A matrix: `y += scale * B (A x)`.
    Linear,
    /// An embedding: the row of token `t` gains `scale * B A[:, t]`.
    Embedding,
}

/// A module whose own parameters the adapter replaces: PEFT's `modules_to_save` and trained biases. Whoever cannot replace them must refuse.
#[derive(Clone, Debug)]
pub struct SavedModule {
    /// The module's Hugging Face name, such as `lm_head`.
    pub module: String,
    /// The new weight.
    pub weight: Option<TensorRef>,
    /// The new bias.
    pub bias: Option<TensorRef>,
}

/// How many heads the base has, for the order of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
}

impl Adapter {
    /// Opens an adapter of either form: a set with `adapter_config.json`, or one GGUF file.
    pub fn open(files: &FileSet) -> Result<Adapter> {
        let parts = files.gguf_parts();
        if files.get(peft::CONFIG).is_none() && !parts.is_empty() {
            return Adapter::open_gguf(&parts);
        }
        Adapter::open_peft(files)
    }

    /// Opens a PEFT adapter: `adapter_config.json` and `adapter_model.safetensors`.
    pub fn open_peft(files: &FileSet) -> Result<Adapter> {
        peft::open(files)
    }

    /// Opens a GGUF LoRA file.
    pub fn open_gguf(paths: &[PathBuf]) -> Result<Adapter> {
        gguf_lora::open(paths)
    }

    /// Returns what errors call this adapter.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Returns the low-rank changes, sorted by module.
    pub fn pairs(&self) -> &[LoraPair] {
        &self.pairs
    }

    /// Returns the modules that are replaced, sorted by module.
    pub fn saved(&self) -> &[SavedModule] {
        &self.saved
    }

    /// Returns the PEFT configuration, when there is one.
    pub fn config(&self) -> Option<&PeftConfig> {
        self.config.as_ref()
    }

    /// Returns the name of the base that the adapter says it was trained on.
    pub fn base_model(&self) -> Option<&str> {
        self.base_model.as_deref()
    }

    /// Returns in which order the rows of q and k are now.
    pub fn row_order(&self) -> RowOrder {
        self.row_order
    }

    /// Returns the largest rank.
    pub fn rank_max(&self) -> usize {
        self.pairs.iter().map(|pair| pair.rank).max().unwrap_or(0)
    }

    /// Returns the bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        let pairs = self.pairs.iter().flat_map(|pair| {
            [
                Some(&pair.a),
                Some(&pair.b),
                pair.b_bias.as_ref(),
                pair.magnitude.as_ref(),
            ]
        });
        let saved = self
            .saved
            .iter()
            .flat_map(|saved| [saved.weight.as_ref(), saved.bias.as_ref()]);
        pairs
            .chain(saved)
            .flatten()
            .map(|tensor| tensor.bytes().len() as u64)
            .sum()
    }

    /// Returns the adapter with the rows of q and k in another order: those of B, never those of A.
    ///
    /// For a base in GGUF form whose weights are used as stored, `order` is [`rows::stored_order`] of its architecture; for a base
    /// in Hugging Face form it is [`RowOrder::Halves`].
    pub fn in_row_order(mut self, order: RowOrder, heads: Heads) -> Result<Adapter> {
        if order == self.row_order {
            return Ok(self);
        }
        let from = self.row_order;
        for pair in &mut self.pairs {
            if let Some(n_heads) = heads_of(&pair.module, heads) {
                pair.b = reordered(&pair.b, n_heads, from, order)?;
                for tensor in [&mut pair.b_bias, &mut pair.magnitude].into_iter().flatten() {
                    *tensor = reordered(tensor, n_heads, from, order)?;
                }
            }
        }
        for saved in &mut self.saved {
            if let Some(n_heads) = heads_of(&saved.module, heads) {
                for tensor in [&mut saved.weight, &mut saved.bias].into_iter().flatten() {
                    *tensor = reordered(tensor, n_heads, from, order)?;
                }
            }
        }
        self.row_order = order;
        Ok(self)
    }
}

/// Returns the number of heads of a module whose rows are turned in pairs; nothing for all others.
fn heads_of(module: &str, heads: Heads) -> Option<usize> {
    match module.rsplit('.').next() {
        Some("q_proj") => Some(heads.n_heads),
        Some("k_proj") => Some(heads.n_kv_heads),
        _ => None,
    }
}

fn reordered(tensor: &TensorRef, n_heads: usize, from: RowOrder, to: RowOrder) -> Result<TensorRef> {
    let n_rows = tensor.shape().first().copied().unwrap_or(0);
    let bytes = rows::reorder(tensor.bytes(), n_rows, n_heads, from, to)?;
    Ok(TensorRef::owned(tensor.dtype(), tensor.shape(), bytes).expect("moving rows changes neither shape nor length"))
}
