//! Builds a [`Model`] from a configuration and a source of tensors.
//!
//! Parameters are known by their Hugging Face names (`model.layers.0.self_attn.q_proj.weight`); a GGUF source translates. Every tensor
//! that the graph needs must be there in the right shape, and every tensor that is there must be needed, or be one of the few that carry
//! nothing ([`is_ignorable`]). All of this is checked before the first byte is copied.
//!
//! **Invariant:** in memory the rows of q and k are in half-split order, whatever the file. GGUF files of the architecture `llama` hold
//! them interleaved and are brought to half split while they are copied, whole rows at a time, so that quantized blocks stay as they are.
//! Hence adapters made for the Hugging Face form of a base apply to its GGUF form as they stand.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use witness_formats::gguf::rows::RowOrder;

use crate::config::Config;
use crate::decoder::{Block, Model};
use crate::error::{ModelError, Result};
use crate::linear::{Linear, linear};
use crate::packed::PackedForm;
use crate::weight::{RawTensor, Values, Weight};
use crate::workspace::Spare;

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// Where tensors come from.
pub trait WeightSource {
    /// Returns the names of all tensors; those of parameters of the graph in their Hugging Face spelling.
    fn names(&self) -> Vec<String>;
    /// Returns a tensor by such a name.
    fn tensor(&self, name: &str) -> Option<Result<RawTensor<'_>>>;
    /// Returns the order of the rows of q and k.
    fn row_order(&self) -> RowOrder;
    /// Says that a tensor was copied: what a mapped file holds of it may leave the resident memory, or the model would stand there twice.
    fn release(&self, _name: &str) {}
}

/// Shapes of all parameters that a configuration calls for, by name. Biases that the family leaves open are there when the file has them.
pub fn parameters(config: &Config, has: &dyn Fn(&str) -> bool) -> BTreeMap<String, Vec<usize>> {
    let Config {
        width,
        feed_forward,
        n_heads,
        n_kv_heads,
        head_dim,
        vocab_size,
        ..
    } = *config;
    let (query, key) = (n_heads * head_dim, n_kv_heads * head_dim);
    let mut shapes = BTreeMap::from([
        (EMBEDDING.to_owned(), vec![vocab_size, width]),
        ("model.norm.weight".to_owned(), vec![width]),
    ]);
    if !config.tied {
        shapes.insert(HEAD.to_owned(), vec![vocab_size, width]);
    }
    for layer in 0..config.n_layers {
        let linears = [
            ("self_attn.q_proj", query, width, config.qkv_bias),
            ("self_attn.k_proj", key, width, config.qkv_bias),
            ("self_attn.v_proj", key, width, config.qkv_bias),
            ("self_attn.o_proj", width, query, config.output_bias),
            ("mlp.gate_proj", feed_forward, width, config.feed_forward_bias),
            ("mlp.up_proj", feed_forward, width, config.feed_forward_bias),
            ("mlp.down_proj", width, feed_forward, config.feed_forward_bias),
        ];
        for (module, out, input, bias) in linears {
            shapes.insert(format!("model.layers.{layer}.{module}.weight"), vec![out, input]);
            let name = format!("model.layers.{layer}.{module}.bias");
            if bias || has(&name) {
                shapes.insert(name, vec![out]);
            }
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            shapes.insert(format!("model.layers.{layer}.{norm}.weight"), vec![width]);
        }
    }
    shapes
}

/// Returns whether a tensor carries nothing that the configuration does not say already.
fn is_ignorable(name: &str, config: &Config) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
        || name == "rope_freqs.weight"
        || name.ends_with(".attn_rot_embd.weight")
        || (config.tied && name == HEAD)
}

/// Checks names and shapes of all tensors, computing and copying nothing.
pub fn check(config: &Config, source: &dyn WeightSource) -> Result<BTreeMap<String, Vec<usize>>> {
    let mut names: HashSet<String> = source.names().into_iter().collect();
    if config.tied && names.contains(HEAD) {
        names.insert(EMBEDDING.to_owned());
    }
    let shapes = parameters(config, &|name| names.contains(name));
    let missing: Vec<&String> = shapes.keys().filter(|&name| !names.contains(name)).collect();
    if let Some(&first) = missing.first() {
        return Err(ModelError::MissingTensors {
            count: missing.len(),
            first: first.clone(),
        });
    }
    let mut unknown: Vec<&String> = names
        .iter()
        .filter(|&name| !shapes.contains_key(name) && !is_ignorable(name, config))
        .collect();
    unknown.sort();
    if let Some(&first) = unknown.first() {
        return Err(ModelError::UnknownTensors {
            count: unknown.len(),
            first: first.clone(),
            architecture: config.family.architecture.to_owned(),
        });
    }
    for (name, shape) in &shapes {
        let found = raw(source, name)?.shape;
        if &found != shape {
            return Err(ModelError::Shape {
                name: name.clone(),
                found,
                expected: shape.clone(),
            });
        }
    }
    Ok(shapes)
}

/// Finds a tensor. A tied pair may be stored under either of its names.
fn raw<'a>(source: &'a dyn WeightSource, name: &str) -> Result<RawTensor<'a>> {
    source
        .tensor(name)
        .or_else(|| if name == EMBEDDING { source.tensor(HEAD) } else { None })
        .unwrap_or_else(|| {
            Err(ModelError::MissingTensors {
                count: 1,
                first: name.to_owned(),
            })
        })
}

/// Copies checked tensors into memory, or takes them from where they were kept, and counts their bytes.
struct Loader<'a> {
    config: &'a Config,
    source: &'a dyn WeightSource,
    packed: Option<&'a PackedForm>,
    shapes: BTreeMap<String, Vec<usize>>,
    bytes: u64,
    /// Bytes of matrices that are not as the file has them.
    made_bytes: u64,
    matrices: Vec<(String, Weight)>,
}

impl Loader<'_> {
    fn weight(&mut self, name: &str) -> Result<Weight> {
        let shape = self.shapes.get(name).cloned().unwrap_or_default();
        let is_matrix = shape.len() > 1;
        if let Some(weight) = self.packed.and_then(|packed| packed.weight(name, &shape)) {
            self.bytes += weight.bytes();
            self.matrices.push((name.to_owned(), weight.clone()));
            return Ok(weight);
        }
        let interleaved_heads = match (self.source.row_order(), name.rsplit_once('.')) {
            (RowOrder::Interleaved, Some((module, _))) if module.ends_with(".q_proj") => Some(self.config.n_heads),
            (RowOrder::Interleaved, Some((module, _))) if module.ends_with(".k_proj") => Some(self.config.n_kv_heads),
            _ => None,
        };
        let raw = raw(self.source, name)?;
        let weight = raw.load(name, &shape, interleaved_heads)?;
        let is_made = interleaved_heads.is_some()
            || matches!(weight.values, Values::Blocks(_))
            || matches!(raw.bytes, Cow::Owned(_));
        self.source.release(name);
        self.bytes += weight.bytes();
        if is_matrix {
            self.matrices.push((name.to_owned(), weight.clone()));
            self.made_bytes += if is_made { weight.bytes() } else { 0 };
        }
        Ok(weight)
    }

    /// A norm's weight or a bias, f32.
    fn vector(&mut self, name: &str) -> Result<Vec<f32>> {
        let vector = self.weight(name)?.to_f32();
        if vector.iter().any(|number| !number.is_finite()) {
            return Err(ModelError::Damaged {
                name: name.to_owned(),
                detail: "it holds NaN or infinity".to_owned(),
            });
        }
        Ok(vector)
    }

    fn linear(&mut self, module: &str) -> Result<Box<dyn Linear>> {
        let bias = format!("{module}.bias");
        let bias = if self.shapes.contains_key(&bias) {
            Some(self.vector(&bias)?)
        } else {
            None
        };
        Ok(linear(&self.weight(&format!("{module}.weight"))?, bias))
    }

    fn block(&mut self, layer: usize) -> Result<Block> {
        let prefix = format!("model.layers.{layer}");
        Ok(Block {
            attention_norm: self.vector(&format!("{prefix}.input_layernorm.weight"))?,
            query: self.linear(&format!("{prefix}.self_attn.q_proj"))?,
            key: self.linear(&format!("{prefix}.self_attn.k_proj"))?,
            value: self.linear(&format!("{prefix}.self_attn.v_proj"))?,
            output: self.linear(&format!("{prefix}.self_attn.o_proj"))?,
            feed_forward_norm: self.vector(&format!("{prefix}.post_attention_layernorm.weight"))?,
            gate: self.linear(&format!("{prefix}.mlp.gate_proj"))?,
            up: self.linear(&format!("{prefix}.mlp.up_proj"))?,
            down: self.linear(&format!("{prefix}.mlp.down_proj"))?,
        })
    }
}

impl Model {
    /// Checks all tensors of `source` against `config` and copies them into memory.
    pub fn load(config: Config, source: &dyn WeightSource) -> Result<Self> {
        Self::load_packed(config, source, None)
    }

    /// As [`Model::load`], but takes matrices from the packed form, made of the very same files, that has them.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_packed(config: Config, source: &dyn WeightSource, packed: Option<&PackedForm>) -> Result<Self> {
        let frequencies = config.rope.frequencies(config.head_dim)?;
        let shapes = check(&config, source)?;
        let mut loader = Loader {
            config: &config,
            source,
            packed,
            shapes,
            bytes: 0,
            made_bytes: 0,
            matrices: Vec::new(),
        };
        let embedding = loader.weight(EMBEDDING)?;
        let blocks = (0..config.n_layers)
            .map(|layer| loader.block(layer))
            .collect::<Result<_>>()?;
        let final_norm = loader.vector("model.norm.weight")?;
        let head = if config.tied {
            linear(&embedding, None)
        } else {
            loader.linear("lm_head")?
        };
        let Loader {
            bytes,
            made_bytes,
            matrices,
            ..
        } = loader;
        Ok(Self {
            matrices,
            made_bytes,
            embedding,
            blocks,
            final_norm,
            head,
            frequencies,
            bytes,
            spare: Spare::default(),
            config,
        })
    }
}
