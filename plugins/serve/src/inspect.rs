//! Facts about a model and its adapters for `/api/show`, the memory budget and `create`: no weight is computed with.

use serde_json::{Map, Value, json};
use witness_diagnostics::Diagnostic;
use witness_formats::adapter::Adapter as AdapterFile;
use witness_formats::gguf::{Gguf, TensorInfo};
use witness_formats::hf::four_bit::FourBit;
use witness_formats::hf::{DecoderConfig, GenerationConfig, HfConfig, RopeScaling};
use witness_formats::safetensors::SafeTensors;
use witness_model::source::storage_of;
use witness_model::weight::held_bytes;
use witness_model::{Adapter, Config, KvType};
use witness_plugin_protocol::{AdapterInfo, AdapterSpec, KvCacheType, MemoryEstimate, ModelInfo};

use crate::bundle::{Bundle, file_set};
use crate::foreign;
use crate::step::CHUNK_TOKENS;

/// Arrays with more elements are left out of the metadata: vocabularies have a hundred thousand.
const ARRAY_ELEMENTS_MAX: usize = 32;

/// Bytes that a tokenizer takes for each token of its vocabulary: its text, its place in two tables, its merges (measured on a
/// vocabulary of 128,256: 31 MiB).
const TOKENIZER_BYTES_PER_TOKEN: u64 = 256;

/// Returns the facts about a model.
pub(crate) fn model_info(bundle: &Bundle) -> Result<ModelInfo, Diagnostic> {
    let config = match bundle.config() {
        Ok(config) => config,
        Err(diagnostic) => return foreign::model_info(bundle, diagnostic),
    };
    bundle.check(&config)?;
    let mut info = common(bundle)?;
    info.architecture = config.family.architecture.to_owned();
    info.context_length = config.context_length as u64;
    info.embedding_length = config.width as u64;
    info.vocab_size = config.vocab_size as u64;
    info.memory = memory(&config, info.memory.weights_bytes, kv_type(None, &info));
    Ok(info)
}

/// Facts that need no knowledge of the architecture.
pub(crate) fn common(bundle: &Bundle) -> Result<ModelInfo, Diagnostic> {
    let chat_template = bundle.chat_template()?;
    let mut info = ModelInfo {
        format: bundle.format().to_owned(),
        capabilities: capabilities(chat_template.as_deref()),
        chat_template,
        ..ModelInfo::default()
    };
    match bundle {
        Bundle::Gguf { gguf, .. } => {
            info.name = gguf.metadata().opt_str("general.name")?.unwrap_or_default().to_owned();
            info.parameter_count = gguf.parameter_count();
            info.quantization = gguf.file_type();
            let held = |tensor: &TensorInfo| held_bytes(&storage_of(tensor.ggml_type), &tensor.shape, tensor.bytes);
            info.memory.weights_bytes = gguf.tensors().iter().map(held).sum();
            info.metadata = gguf_metadata(gguf);
        }
        Bundle::Hf {
            config,
            tensors,
            generation,
            ..
        } => {
            info.name = config
                .raw
                .get("_name_or_path")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            (info.parameter_count, info.memory.weights_bytes) = sizes(tensors)?;
            info.quantization = storage(tensors);
            if let Some(generation) = generation.as_ref() {
                info.parameters = sampling_defaults(generation);
            }
            info.metadata = hf_metadata(config, &info)?;
        }
    }
    Ok(info)
}

/// Returns how keys and values are stored: as asked, else in 16 bits, unless the weights are in 32 and somebody wants exactly what they give.
pub(crate) fn kv_type(asked: Option<KvCacheType>, info: &ModelInfo) -> KvType {
    match asked {
        Some(KvCacheType::F32) => KvType::F32,
        Some(KvCacheType::F16) => KvType::F16,
        Some(KvCacheType::Q8_0) => KvType::Q8_0,
        None if info.quantization == "F32" => KvType::F32,
        None => KvType::F16,
    }
}

/// Returns what a loaded model will take. See [`MemoryEstimate`] for the formula.
fn memory(config: &Config, weights_bytes: u64, kv_type: KvType) -> MemoryEstimate {
    // A chunk's residual stream, its queries, gate and up side by side, and one row of logits; f32.
    let row = 4 * config.width + 3 * config.feed_forward + 4 * config.n_heads * config.head_dim;
    let activations = 4 * (CHUNK_TOKENS * row + 2 * config.vocab_size) as u64;
    let shape = config.kv_shape();
    MemoryEstimate {
        weights_bytes,
        kv_bytes_per_token: shape.bytes_per_token(kv_type) as u64,
        kv_numbers_per_token: (2 * shape.n_layers * shape.n_kv_heads * shape.head_dim) as u64,
        overhead_bytes: activations + TOKENIZER_BYTES_PER_TOKEN * config.vocab_size as u64,
    }
}

fn capabilities(template: Option<&str>) -> Vec<String> {
    let mut capabilities = vec!["completion"];
    if let Some(template) = template {
        if template.contains("tools") {
            capabilities.push("tools");
        }
        if template.contains("enable_thinking") || template.contains("reasoning_content") {
            capabilities.push("thinking");
        }
    }
    capabilities.into_iter().map(str::to_owned).collect()
}

/// Returns the number of weights and the bytes that they take in memory, where those in 4 bits of bitsandbytes are held as the numbers that they stand for.
fn sizes(tensors: &SafeTensors) -> Result<(u64, u64), Diagnostic> {
    let (mut n_weights, mut bytes) = (0, 0);
    for (name, tensor) in tensors.iter().filter(|(name, _)| !FourBit::is_part(tensors, name)) {
        let (shape, held) = match FourBit::of(tensors, name)? {
            Some(stored) => (stored.shape.to_vec(), stored.dtype.bits() as u64 / 8),
            None => (tensor.shape().to_vec(), 0),
        };
        let n_numbers: u64 = shape.iter().map(|&dim| dim as u64).product();
        n_weights += n_numbers;
        bytes += match held {
            0 => tensor.bytes().len() as u64,
            held => n_numbers.saturating_mul(held),
        };
    }
    Ok((n_weights, bytes))
}

/// Returns the storage type that most bytes have.
fn storage(tensors: &SafeTensors) -> String {
    if !FourBit::names(tensors).is_empty() {
        return "NF4".to_owned();
    }
    let mut bytes: Vec<(&str, usize)> = Vec::new();
    for (_, tensor) in tensors.iter() {
        let name = tensor.dtype().name();
        match bytes.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += tensor.bytes().len(),
            None => bytes.push((name, tensor.bytes().len())),
        }
    }
    bytes
        .into_iter()
        .max_by_key(|(_, sum)| *sum)
        .map_or_else(String::new, |(name, _)| name.to_owned())
}

/// Returns a model's own sampling defaults in the names of Modelfile parameters. A model that asks for greedy says so by temperature 0.
fn sampling_defaults(generation: &GenerationConfig) -> Map<String, Value> {
    let mut defaults = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            defaults.insert(name.to_owned(), value);
        }
    };
    if generation.do_sample == Some(true) {
        set("temperature", generation.temperature.map(Value::from));
        set("top_k", generation.top_k.map(Value::from));
        set("top_p", generation.top_p.map(Value::from));
        set("min_p", generation.min_p.map(Value::from));
        set("typical_p", generation.typical_p.map(Value::from));
    }
    set("repeat_penalty", generation.repetition_penalty.map(Value::from));
    defaults
}

fn gguf_metadata(gguf: &Gguf) -> Map<String, Value> {
    let long = |value: &witness_formats::gguf::Value<'_>| {
        value.as_array().is_some_and(|array| array.len() > ARRAY_ELEMENTS_MAX)
    };
    let metadata = gguf.metadata().iter().filter(|(_, value)| !long(value));
    let mut metadata: Map<String, Value> = metadata
        .map(|(key, value)| (key.to_owned(), value.to_json(ARRAY_ELEMENTS_MAX)))
        .collect();
    metadata.insert("general.parameter_count".to_owned(), gguf.parameter_count().into());
    metadata
}

/// Spells a Hugging Face configuration in GGUF's keys.
fn hf_metadata(config: &HfConfig, info: &ModelInfo) -> Result<Map<String, Value>, Diagnostic> {
    let mut metadata = Map::new();
    let Some(family) = config.family() else {
        metadata.insert("general.architecture".to_owned(), json!(config.model_type));
        metadata.insert("general.parameter_count".to_owned(), json!(info.parameter_count));
        return Ok(metadata);
    };
    let decoder = config.decoder()?;
    let architecture = Config::from_decoder(&decoder).map_or(family.model_type(), |config| config.family.architecture);
    let mut set = |key: &str, value: Value| {
        let key = if key.contains("general.") || key.starts_with("tokenizer.") {
            key.to_owned()
        } else {
            format!("{architecture}.{key}")
        };
        metadata.insert(key, value);
    };
    set("general.architecture", json!(architecture));
    set("general.parameter_count", json!(info.parameter_count));
    if !info.name.is_empty() {
        set("general.name", json!(info.name));
    }
    set("block_count", json!(decoder.n_layers));
    set("context_length", json!(decoder.max_position_embeddings));
    set("embedding_length", json!(decoder.hidden_size));
    set("feed_forward_length", json!(decoder.intermediate_size));
    set("attention.head_count", json!(decoder.n_heads));
    set("attention.head_count_kv", json!(decoder.n_kv_heads));
    set("attention.key_length", json!(decoder.head_dim));
    set("attention.value_length", json!(decoder.head_dim));
    set("attention.layer_norm_rms_epsilon", json!(decoder.rms_norm_eps));
    if let Some(window) = decoder.sliding_window {
        set("attention.sliding_window", json!(window));
    }
    set("rope.dimension_count", json!(decoder.head_dim));
    set("rope.freq_base", json!(decoder.rope.theta));
    for (key, value) in scaling_keys(&decoder) {
        set(key, value);
    }
    set("vocab_size", json!(decoder.vocab_size));
    for (key, id) in [
        ("tokenizer.ggml.bos_token_id", decoder.bos_token_id),
        ("tokenizer.ggml.eos_token_id", decoder.eos_token_ids.first().copied()),
        ("tokenizer.ggml.padding_token_id", decoder.pad_token_id),
    ] {
        if let Some(id) = id {
            set(key, json!(id));
        }
    }
    Ok(metadata)
}

fn scaling_keys(decoder: &DecoderConfig) -> Vec<(&'static str, Value)> {
    let (name, factor, context) = match &decoder.rope.scaling {
        RopeScaling::None => return Vec::new(),
        RopeScaling::Linear { factor } => ("linear", Some(*factor), None),
        RopeScaling::Dynamic { factor } => ("dynamic", Some(*factor), None),
        RopeScaling::Llama3 {
            factor,
            original_max_position_embeddings,
            ..
        } => ("llama3", Some(*factor), Some(*original_max_position_embeddings)),
        RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            ..
        } => ("yarn", Some(*factor), *original_max_position_embeddings),
        RopeScaling::LongRope { .. } => ("longrope", None, None),
    };
    let mut keys = vec![("rope.scaling.type", json!(name))];
    keys.extend(factor.map(|factor| ("rope.scaling.factor", json!(factor))));
    keys.extend(context.map(|context| ("rope.scaling.original_context_length", json!(context))));
    keys
}

/// Opens an adapter and matches it to its base.
pub(crate) fn open_adapter(spec: &AdapterSpec, config: &Config) -> Result<(Adapter, AdapterInfo), Diagnostic> {
    let file = AdapterFile::open(&file_set(&spec.files, &spec.name)?)?;
    let mut targets: Vec<String> = file
        .pairs()
        .iter()
        .map(|pair| &pair.module)
        .chain(file.saved().iter().map(|saved| &saved.module))
        .map(|module| module.rsplit('.').next().unwrap_or(module).to_owned())
        .collect();
    targets.sort();
    targets.dedup();
    let rank = file.rank_max() as u64;
    let alpha = file.config().map_or_else(
        || file.pairs().first().map_or(0.0, |pair| pair.scale * pair.rank as f64),
        |config| config.alpha,
    );
    let format = if file.config().is_some() { "peft" } else { "gguf" };
    let adapter = Adapter::build(file, config)?;
    let info = AdapterInfo {
        name: spec.name.clone(),
        format: format.to_owned(),
        rank,
        alpha,
        targets,
        pairs: adapter.pairs() as u64,
        bytes: adapter.bytes(),
    };
    Ok((adapter, info))
}
