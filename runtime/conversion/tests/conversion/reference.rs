//! The plan of each recorded model against the file that llama.cpp's converter wrote: every key, every tensor, three file types.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
};

use serde_json::{Value, json};
use witness_conversion::{DenseType, GgufPlan};
use witness_formats::gguf::{self, Array, Gguf, ValueType};

use crate::support::{Model, digest};

/// Where the result differs on purpose: part of a model's name, the key, and why.
const ON_PURPOSE: [(&str, &str, &str); 4] = [
    (
        "Mistral",
        "llama.attention.sliding_window",
        "the reference leaves the window out, and whoever reads the file then sees more than the model was trained to see",
    ),
    (
        "",
        "tokenizer.ggml.scores",
        "the reference gives every piece of a vocabulary that exists only as tokenizer.json -1000, which loses the order of its merges",
    ),
    (
        "",
        "tokenizer.ggml.token_type",
        "the reference calls <unk> of a vocabulary that exists only as tokenizer.json a control token; it is the unknown one",
    ),
    (
        "smollm",
        "tokenizer.ggml.add_bos_token",
        "a tokenizer.json without a post-processor puts nothing before a text, so the file says so",
    ),
];

/// Returns the place in the list of a difference that is meant.
fn on_purpose(model: &Model, name: &str, key: &str) -> Option<usize> {
    let is_json_only = model.files.get("tokenizer.model").is_none() && model.expected["pre"].is_null();
    ON_PURPOSE.iter().position(|(part, known, _)| {
        let is_of_scores = known.ends_with("scores") || known.ends_with("token_type");
        *known == key && name.contains(part) && (!is_of_scores || is_json_only)
    })
}

pub(crate) fn value_of(value: gguf::Value<'_>) -> Value {
    match value {
        gguf::Value::Array(array) => {
            let kind = format!("ARRAY.{}", name_of(array.element_type()));
            if array.len() > 16 {
                json!([kind, {"count": array.len(), "sha256": digest(&raw(array))}])
            } else {
                json!([kind, array.iter().map(|value| value.to_json(0)).collect::<Vec<_>>()])
            }
        }
        gguf::Value::F32(number) => json!(["FLOAT32", f64::from(number)]),
        scalar => json!([name_of(scalar.kind()), scalar.to_json(0)]),
    }
}

fn raw(array: Array<'_>) -> Vec<u8> {
    match array.element_type() {
        ValueType::String => array
            .byte_strings()
            .unwrap()
            .flat_map(|text| [&(text.len() as u64).to_le_bytes()[..], text].concat())
            .collect(),
        ValueType::F32 => array
            .f32s()
            .unwrap()
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
        _ => array
            .i64s()
            .unwrap()
            .iter()
            .flat_map(|value| (*value as i32).to_le_bytes())
            .collect(),
    }
}

fn name_of(kind: ValueType) -> &'static str {
    match kind {
        ValueType::String => "STRING",
        ValueType::Bool => "BOOL",
        ValueType::U32 => "UINT32",
        ValueType::I32 => "INT32",
        ValueType::F32 => "FLOAT32",
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_key_is_the_references() {
    let (mut wrong, mut used) = (Vec::new(), BTreeSet::new());
    for name in Model::names() {
        let model = Model::open(&name);
        let plan = GgufPlan::from_hf(&model.files, None).unwrap_or_else(|error| panic!("{name}: {error}"));
        let path = model.home.path().join("out.gguf");
        plan.write(DenseType::F32, File::create(&path).unwrap()).unwrap();
        let gguf = Gguf::open_file(&path).unwrap();
        let ours: BTreeMap<&str, Value> = gguf
            .metadata()
            .iter()
            .filter(|(key, _)| *key != "general.file_type")
            .map(|(key, value)| (key, value_of(value)))
            .collect();
        assert_eq!(gguf.file_type(), "F32");
        let theirs = model.expected["keys"].as_object().unwrap();
        for key in ours.keys().copied().chain(theirs.keys().map(String::as_str)) {
            let (our, their) = (ours.get(key), theirs.get(key));
            if our == their {
                continue;
            }
            match on_purpose(&model, &name, key) {
                Some(place) => {
                    used.insert(place);
                }
                None => wrong.push(format!("{name}: {key}: ours {our:?}, the reference's {their:?}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(used.len(), ON_PURPOSE.len(), "a difference that is no longer there");
}

#[test]
fn every_tensor_is_the_references_byte_for_byte() {
    let mut wrong = Vec::new();
    for name in Model::names() {
        let model = Model::open(&name);
        let plan = GgufPlan::from_hf(&model.files, None).unwrap();
        for (kind, dense) in [
            ("f32", DenseType::F32),
            ("f16", DenseType::F16),
            ("bf16", DenseType::BF16),
        ] {
            let path = model.home.path().join("out.gguf");
            plan.write(dense, File::create(&path).unwrap()).unwrap();
            let gguf = Gguf::open_file(&path).unwrap();
            let theirs = model.expected["tensors"][kind].as_object().unwrap();
            assert_eq!(gguf.tensors().len(), theirs.len(), "{name}");
            for tensor in gguf.tensors() {
                let their = &theirs[&tensor.name];
                let is_same_type = their[0] == tensor.ggml_type.name();
                let is_same_shape = kind != "f32" || their[1] == json!(tensor.shape);
                let hash = digest(gguf.tensor_data(tensor).unwrap());
                if !is_same_type || !is_same_shape || their.as_array().unwrap().last().unwrap() != &json!(hash) {
                    wrong.push(format!(
                        "{name} {kind}: {} {} {:?}, the reference's {their}",
                        tensor.name,
                        tensor.ggml_type.name(),
                        tensor.shape
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
