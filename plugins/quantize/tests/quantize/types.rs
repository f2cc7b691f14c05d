//! Every type: what each tensor becomes, and that it is what the codec makes of it.

use std::path::Path;

use witness_formats::decode_f32;
use witness_formats::gguf::{GgmlType, Gguf};
use witness_plugin_protocol::{ModelForm, TensorType, TransformRequest};
use witness_plugin_quantize::plan;
use witness_quantization::{Mixture, encode};

use crate::support::{make, request, toy};

/// The numbers of a tensor of a dense file.
fn numbers(gguf: &Gguf, name: &str) -> Vec<f32> {
    let tensor = gguf.tensor_ref(gguf.require_tensor(name).unwrap()).unwrap();
    decode_f32(tensor.dtype(), tensor.bytes()).unwrap()
}

/// A toy as a GGUF file of F32.
pub(crate) fn dense() -> (tempfile::TempDir, std::path::PathBuf) {
    let toy = toy();
    let (made, _) = make(request(toy.path(), ModelForm::Gguf, Some("F32"))).unwrap();
    let path = made.path().join("model.gguf");
    (made, path)
}

/// Compares a quantized file with what the codec makes of the dense one, tensor by tensor.
fn compare(dense: &Gguf, path: &Path, request: &TransformRequest) {
    let planned = plan(request).unwrap();
    let made = Gguf::open_file(path).unwrap();
    assert_eq!(made.tensors().len(), planned.tensors.len());
    for (tensor, planned) in made.tensors().iter().zip(&planned.tensors) {
        assert_eq!(
            (&tensor.name, tensor.ggml_type.name()),
            (&planned.name, planned.to.clone())
        );
        let values = numbers(dense, &tensor.name);
        let columns = *tensor.shape.last().unwrap();
        let mut wanted = vec![0; tensor.bytes as usize];
        encode(tensor.ggml_type, &values, columns, None, &mut wanted).unwrap();
        assert!(
            made.tensor_data(tensor).unwrap() == wanted,
            "{} {}",
            planned.to,
            tensor.name
        );
    }
    assert_eq!(
        planned.target_bytes,
        made.tensors().iter().map(|tensor| tensor.bytes).sum::<u64>()
    );
}

#[test]
fn every_type_is_what_the_codec_makes_of_each_tensor() {
    let (_home, path) = dense();
    let source = Gguf::open_file(&path).unwrap();
    for mixture in Mixture::all().filter(|mixture| !mixture.needs_importance()) {
        let request = request(&path, ModelForm::Gguf, Some(&mixture.name().to_lowercase()));
        let (made, reply) = make(request.clone()).unwrap();
        assert_eq!(reply.quantization, mixture.name());
        let file = made.path().join("model.gguf");
        compare(&source, &file, &request);
        let made = Gguf::open_file(&file).unwrap();
        assert_eq!(made.metadata().u32("general.file_type").unwrap(), mixture.file_type());
        // Everything else that the file says is what it said before.
        let said = |gguf: &Gguf| -> Vec<String> {
            let entries = gguf.metadata().iter().filter(|(key, _)| *key != "general.file_type");
            entries.map(|(key, value)| format!("{key} {value:?}")).collect()
        };
        assert_eq!(said(&made), said(&source), "{mixture}");
    }
}

// From the Hugging Face form the same bytes come in one step.
#[test]
fn a_directory_is_quantized_as_its_gguf_is() {
    let toy = toy();
    let (_home, path) = dense();
    for name in ["Q4_K_M", "Q8_0", "BF16"] {
        let (one, _) = make(request(toy.path(), ModelForm::Gguf, Some(name))).unwrap();
        let (two, _) = make(request(&path, ModelForm::Gguf, Some(name))).unwrap();
        let read = |made: &tempfile::TempDir| std::fs::read(made.path().join("model.gguf")).unwrap();
        assert!(read(&one) == read(&two), "{name}");
    }
}

#[test]
fn types_of_single_tensors_are_heard() {
    let (_home, path) = dense();
    let mut request = request(&path, ModelForm::Gguf, Some("Q4_K_S"));
    request.options.tensor_types = vec![TensorType {
        pattern: r"blk\.1\.ffn_up".to_owned(),
        kind: "q8_0".to_owned(),
    }];
    request.options.output_type = Some("Q5_K".to_owned());
    request.options.embedding_type = Some("F16".to_owned());
    let (made, _) = make(request).unwrap();
    let made = Gguf::open_file(&made.path().join("model.gguf")).unwrap();
    let kind = |name: &str| made.tensor(name).unwrap().ggml_type;
    assert_eq!(kind("blk.1.ffn_up.weight"), GgmlType::Q8_0);
    assert_eq!(kind("blk.0.ffn_up.weight"), GgmlType::Q4_K);
    assert_eq!(kind("output.weight"), GgmlType::Q5_K);
    assert_eq!(kind("token_embd.weight"), GgmlType::F16);
    assert_eq!(kind("output_norm.weight"), GgmlType::F32);
}

// The same bytes with any number of threads.
#[test]
fn threads_do_not_matter() {
    let (_home, path) = dense();
    let bytes = |n| {
        let mut request = request(&path, ModelForm::Gguf, Some("Q6_K"));
        request.num_thread = Some(n);
        let (made, _) = make(request).unwrap();
        std::fs::read(made.path().join("model.gguf")).unwrap()
    };
    assert!(bytes(1) == bytes(3));
}
