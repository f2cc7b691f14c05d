//! The whole of llama-quantize against plan and codecs: a small model through both, tensor by tensor, byte for byte.
//!
//! Needs the program: `WITNESS_LLAMA_QUANTIZE=path/to/llama-quantize cargo test -p witness-quantization --test program`. Without it the test says that it skips; what it
//! would show is then held in parts by the recordings that the other tests read.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::path::Path;
use std::process::Command;

use witness_formats::gguf::{GgmlType, Gguf, OwnedValue, ValueType, Writer};
use witness_quantization::{Mixture, ModelFacts, PlanOptions, Tensor, encode, plan};

const D: usize = 256;
const F: usize = 768;

fn shapes() -> Vec<(String, Vec<usize>)> {
    let mut shapes = vec![
        ("token_embd.weight".to_owned(), vec![40, D]),
        ("output_norm.weight".to_owned(), vec![D]),
        ("output.weight".to_owned(), vec![40, D]),
    ];
    for layer in 0..9 {
        let of = |name: &str, shape: &[usize]| (format!("blk.{layer}.{name}.weight"), shape.to_vec());
        shapes.extend([
            of("attn_norm", &[D]),
            of("attn_q", &[D, D]),
            of("attn_k", &[D / 4, D]),
            of("attn_v", &[D / 4, D]),
            of("attn_output", &[D, D]),
            of("ffn_norm", &[D]),
            of("ffn_gate", &[F, D]),
            of("ffn_up", &[F, D]),
            // Rows of no whole blocks of 256.
            of("ffn_down", &[D, if layer == 4 { 96 } else { F }]),
        ]);
    }
    shapes
}

/// Near to normal numbers, another stretch of them for each seed.
fn numbers(seed: usize, n: usize) -> Vec<f32> {
    let uniform = |i: usize| {
        let z = (seed as u64) << 32 | i as u64;
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as i64
    };
    let of_four = |i: usize| (4 * i..4 * i + 4).map(uniform).sum::<i64>() - (1 << 25);
    (0..n).map(|i| of_four(i) as f32 / 16_777_216.0 / 16.0).collect()
}

fn bytes_of(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn write(path: &Path, writer: Writer, tensors: &[(String, Vec<f32>)]) {
    let mut file = std::fs::File::create(path).unwrap();
    let mut body = writer.begin(&mut file).unwrap();
    for (name, numbers) in tensors {
        body.tensor(name, &bytes_of(numbers)).unwrap();
    }
    body.finish().unwrap();
    file.flush().unwrap();
}

fn write_model(path: &Path) {
    let mut writer = Writer::new();
    writer.set("general.architecture", "llama").unwrap();
    for (key, value) in [
        ("block_count", 9u32),
        ("context_length", 64),
        ("embedding_length", D as u32),
        ("feed_forward_length", F as u32),
        ("attention.head_count", 8),
        ("attention.head_count_kv", 2),
        ("vocab_size", 40),
    ] {
        writer.set(&format!("llama.{key}"), value).unwrap();
    }
    writer.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32).unwrap();
    let mut tensors = Vec::new();
    for (seed, (name, shape)) in shapes().into_iter().enumerate() {
        writer.tensor(&name, &shape, GgmlType::F32).unwrap();
        tensors.push((name, numbers(seed, shape.iter().product())));
    }
    write(path, writer, &tensors);
}

/// Writes an importance matrix in the form of llama-imatrix, for all matrices of the layers.
fn write_importance(path: &Path) {
    let mut writer = Writer::new();
    writer.set("general.type", "imatrix").unwrap();
    let datasets = OwnedValue::Array(ValueType::String, vec![OwnedValue::String("none".to_owned())]);
    writer.set("imatrix.datasets", datasets).unwrap();
    writer.set("imatrix.chunk_count", 1u32).unwrap();
    writer.set("imatrix.chunk_size", 4u32).unwrap();
    let mut tensors = Vec::new();
    for (seed, (name, shape)) in shapes().into_iter().enumerate() {
        if let Some(importance) = importance(seed, &name, &shape) {
            let (sums, counts) = (format!("{name}.in_sum2"), format!("{name}.counts"));
            writer.tensor(&sums, &[1, importance.len()], GgmlType::F32).unwrap();
            writer.tensor(&counts, &[1, 1], GgmlType::F32).unwrap();
            tensors.push((sums, importance.iter().map(|number| number * 4.0).collect()));
            tensors.push((counts, vec![4.0]));
        }
    }
    write(path, writer, &tensors);
}

fn importance(seed: usize, name: &str, shape: &[usize]) -> Option<Vec<f32>> {
    let is_of_a_layer = name.starts_with("blk.") && shape.len() == 2;
    is_of_a_layer.then(|| {
        numbers(1_000 + seed, shape[1])
            .iter()
            .map(|number| number * number)
            .collect()
    })
}

#[test]
fn a_model_comes_out_as_from_llama_quantize() {
    let Ok(program) = std::env::var("WITNESS_LLAMA_QUANTIZE") else {
        println!("skipped: WITNESS_LLAMA_QUANTIZE does not say where llama-quantize is");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    write_model(&path("model.gguf"));
    write_importance(&path("importance.gguf"));
    let model = Gguf::open_file(&path("model.gguf")).unwrap();
    let facts = ModelFacts::of(&model).unwrap();
    assert_eq!(
        (facts.n_layers, facts.n_heads, facts.n_kv_heads, facts.n_experts),
        (9, 8, 2, 0)
    );
    let tensors: Vec<Tensor<'_>> = model.tensors().iter().map(Tensor::from).collect();
    for mixture in Mixture::all() {
        for has_importance in [false, true] {
            if mixture.needs_importance() && !has_importance {
                continue;
            }
            let mut command = Command::new(&program);
            if has_importance {
                command.arg("--imatrix").arg(path("importance.gguf"));
            }
            let ran = command
                .arg(path("model.gguf"))
                .arg(path("out.gguf"))
                .args([mixture.name(), "2"])
                .output()
                .unwrap();
            assert!(
                ran.status.success(),
                "{mixture}: {}",
                String::from_utf8_lossy(&ran.stderr)
            );
            let out = Gguf::open_file(&path("out.gguf")).unwrap();
            let file_type = out.metadata().u32("general.file_type").unwrap();
            assert_eq!(file_type, mixture.file_type());
            let options = PlanOptions {
                has_importance,
                ..PlanOptions::default()
            };
            let plan = plan(mixture, &facts, &tensors, &options).unwrap();
            let mut total = 0;
            for (seed, (tensor, choice)) in model.tensors().iter().zip(&plan.choices).enumerate() {
                let theirs = out.require_tensor(&tensor.name).unwrap();
                let what = format!("{} of {mixture}, importance {has_importance}", tensor.name);
                assert_eq!(theirs.ggml_type, choice.kind, "{what}");
                let importance = importance(seed, &tensor.name, &tensor.shape).filter(|_| has_importance);
                let numbers = numbers(seed, tensor.shape.iter().product());
                let columns = *tensor.shape.last().unwrap();
                let mut ours = vec![0; theirs.bytes as usize];
                encode(choice.kind, &numbers, columns, importance.as_deref(), &mut ours).unwrap();
                assert!(out.tensor_data(theirs).unwrap() == ours, "{what}: other bytes");
                total += ours.len() as u64;
            }
            assert_eq!(total, plan.bytes);
        }
    }
}
