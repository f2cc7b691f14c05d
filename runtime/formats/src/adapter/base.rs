//! Does an adapter fit a base? Both sides are named in every answer of no.

use std::collections::BTreeMap;

use super::{Adapter, LoraKind, LoraPair};
use crate::{FormatError, Result, TensorRef, error::excerpt, hf::DecoderConfig};

/// The matrices of a base model by Hugging Face module name: rows (`out`) and columns (`in`) of each weight.
#[derive(Clone, Debug)]
pub struct BaseShape {
    label: String,
    modules: BTreeMap<String, (usize, usize)>,
}

impl BaseShape {
    /// Starts an empty description; `label` is what errors call the base.
    pub fn new(label: impl Into<String>) -> BaseShape {
        BaseShape {
            label: label.into(),
            modules: BTreeMap::new(),
        }
    }

    /// Adds a matrix. An embedding has the vocabulary as rows.
    pub fn insert(&mut self, module: impl Into<String>, rows: usize, columns: usize) {
        self.modules.insert(module.into(), (rows, columns));
    }

    /// Describes a decoder of the served families: every matrix of its layers, the embedding and the output.
    pub fn from_decoder(label: impl Into<String>, config: &DecoderConfig) -> BaseShape {
        let mut base = BaseShape::new(label);
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let q = config.n_heads * config.head_dim;
        let kv = config.n_kv_heads * config.head_dim;
        base.insert("model.embed_tokens", config.vocab_size, hidden);
        base.insert("lm_head", config.vocab_size, hidden);
        for layer in 0..config.n_layers {
            for (module, rows, columns) in [
                ("self_attn.q_proj", q, hidden),
                ("self_attn.k_proj", kv, hidden),
                ("self_attn.v_proj", kv, hidden),
                ("self_attn.o_proj", hidden, q),
                ("mlp.gate_proj", inner, hidden),
                ("mlp.up_proj", inner, hidden),
                ("mlp.down_proj", hidden, inner),
            ] {
                base.insert(format!("model.layers.{layer}.{module}"), rows, columns);
            }
        }
        base
    }

    fn get(&self, module: &str, adapter: &Adapter) -> Result<(usize, usize)> {
        self.modules.get(module).copied().ok_or_else(|| {
            let some: Vec<&str> = self.modules.keys().map(String::as_str).take(2).collect();
            self.mismatch(
                adapter,
                format!(
                    "the adapter changes `{}`, the base has no such module; its modules are named like {}",
                    excerpt(module),
                    some.join(", ")
                ),
            )
        })
    }

    fn mismatch(&self, adapter: &Adapter, why: String) -> FormatError {
        let made_for = match adapter.base_model() {
            Some(base) => format!("the adapter was made for `{}`: put it on that base", excerpt(base)),
            None => "put the adapter on the base it was trained on".to_owned(),
        };
        FormatError::Mismatch {
            left: format!("adapter `{}`", adapter.label()),
            right: format!("base `{}`", self.label),
            why,
            hint: made_for,
        }
    }
}

impl Adapter {
    /// Proves that every tensor of the adapter has its place in the base, with the right shape, and that nothing is missing.
    pub fn check_against(&self, base: &BaseShape) -> Result<()> {
        for pair in &self.pairs {
            let (rows, columns) = base.get(&pair.module, self)?;
            self.check_pair(pair, rows, columns, base)?;
        }
        for saved in &self.saved {
            let (rows, columns) = base.get(&saved.module, self)?;
            let check = |tensor: &Option<TensorRef>, name: &str, shape: &[usize]| match tensor {
                Some(tensor) if tensor.shape() != shape => Err(base.mismatch(
                    self,
                    format!(
                        "the adapter's `{}.{name}` is {:?}, the base's is {shape:?}",
                        excerpt(&saved.module),
                        tensor.shape()
                    ),
                )),
                _ => Ok(()),
            };
            check(&saved.weight, "weight", &[rows, columns])?;
            check(&saved.bias, "bias", &[rows])?;
        }
        self.check_complete(base)
    }

    fn check_pair(&self, pair: &LoraPair, rows: usize, columns: usize, base: &BaseShape) -> Result<()> {
        let (out, input) = match pair.kind {
            LoraKind::Linear => (rows, columns),
            // The embedding's change is `(B @ A)` transposed: B has its columns, A its rows.
            LoraKind::Embedding => (columns, rows),
        };
        let (b_out, a_in) = (pair.b.shape().first().copied(), pair.a.shape().last().copied());
        if b_out == Some(out) && a_in == Some(input) {
            return Ok(());
        }
        let module = excerpt(&pair.module);
        Err(base.mismatch(
            self,
            format!(
                "on `{module}` the adapter has A {:?} and B {:?}, which change a weight of {:?}; the base's weight is [{rows}, {columns}]",
                pair.a.shape(),
                pair.b.shape(),
                [b_out.unwrap_or(0), a_in.unwrap_or(0)],
            ),
        ))
    }

    /// Every module that the configuration targets must have come with tensors; one that has not was lost on the way.
    fn check_complete(&self, base: &BaseShape) -> Result<()> {
        let Some(config) = &self.config else { return Ok(()) };
        for module in base.modules.keys() {
            let is_here = self
                .pairs
                .binary_search_by(|pair| pair.module.as_str().cmp(module))
                .is_ok()
                || self
                    .saved
                    .binary_search_by(|saved| saved.module.as_str().cmp(module))
                    .is_ok();
            if !is_here && config.targets_module(module)? {
                return Err(base.mismatch(
                    self,
                    format!(
                        "its configuration targets `{module}` of the base (target_modules: {}), and its tensors hold nothing for it",
                        config.targets.describe()
                    ),
                ));
            }
        }
        Ok(())
    }
}
