//! A model of this test's own making: random weights, a vocabulary of the 256 bytes and four special tokens.

use std::path::Path;

use serde_json::json;
use tempfile::TempDir;
use witness_formats::Dtype;
use witness_formats::safetensors::Writer;

/// Tokens: 256 bytes, then BOS, EOS and two more.
pub(crate) const VOCAB: usize = 260;
pub(crate) const BOS: u32 = 256;
pub(crate) const EOS: u32 = 257;
pub(crate) const CONTEXT: usize = 512;

const WIDTH: usize = 32;
const FEED_FORWARD: usize = 48;

/// The byte alphabet of GPT-2: printable bytes stand for themselves, the others for characters from 256 on.
fn alphabet() -> Vec<String> {
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    (0..256u32)
        .map(|byte| {
            let code = if printable(byte) {
                byte
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).expect("a character").to_string()
        })
        .collect()
}

fn random(seed: u64) -> impl FnMut(f32) -> f32 {
    let mut state = seed | 1;
    move |scale| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u32 << 23) as f32 - 1.0) * scale
    }
}

/// Writes tensors of random numbers; `scale(name, shape)` says how large.
pub(crate) fn weights(path: &Path, tensors: &[(String, Vec<usize>)], seed: u64, scale: impl Fn(&str) -> f32) {
    let mut tensors = tensors.to_vec();
    tensors.sort();
    let mut writer = Writer::new();
    for (name, shape) in &tensors {
        writer.tensor(name, Dtype::F32, shape).unwrap();
    }
    let mut body = writer.begin(Vec::new()).unwrap();
    let mut next = random(seed);
    for (name, shape) in &tensors {
        let n = shape.iter().product();
        let bytes: Vec<u8> = if name.contains("norm") {
            (0..n).flat_map(|_| 1f32.to_le_bytes()).collect()
        } else {
            (0..n).flat_map(|_| next(scale(name)).to_le_bytes()).collect()
        };
        body.write(&bytes).unwrap();
    }
    std::fs::write(path, body.finish().unwrap()).unwrap();
}

/// Writes the model into a fresh directory.
pub(crate) fn model() -> TempDir {
    model_of(3)
}

/// As [`model`], with other weights for each seed.
pub(crate) fn model_of(seed: u64) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": WIDTH,
        "intermediate_size": FEED_FORWARD, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": VOCAB, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": false, "bos_token_id": BOS, "eos_token_id": EOS
    });
    std::fs::write(path.join("config.json"), config.to_string()).unwrap();
    let vocabulary: serde_json::Map<String, serde_json::Value> = alphabet()
        .into_iter()
        .enumerate()
        .map(|(id, text)| (text, id.into()))
        .collect();
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "normalized": false, "single_word": false,
            "lstrip": false, "rstrip": false})
    };
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(256, "<s>"), special(257, "</s>"), special(258, "<|user|>"), special(259, "<|end|>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []}
    });
    std::fs::write(path.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let template = "{{ bos_token }}{% for m in messages %}{{ '<|user|>' + m.content + '<|end|>' }}{% endfor %}";
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": template, "tokenizer_class": "PreTrainedTokenizerFast"});
    std::fs::write(path.join("tokenizer_config.json"), config.to_string()).unwrap();
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, WIDTH]),
        ("lm_head.weight".to_owned(), vec![VOCAB, WIDTH]),
        ("model.norm.weight".to_owned(), vec![WIDTH]),
    ];
    for layer in 0..2 {
        for (module, out, input) in [
            ("self_attn.q_proj", WIDTH, WIDTH),
            ("self_attn.k_proj", WIDTH / 2, WIDTH),
            ("self_attn.v_proj", WIDTH / 2, WIDTH),
            ("self_attn.o_proj", WIDTH, WIDTH),
            ("mlp.gate_proj", FEED_FORWARD, WIDTH),
            ("mlp.up_proj", FEED_FORWARD, WIDTH),
            ("mlp.down_proj", WIDTH, FEED_FORWARD),
        ] {
            tensors.push((format!("model.layers.{layer}.{module}.weight"), vec![out, input]));
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push((format!("model.layers.{layer}.{norm}.weight"), vec![WIDTH]));
        }
    }
    weights(&path.join("model.safetensors"), &tensors, seed, |_| 0.5);
    directory
}

/// Writes an adapter of the model: rank 2 on q and v. `trained` = lora_B is not zero.
pub(crate) fn adapter(seed: u64, trained: bool) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let config = json!({
        "peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "bias": "none",
        "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny"
    });
    std::fs::write(directory.path().join("adapter_config.json"), config.to_string()).unwrap();
    let mut tensors = Vec::new();
    for layer in 0..2 {
        for (module, out) in [("q_proj", WIDTH), ("v_proj", WIDTH / 2)] {
            let name = format!("base_model.model.model.layers.{layer}.self_attn.{module}");
            tensors.push((format!("{name}.lora_A.weight"), vec![2, WIDTH]));
            tensors.push((format!("{name}.lora_B.weight"), vec![out, 2]));
        }
    }
    let scale = |name: &str| if name.contains("lora_B") && !trained { 0.0 } else { 0.5 };
    weights(
        &directory.path().join("adapter_model.safetensors"),
        &tensors,
        seed,
        scale,
    );
    directory
}
