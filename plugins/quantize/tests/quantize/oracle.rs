//! The models of the reference data through the whole plugin, against hashes of what llama-quantize made of them (`../record/oracle.py`): every mixture, with and without
//! an importance matrix. Their rows of 128, 320 and 352 numbers are no whole blocks of 256, so all the substitutes are in it.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use witness_formats::gguf::{GgmlType, Gguf, OwnedValue, ValueType, Writer};
use witness_plugin_protocol::ModelForm;
use witness_quantization::Mixture;

use crate::support::{files, make, request};

#[derive(Deserialize)]
struct Record {
    models: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    name: String,
    tensors: Vec<String>,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    mixture: String,
    importance: bool,
    /// Type and hash of each tensor.
    tensors: Vec<String>,
}

fn oracle() -> Option<PathBuf> {
    let start = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut found = start.ancestors().map(|directory| directory.join("shared/oracle"));
    let found = found.find(|path| path.exists());
    if found.is_none() {
        println!("skipped: the reference data are not beside this checkout");
    }
    found
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Squares of the first numbers of splitmix64, as numbers from 0 to 1.
fn importance(seed: u64, n: usize) -> Vec<f32> {
    let number = |i: u64| {
        let z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let u = ((z ^ (z >> 31)) >> 40) as f32 / 16_777_216.0;
        u * u
    };
    (1..=n as u64).map(number).collect()
}

/// Writes an importance matrix for the matrices of the layers, in the form of llama-imatrix.
fn write_importance(path: &Path, model: &Gguf) {
    let mut writer = Writer::new();
    writer.set("general.type", "imatrix").unwrap();
    let datasets = OwnedValue::Array(ValueType::String, vec![OwnedValue::String("none".to_owned())]);
    writer.set("imatrix.datasets", datasets).unwrap();
    writer.set("imatrix.chunk_count", 1u32).unwrap();
    writer.set("imatrix.chunk_size", 4u32).unwrap();
    let mut bodies = Vec::new();
    for (seed, tensor) in model.tensors().iter().enumerate() {
        if !tensor.name.starts_with("blk.") || tensor.shape.len() != 2 {
            continue;
        }
        let importance = importance(seed as u64, tensor.shape[1]);
        let (sums, counts) = (format!("{}.in_sum2", tensor.name), format!("{}.counts", tensor.name));
        writer.tensor(&sums, &[1, importance.len()], GgmlType::F32).unwrap();
        writer.tensor(&counts, &[1, 1], GgmlType::F32).unwrap();
        bodies.push((sums, importance.iter().map(|number| number * 4.0).collect::<Vec<f32>>()));
        bodies.push((counts, vec![4.0]));
    }
    let mut body = writer.begin(std::fs::File::create(path).unwrap()).unwrap();
    for (name, numbers) in bodies {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        body.tensor(&name, &bytes).unwrap();
    }
    body.finish().unwrap();
}

#[test]
fn oracle_models_come_out_as_from_llama_quantize() {
    let Some(oracle) = oracle() else { return };
    let record: Record = serde_json::from_str(include_str!("../data/oracle.json")).unwrap();
    for model in &record.models {
        let base = oracle.join(&model.name).join("base");
        let (home, _) = make(request(&base, ModelForm::Gguf, Some("F32"))).unwrap();
        let dense = home.path().join("model.gguf");
        let weights = home.path().join("imatrix.gguf");
        write_importance(&weights, &Gguf::open_file(&dense).unwrap());
        let unweighed = Mixture::all().filter(|mixture| !mixture.needs_importance());
        assert_eq!(model.runs.len(), Mixture::all().count() + unweighed.count());
        for run in &model.runs {
            let mut asked = request(&dense, ModelForm::Gguf, Some(&run.mixture));
            if run.importance {
                asked.options.imatrix = files(&weights).pop();
            }
            let what = format!("{} as {}, importance {}", model.name, run.mixture, run.importance);
            let (made, _) = make(asked).unwrap_or_else(|error| panic!("{what}: {error:?}"));
            let path = made.path().join("model.gguf");
            let gguf = Gguf::open_file(&path).unwrap();
            assert_eq!(gguf.tensors().len(), model.tensors.len());
            for (name, wanted) in model.tensors.iter().zip(&run.tensors) {
                let tensor = gguf.require_tensor(name).unwrap();
                let found = digest(gguf.tensor_data(tensor).unwrap());
                assert_eq!(
                    format!("{} {found}", tensor.ggml_type.name()),
                    *wanted,
                    "{name} of {what}"
                );
            }
        }
    }
}
