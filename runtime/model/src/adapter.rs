//! Makes an [`Adapter`] of an adapter's file: every pair is matched to a module of the base, with both sides named where they differ.
//!
//! Nothing is skipped: a pair or a saved module that the graph has no place for is an error, because leaving it out would answer with
//! something that was never trained. Rows of `lora_B` of q and k are brought to the order in memory (half split) here; `lora_A` is never
//! touched, its columns are the residual stream's.

use std::collections::HashMap;

use witness_formats::TensorRef;
use witness_formats::adapter::{Adapter as AdapterFile, Heads, LoraKind, LoraPair, SavedModule};
use witness_formats::gguf::rows::RowOrder;
use witness_kernels::Pool;

use crate::config::Config;
use crate::decoder::Model;
use crate::error::{ModelError, Result};
use crate::linear::linear;
use crate::lora::{Adapter, Delta, Module, NormSite, Pair, Site, Tiles};
use crate::weight::{Weight, narrowest};

impl Adapter {
    /// Checks an adapter against `config` and reads its weights, as f32. One with DoRA can be applied only after
    /// [`Model::adapter`], which measures the base's rows.
    pub fn build(file: AdapterFile, config: &Config) -> Result<Self> {
        let heads = Heads {
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
        };
        let file = file.in_row_order(RowOrder::Halves, heads)?;
        let mut adapter = Adapter {
            deltas: HashMap::new(),
            bytes: 0,
            pairs: file.pairs().len(),
        };
        for pair in file.pairs() {
            let module = place(&pair.module, config)?;
            let delta = low_rank(pair, module, config)?;
            adapter.insert(&pair.module, module, delta)?;
        }
        for saved in file.saved() {
            let module = place(&saved.module, config)?;
            let delta = replacement(saved, module, config)?;
            adapter.insert(&saved.module, module, delta)?;
        }
        if adapter.deltas.is_empty() {
            return Err(ModelError::AdapterEmpty);
        }
        Ok(adapter)
    }

    fn insert(&mut self, name: &str, module: Module, delta: Delta) -> Result<()> {
        self.bytes += match &delta {
            Delta::LowRank { pair, bias } => pair.bytes() + bias.as_deref().map_or(0, size_of_val) as u64,
            Delta::Directed { pair, direction } => pair.bytes() + size_of_val(&direction[..]) as u64,
            Delta::Linear(linear) => linear.bytes(),
            Delta::Norm(weight) => size_of_val(&weight[..]) as u64,
            Delta::Table(weight) => weight.bytes(),
        };
        match self.deltas.insert(module, delta) {
            None => Ok(()),
            Some(_) => Err(misfit(name, "two deltas for this module", "one module of this name")),
        }
    }
}

impl Model {
    /// Checks an adapter against this base and reads its weights. The base is not touched.
    pub fn adapter(&self, file: AdapterFile) -> Result<Adapter> {
        let mut adapter = Adapter::build(file, self.config())?;
        let pool = Pool::current();
        for (module, delta) in &mut adapter.deltas {
            if let Some(base) = self.linear(*module)
                && !delta.direct(base, &pool)
            {
                return Err(ModelError::Damaged {
                    name: format!("{module:?}"),
                    detail: "a row of the base with the adapter's change has no length, which DoRA divides by"
                        .to_owned(),
                });
            }
        }
        Ok(adapter)
    }

    /// Makes an adapter of small random numbers in bf16, on these layers of every block: as much work as a trained one, for those who time.
    pub fn random_adapter(&self, rank: usize, sites: &[Site], seed: u32) -> Result<Adapter> {
        let config = self.config();
        let mut adapter = Adapter {
            deltas: HashMap::new(),
            bytes: 0,
            pairs: 0,
        };
        let mut state = seed;
        let mut draw = |n: usize| -> Vec<f32> {
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) / 100.0
            };
            (0..n).map(|_| f32::from_bits(next().to_bits() & 0xffff_0000)).collect()
        };
        for layer in 0..config.n_layers {
            for &site in sites {
                let module = Module::Linear { layer, site };
                let (out, input) = shape_of(module, config);
                let pair = Pair {
                    a: narrowest(&draw(rank * input), rank, input)?,
                    b: Tiles::new(&draw(rank * out), rank)?,
                    rank,
                    scale: 1.0,
                };
                adapter.pairs += 1;
                adapter.insert("", module, Delta::LowRank { pair, bias: None })?;
            }
        }
        Ok(adapter)
    }
}

fn misfit(module: &str, adapter: impl Into<String>, base: impl Into<String>) -> ModelError {
    ModelError::AdapterMisfit {
        module: module.to_owned(),
        adapter: adapter.into(),
        base: base.into(),
    }
}

/// Finds the module of the graph that a name stands for.
fn place(name: &str, config: &Config) -> Result<Module> {
    match name {
        "lm_head" => return Ok(Module::Head),
        "model.embed_tokens" => return Ok(Module::Embedding),
        "model.norm" => return Ok(Module::FinalNorm),
        _ => {}
    }
    let no_such = || {
        misfit(
            name,
            "weights for it",
            format!("no module of this name (architecture `{}`)", config.family.architecture),
        )
    };
    let (layer, part) = name
        .strip_prefix("model.layers.")
        .and_then(|rest| rest.split_once('.'))
        .ok_or_else(no_such)?;
    let layer: usize = layer.parse().map_err(|_| no_such())?;
    if layer >= config.n_layers {
        return Err(misfit(
            name,
            format!("weights for layer {layer}"),
            format!("layers 0 to {}", config.n_layers - 1),
        ));
    }
    let linear = |site| Ok(Module::Linear { layer, site });
    match part {
        "self_attn.q_proj" => linear(Site::Query),
        "self_attn.k_proj" => linear(Site::Key),
        "self_attn.v_proj" => linear(Site::Value),
        "self_attn.o_proj" => linear(Site::Output),
        "mlp.gate_proj" => linear(Site::Gate),
        "mlp.up_proj" => linear(Site::Up),
        "mlp.down_proj" => linear(Site::Down),
        "input_layernorm" => Ok(Module::Norm {
            layer,
            site: NormSite::Attention,
        }),
        "post_attention_layernorm" => Ok(Module::Norm {
            layer,
            site: NormSite::FeedForward,
        }),
        _ => Err(no_such()),
    }
}

/// Returns `(out, in)` of a module's weight; a norm's is `(width, 1)`, the embedding's `(width, vocab)` as a map from tokens.
fn shape_of(module: Module, config: &Config) -> (usize, usize) {
    let Config {
        width,
        feed_forward,
        n_heads,
        n_kv_heads,
        head_dim,
        vocab_size,
        ..
    } = *config;
    match module {
        Module::Linear { site, .. } => match site {
            Site::Query => (n_heads * head_dim, width),
            Site::Key | Site::Value => (n_kv_heads * head_dim, width),
            Site::Output => (width, n_heads * head_dim),
            Site::Gate | Site::Up => (feed_forward, width),
            Site::Down => (width, feed_forward),
        },
        Module::Norm { .. } | Module::FinalNorm => (width, 1),
        Module::Embedding => (width, vocab_size),
        Module::Head => (vocab_size, width),
    }
}

fn low_rank(pair: &LoraPair, module: Module, config: &Config) -> Result<Delta> {
    let embedding = match pair.kind {
        LoraKind::Linear => false,
        LoraKind::Embedding => true,
    };
    if matches!(module, Module::Norm { .. } | Module::FinalNorm) || embedding != (module == Module::Embedding) {
        let kind = if embedding { "an embedding" } else { "a linear layer" };
        return Err(misfit(
            &pair.module,
            format!("a low-rank pair for {kind}"),
            "a module of another kind",
        ));
    }
    let (out, input) = shape_of(module, config);
    let (a, b) = (pair.a.shape(), pair.b.shape());
    if a != [pair.rank, input] || b != [out, pair.rank] {
        return Err(misfit(
            &pair.module,
            format!("A {a:?} and B {b:?}"),
            format!("{input} inputs and {out} outputs"),
        ));
    }
    if pair.rank == 0 || !pair.scale.is_finite() {
        return Err(misfit(
            &pair.module,
            format!("rank {} and scale {}", pair.rank, pair.scale),
            "a module that they would not change in a defined way",
        ));
    }
    let (a, b) = (numbers(&pair.module, &pair.a, a)?, numbers(&pair.module, &pair.b, b)?);
    let low_rank = Pair {
        a: narrowest(&a, pair.rank, input)?,
        b: Tiles::new(&b, pair.rank)?,
        rank: pair.rank,
        scale: pair.scale as f32,
    };
    if let Some(magnitude) = &pair.magnitude {
        return Ok(Delta::Directed {
            pair: low_rank,
            direction: numbers(&pair.module, magnitude, &[out])?,
        });
    }
    let bias = match &pair.b_bias {
        Some(bias) => Some(numbers(&pair.module, bias, &[out])?),
        None => None,
    };
    Ok(Delta::LowRank { pair: low_rank, bias })
}

fn replacement(saved: &SavedModule, module: Module, config: &Config) -> Result<Delta> {
    let (out, input) = shape_of(module, config);
    let Some(weight) = &saved.weight else {
        return Err(ModelError::unsupported(
            format!(
                "an adapter that saves the bias of `{}` without its weight",
                saved.module
            ),
            "train the adapter with bias=\"none\"",
        ));
    };
    let bias = |width| match &saved.bias {
        Some(bias) => numbers(&saved.module, bias, &[width]).map(Some),
        None => Ok(None),
    };
    match module {
        Module::Norm { .. } | Module::FinalNorm => {
            if saved.bias.is_some() {
                return Err(misfit(&saved.module, "a bias", "a norm without one"));
            }
            Ok(Delta::Norm(numbers(&saved.module, weight, &[out])?))
        }
        Module::Embedding => {
            let shape = [input, out];
            let table = numbers(&saved.module, weight, &shape)?;
            Ok(Delta::Table(Weight::of_numbers(&table, &shape)?))
        }
        Module::Linear { .. } | Module::Head => {
            let shape = [out, input];
            let weight = Weight::of_numbers(&numbers(&saved.module, weight, &shape)?, &shape)?;
            Ok(Delta::Linear(linear(&weight, bias(out)?)))
        }
    }
}

/// Decodes a tensor of the adapter to f32, of exactly this shape and finite throughout.
fn numbers(module: &str, tensor: &TensorRef, shape: &[usize]) -> Result<Vec<f32>> {
    if tensor.shape() != shape {
        return Err(misfit(
            module,
            format!("a tensor of shape {:?}", tensor.shape()),
            format!("shape {shape:?}"),
        ));
    }
    let values = tensor.to_f32()?;
    if values.iter().any(|value| !value.is_finite()) {
        return Err(ModelError::Damaged {
            name: module.to_owned(),
            detail: "the adapter holds NaN or infinity".to_owned(),
        });
    }
    Ok(values)
}
