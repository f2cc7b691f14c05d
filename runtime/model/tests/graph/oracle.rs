//! Recorded runs of the reference implementation (transformers and PEFT, f32): logits and greedy continuations of bases and adapters.

use std::path::Path;

use serde_json::Value;
use witness_formats::FileSet;
use witness_formats::adapter::Adapter as AdapterFile;
use witness_formats::hf::HfConfig;
use witness_formats::safetensors::SafeTensors;
use witness_model::source::{HfSource, config_of_hf};
use witness_model::{Adapter, Model, SequenceStep};

use crate::support::shared;

/// Asked for by the issue; both sides are f32 and differ in the order of their sums only.
const LOGITS_TOLERANCE: f32 = 1e-3;

pub(crate) fn load_hf(directory: &Path) -> Model {
    let files = FileSet::from_directory(directory).unwrap();
    let config = config_of_hf(&HfConfig::load(&files).unwrap()).unwrap();
    let tensors = SafeTensors::open(&files).unwrap();
    Model::load(config, &HfSource::new(&tensors)).unwrap()
}

pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let best = logits
        .iter()
        .enumerate()
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .expect("a vocabulary");
    best.0 as u32
}

pub(crate) fn greedy(model: &Model, prompt: &[u32], n_tokens: usize, adapter: Option<&Adapter>) -> Vec<u32> {
    let mut cache = model.new_cache(prompt.len() + n_tokens);
    let mut tokens = prompt.to_vec();
    let mut out = Vec::new();
    while out.len() < n_tokens {
        let step = SequenceStep {
            tokens: &tokens,
            cache: &mut cache,
            adapter,
            n_logits: 1,
        };
        let token = argmax(model.forward(&mut [step]).unwrap().of(0));
        out.push(token);
        tokens = vec![token];
    }
    out
}

/// Compares with `<name>_logits.safetensors` and `<name>_greedy.json` and returns the largest difference of a logit.
pub(crate) fn compare(model: &Model, adapter: Option<&Adapter>, directory: &Path, name: &str) -> f32 {
    let recorded = SafeTensors::open_file(&directory.join(format!("{name}_logits.safetensors"))).unwrap();
    let text = std::fs::read_to_string(directory.join(format!("{name}_greedy.json"))).unwrap();
    let continuations: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut worst = 0f32;
    for (index, continuation) in continuations.iter().enumerate() {
        let prompt = recorded.require(&format!("prompt{index}.input_ids")).unwrap();
        let prompt: Vec<u32> = prompt.to_f32().unwrap().into_iter().map(|id| id as u32).collect();
        let expected = recorded
            .require(&format!("prompt{index}.logits_last8"))
            .unwrap()
            .to_f32()
            .unwrap();
        let mut cache = model.new_cache(prompt.len());
        let step = SequenceStep {
            tokens: &prompt,
            cache: &mut cache,
            adapter,
            n_logits: 8,
        };
        let logits = model.forward(&mut [step]).unwrap();
        let logits = logits.of(0);
        assert_eq!(logits.len(), expected.len());
        worst = logits
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .fold(worst, f32::max);
        let ids: Vec<u32> = continuation["greedy_ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
            .collect();
        assert_eq!(
            greedy(model, &prompt, ids.len(), adapter),
            ids,
            "{name}, prompt {index}"
        );
    }
    eprintln!("{}/{name}: logits within {worst:e}", directory.display());
    assert!(worst < LOGITS_TOLERANCE, "{name}: {worst}");
    worst
}

/// One base, loaded once, with all of its adapters in turn: 48 greedy tokens each, token for token.
#[test]
fn bases_and_adapters() {
    let cases: [(&str, &[&str]); 2] = [
        (
            "llama",
            &[
                "lora_50",
                "lora_all_linear_rslora_10",
                "lora_assistant_20",
                "lora_ga_12",
                "dora_10",
            ],
        ),
        ("qwen2", &["lora_50"]),
    ];
    for (family, adapters) in cases {
        let Some(root) = shared(&format!("oracle/{family}")) else {
            return;
        };
        let model = load_hf(&root.join("base"));
        let bytes = model.bytes();
        compare(&model, None, &root, "base");
        for name in adapters {
            let files = FileSet::from_directory(&root.join(name).join("final_adapter")).unwrap();
            let adapter = model.adapter(AdapterFile::open(&files).unwrap()).unwrap();
            compare(&model, Some(&adapter), &root.join(name), "adapter");
            assert_eq!(model.bytes(), bytes, "an adapter adds nothing to its base");
        }
        compare(&model, None, &root, "base");
        compare(
            &load_hf(&root.join("full_20/final_model")),
            None,
            &root.join("full_20"),
            "final",
        );
    }
}

/// An adapter of another model, or of a kind that is not computed, is refused and says why.
#[test]
fn foreign_adapters_are_refused() {
    let (Some(root), Some(foreign)) = (shared("oracle/llama"), shared("models/adapters")) else {
        return;
    };
    let model = load_hf(&root.join("base"));
    let refusal = |directory: &Path| -> String {
        let files = FileSet::from_directory(directory).unwrap();
        let refused = match AdapterFile::open(&files) {
            Ok(file) => model
                .adapter(file)
                .map(drop)
                .map_err(witness_diagnostics::Diagnostic::from),
            Err(error) => Err(error.into()),
        };
        let diagnostic = refused.expect_err("an adapter that does not belong here");
        assert!(!diagnostic.hints.is_empty(), "{diagnostic:?}");
        diagnostic.to_string()
    };
    let opt = refusal(&foreign.join("opt125m-lora-r16"));
    assert!(opt.contains("decoder.layers") || opt.contains("q_proj"), "{opt}");
    let distilbert = refusal(&foreign.join("distilbert-lora-seqcls"));
    assert!(
        distilbert.contains("classifier") || distilbert.contains("SEQ_CLS"),
        "{distilbert}"
    );
    let qwen2 = refusal(&root.join("../qwen2/lora_50/final_adapter"));
    assert!(qwen2.contains("k_proj") || qwen2.contains("v_proj"), "{qwen2}");
}
