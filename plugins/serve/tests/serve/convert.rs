//! Writes GGUF files of Hugging Face models and PEFT adapters the way llama.cpp's converter does, for tests.

use std::path::Path;

use serde_json::Value;
use witness_formats::FileSet;
use witness_formats::adapter::Adapter;
use witness_formats::gguf::rows::{RowOrder, reorder, stored_order};
use witness_formats::gguf::{GgmlType, Writer, names};
use witness_formats::hf::{HfConfig, RopeScaling, TokenizerConfig};
use witness_formats::safetensors::SafeTensors;

/// Tensor name, shape, bytes.
type Entry = (String, Vec<usize>, Vec<u8>);

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn write(mut writer: Writer, tensors: &[Entry], path: &Path) {
    for (name, shape, _) in tensors {
        writer.tensor(name, shape, GgmlType::F32).unwrap();
    }
    let mut body = writer.begin(Vec::new()).unwrap();
    for (name, _, bytes) in tensors {
        body.tensor(name, bytes).unwrap();
    }
    std::fs::write(path, body.finish().unwrap()).unwrap();
}

/// Writes the GGUF form of a Hugging Face directory, f32.
pub(crate) fn model(directory: &Path, pre: &str, path: &Path) {
    let files = FileSet::from_directory(directory).unwrap();
    let decoder = HfConfig::load(&files).unwrap().decoder().unwrap();
    let arch = if decoder.family.model_type() == "mistral" {
        "llama"
    } else {
        decoder.family.model_type()
    };
    let mut writer = Writer::new();
    writer.set("general.architecture", arch).unwrap();
    let number = |n: usize| u32::try_from(n).unwrap();
    for (key, value) in [
        ("block_count", decoder.n_layers),
        ("context_length", decoder.max_position_embeddings),
        ("embedding_length", decoder.hidden_size),
        ("feed_forward_length", decoder.intermediate_size),
        ("attention.head_count", decoder.n_heads),
        ("attention.head_count_kv", decoder.n_kv_heads),
        ("attention.key_length", decoder.head_dim),
        ("attention.value_length", decoder.head_dim),
        ("rope.dimension_count", decoder.head_dim),
        ("vocab_size", decoder.vocab_size),
    ] {
        writer.set(&format!("{arch}.{key}"), number(value)).unwrap();
    }
    writer
        .set(
            &format!("{arch}.attention.layer_norm_rms_epsilon"),
            decoder.rms_norm_eps as f32,
        )
        .unwrap();
    writer
        .set(&format!("{arch}.rope.freq_base"), decoder.rope.theta as f32)
        .unwrap();
    writer.set("general.file_type", 0u32).unwrap();
    vocabulary(&mut writer, &files, decoder.vocab_size, pre);
    let tensors = SafeTensors::open(&files).unwrap();
    let mut entries = Vec::new();
    for (name, tensor) in tensors.iter() {
        if decoder.tie_word_embeddings && name == "lm_head.weight" {
            continue;
        }
        let heads = if name.contains("q_proj") {
            decoder.n_heads
        } else {
            decoder.n_kv_heads
        };
        let mut bytes = floats(&tensor.to_f32().unwrap());
        if name.contains("q_proj") || name.contains("k_proj") {
            bytes = reorder(&bytes, tensor.shape()[0], heads, RowOrder::Halves, stored_order(arch)).unwrap();
        }
        entries.push((names::from_hf(arch, name).unwrap(), tensor.shape().to_vec(), bytes));
    }
    if let RopeScaling::Llama3 {
        factor,
        low_freq_factor,
        high_freq_factor,
        original_max_position_embeddings,
    } = decoder.rope.scaling
    {
        let context = original_max_position_embeddings as f64;
        let half = decoder.head_dim / 2;
        let factors: Vec<f32> = (0..half)
            .map(|pair| {
                let frequency = decoder.rope.theta.powf(-(pair as f64) / half as f64);
                let turns = context * frequency / (2.0 * std::f64::consts::PI);
                let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                (1.0 / ((1.0 - kept) / factor + kept)) as f32
            })
            .collect();
        entries.push(("rope_freqs.weight".to_owned(), vec![half], floats(&factors)));
    }
    write(writer, &entries, path);
}

pub(crate) fn vocabulary(writer: &mut Writer, files: &FileSet, vocab_size: usize, pre: &str) {
    let text = files.read_text("tokenizer.json", 1 << 24).unwrap();
    let tokenizer: Value = serde_json::from_str(&text).unwrap();
    let mut tokens = vec![(String::new(), 5i32); vocab_size];
    for (token, id) in tokenizer["model"]["vocab"].as_object().unwrap() {
        tokens[id.as_u64().unwrap() as usize] = (token.clone(), 1);
    }
    for added in tokenizer["added_tokens"].as_array().unwrap() {
        let kind = if added["special"].as_bool().unwrap() { 3 } else { 4 };
        tokens[added["id"].as_u64().unwrap() as usize] = (added["content"].as_str().unwrap().to_owned(), kind);
    }
    let id = |text: &str| u32::try_from(tokens.iter().position(|(token, _)| token == text).unwrap()).unwrap();
    let merges: Vec<String> = tokenizer["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|merge| match merge {
            Value::Array(pair) => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
            merge => merge.as_str().unwrap().to_owned(),
        })
        .collect();
    let config = TokenizerConfig::load(files).unwrap();
    writer.set("tokenizer.ggml.model", "gpt2").unwrap();
    writer.set("tokenizer.ggml.pre", pre).unwrap();
    if let Some(bos) = &config.bos_token {
        writer.set("tokenizer.ggml.bos_token_id", id(bos)).unwrap();
        writer.set("tokenizer.ggml.add_bos_token", true).unwrap();
    } else {
        writer.set("tokenizer.ggml.add_bos_token", false).unwrap();
    }
    if let Some(eos) = &config.eos_token {
        writer.set("tokenizer.ggml.eos_token_id", id(eos)).unwrap();
    }
    if let Some(template) = config.chat_template {
        writer.set("tokenizer.chat_template", template).unwrap();
    }
    let (texts, kinds): (Vec<String>, Vec<i32>) = tokens.into_iter().unzip();
    writer.set("tokenizer.ggml.tokens", texts).unwrap();
    writer.set("tokenizer.ggml.token_type", kinds).unwrap();
    writer.set("tokenizer.ggml.merges", merges).unwrap();
}

/// Writes the GGUF form of a PEFT adapter for a base of architecture `arch`: lora_B of q and k in the order of its rows, lora_A as it is.
pub(crate) fn adapter(directory: &Path, arch: &str, n_heads: usize, n_kv_heads: usize, path: &Path) {
    let adapter = Adapter::open(&FileSet::from_directory(directory).unwrap()).unwrap();
    let mut writer = Writer::new();
    writer.set("general.type", "adapter").unwrap();
    writer.set("general.architecture", arch).unwrap();
    writer.set("adapter.type", "lora").unwrap();
    let first = &adapter.pairs()[0];
    writer
        .set("adapter.lora.alpha", (first.scale * first.rank as f64) as f32)
        .unwrap();
    let mut entries = Vec::new();
    for pair in adapter.pairs() {
        let name = names::from_hf(arch, &format!("{}.weight", pair.module)).unwrap();
        let mut b = floats(&pair.b.to_f32().unwrap());
        let heads = if pair.module.contains("q_proj") {
            n_heads
        } else {
            n_kv_heads
        };
        if pair.module.contains("q_proj") || pair.module.contains("k_proj") {
            b = reorder(&b, pair.b.shape()[0], heads, RowOrder::Halves, stored_order(arch)).unwrap();
        }
        entries.push((
            format!("{name}.lora_a"),
            pair.a.shape().to_vec(),
            floats(&pair.a.to_f32().unwrap()),
        ));
        entries.push((format!("{name}.lora_b"), pair.b.shape().to_vec(), b));
    }
    write(writer, &entries, path);
}
