//! Adapters that we trained, loaded by PEFT itself: it finds a place for every tensor and gives our logits.
//!
//! It is looked for in the Python that WITNESS_TEST_PYTHON names, else in `python3`; without it the test says that it was skipped, and passes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use witness_formats::hf::HfConfig;
use witness_formats::{FileSet, safetensors::SafeTensors};
use witness_training::{Batch, Method, RandomWeights, Sample, Trainer};

use crate::support::{config_json, lora, options, pack, reference, rows, tiny};

/// Rounding in two programs leaves 1e-6 to 5e-6 of logits that the adapters moved by 2 to 10.
const LOGIT_TOLERANCE: f64 = 1e-4;

/// Returns a Python that has PEFT, or nothing, said.
fn python_with_peft() -> Option<String> {
    let named = std::env::var("WITNESS_TEST_PYTHON").ok();
    let mut candidates = named.into_iter().chain(["python3".to_owned()]);
    let found = candidates.find(|python| {
        let probe = Command::new(python)
            .args(["-c", "import peft, transformers, torch"])
            .output();
        probe.is_ok_and(|output| output.status.success())
    });
    if found.is_none() {
        eprintln!("skipped: no python with PyPI's `peft` and `transformers`; name one in WITNESS_TEST_PYTHON");
    }
    found
}

/// One adapter, its base, and our logits for a row.
struct Case {
    name: &'static str,
    base: PathBuf,
    adapter: PathBuf,
    ids: Vec<u32>,
    logits: Vec<f32>,
}

/// Writes a random model as Transformers reads one.
fn write_base(directory: &Path, model_type: &str, changes: &Value) {
    let config = tiny(model_type, changes.clone());
    let source = RandomWeights::new(&config, 5, 0.3);
    let model: Trainer = Trainer::new(&config, &source, Method::Full, options(0.0)).unwrap();
    model.write_model(directory).unwrap();
    std::fs::write(
        directory.join("config.json"),
        config_json(model_type, changes).to_string(),
    )
    .unwrap();
}

/// Trains an adapter for some steps and writes it.
fn train(name: &'static str, base: &Path, adapter: PathBuf, fields: Value, batch: &Batch, ids: Vec<u32>) -> Case {
    let files = FileSet::from_directory(base).unwrap();
    let config = HfConfig::load(&files).unwrap().decoder().unwrap();
    let source = SafeTensors::open(&files).unwrap();
    let mut trainer: Trainer = Trainer::new(&config, &source, lora(fields), options(2e-2)).unwrap();
    for _ in 0..6 {
        trainer.step(std::slice::from_ref(batch), &|| false).unwrap();
    }
    trainer.write_adapter(&adapter, Some(base.to_str().unwrap())).unwrap();
    let is_target = vec![true; ids.len()];
    let row = Batch::pack([Sample {
        ids: &ids,
        is_target: &is_target,
    }])
    .unwrap();
    let tokens: Vec<usize> = (0..ids.len()).collect();
    Case {
        name,
        base: base.to_owned(),
        adapter,
        logits: trainer.logits(&row, &tokens).unwrap(),
        ids,
    }
}

fn cases(directory: &Path) -> Vec<Case> {
    let bases = [
        ("llama", json!({})),
        ("llama-biased", json!({"attention_bias": true, "mlp_bias": true})),
        ("qwen2", json!({"tie_word_embeddings": true})),
        ("mistral", json!({"sliding_window": null})),
    ];
    for (name, changes) in &bases {
        let model_type = name.split('-').next().unwrap();
        write_base(&directory.join(name), model_type, changes);
    }
    let all = "all-linear";
    let adapters = [
        (
            "lora",
            "llama",
            json!({"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}),
        ),
        (
            "rslora",
            "llama",
            json!({"r": 4, "lora_alpha": 8, "target_modules": all, "use_rslora": true}),
        ),
        (
            "dora",
            "llama",
            json!({"r": 4, "lora_alpha": 8, "target_modules": all, "use_dora": true}),
        ),
        (
            "patterns",
            "llama",
            json!({"r": 4, "lora_alpha": 8, "target_modules": all, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"up_proj": 5},
                "layers_to_transform": [1], "init_lora_weights": "gaussian"}),
        ),
        (
            "saved",
            "llama",
            json!({"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
        ),
        (
            "bias-adapted",
            "llama-biased",
            json!({"r": 2, "target_modules": ["q_proj", "down_proj"], "bias": "lora_only"}),
        ),
        (
            "bias-all",
            "llama-biased",
            json!({"r": 2, "target_modules": ["q_proj", "down_proj"], "bias": "all"}),
        ),
        (
            "dropped",
            "qwen2",
            json!({"r": 4, "target_modules": all, "lora_dropout": 0.2}),
        ),
        (
            "bias-qwen2",
            "qwen2",
            json!({"r": 4, "target_modules": ["q_proj", "v_proj"], "bias": "all", "use_dora": true}),
        ),
        ("mistral", "mistral", json!({"r": 4, "target_modules": all})),
    ];
    let batch = pack(&rows(23, 3));
    let trained = adapters.into_iter().map(|(name, base, fields)| {
        let adapter = directory.join(format!("adapter-{name}"));
        let ids = vec![3, 1, 22, 9, 9, 14, 0, 7, 11];
        train(name, &directory.join(base), adapter, fields, &batch, ids)
    });
    let mut cases: Vec<Case> = trained.collect();
    if let Some(base) = reference("oracle/llama/base") {
        let fields = json!({"r": 8, "lora_alpha": 16, "target_modules": all});
        let batch = pack(&rows(2_048, 4));
        let adapter = directory.join("adapter-real");
        cases.push(train("real", &base, adapter, fields, &batch, (1_000..1_040).collect()));
    }
    cases
}

#[test]
fn peft_gives_our_logits() {
    let Some(python) = python_with_peft() else { return };
    let directory = tempfile::tempdir().unwrap();
    let cases = cases(directory.path());
    let asked = cases
        .iter()
        .map(|case| json!({"name": case.name, "base": case.base, "adapter": case.adapter, "ids": case.ids}));
    let asked = Value::Array(asked.collect());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/peft_logits.py");
    let mut child = Command::new(python)
        .arg(script)
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(asked.to_string().as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    for case in &cases {
        let numbers = |key: &str| -> Vec<f64> {
            let rows = told[case.name][key].as_array().unwrap().iter();
            rows.flat_map(|row| row.as_array().unwrap())
                .map(|value| value.as_f64().unwrap())
                .collect()
        };
        let furthest = |theirs: Vec<f64>| {
            assert_eq!(theirs.len(), case.logits.len(), "{}", case.name);
            let pairs = theirs.iter().zip(&case.logits);
            pairs
                .map(|(theirs, ours)| (theirs - f64::from(*ours)).abs())
                .fold(0.0, f64::max)
        };
        let (before, after) = (furthest(numbers("before")), furthest(numbers("after")));
        eprintln!(
            "{}: the adapter moved logits by {before:.2}, PEFT's are within {after:.1e} of ours",
            case.name
        );
        assert!(before > 0.05, "{}: the adapter does nothing", case.name);
        assert!(after < LOGIT_TOLERANCE, "{}: {after}", case.name);
    }
}
