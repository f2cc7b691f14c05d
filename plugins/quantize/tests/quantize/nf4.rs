//! Directories in NF4: every part is what bitsandbytes writes, and what is read back is what it stands for.

use std::path::{Path, PathBuf};

use serde_json::Value;
use witness_formats::gguf::{GgmlType, Gguf};
use witness_formats::hf::four_bit::FourBit;
use witness_formats::safetensors::SafeTensors;
use witness_formats::{Dtype, FileSet, decode_f32};
use witness_plugin_protocol::{ModelForm, TensorType};
use witness_plugin_quantize::plan;
use witness_quantization::{Nf4Matrix, encode};

use crate::support::{make, request, toy, with_adapter, write_adapter, write_model};

const STATE: &str = "quant_state.bitsandbytes__nf4";

fn open(directory: &Path) -> SafeTensors {
    SafeTensors::open(&FileSet::from_directory(directory).unwrap()).unwrap()
}

fn config(directory: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(directory.join("config.json")).unwrap()).unwrap()
}

fn is_quantized(name: &str) -> bool {
    name.contains("_proj.")
}

fn values(matrix: &Nf4Matrix) -> Vec<f32> {
    let mut values = vec![0.0; matrix.n_out() * matrix.n_in()];
    matrix.dequantize_rows(0..matrix.n_out(), &mut values);
    values
}

/// The oracle of bitsandbytes beside the checkout, or nothing, said once.
fn oracle() -> Option<PathBuf> {
    let start = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let found = start.ancestors().map(|directory| directory.join("shared/oracle"));
    let found = found.into_iter().find(|path| path.exists());
    if found.is_none() {
        println!("skipped: the oracle of bitsandbytes is not beside this checkout");
    }
    found
}

// Two matrices of this base were quantized by bitsandbytes 0.50.2: every byte of every part.
#[test]
fn parts_are_those_of_bitsandbytes() {
    let Some(oracle) = oracle() else { return };
    let (made, reply) = make(request(&oracle.join("llama/base"), ModelForm::Safetensors, Some("nf4"))).unwrap();
    assert_eq!(reply.quantization, "NF4");
    let made = open(made.path());
    let recorded = SafeTensors::open_file(&oracle.join("nf4/nf4.safetensors")).unwrap();
    let info: Value = serde_json::from_slice(&std::fs::read(oracle.join("nf4/info.json")).unwrap()).unwrap();
    for name in [
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.mlp.gate_proj.weight",
    ] {
        let packed = made.require(name).unwrap();
        let theirs = recorded.require(&format!("{name}.dq.packed")).unwrap();
        assert_eq!(
            (packed.dtype(), packed.shape()),
            (Dtype::U8, &[theirs.bytes().len(), 1][..])
        );
        assert_eq!(packed.bytes(), theirs.bytes(), "{name}");
        for (ours, theirs) in [
            ("absmax", "absmax"),
            ("quant_map", "code"),
            ("nested_absmax", "nested_absmax"),
            ("nested_quant_map", "nested_code"),
        ] {
            let ours = made.require(&format!("{name}.{ours}")).unwrap();
            let theirs = recorded.require(&format!("{name}.dq.{theirs}")).unwrap();
            assert_eq!((ours.dtype(), ours.shape()), (theirs.dtype(), theirs.shape()));
            assert_eq!(ours.bytes(), theirs.bytes(), "{name}");
        }
        let shape = recorded
            .require(&format!("{name}.dq.dequant"))
            .unwrap()
            .shape()
            .to_vec();
        let offset = &info[format!("{name}.dq.offset")];
        // `json.dumps` of the account that bitsandbytes gives of itself.
        let wanted = format!(
            "{{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": {shape:?}, \
             \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": {offset}}}"
        );
        let state = made.require(&format!("{name}.{STATE}")).unwrap();
        assert_eq!((state.dtype(), state.shape()), (Dtype::U8, &[wanted.len()][..]));
        assert_eq!(String::from_utf8_lossy(state.bytes()), wanted);
        let matrix = Nf4Matrix::of_stored(&FourBit::of(&made, name).unwrap().unwrap()).unwrap();
        let theirs = recorded
            .require(&format!("{name}.dq.dequant"))
            .unwrap()
            .to_f32()
            .unwrap();
        assert!(values(&matrix) == theirs, "{name}");
    }
}

#[test]
fn matrices_of_layers_are_quantized_and_the_rest_stays() {
    let toy = toy();
    let dense = open(toy.path());
    let asked = request(toy.path(), ModelForm::Safetensors, Some("NF4"));
    let planned = plan(&asked).unwrap();
    let (made, reply) = make(asked).unwrap();
    // The plan does not know how many digits a mean will have.
    assert!(
        planned.target_bytes.abs_diff(reply.tensor_bytes) < 100,
        "{planned:?} {reply:?}"
    );
    assert_eq!((planned.from.as_str(), planned.to.as_str()), ("F32", "NF4"));
    let four_bit = open(made.path());
    for (name, tensor) in dense.iter() {
        let values = tensor.to_f32().unwrap();
        let Some(stored) = FourBit::of(&four_bit, name).unwrap() else {
            assert!(!is_quantized(name), "{name}");
            assert_eq!(four_bit.require(name).unwrap().bytes(), tensor.bytes(), "{name}");
            continue;
        };
        assert!(is_quantized(name), "{name}");
        let [n_out, n_in] = stored.shape;
        let wanted = Nf4Matrix::quantize(&values, n_out, n_in, true);
        assert_eq!(Nf4Matrix::of_stored(&stored).unwrap(), wanted, "{name}");
    }
    assert_eq!(FourBit::names(&four_bit).len(), 14);
    let config = config(made.path());
    assert_eq!(config["quantization_config"]["quant_method"], "bitsandbytes");
    assert_eq!(config["quantization_config"]["bnb_4bit_use_double_quant"], true);
    assert_eq!(config["hidden_size"], 256);
    // The number of threads and of rows a task changes no byte.
    let one = request(toy.path(), ModelForm::Safetensors, Some("nf4"));
    let (again, _) = make(witness_plugin_protocol::TransformRequest {
        num_thread: Some(1),
        ..one
    })
    .unwrap();
    let read = |directory: &Path| std::fs::read(directory.join("model.safetensors")).unwrap();
    assert!(read(again.path()) == read(made.path()));
}

#[test]
fn what_is_read_back_is_what_it_stands_for() {
    let toy = toy();
    let (four_bit, _) = make(request(toy.path(), ModelForm::Safetensors, Some("nf4"))).unwrap();
    let stored = open(four_bit.path());
    let name = "model.layers.1.mlp.down_proj.weight";
    let matrix = Nf4Matrix::of_stored(&FourBit::of(&stored, name).unwrap().unwrap()).unwrap();
    // A directory of numbers.
    let (plain, _) = make(request(four_bit.path(), ModelForm::Safetensors, Some("F32"))).unwrap();
    assert!(config(plain.path())["quantization_config"].is_null());
    let plain = open(plain.path());
    assert!(plain.require(name).unwrap().to_f32().unwrap() == values(&matrix));
    assert_eq!(plain.len(), open(toy.path()).len());
    // A GGUF file of the same, and one of blocks, which somebody has to want.
    let (gguf, _) = make(request(four_bit.path(), ModelForm::Gguf, None)).unwrap();
    let gguf = Gguf::open_file(&gguf.path().join("model.gguf")).unwrap();
    let tensor = gguf
        .tensor_ref(gguf.require_tensor("blk.1.ffn_down.weight").unwrap())
        .unwrap();
    assert!(decode_f32(tensor.dtype(), tensor.bytes()).unwrap() == values(&matrix));
    let mut asked = request(four_bit.path(), ModelForm::Gguf, Some("Q8_0"));
    assert_eq!(make(asked.clone()).unwrap_err().code, "witness::quantize::blocks");
    asked.options.requantize = true;
    let (blocks, _) = make(asked).unwrap();
    let blocks = Gguf::open_file(&blocks.path().join("model.gguf")).unwrap();
    let tensor = blocks.require_tensor("blk.1.ffn_down.weight").unwrap();
    let mut wanted = vec![0; tensor.bytes as usize];
    encode(GgmlType::Q8_0, &values(&matrix), matrix.n_in(), None, &mut wanted).unwrap();
    assert!(blocks.tensor_data(tensor).unwrap() == wanted);
}

#[test]
fn an_adapter_is_merged_into_what_the_base_stands_for() {
    let (toy, adapter) = (toy(), tempfile::tempdir().unwrap());
    write_adapter(adapter.path());
    let (four_bit, _) = make(request(toy.path(), ModelForm::Safetensors, Some("nf4"))).unwrap();
    let (plain, _) = make(request(four_bit.path(), ModelForm::Safetensors, Some("F32"))).unwrap();
    let merged = |base: &Path| {
        let asked = request(base, ModelForm::Safetensors, Some("F32"));
        make(with_adapter(asked, adapter.path())).unwrap().0
    };
    let (one, other) = (merged(four_bit.path()), merged(plain.path()));
    for (name, tensor) in open(one.path()).iter() {
        assert_eq!(
            open(other.path()).require(name).unwrap().bytes(),
            tensor.bytes(),
            "{name}"
        );
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let toy = toy();
    let nf4 = || request(toy.path(), ModelForm::Safetensors, Some("nf4"));
    let in_gguf = make(request(toy.path(), ModelForm::Gguf, Some("nf4"))).unwrap_err();
    assert_eq!(in_gguf.code, "witness::quantize::file_type");
    let mut with_types = nf4();
    with_types.options.tensor_types = vec![TensorType {
        pattern: "ffn".to_owned(),
        kind: "q8_0".to_owned(),
    }];
    assert_eq!(make(with_types).unwrap_err().code, "witness::quantize::nf4_types");
    let (four_bit, _) = make(nf4()).unwrap();
    let twice = make(request(four_bit.path(), ModelForm::Safetensors, Some("nf4"))).unwrap_err();
    assert_eq!(twice.code, "witness::quantize::blocks");
    // A part that is gone is named.
    let damaged = tempfile::tempdir().unwrap();
    write_model(damaged.path(), &|name, values| {
        if name.contains("up_proj") {
            values[70] = f32::NAN;
        }
    });
    let error = make(request(damaged.path(), ModelForm::Safetensors, Some("nf4"))).unwrap_err();
    assert!(error.message.contains("up_proj"), "{error:?}");
}
