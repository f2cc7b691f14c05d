//! From a configuration, weights and a method to the modules of a decoder and their parameters.

use std::collections::HashMap;
use std::sync::Arc;

use rayon::prelude::*;
use witness_formats::hf::DecoderConfig;

use crate::decoder::{Decoder, Layer};
use crate::error::{Result, TrainingError};
use crate::linear::{Linear, Lora};
use crate::matmul::Compute;
use crate::method::{LoraMethod, Method};
use crate::nf4;
use crate::parameters::{Parameter, ParameterId, Parameters, WeightSource};
use crate::random::Stream;
use crate::real::Real;
use crate::rope::Frequencies;
use crate::stored::{BaseStorage, Bf16Rows, Stored, is_finite};

/// Numbers the streams of random numbers that one seed gives.
const INITIAL_ADAPTER: u64 = 1;
const INITIAL_WEIGHTS: u64 = 2;

/// The name of the embedding.
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Weights drawn at random, as Transformers initialises a model: matrices normal, norms 1, biases 0.
#[derive(Clone, Copy, Debug)]
pub struct RandomWeights<'a> {
    config: &'a DecoderConfig,
    stream: Stream,
    deviation: f64,
}

impl<'a> RandomWeights<'a> {
    /// Draws for a configuration; `deviation` is `initializer_range`, 0.02 by default in all families.
    pub fn new(config: &'a DecoderConfig, seed: u64, deviation: f64) -> RandomWeights<'a> {
        RandomWeights {
            config,
            stream: Stream::new(seed).child(INITIAL_WEIGHTS),
            deviation,
        }
    }
}

impl WeightSource for RandomWeights<'_> {
    fn weight(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>> {
        let Some(shape) = shape_of(self.config, name) else {
            return Ok(None);
        };
        let n: usize = shape.iter().product();
        let values = match shape.len() {
            1 if name.ends_with(".bias") => vec![0.0; n],
            1 => vec![1.0; n],
            _ => {
                let stream = self.stream.child(hash_of(name));
                (0..n as u64)
                    .into_par_iter()
                    .map(|at| (stream.normal(at) * self.deviation) as f32)
                    .collect()
            }
        };
        Ok(Some((shape, values)))
    }
}

/// How a model is built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuildOptions {
    /// Draws the initial adapter.
    pub seed: u64,
    /// What products are computed in.
    pub compute: Compute,
    /// How the frozen matrices are kept.
    pub base_storage: BaseStorage,
}

/// Builds the decoder.
pub fn build<T: Real>(
    config: &DecoderConfig,
    source: &dyn WeightSource,
    method: &Method,
    options: BuildOptions,
) -> Result<(Decoder, Parameters<T>)> {
    check(config)?;
    let mut builder = Builder {
        config,
        source,
        method,
        stream: Stream::new(options.seed).child(INITIAL_ADAPTER),
        options,
        parameters: Parameters::default(),
        by_name: HashMap::new(),
        n_adapted: 0,
    };
    let decoder = builder.decoder()?;
    if let Method::Lora(lora) = method
        && builder.n_adapted == 0
    {
        let targets = lora.config.targets.describe();
        return Err(TrainingError::NoTargets { targets });
    }
    Ok((decoder, builder.parameters))
}

fn check(config: &DecoderConfig) -> Result<()> {
    if !matches!(config.hidden_act.as_str(), "silu" | "swish") {
        return Err(TrainingError::unsupported(
            format!("a model with `hidden_act` = `{}`", config.hidden_act),
            "take a base model with the activation `silu`",
        ));
    }
    if config.layer_is_sliding.len() != config.n_layers {
        return Err(TrainingError::setting(
            "layer_types",
            config.layer_is_sliding.len(),
            format!("one for each of {} layers", config.n_layers),
        ));
    }
    Ok(())
}

struct Builder<'a, T> {
    config: &'a DecoderConfig,
    source: &'a dyn WeightSource,
    method: &'a Method,
    stream: Stream,
    options: BuildOptions,
    parameters: Parameters<T>,
    by_name: HashMap<String, ParameterId>,
    n_adapted: usize,
}

impl<T: Real> Builder<'_, T> {
    fn decoder(&mut self) -> Result<Decoder> {
        let config = self.config;
        let embedding = self.base(EMBEDDING, false)?;
        let layers = (0..config.n_layers).map(|index| self.layer(index));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let norm = self.base("model.norm.weight", false)?;
        let head = match config.tie_word_embeddings {
            true => self.tied_head(embedding)?,
            false => self.linear("lm_head".to_owned(), false)?,
        };
        let factors = self.source.weight("rope_freqs.weight")?;
        Ok(Decoder {
            frequencies: Frequencies::new(config, factors.as_ref().map(|(_, factors)| factors.as_slice()))?,
            config: config.clone(),
            embedding,
            layers,
            norm,
            head,
            compute: self.options.compute,
        })
    }

    fn layer(&mut self, index: usize) -> Result<Layer> {
        let config = self.config;
        let name = |rest: &str| format!("model.layers.{index}.{rest}");
        Ok(Layer {
            input_norm: self.base(&name("input_layernorm.weight"), false)?,
            q: self.linear(name("self_attn.q_proj"), config.qkv_bias)?,
            k: self.linear(name("self_attn.k_proj"), config.qkv_bias)?,
            v: self.linear(name("self_attn.v_proj"), config.qkv_bias)?,
            o: self.linear(name("self_attn.o_proj"), config.output_bias)?,
            post_norm: self.base(&name("post_attention_layernorm.weight"), false)?,
            gate: self.linear(name("mlp.gate_proj"), config.mlp_bias)?,
            up: self.linear(name("mlp.up_proj"), config.mlp_bias)?,
            down: self.linear(name("mlp.down_proj"), config.mlp_bias)?,
            window: config.sliding_window.filter(|_| config.layer_is_sliding[index]),
        })
    }

    fn linear(&mut self, name: String, has_bias: bool) -> Result<Linear> {
        let has_lora = match self.method {
            Method::Full => false,
            Method::Lora(lora) => lora.config.targets_module(&name)?,
        };
        let weight = self.base(&format!("{name}.weight"), has_lora)?;
        let bias = match has_bias {
            true => Some(self.base(&format!("{name}.bias"), has_lora)?),
            false => None,
        };
        self.adapted(name, weight, bias, has_lora)
    }

    /// The output matrix where it is the embedding itself. Changing one of the two would untie them, which no file says how to store.
    fn tied_head(&mut self, embedding: ParameterId) -> Result<Linear> {
        let has_lora = match self.method {
            Method::Full => false,
            Method::Lora(lora) => {
                if ["lm_head", "model.embed_tokens"]
                    .iter()
                    .any(|name| lora.config.saves_module(name))
                {
                    return Err(TrainingError::unsupported(
                        "`modules_to_save` with the embedding or output of a model where they are one matrix",
                        "leave both out of `modules_to_save`",
                    ));
                }
                lora.config.targets_module("lm_head")?
            }
        };
        self.adapted("lm_head".to_owned(), embedding, None, has_lora)
    }

    fn adapted(
        &mut self,
        name: String,
        weight: ParameterId,
        bias: Option<ParameterId>,
        has_lora: bool,
    ) -> Result<Linear> {
        let (n_out, n_in) = match *self.parameters.get(weight).shape {
            [n_out, n_in] => (n_out, n_in),
            _ => (0, 0),
        };
        let mut linear = Linear {
            name,
            weight,
            bias,
            n_in,
            n_out,
            lora: None,
        };
        if let (Method::Lora(method), true) = (self.method, has_lora) {
            let lora = self.lora(&linear, method)?;
            linear.lora = Some(lora);
            self.n_adapted += 1;
        }
        Ok(linear)
    }

    fn lora(&mut self, linear: &Linear, method: &LoraMethod) -> Result<Lora> {
        let name = &linear.name;
        let rank = method.config.rank_of(name)?;
        let stream_id = hash_of(name);
        let stream = self.stream.child(stream_id);
        // PEFT's default is torch's kaiming_uniform(a = sqrt 5): uniform up to 1 / sqrt(in).
        let bound = 1.0 / (linear.n_in as f64).sqrt();
        let draw = |at: u64| match method.is_gaussian() {
            true => stream.normal(at) / rank as f64,
            false => (2.0 * stream.unit(at) - 1.0) * bound,
        };
        let a: Vec<T> = (0..(rank * linear.n_in) as u64)
            .map(|at| T::from_f64(draw(at)))
            .collect();
        let mut trained = |suffix: &str, shape: Vec<usize>, values: Vec<T>| {
            self.parameters.add(Parameter {
                name: format!("{name}.{suffix}"),
                shape,
                values,
                stored: None,
                is_trained: true,
                is_decayed: true,
            })
        };
        let b = vec![T::ZERO; linear.n_out * rank];
        let mut lora = Lora {
            a: trained("lora_A.weight", vec![rank, linear.n_in], a),
            b: trained("lora_B.weight", vec![linear.n_out, rank], b),
            magnitude: None,
            rank,
            scale: method.config.scale_of(name)?,
            dropout: method.dropout,
            stream: stream_id,
        };
        if method.is_dora {
            let norms = linear.row_norms(&self.parameters, &lora);
            lora.magnitude = Some(self.parameters.add(Parameter {
                name: format!("{name}.lora_magnitude_vector"),
                shape: vec![linear.n_out],
                values: norms,
                stored: None,
                is_trained: true,
                is_decayed: true,
            }));
        }
        Ok(lora)
    }

    /// Takes a tensor of the base model.
    fn base(&mut self, name: &str, has_lora: bool) -> Result<ParameterId> {
        if let Some(id) = self.by_name.get(name) {
            return Ok(*id);
        }
        let missing = || TrainingError::MissingTensor { name: name.to_owned() };
        let expected = shape_of(self.config, name).ok_or_else(missing)?;
        let is_trained = match self.method {
            Method::Full => true,
            Method::Lora(lora) => lora.trains_base(name, has_lora),
        };
        let stored = match !is_trained && expected.len() == 2 {
            true => self.stored(name, &expected)?,
            false => None,
        };
        let values = match stored {
            Some(_) => Vec::new(),
            None => self.values(name, &expected)?.into_iter().map(T::from_f32).collect(),
        };
        let id = self.parameters.add(Parameter {
            name: name.to_owned(),
            is_decayed: expected.len() > 1,
            shape: expected,
            values,
            stored,
            is_trained,
        });
        self.by_name.insert(name.to_owned(), id);
        Ok(id)
    }

    /// Returns under which other name the matrix may lie that is embedding and output at once: some releases of Transformers wrote the second of its names.
    fn other_name(&self, name: &str) -> Option<&'static str> {
        (self.config.tie_word_embeddings && name == EMBEDDING).then_some("lm_head.weight")
    }

    fn as_it_lies(&self, name: &str) -> Result<Option<Stored>> {
        match (self.source.stored(name)?, self.other_name(name)) {
            (None, Some(other)) => self.source.stored(other),
            (found, _) => Ok(found),
        }
    }

    /// Reads a tensor of the base model as f32 and checks it.
    fn values(&self, name: &str, expected: &[usize]) -> Result<Vec<f32>> {
        let missing = || TrainingError::MissingTensor { name: name.to_owned() };
        let found = match (self.source.weight(name)?, self.other_name(name)) {
            (None, Some(other)) => self.source.weight(other)?,
            (found, _) => found,
        };
        let (shape, values) = found.ok_or_else(missing)?;
        if shape != expected || values.len() != shape.iter().product::<usize>() {
            return Err(TrainingError::Shape {
                name: name.to_owned(),
                found: shape,
                expected: expected.to_vec(),
            });
        }
        match values.par_iter().all(|value| value.is_finite()) {
            true => Ok(values),
            false => Err(not_finite(name)),
        }
    }

    /// Takes a frozen matrix in the form that it is to be kept in; nothing where that is plain f32.
    fn stored(&self, name: &str, expected: &[usize]) -> Result<Option<Stored>> {
        let n_columns = expected.last().copied().unwrap_or(1);
        let rounded = |values: Vec<f32>| -> Stored { Arc::new(Bf16Rows::round(&values, n_columns)) };
        let is_in_layer = name.starts_with("model.layers.");
        let stored = match (self.options.base_storage, self.options.compute) {
            (BaseStorage::F32, _) => None,
            (BaseStorage::Bf16, _) => Some(rounded(self.values(name, expected)?)),
            (BaseStorage::Nf4 { double }, _) if is_in_layer => match self.as_it_lies(name)? {
                Some(stored) if stored.is_nf4() => Some(stored),
                _ => {
                    let values = self.values(name, expected)?;
                    let matrix = nf4::quantize(&values, values.len() / n_columns, n_columns, double);
                    Some(Arc::new(matrix) as Stored)
                }
            },
            (BaseStorage::AsIs | BaseStorage::Nf4 { .. }, compute) => match self.as_it_lies(name)? {
                Some(stored) => Some(stored),
                None if compute == Compute::Bf16 => Some(rounded(self.values(name, expected)?)),
                None => None,
            },
        };
        let Some(stored) = stored else { return Ok(None) };
        let found = vec![stored.n_rows(), stored.n_columns()];
        if found != expected {
            return Err(TrainingError::Shape {
                name: name.to_owned(),
                found,
                expected: expected.to_vec(),
            });
        }
        match is_finite(stored.as_ref()) {
            true => Ok(Some(stored)),
            false => Err(not_finite(name)),
        }
    }
}

fn not_finite(name: &str) -> TrainingError {
    TrainingError::NotFinite {
        what: format!("tensor `{name}` of the base model"),
        step: 0,
    }
}

/// Returns the shape that a configuration gives a tensor, or nothing for a name that is none of its tensors.
pub(crate) fn shape_of(config: &DecoderConfig, name: &str) -> Option<Vec<usize>> {
    let d = config.hidden_size;
    let (q, kv, f) = (
        config.n_heads * config.head_dim,
        config.n_kv_heads * config.head_dim,
        config.intermediate_size,
    );
    let (module, kind) = name.rsplit_once('.')?;
    let (n_out, n_in) = match module.rsplit('.').next()? {
        "embed_tokens" | "lm_head" => (config.vocab_size, d),
        "norm" | "input_layernorm" | "post_attention_layernorm" => return Some(vec![d]),
        "q_proj" => (q, d),
        "k_proj" | "v_proj" => (kv, d),
        "o_proj" => (d, q),
        "gate_proj" | "up_proj" => (f, d),
        "down_proj" => (d, f),
        _ => return None,
    };
    match kind {
        "weight" => Some(vec![n_out, n_in]),
        "bias" => Some(vec![n_out]),
        _ => None,
    }
}

/// Numbers a name, the same in every run (FNV-1a, 64 bits).
fn hash_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
