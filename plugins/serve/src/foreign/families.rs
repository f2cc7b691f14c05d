//! The rows: which family, which module of candle-transformers for which format, and how its configuration is spelled for that module.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value as GgufValue};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{
    gemma, gemma2, gemma3, phi3, quantized_gemma3, quantized_phi3, quantized_qwen3, qwen3,
};
use serde_json::{Map, Value, json};
use witness_formats::hf::HfConfig;
use witness_formats::safetensors::SafeTensors;

use super::ForeignModel;

/// Makes a model of a configuration and its tensors.
type HfLoader = fn(Value, VarBuilder<'_>) -> Result<Box<dyn ForeignModel>>;
/// Makes a model of a GGUF file.
type GgufLoader = fn(Content, &mut std::fs::File) -> Result<Box<dyn ForeignModel>>;

/// A family of candle-transformers.
#[derive(Debug)]
pub(super) struct Family {
    /// `model_type` of Hugging Face.
    pub(super) architecture: &'static str,
    /// `general.architecture` of GGUF.
    pub(super) gguf_architecture: &'static str,
    pub(super) hf: Option<HfLoader>,
    pub(super) gguf: Option<GgufLoader>,
    /// The family has sliding windows. candle's mask is one position off there (gemma2's covers every layer, phi3 has none), so that
    /// the numbers are right up to the window only.
    pub(super) has_window: bool,
}

pub(super) const FAMILIES: &[Family] = &[
    Family {
        architecture: "qwen3",
        gguf_architecture: "qwen3",
        hf: Some(|config, weights| {
            let model = qwen3::ModelForCausalLM::new(&parse(config)?, weights)?;
            Ok(boxed(model, |model, ids, offset| model.forward(ids, offset)))
        }),
        gguf: Some(|content, file| {
            let model = quantized_qwen3::ModelWeights::from_gguf(content, file, &Device::Cpu)?;
            Ok(boxed(model, |model, ids, offset| model.forward(ids, offset)))
        }),
        has_window: false,
    },
    Family {
        architecture: "gemma",
        gguf_architecture: "gemma",
        hf: Some(|config, weights| {
            let model = gemma::Model::new(false, &parse(config)?, weights)?;
            Ok(boxed(model, |model, ids, offset| model.forward(ids, offset)))
        }),
        gguf: None,
        has_window: false,
    },
    Family {
        architecture: "gemma2",
        gguf_architecture: "gemma2",
        hf: Some(|config, weights| {
            let model = gemma2::Model::new(false, &parse(config)?, weights)?;
            Ok(boxed(model, |model, ids, offset| model.forward(ids, offset)))
        }),
        gguf: None,
        has_window: true,
    },
    Family {
        architecture: "gemma3_text",
        gguf_architecture: "gemma3",
        hf: Some(|config, weights| {
            let model = gemma3::Model::new(false, &parse(config)?, weights)?;
            Ok(boxed(model, |model, ids, offset| model.forward(ids, offset)))
        }),
        gguf: Some(|content, file| {
            let model = quantized_gemma3::ModelWeights::from_gguf(content, file, &Device::Cpu)?;
            Ok(boxed(model, |model, ids, offset| model.forward(ids, offset)))
        }),
        has_window: true,
    },
    Family {
        architecture: "phi3",
        gguf_architecture: "phi3",
        hf: Some(|config, weights| {
            let model = phi3::Model::new(&parse(config)?, weights)?;
            Ok(boxed(model, |model, ids, offset| model.forward(ids, offset)))
        }),
        gguf: Some(|content, file| {
            let model = quantized_phi3::ModelWeights::from_gguf(false, content, file, &Device::Cpu)?;
            Ok(boxed(model, |model, ids, offset| model.forward(ids, offset)))
        }),
        has_window: true,
    },
];

fn parse<C: serde::de::DeserializeOwned>(config: Value) -> Result<C> {
    serde_json::from_value(config).map_err(candle_core::Error::wrap)
}

/// Any clonable model with its way to run.
struct Clonable<M> {
    model: M,
    run: fn(&mut M, &Tensor, usize) -> Result<Tensor>,
}

fn boxed<M: Clone + Send + 'static>(
    model: M,
    run: fn(&mut M, &Tensor, usize) -> Result<Tensor>,
) -> Box<dyn ForeignModel> {
    Box::new(Clonable { model, run })
}

impl<M: Clone + Send + 'static> ForeignModel for Clonable<M> {
    fn run(&mut self, ids: &Tensor, offset: usize) -> Result<Tensor> {
        (self.run)(&mut self.model, ids, offset)
    }

    fn fork(&self) -> Box<dyn ForeignModel> {
        boxed(self.model.clone(), self.run)
    }
}

/// Reads all tensors as f32 and builds the model. Tables of positions are made for `num_ctx` of them.
pub(super) fn hf_model(
    config: &HfConfig,
    tensors: &SafeTensors,
    num_ctx: usize,
    load: HfLoader,
) -> Result<Box<dyn ForeignModel>> {
    let mut weights = HashMap::new();
    for (name, tensor) in tensors.iter() {
        let numbers = tensor.to_f32().map_err(candle_core::Error::wrap)?;
        weights.insert(
            name.to_owned(),
            Tensor::from_vec(numbers, tensor.shape(), &Device::Cpu)?,
        );
    }
    let weights = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
    load(spelled(config, num_ctx), weights)
}

/// Opens a GGUF file for candle. The file has been checked by our own reader before.
pub(super) fn gguf_model(
    path: &Path,
    architecture: &str,
    num_ctx: usize,
    load: GgufLoader,
) -> Result<Box<dyn ForeignModel>> {
    let mut file = std::fs::File::open(path)?;
    let mut content = Content::read(&mut file)?;
    let positions = u32::try_from(num_ctx).unwrap_or(u32::MAX);
    content
        .metadata
        .insert(format!("{architecture}.context_length"), GgufValue::U32(positions));
    // qwen3's module computes in f16 unless this key says f32.
    content.metadata.insert("general.dtype".to_owned(), GgufValue::U32(0));
    let theta = content
        .metadata
        .get("phi3.rope.freq_base")
        .and_then(|theta| theta.to_f32().ok());
    if theta.is_some_and(|theta| theta != 10_000.0) {
        candle_core::bail!("phi3.rope.freq_base is not 10000, which is all that this module computes");
    }
    load(content, &mut file)
}

/// Spells a configuration the way candle's structs read it: fields that later versions of transformers left out or moved.
fn spelled(config: &HfConfig, num_ctx: usize) -> Value {
    let mut raw: Map<String, Value> = config.raw.clone();
    let rope = raw.get("rope_parameters").cloned().unwrap_or(Value::Null);
    let theta = |rope: &Value| rope.get("rope_theta").cloned();
    let moved = [
        ("rope_theta", theta(&rope).or_else(|| theta(&rope["full_attention"]))),
        ("rope_local_base_freq", theta(&rope["sliding_attention"])),
        (
            "sliding_window_pattern",
            raw.get("_sliding_window_pattern").cloned().or_else(|| pattern(&raw)),
        ),
        ("head_dim", quotient(&raw, "hidden_size", "num_attention_heads")),
        ("attention_bias", Some(json!(false))),
        ("tie_word_embeddings", Some(json!(false))),
        ("max_window_layers", raw.get("num_hidden_layers").cloned()),
        ("use_sliding_window", Some(json!(false))),
        ("rope_theta", Some(json!(10_000.0))),
        ("rope_local_base_freq", Some(json!(10_000.0))),
    ];
    for (key, value) in moved {
        if raw.get(key).is_none_or(Value::is_null) {
            raw.extend(value.map(|value| (key.to_owned(), value)));
        }
    }
    if config.model_type.starts_with("gemma") {
        // Checkpoints name the activation twice or not at all; what they were trained with is this one.
        raw.remove("hidden_act");
        if raw.get("hidden_activation").is_none_or(Value::is_null) {
            raw.insert("hidden_activation".to_owned(), json!("gelu_pytorch_tanh"));
        }
    }
    // A list of end tokens is the tokenizer's business; candle's structs want one number here.
    raw.remove("eos_token_id");
    raw.remove("rope_scaling");
    raw.insert("max_position_embeddings".to_owned(), json!(num_ctx));
    Value::Object(raw)
}

/// Returns every how many layers one sees everything, from a list of layer types; 6 where there is no list, as gemma3 was published.
fn pattern(raw: &Map<String, Value>) -> Option<Value> {
    let types = raw.get("layer_types").and_then(Value::as_array);
    let full = types.and_then(|types| types.iter().position(|kind| kind == "full_attention"));
    Some(json!(full.map_or(6, |index| index + 1)))
}

fn quotient(raw: &Map<String, Value>, over: &str, under: &str) -> Option<Value> {
    let (over, under) = (raw.get(over)?.as_u64()?, raw.get(under)?.as_u64()?);
    over.checked_div(under).map(Value::from)
}
