//! What goes wrong, and what is said of it.

use std::path::Path;

use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{ModelForm, TransformRequest};
use witness_plugin_quantize::{plan, run};

use crate::support::{Ear, files, make, request, toy, write_model};
use crate::tmpfs::Mounted;
use crate::types::dense;

fn refused(request: TransformRequest) -> Diagnostic {
    make(request).map(drop).unwrap_err()
}

#[test]
fn a_number_that_is_none_is_told_with_its_tensor() {
    let directory = tempfile::tempdir().unwrap();
    write_model(directory.path(), &|name, values| {
        if name == "model.layers.1.mlp.up_proj.weight" {
            values[777] = f32::NAN;
        }
    });
    let error = refused(request(directory.path(), ModelForm::Gguf, Some("Q4_K_M")));
    assert!(
        error.message.contains("tensor `blk.1.ffn_up.weight`") && error.message.contains("777"),
        "{error:?}"
    );
}

#[test]
fn blocks_are_quantized_again_only_when_asked() {
    let (_home, path) = dense();
    let (small, _) = make(request(&path, ModelForm::Gguf, Some("Q8_0"))).unwrap();
    let small = small.path().join("model.gguf");
    let mut again = request(&small, ModelForm::Gguf, Some("Q4_0"));
    assert_eq!(refused(again.clone()).code, "witness::quantize::blocks");
    assert_eq!(plan(&again).unwrap_err().code, "witness::quantize::blocks");
    again.options.requantize = true;
    assert_eq!(make(again).unwrap().1.quantization, "Q4_0");
}

#[test]
fn wishes_that_cannot_be_are_refused_before_anything_is_written() {
    let (_home, path) = dense();
    let toy = toy();
    let near = refused(request(&path, ModelForm::Gguf, Some("Q4_K_N")));
    assert!(near.hints.iter().any(|hint| hint.contains("Q4_K_S")), "{near:?}");
    assert!(
        refused(request(&path, ModelForm::Gguf, Some("Q2_K_S")))
            .message
            .contains("importance")
    );
    assert_eq!(
        refused(request(toy.path(), ModelForm::Safetensors, Some("Q4_K_M"))).code,
        "witness::quantize::directory_type"
    );
    assert_eq!(
        refused(request(toy.path(), ModelForm::Peft, None)).code,
        "witness::quantize::no_adapter"
    );
    let mut nowhere = request(&path, ModelForm::Gguf, Some("Q8_0"));
    nowhere.directory = "not/absolute".into();
    assert_eq!(
        run(&nowhere, &mut Ear::default()).unwrap_err().code,
        "witness::quantize::directory"
    );
}

#[test]
fn a_stop_is_heard() {
    let (_home, path) = dense();
    let directory = tempfile::tempdir().unwrap();
    let request = TransformRequest {
        directory: directory.path().to_owned(),
        ..request(&path, ModelForm::Gguf, Some("Q4_K_M"))
    };
    let mut ear = Ear {
        stops_after: Some(0),
        ..Ear::default()
    };
    // A toy may be done before the first word: either it stopped, or it is whole.
    match run(&request, &mut ear) {
        Err(error) => assert_eq!(error.kind, Kind::Cancelled),
        Ok(reply) => assert_eq!(reply.files, ["model.gguf"]),
    }
}

// A matrix of importance in the older form: what it says weighs, and what does not fit is told.
#[test]
fn importance_weighs_and_must_fit() {
    let (_home, path) = dense();
    let home = tempfile::tempdir().unwrap();
    let write = |name: &str, width: usize| {
        let mut bytes = 1i32.to_le_bytes().to_vec();
        let tensor = "blk.0.ffn_gate.weight";
        bytes.extend((tensor.len() as i32).to_le_bytes());
        bytes.extend(tensor.as_bytes());
        bytes.extend(2i32.to_le_bytes());
        bytes.extend((width as i32).to_le_bytes());
        for column in 0..width {
            bytes.extend((if column % 7 == 0 { 200.0f32 } else { 0.5 }).to_le_bytes());
        }
        let path = home.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let with = |imatrix: &Path| {
        let mut request = request(&path, ModelForm::Gguf, Some("Q4_0"));
        request.options.imatrix = Some(files(imatrix).remove(0));
        request
    };
    let (weighed, _) = make(with(&write("fits.dat", crate::support::HIDDEN))).unwrap();
    let (plain, _) = make(request(&path, ModelForm::Gguf, Some("Q4_0"))).unwrap();
    let tensor = |made: &tempfile::TempDir, name: &str| {
        let gguf = witness_formats::gguf::Gguf::open_file(&made.path().join("model.gguf")).unwrap();
        gguf.tensor_data(gguf.tensor(name).unwrap()).unwrap().to_vec()
    };
    assert!(tensor(&weighed, "blk.0.ffn_gate.weight") != tensor(&plain, "blk.0.ffn_gate.weight"));
    assert!(tensor(&weighed, "blk.1.ffn_gate.weight") == tensor(&plain, "blk.1.ffn_gate.weight"));
    let error = refused(with(&write("short.dat", 100)));
    assert_eq!(error.code, "witness::quantize::imatrix_shape");
    let cut = home.path().join("cut.dat");
    std::fs::write(&cut, 5i32.to_le_bytes()).unwrap();
    assert_eq!(refused(with(&cut)).code, "witness::quantize::imatrix");
}

// A disk that is full in the middle, in every form: the error is the machine's, says so, and names no success.
#[test]
fn a_full_disk_is_the_machine_s_fault() {
    let toy = toy();
    let disk = tempfile::tempdir().unwrap();
    let Some(_mounted) = Mounted::tmpfs(disk.path(), "1m") else {
        eprintln!("skipped: a full disk needs the right to mount a tmpfs");
        return;
    };
    for (form, quantization) in [
        (ModelForm::Gguf, Some("F32")),
        (ModelForm::Gguf, Some("Q8_0")),
        (ModelForm::Safetensors, None),
    ] {
        let request = TransformRequest {
            directory: disk.path().to_owned(),
            ..request(toy.path(), form, quantization)
        };
        let error = run(&request, &mut Ear::default()).unwrap_err();
        assert_eq!(error.kind, Kind::Environment, "{error:?}");
        let told = format!("{error:?}");
        assert!(told.contains("No space left"), "{told}");
        for entry in std::fs::read_dir(disk.path()).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
}
