//! Damaged files through the plugin's calls: a clear error, or a model that works; never a panic.

use std::path::Path;

use witness_plugin_protocol::{InspectRequest, LoadOptions, ModelSpec};
use witness_plugin_sdk::{Init, Serve};
use witness_plugin_serve::CpuServe;

use crate::support::{files, greedy, load, text};
use crate::{convert, tiny};

fn inspect_and_load(directory: &Path) {
    let mut serve = CpuServe::init(&Init::default()).unwrap();
    let model = ModelSpec {
        files: files(directory),
    };
    let inspected = serve.inspect(InspectRequest {
        model,
        adapters: Vec::new(),
        template: None,
        draft: None,
    });
    let loaded = load(
        files(directory),
        LoadOptions {
            num_ctx: Some(32),
            ..LoadOptions::default()
        },
    );
    match (inspected, loaded) {
        (Ok(_), Ok(mut session)) => {
            session.run(greedy(text("x"), 2));
        }
        (Err(error), _) | (_, Err(error)) => assert!(!error.code.is_empty() && !error.message.is_empty()),
    }
}

/// Each byte of the header region is flipped in turn (every few, to keep within seconds), and the file is cut at each of these places.
fn mutate(directory: &Path, name: &str, region: usize, stride: usize) {
    let path = directory.join(name);
    let sound = std::fs::read(&path).unwrap();
    for at in (0..region.min(sound.len())).step_by(stride) {
        let mut damaged = sound.clone();
        damaged[at] ^= [0x01, 0x80, 0xff, 0x20][at / stride % 4];
        std::fs::write(&path, &damaged).unwrap();
        inspect_and_load(directory);
        std::fs::write(&path, &sound[..at]).unwrap();
        inspect_and_load(directory);
    }
    std::fs::write(&path, &sound).unwrap();
    assert!(
        load(files(directory), LoadOptions::default()).is_ok(),
        "the sound file is back"
    );
}

#[test]
fn damaged_directories() {
    let model = tiny::model();
    mutate(model.path(), "config.json", 600, 5);
    mutate(model.path(), "model.safetensors", 2000, 29);
    mutate(model.path(), "tokenizer_config.json", 300, 11);
}

#[test]
fn damaged_gguf() {
    let (model, directory) = (tiny::model(), tempfile::tempdir().unwrap());
    convert::model(model.path(), "gpt-2", &directory.path().join("model.gguf"));
    mutate(directory.path(), "model.gguf", 1200, 9);
}

#[test]
fn no_model_at_all() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("notes.txt"), "nothing").unwrap();
    let Err(error) = load(files(directory.path()), LoadOptions::default()) else {
        panic!("this is no model")
    };
    assert_eq!(error.code, "witness::serve::no_model");
    let model = tiny::model();
    std::fs::remove_file(model.path().join("tokenizer.json")).unwrap();
    let Err(error) = load(files(model.path()), LoadOptions::default()) else {
        panic!("it has no tokenizer")
    };
    assert!(error.to_string().contains("tokenizer"), "{error}");
}
