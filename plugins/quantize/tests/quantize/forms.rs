//! There and back again, and merges.

use witness_formats::gguf::Gguf;
use witness_formats::safetensors::SafeTensors;
use witness_formats::{FileSet, decode_f32};
use witness_plugin_protocol::ModelForm;

use crate::support::{make, request, toy, with_adapter, write_adapter};
use crate::types::dense;

fn weights(directory: &std::path::Path) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let weights = SafeTensors::open(&FileSet::from_directory(directory).unwrap()).unwrap();
    let tensors = weights.iter();
    tensors
        .map(|(name, tensor)| (name.to_owned(), tensor.shape().to_vec(), tensor.bytes().to_vec()))
        .collect()
}

#[test]
fn a_directory_comes_back_from_gguf_bit_for_bit() {
    let toy = toy();
    let (_home, path) = dense();
    let (back, reply) = make(request(&path, ModelForm::Safetensors, None)).unwrap();
    assert_eq!(weights(back.path()), weights(toy.path()));
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        assert!(
            reply.files.iter().any(|name| name == file),
            "{file} in {:?}",
            reply.files
        );
    }
}

#[test]
fn a_directory_is_divided_where_it_is_large() {
    let (_home, path) = dense();
    let mut request = request(&path, ModelForm::Safetensors, Some("f16"));
    request.options.shard_bytes = Some(400_000);
    let (made, reply) = make(request).unwrap();
    let shards = reply.files.iter().filter(|name| name.ends_with(".safetensors")).count();
    assert!(shards > 2, "{:?}", reply.files);
    assert!(reply.files.contains(&"model.safetensors.index.json".to_owned()));
    assert_eq!(weights(made.path()).len(), weights(toy().path()).len());
    assert_eq!(reply.quantization, "F16");
}

#[test]
fn an_adapter_comes_back_from_gguf() {
    let (toy, adapter) = (toy(), tempfile::tempdir().unwrap());
    write_adapter(adapter.path());
    let there = with_adapter(request(toy.path(), ModelForm::GgufAdapter, None), adapter.path());
    let (gguf, reply) = make(there).unwrap();
    assert_eq!(reply.files, ["adapter.gguf"]);
    let back = with_adapter(
        request(toy.path(), ModelForm::Peft, None),
        &gguf.path().join("adapter.gguf"),
    );
    let (back, reply) = make(back).unwrap();
    assert_eq!(reply.files, ["adapter_config.json", "adapter_model.safetensors"]);
    assert_eq!(weights(back.path()), weights(adapter.path()));
}

// Merged in either form of the base, the numbers are W + s B A, and the rest is untouched.
#[test]
fn a_merge_is_the_same_in_either_form() {
    let (toy, adapter) = (toy(), tempfile::tempdir().unwrap());
    write_adapter(adapter.path());
    let (_home, path) = dense();
    let merged = |base: &std::path::Path, form| {
        let request = with_adapter(request(base, form, None), adapter.path());
        make(request).unwrap().0
    };
    let directory = merged(toy.path(), ModelForm::Safetensors);
    let (gguf, from_directory) = (merged(&path, ModelForm::Gguf), merged(toy.path(), ModelForm::Gguf));
    let read = |made: &tempfile::TempDir| {
        let gguf = Gguf::open_file(&made.path().join("model.gguf")).unwrap();
        let tensors = gguf.tensors().iter();
        tensors
            .map(|tensor| (tensor.name.clone(), gguf.tensor_data(tensor).unwrap().to_vec()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    assert!(read(&gguf) == read(&from_directory));
    let (before, after) = (weights(toy.path()), weights(directory.path()));
    let values = |all: &[(String, Vec<usize>, Vec<u8>)], name: &str| {
        let (_, _, bytes) = all.iter().find(|(known, _, _)| known == name).unwrap();
        decode_f32(witness_formats::Dtype::F32, bytes).unwrap()
    };
    let lora = weights(adapter.path());
    for ((name, shape, old), (_, _, new)) in before.iter().zip(&after) {
        let module = name.strip_suffix(".weight").unwrap();
        if !(name.contains("q_proj") || name.contains("v_proj")) {
            assert!(old == new, "{name}");
            continue;
        }
        let a = values(&lora, &format!("base_model.model.{module}.lora_A.weight"));
        let b = values(&lora, &format!("base_model.model.{module}.lora_B.weight"));
        let (old, new) = (values(&before, name), values(&after, name));
        for row in 0..shape[0] {
            for column in 0..shape[1] {
                let low: f64 = (0..4)
                    .map(|r| f64::from(b[row * 4 + r]) * f64::from(a[r * shape[1] + column]))
                    .sum();
                let wanted = f64::from(old[row * shape[1] + column]) + 2.0 * low;
                let found = f64::from(new[row * shape[1] + column]);
                assert!(
                    (found - wanted).abs() < 1e-7,
                    "{name} [{row}, {column}]: {found} for {wanted}"
                );
            }
        }
    }
}

// Blocks that a merge does not touch stay as they lie; those that it changes need somebody's word for what they become.
#[test]
fn a_merge_into_blocks_needs_a_type() {
    let adapter = tempfile::tempdir().unwrap();
    write_adapter(adapter.path());
    let (_home, path) = dense();
    let (small, _) = make(request(&path, ModelForm::Gguf, Some("Q8_0"))).unwrap();
    let small = small.path().join("model.gguf");
    let refused = make(with_adapter(request(&small, ModelForm::Gguf, None), adapter.path())).unwrap_err();
    assert_eq!(refused.code, "witness::quantize::blocks");
    let (merged, _) = make(with_adapter(
        request(&small, ModelForm::Gguf, Some("Q8_0")),
        adapter.path(),
    ))
    .unwrap();
    let (before, after) = (
        Gguf::open_file(&small).unwrap(),
        Gguf::open_file(&merged.path().join("model.gguf")).unwrap(),
    );
    for (old, new) in before.tensors().iter().zip(after.tensors()) {
        assert_eq!((&old.name, old.ggml_type), (&new.name, new.ggml_type));
        let is_same = before.tensor_data(old).unwrap() == after.tensor_data(new).unwrap();
        let is_changed = old.name.contains("attn_q.weight") || old.name.contains("attn_v.weight");
        assert_eq!(is_same, !is_changed, "{}", old.name);
    }
}
