//! Every mixture against what llama-quantize does: types that `record/mixtures.py` wrote, for models of several families and shapes, with and without
//! importance, and with the options that it has.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use serde::Deserialize;
use witness_formats::gguf::GgmlType;
use witness_quantization::{Mixture, ModelFacts, Override, PlanOptions, QuantizationError, Tensor, parse_type, plan};

#[derive(Deserialize)]
struct Record {
    legend: Vec<String>,
    models: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    name: String,
    architecture: String,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    experts: usize,
    layer: Vec<(String, Vec<usize>)>,
    rest: Vec<(String, Vec<usize>)>,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    mixture: String,
    importance: bool,
    options: Options,
    types: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Options {
    output: Option<String>,
    token_embeddings: Option<String>,
    overrides: Vec<String>,
    pure: bool,
    leave_output: bool,
}

fn record() -> Record {
    serde_json::from_str(include_str!("data/mixtures.json")).unwrap()
}

impl Model {
    fn facts(&self) -> ModelFacts {
        ModelFacts {
            architecture: self.architecture.clone(),
            n_layers: self.layers,
            n_heads: self.heads,
            n_kv_heads: self.kv_heads,
            n_experts: self.experts,
        }
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let of_layer = |layer| {
            let named = move |(name, shape): &(String, Vec<usize>)| (format!("blk.{layer}.{name}"), shape.clone());
            self.layer.iter().map(named)
        };
        self.rest
            .iter()
            .cloned()
            .chain((0..self.layers).flat_map(of_layer))
            .collect()
    }
}

impl Options {
    fn plan(&self, has_importance: bool) -> PlanOptions {
        let kind = |name: &Option<String>| name.as_deref().map(|name| parse_type(name).unwrap());
        PlanOptions {
            output: kind(&self.output),
            token_embeddings: kind(&self.token_embeddings),
            overrides: self
                .overrides
                .iter()
                .map(|text| Override::parse(text).unwrap())
                .collect(),
            pure: self.pure,
            leave_output: self.leave_output,
            has_importance,
        }
    }
}

#[test]
fn types_are_those_of_llama_quantize() {
    let record = record();
    let mut n_runs = BTreeMap::new();
    for model in &record.models {
        let names = model.tensors();
        let tensors: Vec<Tensor<'_>> = names
            .iter()
            .map(|(name, shape)| Tensor {
                name,
                shape,
                kind: GgmlType::F32,
            })
            .collect();
        for run in &model.runs {
            let mixture: Mixture = run.mixture.parse().unwrap();
            let plan = plan(mixture, &model.facts(), &tensors, &run.options.plan(run.importance)).unwrap();
            *n_runs.entry(mixture).or_insert(0) += 1;
            assert_eq!(run.types.len(), tensors.len());
            let mut bytes = 0;
            for ((tensor, choice), letter) in tensors.iter().zip(&plan.choices).zip(run.types.bytes()) {
                let wanted = &record.legend[usize::from(letter - b'A')];
                let what = format!(
                    "{} of {}, {mixture}, importance {}",
                    tensor.name, model.name, run.importance
                );
                assert_eq!(choice.kind.name(), *wanted, "{what}");
                let columns = tensor.shape.last().unwrap();
                let rows: usize = tensor.shape.iter().rev().skip(1).product();
                bytes += choice.kind.row_bytes(*columns).unwrap() * rows as u64;
            }
            assert_eq!(plan.bytes, bytes);
        }
    }
    assert_eq!(n_runs.len(), Mixture::all().count());
    assert!(n_runs.values().all(|n| *n >= 2 * record.models.len()), "{n_runs:?}");
}

#[test]
fn substitutes_and_missing_importance_are_told() {
    let facts = ModelFacts {
        architecture: "llama".to_owned(),
        n_layers: 1,
        n_heads: 2,
        n_kv_heads: 2,
        n_experts: 0,
    };
    let tensor = |name: &'static str, shape: &'static [usize]| Tensor {
        name,
        shape,
        kind: GgmlType::F16,
    };
    let tensors = [
        tensor("token_embd.weight", &[8, 256]),
        tensor("blk.0.attn_q.weight", &[64, 256]),
        tensor("blk.0.ffn_up.weight", &[64, 96]),
        tensor("blk.0.ffn_down.weight", &[64, 100]),
        tensor("output.weight", &[8, 256]),
        tensor("output_norm.weight", &[256]),
        tensor("blk.0.ffn_norm.weight", &[1, 256]),
    ];
    let plan = plan(Mixture::Q2_K_S, &facts, &tensors, &PlanOptions::default()).unwrap();
    let kinds: Vec<GgmlType> = plan.choices.iter().map(|choice| choice.kind).collect();
    use GgmlType::{F16, Q2_K, Q4_0, Q6_K};
    assert_eq!(kinds, [Q2_K, Q2_K, Q4_0, F16, Q6_K, F16, F16]);
    let needs: Vec<bool> = plan.choices.iter().map(|choice| choice.needs_importance).collect();
    assert_eq!(needs, [false, true, false, false, false, false, false]);
    let substitutes: Vec<bool> = plan.choices.iter().map(|choice| choice.is_substitute).collect();
    assert_eq!(substitutes, [false, false, true, true, false, false, false]);
    let kept: Vec<bool> = plan.choices.iter().map(|choice| choice.is_kept).collect();
    assert_eq!(kept, [false, false, false, false, false, true, true]);
    let bytes = 8 * 84 + 64 * 84 + 64 * 54 + 64 * 200 + 8 * 210 + 512 + 512;
    assert_eq!(
        (plan.bytes, plan.numbers),
        (bytes, 2048 + 16384 + 6144 + 6400 + 2048 + 512)
    );
    assert!((plan.bits_per_number() - 8.0 * bytes as f64 / 33_536.0).abs() < 1e-9);
}

#[test]
fn a_tensor_of_experts_must_say_its_layer() {
    let facts = ModelFacts {
        architecture: "llama".to_owned(),
        n_layers: 2,
        n_heads: 2,
        n_kv_heads: 2,
        n_experts: 8,
    };
    let tensors = [Tensor {
        name: "blk.2.ffn_down_exps.weight",
        shape: &[8, 2, 256],
        kind: GgmlType::F16,
    }];
    let error = plan(Mixture::Q4_K_M, &facts, &tensors, &PlanOptions::default()).unwrap_err();
    assert!(matches!(error, QuantizationError::Layer { n_layers: 2, .. }), "{error}");
    let error = Override::parse("ffn_down[=q4_k").unwrap_err();
    assert!(matches!(error, QuantizationError::Pattern { .. }), "{error}");
    let error = Override::parse("ffn_down=q4k").unwrap_err();
    assert!(matches!(error, QuantizationError::Name { .. }), "{error}");
}
