//! Small random models and rows, and the way to the reference data.

use std::path::PathBuf;

use serde_json::{Value, json};
use witness_formats::hf::{DecoderConfig, HfConfig};
use witness_training::{
    BaseStorage, Batch, Compute, Decay, LoraMethod, Method, Optimizer, Recompute, Sample, Schedule, Stream,
    TrainerOptions,
};

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

/// Returns the config.json of a model of a few thousand weights; `changes` are fields of it.
pub(crate) fn config_json(model_type: &str, changes: &Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "vocab_size": 23, "hidden_size": 12, "intermediate_size": 10, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 100.0, "hidden_act": "silu", "tie_word_embeddings": false,
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// Returns a configuration of a few thousand weights; `changes` are fields of config.json.
pub(crate) fn tiny(model_type: &str, changes: Value) -> DecoderConfig {
    let config = config_json(model_type, &changes);
    let parsed = HfConfig::parse("config.json", config.to_string().as_bytes()).unwrap();
    parsed.decoder().unwrap()
}

/// Returns three rows of 7, 3 and 5 tokens with about two thirds of them targets.
pub(crate) fn rows(vocab_size: usize, seed: u64) -> Vec<(Vec<u32>, Vec<bool>)> {
    let stream = Stream::new(seed);
    let row = |index: u64, n: u64| {
        let stream = stream.child(index);
        let ids = (0..n).map(|at| (stream.bits(at) % vocab_size as u64) as u32);
        let marks = (0..n).map(|at| !stream.bits(1_000 + at).is_multiple_of(3));
        (ids.collect(), marks.collect())
    };
    vec![row(0, 7), row(1, 3), row(2, 5)]
}

/// Packs rows.
pub(crate) fn pack(rows: &[(Vec<u32>, Vec<bool>)]) -> Batch {
    let samples = rows.iter().map(|(ids, is_target)| Sample { ids, is_target });
    Batch::pack(samples).unwrap()
}

/// Returns a LoRA by fields of PEFT's configuration.
pub(crate) fn lora(fields: Value) -> Method {
    Method::Lora(Box::new(LoraMethod::from_json(fields.as_object().unwrap()).unwrap()))
}

/// Returns options of a short run with a constant rate.
pub(crate) fn options(learning_rate: f64) -> TrainerOptions {
    TrainerOptions {
        schedule: Schedule {
            learning_rate,
            decay: Decay::Constant,
            warmup_steps: 0,
            n_steps: 10,
        },
        optimizer: Optimizer::default(),
        max_grad_norm: Some(1.0),
        recompute: Recompute::Nothing,
        seed: 7,
        n_threads: None,
        compute: Compute::F32,
        base_storage: BaseStorage::AsIs,
    }
}
