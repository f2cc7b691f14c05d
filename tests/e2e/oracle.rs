//! The reference's own tokens: bases and adapters that PEFT trained, created from a Modelfile, asked greedily through the whole program.
//! Recorded by HF transformers and PEFT in float32; see `../shared/oracle/README.md`.

use std::path::Path;

use serde_json::Value;

use crate::desk::{Desk, shared};

/// The adapter of a family, `base` for none, with the record of its answers.
const FAMILIES: [(&str, &[(&str, &str)]); 2] = [
    (
        "llama",
        &[
            ("base", "base_greedy.json"),
            ("tuned", "lora_50/adapter_greedy.json"),
            ("rslora", "lora_all_linear_rslora_10/adapter_greedy.json"),
        ],
    ),
    (
        "qwen2",
        &[("base", "base_greedy.json"), ("tuned", "lora_50/adapter_greedy.json")],
    ),
];

// Two adapters on one base answer in turn, token for token, and the base is loaded once.
#[test]
fn greedy_answers_are_the_recorded_ones() {
    let Some(shared) = shared() else { return };
    let desk = Desk::new();
    for (family, adapters) in FAMILIES {
        let oracle = shared.join("oracle").join(family);
        let mut recipe = format!(
            "FROM {}\nPARAMETER temperature 0\nPARAMETER repeat_penalty 1\n",
            oracle.join("base").display()
        );
        for (name, record) in adapters.iter().filter(|(name, _)| *name != "base") {
            let trained = oracle.join(record).with_file_name("final_adapter");
            recipe += &format!("ADAPTER {} AS {name}\n", trained.display());
        }
        desk.write(&format!("{family}/Modelfile"), recipe);
        desk.run(["create", family, "-f", &format!("{family}/Modelfile")]).ok();
        let records: Vec<(&str, Value)> = adapters
            .iter()
            .map(|(name, record)| (*name, read(&oracle.join(record))))
            .collect();
        let questions = records[0].1.as_array().unwrap().len();
        for question in 0..questions {
            for (adapter, record) in &records {
                compare(&desk, family, adapter, &record[question]);
            }
        }
        let loaded = desk.run(["ps", "--json"]).json();
        let of_family = loaded["models"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|model| model["name"] == format!("{family}:latest"));
        assert_eq!(of_family.count(), 1, "{loaded}");
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn compare(desk: &Desk, model: &str, adapter: &str, record: &Value) {
    let text = |key: &str| record[key].as_str().unwrap();
    let count = format!("num_predict={}", record["greedy_ids"].as_array().unwrap().len());
    let ran = desk.run([
        "run",
        model,
        "--adapter",
        adapter,
        "--param",
        &count,
        "--system",
        text("system"),
        text("prompt"),
    ]);
    let answer = ran.ok();
    // The record keeps the end of the turn as text; an answer ends before it.
    let recorded = text("greedy_text");
    let expected = ["<|eot_id|>", "<|im_end|>", "<|endoftext|>"]
        .iter()
        .fold(recorded, |text, end| text.split(end).next().unwrap_or(text));
    assert_eq!(
        answer.trim_end(),
        expected.trim_end(),
        "{model} with {adapter}: `{}`",
        text("prompt")
    );
}
