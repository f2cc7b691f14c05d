//! What the integration tests share: the reference data, when it is there, and small files of every format.

use std::{
    fs,
    path::{Path, PathBuf},
};

use witness_formats::{
    Dtype, FileSet,
    gguf::{self, GgmlType, OwnedValue, ValueType},
    safetensors,
};

/// Finds the reference data beside the checkout; says so when it is absent, and the test then shows nothing.
pub(crate) fn shared(relative: &str) -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|up| up.join("../shared").join(relative))
        .find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: this check needs ../shared/{relative}");
    }
    found
}

/// Finds files of one ending below a directory, sorted.
pub(crate) fn below(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(below(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A recorded file of this crate.
pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Writes a file into a directory and returns its path.
pub(crate) fn write(directory: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// A set of one directory's files.
pub(crate) fn files(directory: &Path) -> FileSet {
    FileSet::from_directory(directory).unwrap()
}

/// A small GGUF model with metadata of every type and the tensors of one layer.
pub(crate) fn small_gguf() -> Vec<u8> {
    let mut writer = gguf::Writer::new();
    writer.set("general.architecture", "llama").unwrap();
    writer.set("general.file_type", 15u32).unwrap();
    writer.set("llama.block_count", 1u32).unwrap();
    writer.set("llama.embedding_length", 32u32).unwrap();
    writer.set("llama.feed_forward_length", 64u32).unwrap();
    writer.set("llama.context_length", 128u32).unwrap();
    writer.set("llama.attention.head_count", 4u32).unwrap();
    writer.set("llama.attention.head_count_kv", 2u32).unwrap();
    writer.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32).unwrap();
    writer.set("llama.rope.freq_base", 10_000.0f32).unwrap();
    writer.set("test.u8", 1u8).unwrap();
    writer.set("test.i8", -1i8).unwrap();
    writer.set("test.u16", 2u16).unwrap();
    writer.set("test.i16", -2i16).unwrap();
    writer.set("test.i32", -3i32).unwrap();
    writer.set("test.u64", 4u64).unwrap();
    writer.set("test.i64", -4i64).unwrap();
    writer.set("test.f64", 0.25f64).unwrap();
    writer.set("test.bool", true).unwrap();
    let inner = |values: Vec<i32>| OwnedValue::from(values);
    let nested = OwnedValue::Array(ValueType::Array, vec![inner(vec![1, 2]), inner(vec![3])]);
    writer.set("test.nested", nested).unwrap();
    let tokens: Vec<String> = (0..16).map(|token| format!("<{token}>")).collect();
    writer.set("tokenizer.ggml.tokens", tokens).unwrap();
    writer.set("tokenizer.ggml.scores", vec![0.5f32; 16]).unwrap();
    writer.set("tokenizer.ggml.token_type", vec![1i32; 16]).unwrap();
    let tensors: [(&str, &[usize], GgmlType); 5] = [
        ("token_embd.weight", &[16, 32], GgmlType::Q8_0),
        ("blk.0.attn_norm.weight", &[32], GgmlType::F32),
        ("blk.0.attn_q.weight", &[32, 32], GgmlType::Q4_0),
        ("blk.0.attn_k.weight", &[16, 32], GgmlType::F16),
        ("output.weight", &[16, 32], GgmlType::BF16),
    ];
    for (name, shape, kind) in tensors {
        writer.tensor(name, shape, kind).unwrap();
    }
    let mut body = writer.begin(Vec::new()).unwrap();
    for (name, shape, kind) in tensors {
        let row = kind.row_bytes(*shape.last().unwrap()).unwrap() as usize;
        let rows: usize = shape[..shape.len() - 1].iter().product();
        let bytes: Vec<u8> = (0..row * rows).map(|at| (at % 251) as u8).collect();
        body.tensor(name, &bytes).unwrap();
    }
    body.finish().unwrap()
}

/// A small safetensors file with several types, a scalar and an empty tensor.
pub(crate) fn small_safetensors() -> Vec<u8> {
    let tensors: [(&str, Dtype, &[usize]); 5] = [
        ("model.embed_tokens.weight", Dtype::F32, &[16, 8]),
        ("model.norm.weight", Dtype::BF16, &[8]),
        ("empty", Dtype::F16, &[0, 4]),
        ("scalar", Dtype::I64, &[]),
        ("lm_head.weight", Dtype::F16, &[16, 8]),
    ];
    safetensors_of(&tensors)
}

/// A safetensors file with these tensors, filled with a pattern.
pub(crate) fn safetensors_of(tensors: &[(&str, Dtype, &[usize])]) -> Vec<u8> {
    let mut writer = safetensors::Writer::new();
    writer.metadata("format", "pt");
    for (name, dtype, shape) in tensors {
        writer.tensor(name, *dtype, shape).unwrap();
    }
    let mut body = writer.begin(Vec::new()).unwrap();
    for (name, dtype, shape) in tensors {
        let elements: usize = shape.iter().product();
        let bytes: Vec<u8> = (0..elements * dtype.bits() / 8).map(|at| (at % 119) as u8).collect();
        body.tensor(name, &bytes).unwrap();
    }
    body.finish().unwrap()
}

/// A PEFT configuration that says something in every field it can.
pub(crate) const ADAPTER_CONFIG: &str = r#"{
  "alpha_pattern": {"v_proj": 32, "layers\\.0\\..*k_proj": 8.0},
  "auto_mapping": null,
  "base_model_name_or_path": "some/base",
  "bias": "none",
  "exclude_modules": null,
  "fan_in_fan_out": false,
  "init_lora_weights": true,
  "layers_pattern": "layers",
  "layers_to_transform": [0, 1],
  "loftq_config": {},
  "lora_alpha": 16.0,
  "lora_bias": false,
  "lora_dropout": 0.05,
  "megatron_core": "megatron.core",
  "modules_to_save": ["lm_head"],
  "peft_type": "LORA",
  "qalora_group_size": 16,
  "r": 4,
  "rank_pattern": {"model.layers.0.self_attn.v_proj": 2},
  "target_modules": ["q_proj", "v_proj", "k_proj"],
  "task_type": "CAUSAL_LM",
  "use_dora": false,
  "use_rslora": true
}"#;

/// The tensors that belong to [`ADAPTER_CONFIG`].
pub(crate) fn adapter_tensors() -> Vec<u8> {
    safetensors_of(&[
        (
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
            Dtype::F32,
            &[4, 8],
        ),
        (
            "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
            Dtype::F32,
            &[8, 4],
        ),
        (
            "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight",
            Dtype::F32,
            &[4, 8],
        ),
        (
            "base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight",
            Dtype::F32,
            &[4, 4],
        ),
        (
            "base_model.model.model.layers.0.self_attn.v_proj.lora_A.default.weight",
            Dtype::F32,
            &[2, 8],
        ),
        (
            "base_model.model.model.layers.0.self_attn.v_proj.lora_B.default.weight",
            Dtype::F32,
            &[4, 2],
        ),
        ("base_model.model.lm_head.weight", Dtype::F32, &[16, 8]),
    ])
}

/// A small GGUF LoRA file.
pub(crate) fn small_gguf_lora() -> Vec<u8> {
    let mut writer = gguf::Writer::new();
    writer.set("general.architecture", "llama").unwrap();
    writer.set("general.type", "adapter").unwrap();
    writer.set("adapter.type", "lora").unwrap();
    writer.set("adapter.lora.alpha", 8.0f32).unwrap();
    let tensors: [(&str, &[usize]); 4] = [
        ("blk.0.attn_q.weight.lora_a", &[2, 8]),
        ("blk.0.attn_q.weight.lora_b", &[8, 2]),
        ("token_embd.weight.lora_a", &[16, 2]),
        ("token_embd.weight.lora_b", &[8, 2]),
    ];
    for (name, shape) in tensors {
        writer.tensor(name, shape, GgmlType::F32).unwrap();
    }
    let mut body = writer.begin(Vec::new()).unwrap();
    for (_, shape) in tensors {
        let elements: usize = shape.iter().product();
        let values: Vec<u8> = (0..elements).flat_map(|at| (at as f32).to_le_bytes()).collect();
        body.write(&values).unwrap();
    }
    body.finish().unwrap()
}

/// A `config.json` of version 4 with a scaled rotary embedding.
pub(crate) const CONFIG: &str = r#"{
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 172,
  "num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 512, "head_dim": 8,
  "max_position_embeddings": 512, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "hidden_act": "silu",
  "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 256, "rope_type": "llama3"},
  "tie_word_embeddings": true, "attention_bias": false, "mlp_bias": false, "bos_token_id": 1, "eos_token_id": [2, 3],
  "torch_dtype": "bfloat16", "sliding_window": null
}"#;

/// A `tokenizer_config.json` with tokens in both spellings and named templates.
pub(crate) const TOKENIZER_CONFIG: &str = r#"{
  "add_bos_token": true, "add_eos_token": false, "bos_token": "<s>", "model_max_length": 1000000000000000019884624838656,
  "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": false}, "unk_token": {"content": "<unk>"}, "pad_token": null,
  "additional_special_tokens": ["<a>", {"content": "<b>"}], "tokenizer_class": "LlamaTokenizer",
  "added_tokens_decoder": {"0": {"content": "<unk>", "special": true}},
  "chat_template": [{"name": "default", "template": "{{ messages }}"}, {"name": "tool_use", "template": "{{ tools }}"}]
}"#;
