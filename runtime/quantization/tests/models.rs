//! Layers of real models' shapes against what llama-quantize made of them, for every mixture, with and without importance: hashes that `record/models.py` wrote.
//!
//! The numbers are made by the same formulas on both sides. What other tests show for short rows (`blocks.rs`) and for names (`mixtures.rs`) is here shown for whole
//! matrices of 2,048 and 8,192 columns, and of 896 and 4,864, which are not whole blocks of 256.
//! Takes seconds: a layer of 60 million numbers is encoded as 15 types, most of them twice. The types whose searches are slow get 16 rows of each matrix.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use witness_formats::gguf::GgmlType;
use witness_quantization::{Mixture, ModelFacts, PlanOptions, Tensor, encode, plan};

#[derive(Deserialize)]
struct Record {
    models: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    name: String,
    architecture: String,
    heads: usize,
    kv_heads: usize,
    tensors: Vec<(String, Vec<usize>)>,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    mixture: String,
    importance: bool,
    /// Type and hash of each tensor.
    made: Vec<String>,
}

/// The first numbers of splitmix64.
fn random(seed: u64, n: usize) -> impl Iterator<Item = u64> {
    (1..=n as u64).map(move |i| {
        let z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// Sums of four uniform numbers, each 1,021st of them eight times as large.
fn numbers(seed: usize, n: usize) -> Vec<f32> {
    let mut random = random(seed as u64, 4 * n).map(|r| (r >> 40) as i64);
    let of = |i: usize| {
        let sum = (0..4).map(|_| random.next().unwrap()).sum::<i64>() - (1 << 25);
        let number = sum as f32 / 2f32.powi(29);
        if i.is_multiple_of(1_021) { number * 8.0 } else { number }
    };
    (0..n).map(of).collect()
}

fn importance(seed: usize, n: usize) -> Vec<f32> {
    let uniform = random(1_000 + seed as u64, n).map(|r| (r >> 40) as f32 / 16_777_216.0);
    uniform.map(|u| u * u).collect()
}

impl Model {
    /// Returns type and hash of each tensor by what makes them: the mixture's choice, and whether there is importance.
    fn wanted(&self) -> Vec<BTreeMap<(GgmlType, bool), String>> {
        let facts = ModelFacts {
            architecture: self.architecture.clone(),
            n_layers: 1,
            n_heads: self.heads,
            n_kv_heads: self.kv_heads,
            n_experts: 0,
        };
        let tensors: Vec<Tensor<'_>> = self
            .tensors
            .iter()
            .map(|(name, shape)| Tensor {
                name,
                shape,
                kind: GgmlType::F32,
            })
            .collect();
        let mut wanted = vec![BTreeMap::new(); tensors.len()];
        for run in &self.runs {
            let options = PlanOptions {
                has_importance: run.importance,
                ..PlanOptions::default()
            };
            let mixture: Mixture = run.mixture.parse().unwrap();
            let plan = plan(mixture, &facts, &tensors, &options).unwrap();
            for (at, (choice, made)) in plan.choices.iter().zip(&run.made).enumerate() {
                let what = format!(
                    "{} of {}, {mixture}, importance {}",
                    tensors[at].name, self.name, run.importance
                );
                let (kind, hash) = made.split_once(' ').unwrap();
                assert_eq!(choice.kind.name(), kind, "{what}");
                let is_weighed = run.importance && tensors[at].name.starts_with("blk.") && tensors[at].shape.len() == 2;
                let known = wanted[at]
                    .entry((choice.kind, is_weighed))
                    .or_insert_with(|| hash.to_owned());
                assert_eq!(known, hash, "{what}: the recording has two results of the same");
            }
        }
        wanted
    }
}

/// Runs some work on as many threads as there are processors.
fn in_parallel(n: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..n_threads.min(n) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= n {
                        break;
                    }
                    work(at);
                }
            });
        }
    });
}

#[test]
fn layers_of_true_shapes_come_out_as_from_llama_quantize() {
    let record: Record = serde_json::from_str(include_str!("data/models.json")).unwrap();
    let runs = record.models.iter().flat_map(|model| &model.runs);
    let mixtures: BTreeSet<&str> = runs.map(|run| run.mixture.as_str()).collect();
    assert_eq!(mixtures.len(), Mixture::all().count());
    let mut kinds = BTreeSet::new();
    for model in &record.models {
        for (seed, ((name, shape), wanted)) in model.tensors.iter().zip(model.wanted()).enumerate() {
            let columns = *shape.last().unwrap();
            let numbers = numbers(seed, shape.iter().product());
            let importance = importance(seed, columns);
            let wanted: Vec<_> = wanted.into_iter().collect();
            kinds.extend(wanted.iter().map(|((kind, _), _)| *kind));
            in_parallel(wanted.len(), |at| {
                let ((kind, is_weighed), wanted) = &wanted[at];
                let importance = is_weighed.then_some(importance.as_slice());
                let mut bytes = vec![0; kind.row_bytes(numbers.len()).unwrap() as usize];
                encode(*kind, &numbers, columns, importance, &mut bytes).unwrap();
                let hash: String = Sha256::digest(&bytes)[..6]
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                assert_eq!(
                    hash, *wanted,
                    "{name} of {}, {kind:?}, weighed {is_weighed}",
                    model.name
                );
            });
        }
    }
    assert_eq!(kinds.len(), witness_quantization::ENCODED.len(), "{kinds:?}");
}
