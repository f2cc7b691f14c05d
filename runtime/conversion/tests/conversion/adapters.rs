//! Merges against PEFT's `merge_and_unload()`, and GGUF LoRA files against llama.cpp's converter.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use serde_json::{Value, json};
use witness_conversion::{
    ConversionError, DenseType, Family, GgufPlan, Merged, Weights, adapter_to_gguf, adapter_to_peft,
};
use witness_formats::{
    FileSet,
    adapter::{Adapter, Heads},
    gguf::Gguf,
    safetensors::SafeTensors,
};

use crate::support::{data, digest, dtype, json, write_weights};

const HEADS: Heads = Heads {
    n_heads: 4,
    n_kv_heads: 2,
};

struct Case {
    home: tempfile::TempDir,
    base: Arc<SafeTensors>,
    adapter: FileSet,
    expected: Value,
}

impl Case {
    fn open(name: &str) -> Case {
        let expected = json(&data().join("adapters/recorded.json"))[name].clone();
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("base.safetensors");
        write_weights(&path, &expected["weights"], dtype(expected["dtype"].as_str().unwrap()));
        let kept = data().join("adapters").join(name);
        let adapter = [
            ("adapter_config.json", "adapter_config.json"),
            ("adapter_model.safetensors", "adapter.safetensors"),
        ];
        let adapter = adapter.map(|(logical, file)| (logical.to_owned(), kept.join(file)));
        Case {
            base: Arc::new(SafeTensors::open_file(&path).unwrap()),
            home,
            adapter: FileSet::new(adapter).unwrap().with_label(name),
            expected,
        }
    }

    fn adapter(&self) -> Adapter {
        Adapter::open(&self.adapter).unwrap()
    }

    fn merged(&self) -> Merged {
        Merged::new(self.base.clone(), self.adapter(), HEADS).unwrap()
    }
}

fn cases() -> Vec<String> {
    let expected = json(&data().join("adapters/recorded.json"));
    let names: Vec<String> = expected.as_object().unwrap().keys().cloned().collect();
    assert!(names.len() >= 11, "{names:?}");
    names
}

fn whole(weights: &dyn Weights, name: &str) -> Vec<f32> {
    let rows = weights.describe(name).unwrap().n_rows();
    weights.rows_f32(name, 0..rows).unwrap()
}

/// In F32 the sum over the rank may round differently than torch's; in 16 bits that shows only where it lies between two numbers.
#[test]
fn every_merge_is_pefts() {
    for name in cases() {
        let case = Case::open(&name);
        let merged = case.merged();
        let theirs = SafeTensors::open_file(&data().join("adapters").join(&name).join("merged.safetensors")).unwrap();
        assert!(!theirs.is_empty(), "{name}");
        for tensor in merged.names() {
            let described = merged.describe(&tensor).unwrap();
            let ours = whole(&merged, &tensor);
            let Some(their) = theirs.tensor(&tensor) else {
                let base = whole(case.base.as_ref(), &tensor);
                assert_eq!(ours, base, "{name}: {tensor} is changed, and PEFT leaves it");
                continue;
            };
            assert_eq!(
                (described.dtype, described.shape.as_slice()),
                (their.dtype(), their.shape()),
                "{name}: {tensor}"
            );
            let step = match case.expected["dtype"].as_str().unwrap() {
                "bfloat16" => 1.0 / 128.0,
                "float16" => 1.0 / 1024.0,
                _ => 4e-7,
            };
            let their = their.to_f32().unwrap();
            let different = ours.iter().zip(&their).filter(|(a, b)| a != b).count();
            for (ours, their) in ours.iter().zip(&their) {
                assert!(
                    (ours - their).abs() <= step * their.abs().max(1.0),
                    "{name}: {tensor}: {ours}, PEFT's {their}"
                );
            }
            if step > 1e-6 {
                assert!(
                    different * 100 <= ours.len(),
                    "{name}: {tensor}: {different} of {} differ",
                    ours.len()
                );
            }
        }
        for tensor in theirs.iter().map(|(tensor, _)| tensor) {
            assert!(merged.describe(tensor).is_some(), "{name}: {tensor} is missing");
        }
        assert_eq!(merged.unties_embedding(), name == "saved_tied", "{name}");
    }
}

#[test]
fn rows_of_a_merge_do_not_depend_on_how_they_are_asked_for() {
    for name in ["plain", "dora", "embedding"] {
        let merged = Case::open(name).merged();
        for tensor in merged.names() {
            let rows = merged.describe(&tensor).unwrap().n_rows();
            let one_by_one: Vec<f32> = (0..rows)
                .flat_map(|row| merged.rows_f32(&tensor, row..row + 1).unwrap())
                .collect();
            assert_eq!(one_by_one, whole(&merged, &tensor), "{name}: {tensor}");
            assert!(merged.rows(&tensor, 0..rows + 1).is_err());
        }
    }
}

/// The tied base has no output; after the merge the GGUF file has one, and it is the adapter's.
#[test]
fn a_merge_goes_into_a_gguf_file_with_the_output_that_it_untied() {
    let case = Case::open("saved_tied");
    let directory = case.home.path().join("model");
    fs::create_dir(&directory).unwrap();
    let mut config = json(&data().join("adapters/config.json"));
    config["tie_word_embeddings"] = json!(true);
    // The vocabulary of a recorded model is larger than this model's; only the first pieces are taken.
    let donor = data().join("Toy-Llama-3-8B-Instruct");
    let mut tokenizer = json(&donor.join("tokenizer.json"));
    tokenizer["model"]["vocab"]
        .as_object_mut()
        .unwrap()
        .retain(|_, id| id.as_u64().unwrap() < 40);
    tokenizer["model"]["merges"] = json!([["!", "\""]]);
    tokenizer["model"]["vocab"]["!\""] = json!(39);
    let taken = tokenizer["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, id)| id.as_u64() == Some(39))
        .map(|(text, _)| text.clone());
    for text in taken.collect::<Vec<_>>().into_iter().filter(|text| text != "!\"") {
        tokenizer["model"]["vocab"].as_object_mut().unwrap().remove(&text);
    }
    (tokenizer["added_tokens"], tokenizer["post_processor"]) = (json!([]), Value::Null);
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
    fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let files = FileSet::from_directory(&directory).unwrap();
    let merged = Arc::new(case.merged());
    let path = case.home.path().join("merged.gguf");
    let plan = GgufPlan::from_hf_with(&files, Some("merged"), merged.clone()).unwrap();
    plan.write(DenseType::F32, fs::File::create(&path).unwrap()).unwrap();
    let gguf = Gguf::open_file(&path).unwrap();
    let read = |name: &str| {
        gguf.tensor_ref(gguf.require_tensor(name).unwrap())
            .unwrap()
            .to_f32()
            .unwrap()
    };
    assert_eq!(read("output.weight"), whole(merged.as_ref(), "lm_head.weight"));
    assert_eq!(
        read("token_embd.weight"),
        whole(merged.as_ref(), "model.embed_tokens.weight")
    );
    assert_ne!(read("output.weight"), read("token_embd.weight"));
    assert_eq!(gguf.metadata().str("general.name").unwrap(), "merged");
}

fn to_gguf(case: &Case, path: &Path) -> Result<(), ConversionError> {
    adapter_to_gguf(
        case.adapter(),
        Family::Llama,
        HEADS,
        "adapter",
        fs::File::create(path).unwrap(),
    )
    .map(|_| ())
}

#[test]
fn every_tensor_of_a_gguf_lora_is_llama_cpps_and_comes_back() {
    for name in ["plain", "brain"] {
        let case = Case::open(name);
        let path = case.home.path().join("adapter.gguf");
        to_gguf(&case, &path).unwrap();
        let gguf = Gguf::open_file(&path).unwrap();
        let theirs = case.expected["gguf"]["tensors"].as_object().unwrap();
        assert_eq!(gguf.tensors().len(), theirs.len());
        for tensor in gguf.tensors() {
            let ours = json!([
                tensor.ggml_type.name(),
                tensor.shape,
                digest(gguf.tensor_data(tensor).unwrap())
            ]);
            assert_eq!(&ours, &theirs[&tensor.name], "{name}: {}", tensor.name);
        }
        let keys = &case.expected["gguf"]["keys"];
        for key in ["general.architecture", "general.type", "adapter.type"] {
            assert_eq!(json!(gguf.metadata().str(key).unwrap()), keys[key][1], "{key}");
        }
        assert_eq!(
            json!(gguf.metadata().f64("adapter.lora.alpha").unwrap()),
            keys["adapter.lora.alpha"][1]
        );

        let (config, bytes) = adapter_to_peft(Adapter::open_gguf(&[path]).unwrap(), HEADS, Vec::new()).unwrap();
        let home = case.home.path().join("back");
        fs::create_dir(&home).unwrap();
        fs::write(home.join("adapter_config.json"), config).unwrap();
        fs::write(home.join("adapter_model.safetensors"), bytes).unwrap();
        let back = Adapter::open(&FileSet::from_directory(&home).unwrap()).unwrap();
        let facts = |adapter: &Adapter| -> BTreeMap<String, (Vec<u8>, Vec<u8>, f64)> {
            let pairs = adapter.pairs().iter();
            pairs
                .map(|pair| {
                    (
                        pair.module.clone(),
                        (pair.a.bytes().to_vec(), pair.b.bytes().to_vec(), pair.scale),
                    )
                })
                .collect()
        };
        assert_eq!(facts(&back), facts(&case.adapter()), "{name}");
    }
}

/// llama.cpp's converter writes the alpha of the configuration whatever the rest of it says, so that such an adapter gets other scales.
#[test]
fn what_a_gguf_lora_cannot_say_is_refused_by_name() {
    for (name, said) in [
        ("patterns", "one alpha"),
        ("dora", "DoRA"),
        ("lora_bias", "bias"),
        ("bias_all", "replaces"),
        ("saved", "lm_head"),
    ] {
        let case = Case::open(name);
        let error = to_gguf(&case, &case.home.path().join("x.gguf"))
            .unwrap_err()
            .to_string();
        assert!(error.contains(said), "{name}: {error}");
    }
}

#[test]
fn an_adapter_that_does_not_fit_is_refused() {
    let case = Case::open("plain");
    let small = case.home.path().join("small.safetensors");
    let weights = json!({"model.embed_tokens.weight": [40, 16], "model.layers.0.self_attn.q_proj.weight": [16, 8]});
    write_weights(&small, &weights, witness_formats::Dtype::F32);
    let base = Arc::new(SafeTensors::open_file(&small).unwrap());
    assert!(Merged::new(base, case.adapter(), HEADS).is_err());
}
