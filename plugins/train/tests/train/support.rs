//! Small random bases, rows, requests, and a host that remembers what it is told.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use witness_formats::Dtype;
use witness_formats::hf::HfConfig;
use witness_formats::safetensors::Writer;
use witness_plugin_protocol::{
    AdapterSpec, Compute, FileRef, ModelSpec, TrainEvent, TrainReply, TrainRequest, TrainSettings, When,
};
use witness_plugin_train::Progress;
use witness_training::{RandomWeights, Stream, WeightSource};

/// Returns a path below the reference data, or nothing, said once, when they are not there.
pub(crate) fn reference(path: &str) -> Option<PathBuf> {
    let start = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let found = start
        .ancestors()
        .map(|directory| directory.join("shared").join(path))
        .find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: {path} needs ../shared");
    }
    found
}

pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Returns the files of a directory as a host names them.
pub(crate) fn files(directory: &Path) -> Vec<FileRef> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names.iter().map(|name| file(name, &directory.join(name))).collect()
}

pub(crate) fn file(name: &str, path: &Path) -> FileRef {
    FileRef {
        name: name.to_owned(),
        path: path.to_owned(),
        digest: String::new(),
        size: 0,
    }
}

pub(crate) fn adapter(directory: &Path) -> AdapterSpec {
    AdapterSpec {
        name: "default".to_owned(),
        files: files(directory),
    }
}

/// Returns a request over a base's directory and files of rows.
pub(crate) fn request(base: &Path, data: &[&Path], directory: &Path, settings: TrainSettings) -> TrainRequest {
    let name = |path: &&Path| file(&path.file_name().unwrap().to_string_lossy(), path);
    TrainRequest {
        model: ModelSpec { files: files(base) },
        adapter: None,
        base_name: "tiny".to_owned(),
        base_digest: "sha256:00".to_owned(),
        data: data.iter().map(name).collect(),
        validation: Vec::new(),
        template: None,
        settings,
        directory: directory.to_owned(),
        resume: false,
        started_at: 1_800_000_000.0,
        trial: false,
        preview: Vec::new(),
    }
}

/// A home with a tiny base and rows.
pub(crate) struct Home {
    pub(crate) folder: tempfile::TempDir,
}

const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

impl Home {
    /// Makes a base of some thousand weights and `n_rows` chats of 20 to 60 tokens.
    pub(crate) fn new(n_rows: usize) -> Self {
        let home = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        write_base(&home.base(), |_, values| values);
        std::fs::write(home.rows(), rows(n_rows)).unwrap();
        home
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.folder.path().join("base")
    }

    pub(crate) fn rows(&self) -> PathBuf {
        self.folder.path().join("rows.jsonl")
    }

    pub(crate) fn run(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn request(&self, name: &str, settings: TrainSettings) -> TrainRequest {
        request(&self.base(), &[&self.rows()], &self.run(name), settings)
    }
}

/// Returns settings of a short run with everything in it: packing, accumulation, dropout, evaluations, checkpoints.
pub(crate) fn settings() -> TrainSettings {
    TrainSettings {
        sequence_len: Some(128),
        lora: json!({"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": "all-linear"})
            .as_object()
            .unwrap()
            .clone(),
        num_epochs: 4.0,
        micro_batch_size: 1,
        gradient_accumulation_steps: 2,
        learning_rate: Some(1e-2),
        sample_packing: true,
        compute: Compute::F32,
        logging_steps: 3,
        eval_strategy: When::Steps,
        save_strategy: When::Steps,
        eval_steps: Some(4.0),
        save_steps: 3.0,
        save_total_limit: Some(2),
        load_best_model_at_end: true,
        threads: Some(1),
        ..TrainSettings::default()
    }
}

/// Writes a base whose tensors are drawn at random and then changed.
pub(crate) fn write_base(directory: &Path, change: impl Fn(&str, Vec<f32>) -> Vec<f32>) {
    std::fs::create_dir_all(directory).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 259, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true, "torch_dtype": "float32", "eos_token_id": 258,
    });
    std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
    write_tokenizer(directory);
    let decoder = HfConfig::parse("config.json", config.to_string().as_bytes())
        .unwrap()
        .decoder()
        .unwrap();
    let weights = RandomWeights::new(&decoder, 5, 0.3);
    let mut names = vec!["model.embed_tokens.weight".to_owned(), "model.norm.weight".to_owned()];
    for layer in 0..2 {
        for part in [
            "input_layernorm",
            "post_attention_layernorm",
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
        ] {
            names.push(format!("model.layers.{layer}.{part}.weight"));
        }
    }
    names.sort();
    let tensors: Vec<_> = names
        .iter()
        .map(|name| {
            let (shape, values) = weights.weight(name).unwrap().unwrap();
            (name, shape, change(name, values))
        })
        .collect();
    let mut writer = Writer::new();
    for (name, shape, _) in &tensors {
        writer.tensor(name, Dtype::F32, shape).unwrap();
    }
    let mut body = writer.begin(Vec::new()).unwrap();
    for (name, _, values) in &tensors {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        body.tensor(name, &bytes).unwrap();
    }
    std::fs::write(directory.join("model.safetensors"), body.finish().unwrap()).unwrap();
}

/// One token a byte, and three special ones.
fn write_tokenizer(directory: &Path) {
    let mut vocab = Map::new();
    let mut next = 0x100;
    for byte in 0u32..256 {
        // GPT-2's alphabet.
        let is_printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let character = if is_printable { byte } else { next };
        next += u32::from(!is_printable);
        vocab.insert(char::from_u32(character).unwrap().to_string(), json!(byte));
    }
    let added: Vec<Value> = (256..)
        .zip(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}, "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": []},
    });
    std::fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let config = json!({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": CHATML});
    std::fs::write(directory.join("tokenizer_config.json"), config.to_string()).unwrap();
}

/// Returns chats of different lengths.
pub(crate) fn rows(n_rows: usize) -> String {
    let stream = Stream::new(9);
    let word = |at: u64, n: u64| -> String {
        (0..n)
            .map(|index| char::from(b'a' + (stream.child(at).bits(index) % 26) as u8))
            .collect()
    };
    let rows = (0..n_rows as u64).map(|row| {
        let question = word(2 * row, 3 + stream.bits(row) % 7);
        let answer = word(2 * row + 1, 4 + stream.bits(1_000 + row) % 20);
        let row =
            json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]});
        format!("{row}\n")
    });
    rows.collect()
}

/// Says after an event whether the run is to stop.
type Stops = Box<dyn FnMut(&TrainEvent) -> bool>;

/// A host that remembers events and stops a run on demand.
#[derive(Default)]
pub(crate) struct Host {
    pub(crate) events: Vec<TrainEvent>,
    stops: Option<Stops>,
    is_stopping: Cell<bool>,
}

impl Host {
    pub(crate) fn stopping(stops: impl FnMut(&TrainEvent) -> bool + 'static) -> Self {
        Self {
            stops: Some(Box::new(stops)),
            ..Self::default()
        }
    }
}

impl Progress for Host {
    fn emit(&mut self, event: &TrainEvent) {
        if self.stops.as_mut().is_some_and(|stops| stops(event)) {
            self.is_stopping.set(true);
        }
        self.events.push(event.clone());
    }

    fn should_stop(&self) -> bool {
        self.is_stopping.get()
    }
}

/// Runs to the end; returns the reply and the events.
pub(crate) fn run(request: &TrainRequest) -> (TrainReply, Vec<TrainEvent>) {
    let mut host = Host::default();
    let reply = witness_plugin_train::run(request, &mut host).unwrap();
    (reply, host.events)
}

/// What a run leaves that must be equal to the bit: the product's files and the newest checkpoint's.
pub(crate) fn left_by(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut checkpoints: Vec<(u64, PathBuf)> = std::fs::read_dir(directory)
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let step = path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
            Some((step, path))
        })
        .collect();
    checkpoints.sort();
    let newest = checkpoints.last().map(|(_, path)| path.clone());
    let mut left = Vec::new();
    for directory in newest.into_iter().chain([directory.join("final")]) {
        for file in files(&directory) {
            let name = format!("{}/{}", directory.file_name().unwrap().to_string_lossy(), file.name);
            left.push((name, std::fs::read(file.path).unwrap()));
        }
    }
    left
}

/// Compares what two runs left, telling the first file that differs.
pub(crate) fn assert_equal(one: &Path, other: &Path) {
    let (one, other) = (left_by(one), left_by(other));
    let names = |left: &[(String, Vec<u8>)]| -> Vec<String> { left.iter().map(|(name, _)| name.clone()).collect() };
    assert_eq!(names(&one), names(&other));
    for ((name, one), (_, other)) in one.iter().zip(&other) {
        if name.ends_with(".json") {
            assert_eq!(String::from_utf8_lossy(one), String::from_utf8_lossy(other), "{name}");
        }
        assert!(one == other, "{name} differs");
    }
}
