//! A small model made from nothing, requests, and a listener.

use std::path::{Path, PathBuf};

use serde_json::json;
use witness_diagnostics::Diagnostic;
use witness_formats::Dtype;
use witness_formats::safetensors::Writer;
use witness_plugin_protocol::{
    AdapterSpec, FileRef, ModelForm, ModelSpec, QuantizeOptions, TransformEvent, TransformReply, TransformRequest,
};
use witness_plugin_quantize::{Progress, run};

/// Width, layers and the like of the toy: rows of 256 numbers, so that every type has whole blocks.
pub(crate) const HIDDEN: usize = 256;
const INNER: usize = 512;
const LAYERS: usize = 2;
const VOCABULARY: usize = 64;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 64;

/// Hears everything.
#[derive(Default)]
pub(crate) struct Ear {
    pub(crate) events: Vec<TransformEvent>,
    /// After so many reports of progress it says stop.
    pub(crate) stops_after: Option<usize>,
}

impl Progress for Ear {
    fn tell(&mut self, event: &TransformEvent) {
        self.events.push(event.clone());
    }

    fn should_stop(&self) -> bool {
        self.stops_after.is_some_and(|n| self.events.len() > n)
    }
}

/// Numbers that look like weights: a sum of three draws of a counter's hash.
pub(crate) fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let draw = |at: u64| {
        let mut x = at.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let one = |at: u64| 0.05 * (draw(3 * at) + draw(3 * at + 1) + draw(3 * at + 2));
    (0..n as u64).map(one).collect()
}

fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![
        ("lm_head.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INNER]),
            ("mlp.gate_proj", vec![INNER, HIDDEN]),
            ("mlp.up_proj", vec![INNER, HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("self_attn.k_proj", vec![KV_HEADS * HEAD_DIM, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HEADS * HEAD_DIM]),
            ("self_attn.q_proj", vec![HEADS * HEAD_DIM, HIDDEN]),
            ("self_attn.v_proj", vec![KV_HEADS * HEAD_DIM, HIDDEN]),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    tensors
}

/// Writes a Llama in F32 to a directory; `spoil` may change the numbers of a tensor.
pub(crate) fn write_model(directory: &Path, spoil: &dyn Fn(&str, &mut [f32])) {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 128, "tie_word_embeddings": false,
        "hidden_act": "silu", "torch_dtype": "float32", "bos_token_id": 0, "eos_token_id": 1,
    });
    std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
    let letters = (0..VOCABULARY).map(|id| match id {
        0 => "<s>".to_owned(),
        1 => "</s>".to_owned(),
        2 => "AB".to_owned(),
        id => char::from_u32(0x3e + id as u32).unwrap().to_string(),
    });
    let vocabulary: serde_json::Map<_, _> = letters.enumerate().map(|(id, text)| (text, json!(id))).collect();
    let special = |id: u32, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special(0, "<s>"), special(1, "</s>")], "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": [["A", "B"]]},
    });
    std::fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let about = json!({"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"});
    std::fs::write(directory.join("tokenizer_config.json"), about.to_string()).unwrap();
    let mut writer = Writer::new();
    writer.metadata("format", "pt");
    let tensors = tensors();
    for (name, shape) in &tensors {
        writer.tensor(name, Dtype::F32, shape).unwrap();
    }
    let file = std::fs::File::create(directory.join("model.safetensors")).unwrap();
    let mut body = writer.begin(file).unwrap();
    for (seed, (name, shape)) in tensors.iter().enumerate() {
        let mut values = numbers(seed as u64 + 1, shape.iter().product());
        if shape.len() == 1 {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        spoil(name, &mut values);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        body.write(&bytes).unwrap();
    }
    body.finish().unwrap();
}

/// Writes a PEFT adapter of q and v, rank 4.
pub(crate) fn write_adapter(directory: &Path) {
    let config = json!({
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "toy",
        "bias": "none", "lora_dropout": 0.0, "task_type": "CAUSAL_LM",
    });
    std::fs::write(directory.join("adapter_config.json"), config.to_string()).unwrap();
    let mut tensors = Vec::new();
    for layer in 0..LAYERS {
        for (module, rows) in [("q_proj", HEADS * HEAD_DIM), ("v_proj", KV_HEADS * HEAD_DIM)] {
            let name = |part| format!("base_model.model.model.layers.{layer}.self_attn.{module}.{part}.weight");
            tensors.push((name("lora_A"), vec![4, HIDDEN]));
            tensors.push((name("lora_B"), vec![rows, 4]));
        }
    }
    let mut writer = Writer::new();
    for (name, shape) in &tensors {
        writer.tensor(name, Dtype::F32, shape).unwrap();
    }
    let file = std::fs::File::create(directory.join("adapter_model.safetensors")).unwrap();
    let mut body = writer.begin(file).unwrap();
    for (seed, (_, shape)) in tensors.iter().enumerate() {
        let values = numbers(1_000 + seed as u64, shape.iter().product());
        body.write(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
            .unwrap();
    }
    body.finish().unwrap();
}

/// The files of a directory, or one file.
pub(crate) fn files(path: &Path) -> Vec<FileRef> {
    let reference = |path: PathBuf| FileRef {
        name: path.file_name().unwrap().to_str().unwrap().to_owned(),
        size: std::fs::metadata(&path).unwrap().len(),
        path,
        digest: String::new(),
    };
    if path.is_file() {
        return vec![reference(path.to_owned())];
    }
    let mut paths: Vec<PathBuf> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.into_iter().map(reference).collect()
}

/// A request for a form.
pub(crate) fn request(model: &Path, form: ModelForm, quantization: Option<&str>) -> TransformRequest {
    TransformRequest {
        model: ModelSpec { files: files(model) },
        adapter: None,
        model_name: "toy".to_owned(),
        form,
        quantization: quantization.map(str::to_owned),
        options: QuantizeOptions::default(),
        template: None,
        directory: PathBuf::new(),
        num_thread: Some(2),
    }
}

/// Adds an adapter to a request.
pub(crate) fn with_adapter(request: TransformRequest, adapter: &Path) -> TransformRequest {
    let adapter = AdapterSpec {
        name: "tone".to_owned(),
        files: files(adapter),
    };
    TransformRequest {
        adapter: Some(adapter),
        ..request
    }
}

/// What came of a request: where it lies, and what was said of it.
pub(crate) type Outcome = Result<(tempfile::TempDir, TransformReply), Diagnostic>;

/// Carries out a request in a directory of its own.
pub(crate) fn make(request: TransformRequest) -> Outcome {
    let directory = tempfile::tempdir().unwrap();
    let request = TransformRequest {
        directory: directory.path().to_owned(),
        ..request
    };
    let reply = run(&request, &mut Ear::default())?;
    for file in &reply.files {
        assert!(directory.path().join(file).is_file(), "{file}");
    }
    Ok((directory, reply))
}

/// A toy model in a directory.
pub(crate) fn toy() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    write_model(directory.path(), &|_, _| {});
    directory
}
