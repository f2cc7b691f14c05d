//! Tiny random models, held in memory, for the graph and for the reference alike; and the way to `../shared`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use witness_formats::gguf::GgmlType;
use witness_formats::gguf::rows::{RowOrder, reorder};
use witness_model::config::{FAMILIES, Numbers};
use witness_model::load::{WeightSource, parameters};
use witness_model::rope::{Rope, RopeScaling};
use witness_model::weight::{PlainType, RawTensor, Storage};
use witness_model::{Adapter, Config, Family, KvCache, Model, SequenceStep};

use crate::reference::{Deltas, Shape, Weights, logits};

/// Largest difference accepted between f32 and f64 on models this small, relative to the largest logit: sums have below 300 terms.
pub(crate) const TOLERANCE: f64 = 2e-5;

/// A generator good enough for test weights: 64-bit LCG, upper bits, uniform in -1..1.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / f64::from(1u32 << 30) - 1.0
    }

    /// Values that f32, f16 and bf16 hold exactly: multiples of 1/64 in -1..1, times `scale` (a power of two).
    pub(crate) fn values(&mut self, n: usize, scale: f64) -> Vec<f64> {
        (0..n).map(|_| (self.next() * 64.0).round() / 64.0 * scale).collect()
    }

    pub(crate) fn tokens(&mut self, n: usize, vocab: usize) -> Vec<u32> {
        (0..n)
            .map(|_| ((self.next() + 1.0) / 2.0 * vocab as f64) as u32 % vocab as u32)
            .collect()
    }
}

/// Tensors in memory, as a file would hold them.
#[derive(Clone)]
pub(crate) struct Memory {
    pub(crate) tensors: BTreeMap<String, (Storage, Vec<usize>, Vec<u8>)>,
    pub(crate) rows: RowOrder,
}

impl WeightSource for Memory {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn tensor(&self, name: &str) -> Option<witness_model::Result<RawTensor<'_>>> {
        let (storage, shape, bytes) = self.tensors.get(name)?;
        Some(Ok(RawTensor {
            storage: storage.clone(),
            shape: shape.clone(),
            bytes: bytes.into(),
        }))
    }

    fn row_order(&self) -> RowOrder {
        self.rows
    }
}

pub(crate) fn encode(dtype: PlainType, values: &[f64]) -> Vec<u8> {
    match dtype {
        PlainType::F32 => values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect(),
        PlainType::F16 => values
            .iter()
            .flat_map(|v| half::f16::from_f64(*v).to_le_bytes())
            .collect(),
        PlainType::BF16 => values
            .iter()
            .flat_map(|v| half::bf16::from_f64(*v).to_le_bytes())
            .collect(),
    }
}

/// What a test wants of a model.
#[derive(Clone)]
pub(crate) struct Spec {
    pub(crate) family: &'static Family,
    pub(crate) numbers: Numbers,
    pub(crate) rope: Rope,
    pub(crate) windows: Option<Vec<Option<usize>>>,
    pub(crate) tied: bool,
    pub(crate) all_biases: bool,
    pub(crate) dtype: PlainType,
    pub(crate) rows: RowOrder,
}

pub(crate) fn family(model_type: &str) -> &'static Family {
    FAMILIES
        .iter()
        .find(|family| family.model_type == model_type)
        .expect("a family of this name")
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            family: family("llama"),
            numbers: Numbers {
                n_layers: 2,
                width: 24,
                feed_forward: 40,
                n_heads: 6,
                n_kv_heads: 2,
                head_dim: Some(8),
                vocab_size: 50,
                context_length: 256,
            },
            rope: Rope {
                theta: 10000.0,
                scaling: RopeScaling::None,
            },
            windows: None,
            tied: false,
            all_biases: false,
            dtype: PlainType::F32,
            rows: RowOrder::Halves,
        }
    }
}

/// A model in three forms.
pub(crate) struct Tiny {
    pub(crate) config: Config,
    pub(crate) memory: Memory,
    pub(crate) weights: Weights,
    pub(crate) shape: Shape,
}

impl Spec {
    pub(crate) fn build(&self) -> Tiny {
        let mut config =
            Config::new(self.family, self.numbers, 1e-5, self.rope.clone()).expect("a sound configuration");
        config.tied = self.tied;
        config.qkv_bias |= self.all_biases;
        config.output_bias = self.all_biases;
        config.feed_forward_bias = self.all_biases;
        if let Some(windows) = &self.windows {
            config.windows = windows.clone();
        }
        let mut random = Random::new(11);
        let mut weights = Weights::new();
        for (name, dims) in parameters(&config, &|_| false) {
            let n = dims.iter().product();
            let values = match name.as_str() {
                name if name.contains("norm") => random.values(n, 0.5).into_iter().map(|v| 1.0 + v).collect(),
                name if name.ends_with(".bias") => random.values(n, 0.5),
                name if name.contains("embed") => random.values(n, 1.0),
                _ => random.values(n, if dims[1] > 100 { 0.125 } else { 0.5 }),
            };
            weights.insert(name, (dims, values));
        }
        let shape = Shape {
            n_layers: config.n_layers,
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            epsilon: config.norm_epsilon,
            windows: config.windows.clone(),
            frequencies: plain_frequencies(self.rope.theta, config.head_dim),
            attention_factor: 1.0,
        };
        let mut memory = Memory {
            tensors: BTreeMap::new(),
            rows: self.rows,
        };
        for (name, (dims, values)) in &weights {
            let dtype = if dims.len() == 1 { PlainType::F32 } else { self.dtype };
            let mut bytes = encode(dtype, values);
            let heads = if name.contains("q_proj") {
                Some(config.n_heads)
            } else if name.contains("k_proj") {
                Some(config.n_kv_heads)
            } else {
                None
            };
            if let (Some(heads), RowOrder::Interleaved) = (heads, self.rows) {
                bytes = reorder(&bytes, dims[0], heads, RowOrder::Halves, RowOrder::Interleaved).unwrap();
            }
            memory
                .tensors
                .insert(name.clone(), (Storage::Plain(dtype), dims.clone(), bytes));
        }
        Tiny {
            config,
            memory,
            weights,
            shape,
        }
    }
}

/// Makes a model whose matrices are blocks of a type; K types take rows of whole 256 blocks.
pub(crate) fn quantized(kind: GgmlType, n_layers: u64, tied: bool, rows: RowOrder) -> Tiny {
    let mut spec = Spec {
        tied,
        ..Spec::default()
    };
    spec.numbers.n_layers = n_layers;
    spec.numbers.width = 256;
    spec.numbers.feed_forward = 512;
    spec.numbers.n_heads = 8;
    spec.numbers.n_kv_heads = 2;
    spec.numbers.head_dim = Some(32);
    let mut tiny = spec.build();
    tiny.memory.rows = rows;
    for (name, (dims, values)) in &mut tiny.weights {
        if dims.len() != 2 {
            continue;
        }
        let plain: Vec<f32> = values.iter().map(|v| *v as f32 / 4.0).collect();
        let mut bytes = vec![0; kind.row_bytes(dims[1]).unwrap() as usize * dims[0]];
        witness_quantization::encode(kind, &plain, dims[1], None, &mut bytes).unwrap();
        let mut back = vec![0.0; plain.len()];
        witness_quantization::decode(kind, &bytes, &mut back).unwrap();
        *values = back.into_iter().map(f64::from).collect();
        let heads = if name.contains("q_proj") { 8 } else { 2 };
        if rows == RowOrder::Interleaved && (name.contains("q_proj") || name.contains("k_proj")) {
            bytes = reorder(&bytes, dims[0], heads, RowOrder::Halves, RowOrder::Interleaved).unwrap();
        }
        let tensor = (Storage::Blocks(kind), dims.clone(), bytes);
        tiny.memory.tensors.insert(name.clone(), tensor);
    }
    tiny
}

pub(crate) fn plain_frequencies(theta: f64, head_dim: usize) -> Vec<f64> {
    (0..head_dim / 2)
        .map(|pair| 1.0 / theta.powf(2.0 * pair as f64 / head_dim as f64))
        .collect()
}

impl Tiny {
    pub(crate) fn load(&self) -> Model {
        Model::load(self.config.clone(), &self.memory).expect("a sound model")
    }

    /// Compares the graph with the reference, in one pass, in pieces and token by token.
    pub(crate) fn check(&self, n_tokens: usize, adapter: Option<&Adapter>, deltas: &Deltas) {
        let model = self.load();
        let tokens = Random::new(5).tokens(n_tokens, self.config.vocab_size);
        let expected = logits(&self.shape, &self.weights, &tokens, deltas);
        let largest = expected
            .iter()
            .flatten()
            .fold(1.0f64, |max, logit| max.max(logit.abs()));
        for piece in [n_tokens, 13, 1] {
            let mut cache = model.new_cache(n_tokens);
            let mut found = Vec::new();
            for tokens in tokens.chunks(piece) {
                found.extend(run(&model, tokens, &mut cache, adapter));
            }
            let worst = difference(&found, &expected) / largest;
            assert!(worst < TOLERANCE, "in pieces of {piece}: {worst}");
        }
    }
}

/// Runs one sequence and returns the logits of all its new tokens.
pub(crate) fn run(model: &Model, tokens: &[u32], cache: &mut KvCache, adapter: Option<&Adapter>) -> Vec<Vec<f32>> {
    let step = SequenceStep {
        tokens,
        cache,
        adapter,
        n_logits: tokens.len(),
    };
    let logits = model.forward(&mut [step]).expect("a sound batch");
    logits.rows(0).map(<[f32]>::to_vec).collect()
}

pub(crate) fn difference(found: &[Vec<f32>], expected: &[Vec<f64>]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected).flat_map(|(a, b)| a.iter().zip(b));
    pairs
        .map(|(a, b)| {
            if a.is_finite() {
                (f64::from(*a) - b).abs()
            } else {
                f64::INFINITY
            }
        })
        .fold(0.0, f64::max)
}

/// Returns a path below `../shared`, or says why the test is skipped.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|dir| dir.join("shared"))
        .find(|dir| dir.is_dir());
    let found = root.map(|root| root.join(path)).filter(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: this test needs ../shared/{path}");
    }
    found
}
