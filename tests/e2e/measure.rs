//! How good a model is, for real: measured, compared, weighed, suggested; and everything that a person can get wrong.

use serde_json::Value;
use witness_formats::imatrix::Imatrix;

use crate::desk::Desk;
use crate::harness::gguf::{self, Shape};

/// A model whose rows are whole blocks of every type, under the name `base`, and a text.
pub(crate) fn base(desk: &Desk) {
    gguf::write(&desk.path().join("base.gguf"), Shape::small(2), "base");
    let recipe = desk.write("Modelfile", "FROM ./base.gguf\n");
    desk.run(["create", "base", "-f", &recipe]).ok();
    let words = ["hello", "world", "the", "attestation", "is", "signed"];
    let text: Vec<&str> = (0..600).map(|index| words[(index * index + index / 5) % 6]).collect();
    desk.write("text.txt", text.join(" "));
}

#[test]
fn a_model_is_measured_and_compared() {
    let desk = Desk::new();
    base(&desk);
    for kind in ["q8_0", "q2_k"] {
        desk.run(["quantize", "base", kind]).ok();
    }
    let on = ["--text", "text.txt", "--context", "64", "--chunks", "4"];
    let alone = desk.run([&["perplexity", "base", "--json"][..], &on].concat());
    let alone = alone.json();
    assert_eq!(
        (&alone["chunks"], &alone["scored"]),
        (&Value::from(4), &Value::from(4 * 31))
    );
    assert!(alone["perplexity"].as_f64().unwrap() > 1.0);

    let compared = desk.run(
        [
            &["compare", "base", "base", "base:q8_0", "base:q2_k", "--json"][..],
            &on,
        ]
        .concat(),
    );
    let compared = compared.json();
    let mean = |index: usize| compared[index]["divergence"]["mean"].as_f64().unwrap();
    assert_eq!(compared[0]["perplexity"], alone["perplexity"]);
    assert_eq!(compared[0]["divergence"], Value::Null);
    assert_eq!(mean(1), 0.0);
    assert!(mean(2) > 0.0 && mean(3) > mean(2), "{compared}");

    let told = desk.run([&["compare", "base", "base:q8_0"][..], &on].concat());
    assert!(
        told.out.contains("SAME TOP") && told.out.contains("Q8_0"),
        "{}",
        told.out
    );
    assert!(told.err.contains("4 pieces"), "{}", told.err);
    // Nothing is left of it.
    let staging = desk.path().join("models/.witness/tmp");
    assert_eq!(std::fs::read_dir(staging).map_or(0, Iterator::count), 0);
}

#[test]
fn columns_are_weighed_and_the_file_quantizes() {
    let desk = Desk::new();
    base(&desk);
    let on = ["--text", "text.txt", "--context", "64"];
    let told = desk.run([&["imatrix", "base"][..], &on].concat());
    assert!(told.err.contains("14 matrices"), "{}", told.err);
    told.ok();
    let path = desk.path().join("base.imatrix.gguf");
    let whole = Imatrix::read(&path, "base.imatrix.gguf").unwrap();
    assert_eq!(whole.tensors.len(), 14);
    // A file that is there stays as it is.
    let before = std::fs::read(&path).unwrap();
    let refused = desk.run([&["imatrix", "base"][..], &on].concat());
    assert!(refused.err.contains("--force"), "{}", refused.err);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    desk.run([&["imatrix", "base", "-o", "old.dat"][..], &on].concat()).ok();
    let old = Imatrix::read(&desk.path().join("old.dat"), "old.dat").unwrap();
    let means = |imatrix: &Imatrix| imatrix.tensors["blk.1.ffn_down.weight"].means();
    let pairs = means(&old).into_iter().zip(means(&whole));
    assert!(
        pairs
            .into_iter()
            .all(|(old, new)| (old - new).abs() <= 1e-6 * new.abs())
    );
    // The one type that does without importance badly enough to refuse.
    let refused = desk.run(["quantize", "base", "q2_k_s"]).err;
    assert!(refused.contains("imatrix"), "{refused}");
    for (file, name) in [("base.imatrix.gguf", "one"), ("old.dat", "two")] {
        desk.run(["quantize", "base", "q2_k_s", "--imatrix", file, "--as", name])
            .ok();
        assert!(!desk.run(["run", name, "hello"]).ok().is_empty());
    }
}

#[test]
fn a_type_is_suggested_for_a_memory() {
    let desk = Desk::new();
    base(&desk);
    let on = ["--text", "text.txt", "--context", "64", "--chunks", "2"];
    let suggest = ["quantize", "base", "--suggest", "--types", "q2_k,q8_0,q4_k_m"];
    let told = desk.run([&suggest[..], &on].concat());
    assert!(told.err.contains("witness quantize base q8_0"), "{}", told.err);
    let rows: Vec<&str> = told
        .out
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(rows, ["Q8_0", "Q4_K_M", "Q2_K", "F16"]);
    // Only what fits is tried, and what cannot fit is told.
    let all = desk.run([&suggest[..], &on, &["--json"]].concat()).json();
    let memory = |index: usize| all[index]["memory_bytes"].as_u64().unwrap();
    let limit = (memory(0) - 1).to_string();
    let fewer = desk
        .run([&suggest[..], &on, &["--json", "--memory", &limit]].concat())
        .json();
    assert_eq!(
        (&fewer[0]["quantization"], fewer.as_array().unwrap().len()),
        (&Value::from("Q4_K_M"), 3)
    );
    let refused = desk.run([&suggest[..], &on, &["--memory", "1KB"]].concat()).err;
    assert!(refused.contains("more memory"), "{refused}");
    // It makes nothing.
    assert_eq!(desk.run(["list"]).ok().lines().count(), 2);
}

#[test]
fn what_cannot_be_measured_is_told() {
    let desk = Desk::new();
    base(&desk);
    desk.write("short.txt", "hi");
    for (arguments, word) in [
        (&["perplexity", "bas", "--text", "text.txt"][..], "did you mean"),
        (&["perplexity", "base", "--text", "nowhere.txt"], "nowhere.txt"),
        (&["perplexity", "base", "--text", "short.txt"], "short.txt"),
        (
            &["perplexity", "base", "--text", "text.txt", "--context", "1000000"],
            "--context",
        ),
        (
            &["perplexity", "base", "--text", "text.txt", "--adapter", "none"],
            "no adapter",
        ),
        (&["perplexity", "base"], "--text"),
        (&["compare", "base", "--text", "text.txt"], "NAME"),
        (&["quantize", "base"], "TYPE"),
        (&["quantize", "base", "--suggest"], "--text"),
    ] {
        let told = desk.run(arguments);
        assert!(told.err.contains(word), "{arguments:?}: {}", told.err);
        assert_ne!(told.code, 0, "{arguments:?}");
    }
}
