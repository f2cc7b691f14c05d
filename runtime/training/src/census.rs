//! How many weights a method trains, counted from the shape of the model alone: no file is read and nothing is allocated.

use witness_formats::hf::DecoderConfig;

use crate::build::shape_of;
use crate::error::Result;
use crate::method::Method;

/// What a model in training consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Weights of the model, adapter left out.
    pub n_weights: usize,
    /// Weights that are trained, adapter included.
    pub n_trained: usize,
    /// Weights of the adapter.
    pub n_adapter: usize,
    /// Modules that are adapted.
    pub n_modules: usize,
    /// The largest sum of the ranks of one layer's adapters.
    pub layer_ranks: usize,
}

impl Census {
    /// Counts what [`crate::build()`] would make. A model whose output is its embedding counts that matrix once.
    pub fn of(config: &DecoderConfig, method: &Method) -> Result<Census> {
        let mut count = Count {
            config,
            method,
            census: Census::default(),
        };
        count.base("model.embed_tokens.weight", false)?;
        for layer in 0..config.n_layers {
            let before = count.census.layer_ranks;
            count.census.layer_ranks = 0;
            count.layer(layer)?;
            count.census.layer_ranks = count.census.layer_ranks.max(before);
        }
        count.base("model.norm.weight", false)?;
        let ranks = std::mem::take(&mut count.census.layer_ranks);
        count.linear("lm_head", false, !config.tie_word_embeddings)?;
        count.census.layer_ranks = ranks;
        Ok(count.census)
    }
}

struct Count<'a> {
    config: &'a DecoderConfig,
    method: &'a Method,
    census: Census,
}

impl Count<'_> {
    fn layer(&mut self, layer: usize) -> Result<()> {
        let config = self.config;
        let name = |rest: &str| format!("model.layers.{layer}.{rest}");
        for norm in ["input_layernorm.weight", "post_attention_layernorm.weight"] {
            self.base(&name(norm), false)?;
        }
        for (module, has_bias) in [
            ("self_attn.q_proj", config.qkv_bias),
            ("self_attn.k_proj", config.qkv_bias),
            ("self_attn.v_proj", config.qkv_bias),
            ("self_attn.o_proj", config.output_bias),
            ("mlp.gate_proj", config.mlp_bias),
            ("mlp.up_proj", config.mlp_bias),
            ("mlp.down_proj", config.mlp_bias),
        ] {
            self.linear(&name(module), has_bias, true)?;
        }
        Ok(())
    }

    fn linear(&mut self, module: &str, has_bias: bool, has_weight: bool) -> Result<()> {
        let adapted = match self.method {
            Method::Full => None,
            Method::Lora(lora) if lora.config().targets_module(module)? => Some(lora),
            Method::Lora(_) => None,
        };
        if has_weight {
            self.base(&format!("{module}.weight"), adapted.is_some())?;
        }
        if has_bias {
            self.base(&format!("{module}.bias"), adapted.is_some())?;
        }
        if let (Some(lora), Some(shape)) = (adapted, shape_of(self.config, &format!("{module}.weight"))) {
            let rank = lora.config().rank_of(module)?;
            let magnitude = if lora.is_dora { shape[0] } else { 0 };
            let n = rank.saturating_mul(shape.iter().sum()).saturating_add(magnitude);
            self.census.n_adapter = self.census.n_adapter.saturating_add(n);
            self.census.n_trained = self.census.n_trained.saturating_add(n);
            self.census.n_modules += 1;
            self.census.layer_ranks = self.census.layer_ranks.saturating_add(rank);
        }
        Ok(())
    }

    fn base(&mut self, name: &str, has_lora: bool) -> Result<()> {
        let n = shape_of(self.config, name).map_or(0, |shape| shape.into_iter().fold(1, usize::saturating_mul));
        self.census.n_weights = self.census.n_weights.saturating_add(n);
        let is_trained = match self.method {
            Method::Full => true,
            Method::Lora(lora) => lora.trains_base(name, has_lora),
        };
        if is_trained {
            self.census.n_trained = self.census.n_trained.saturating_add(n);
        }
        Ok(())
    }
}
