//! A store that is written for Ollama, opened again by this program as it opens any store of Ollama's: what was trained answers from there as before.

use serde_json::Value;

use crate::desk::{Desk, Ran, toy};
use crate::harness::checkout;
use crate::harness::gguf::{self, Shape};

const QUESTION: &str = "How do I attest a Go build?";

/// A path of the quick start, whose tokenizer a GGUF file can say.
fn quickstart(name: &str) -> String {
    let path = checkout().join("modelfiles/quickstart").join(name);
    path.to_str().unwrap().to_owned()
}

/// Runs at a desk whose store is another directory.
fn run_on(desk: &Desk, models: &std::path::Path, arguments: &[&str]) -> Ran {
    crate::desk::finish(desk.command().env("WITNESS_MODELS", models).args(arguments))
}

/// The manifest and the configuration, as Ollama finds them.
fn read(models: &std::path::Path, name: &str) -> (Value, Value) {
    let manifest = models.join("manifests/registry.ollama.ai/library").join(name);
    let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    let digest = manifest["config"]["digest"].as_str().unwrap().replace(':', "-");
    let config = std::fs::read(models.join("blobs").join(digest)).unwrap();
    (manifest, serde_json::from_slice(&config).unwrap())
}

fn types(manifest: &Value) -> Vec<&str> {
    let layers = manifest["layers"].as_array().unwrap();
    layers
        .iter()
        .map(|layer| layer["mediaType"].as_str().unwrap())
        .collect()
}

#[test]
fn a_model_of_directories_becomes_one_that_ollama_takes() {
    let desk = Desk::new();
    desk.run(["create", "expert", "-f", &quickstart("Modelfile")]).ok();
    let wanted = desk.run(["run", "expert", QUESTION]).ok();
    let models = desk.path().join("ollama/models");
    let out = models.to_str().unwrap();
    let ran = desk.run(["export", "expert", out, "--to", "ollama"]);
    assert!(
        ran.err.contains("ollama run expert") && ran.err.contains("no Go template"),
        "{}",
        ran.err
    );
    ran.ok();
    let (manifest, config) = read(&models, "expert/latest");
    assert_eq!(config["model_format"], "gguf", "{config}");
    assert_eq!(config["model_family"], "llama", "{config}");
    assert!(config.get("witness").is_none(), "{config}");
    let mut seen = types(&manifest);
    assert!(
        seen.iter()
            .all(|kind| kind.starts_with("application/vnd.ollama.image.")),
        "{seen:?}"
    );
    seen.truncate(2);
    assert_eq!(
        seen,
        [
            "application/vnd.ollama.image.model",
            "application/vnd.ollama.image.adapter"
        ]
    );
    // Merged and smaller, into the same store, beside the first.
    desk.run(["cp", "expert", "small"]).ok();
    desk.run([
        "export",
        "small",
        out,
        "--to",
        "ollama",
        "--merge",
        "--quantize",
        "q8_0",
    ])
    .ok();
    let (manifest, config) = read(&models, "small/latest");
    assert_eq!(config["file_type"], "Q8_0");
    assert!(!types(&manifest).contains(&"application/vnd.ollama.image.adapter"));

    let other = Desk::new();
    assert_eq!(run_on(&other, &models, &["run", "expert", QUESTION]).ok(), wanted);
    assert!(!run_on(&other, &models, &["run", "small", QUESTION]).ok().is_empty());
    let shown = run_on(&other, &models, &["show", "expert"]).ok();
    assert!(shown.contains("llama"), "{shown}");
    run_on(&other, &models, &["fsck"]).ok();
}

#[test]
fn a_gguf_model_goes_as_it_is() {
    let desk = Desk::new();
    gguf::write(&desk.path().join("base.gguf"), Shape::small(1), "base");
    let recipe = "FROM ./base.gguf\nTEMPLATE \"{{ .System }}{{ .Prompt }}\"\nSYSTEM Be kind.\nPARAMETER num_predict 6\nPARAMETER temperature 0\nLICENSE MIT\n";
    let recipe = desk.write("Modelfile", recipe);
    desk.run(["create", "base:v1", "-f", &recipe]).ok();
    let wanted = desk.run(["run", "base:v1", "hello"]).ok();
    let models = desk.path().join("models-of-ollama");
    let out = models.to_str().unwrap();
    let ran = desk.run(["export", "base:v1", out, "--to", "ollama"]);
    assert!(!ran.err.contains("warning"), "{}", ran.err);
    ran.ok();
    let (manifest, _) = read(&models, "base/v1");
    let weights = manifest["layers"][0]["digest"].as_str().unwrap().replace(':', "-");
    let stored = std::fs::read(models.join("blobs").join(weights)).unwrap();
    assert_eq!(stored, std::fs::read(desk.path().join("base.gguf")).unwrap());
    let refused = desk.run(["export", "base:v1", out, "--to", "ollama"]).refused(4);
    assert!(refused.contains("--force"), "{refused}");
    desk.run(["export", "base:v1", out, "--to", "ollama", "--force"]).ok();
    let other = Desk::new();
    assert_eq!(run_on(&other, &models, &["run", "base:v1", "hello"]).ok(), wanted);
    let shown = run_on(&other, &models, &["show", "base:v1", "--template"]).ok();
    assert_eq!(shown.trim_end(), "{{ .System }}{{ .Prompt }}");
}

/// A draft stays behind, which is told; without one nothing is.
#[test]
fn a_draft_that_stays_behind_is_told() {
    let desk = Desk::new();
    for (name, seed) in [("base", 1), ("small", 2)] {
        gguf::write(&desk.path().join(format!("{name}.gguf")), Shape::small(seed), name);
    }
    let recipe = desk.write(
        "Modelfile",
        "FROM ./base.gguf\nDRAFT ./small.gguf\nPARAMETER temperature 0\n",
    );
    desk.run(["create", "fast", "-f", &recipe]).ok();
    let ran = desk.run(["export", "fast", "out", "--to", "ollama"]);
    assert!(
        ran.err.contains("warning: the draft `small` is left out") && ran.err.contains("--to bundle"),
        "{}",
        ran.err
    );
    ran.ok();
    let (manifest, _) = read(&desk.path().join("out"), "fast/latest");
    assert!(
        types(&manifest)
            .iter()
            .all(|kind| kind.starts_with("application/vnd.ollama.image.")),
        "{manifest}"
    );
    let recipe = desk.write("Modelfile", "FROM ./base.gguf\n");
    desk.run(["create", "plain", "-f", &recipe]).ok();
    let ran = desk.run(["export", "plain", "out", "--to", "ollama"]);
    assert!(!ran.err.contains("draft"), "{}", ran.err);
    ran.ok();
}

#[test]
fn what_ollama_cannot_take_is_told() {
    let desk = Desk::with_quick();
    let refused = desk.run(["export", "quick", "out", "--to", "ollama"]).refused(2);
    assert!(
        refused.contains("--adapter") && refused.contains("guide, pirate"),
        "{refused}"
    );
    // What GGUF cannot say is told and not lost: the toy's tokenizer takes whole words.
    let refused = desk.run(["export", "quick", "out", "--to", "ollama", "--adapter", "base"]);
    assert!(
        refused.code != 0 && refused.err.contains("tokenizer.json"),
        "{}",
        refused.err
    );
    assert!(!desk.path().join("out/manifests/registry.ollama.ai").exists());
    desk.write("full/notes.txt", "mine");
    let refused = desk
        .run(["export", "quick", "full", "--to", "ollama", "--adapter", "base"])
        .refused(4);
    assert!(refused.contains("neither empty nor a store"), "{refused}");
    let recipe = desk.write("Modelfile", format!("FROM {}\n", toy("base")));
    desk.run(["create", "bare", "-f", &recipe]).ok();
    let refused = desk
        .run(["export", "bare", "out", "--to", "ollama", "--merge"])
        .refused(2);
    assert!(refused.contains("no adapter to merge"), "{refused}");
}
