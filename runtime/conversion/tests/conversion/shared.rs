//! Real tokenizers and models from beside the checkout, against what the reference made of them; skipped where they are not there.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};
use witness_conversion::{DenseType, GgufPlan};
use witness_formats::{FileSet, gguf::Gguf};

use crate::{
    reference::value_of,
    support::{data, digest, json, shared, write_weights},
};

/// Where the result differs on purpose, in addition to the list of reference.rs: source, key, and why.
const ON_PURPOSE: [(&str, &str, &str); 10] = [
    (
        "-hf",
        "general.basename",
        "it was recorded under another directory's name",
    ),
    (
        "llama3",
        "tokenizer.ggml.pre",
        "without a beginning token in its tokenizer.json the reference's hash is that of another model; the definition takes whole words",
    ),
    (
        "llama3",
        "tokenizer.ggml.add_bos_token",
        "its tokenizer.json has no post-processor, so nothing stands before a text",
    ),
    (
        "qwen2.5",
        "tokenizer.chat_template",
        "chat_template.jinja wins over tokenizer_config.json, as in transformers",
    ),
    (
        "mistral",
        "tokenizer.ggml.scores",
        "the order of merges instead of -1000",
    ),
    ("mistral", "tokenizer.ggml.token_type", "<unk> is the unknown token"),
    ("-hf", "tokenizer.ggml.scores", "the order of merges instead of -1000"),
    ("-hf", "tokenizer.ggml.token_type", "<unk> is the unknown token"),
    (
        "oracle",
        "general.name",
        "it was recorded under another directory's name",
    ),
    ("-hf", "general.name", "it was recorded under another directory's name"),
];

fn keys_of(gguf: &Gguf) -> BTreeMap<String, Value> {
    gguf.metadata()
        .iter()
        .map(|(key, value)| (key.to_owned(), value_of(value)))
        .collect()
}

fn compare(source: &str, ours: &BTreeMap<String, Value>, theirs: &Value, wrong: &mut Vec<String>) {
    let theirs = theirs.as_object().unwrap();
    for key in ours.keys().chain(theirs.keys()) {
        let is_on_purpose = ON_PURPOSE
            .iter()
            .any(|(part, known, _)| source.contains(part) && known == key);
        if ours.get(key) != theirs.get(key) && !is_on_purpose {
            wrong.push(format!(
                "{source}: {key}: ours {:?}, the reference's {:?}",
                ours.get(key),
                theirs.get(key)
            ));
        }
    }
}

#[test]
fn whole_models_are_the_references() {
    let recorded = json(&data().join("shared.json"));
    let home = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for (path, expected) in recorded["whole"].as_object().unwrap() {
        let Some(directory) = shared(path) else { return };
        let plan = GgufPlan::from_hf(&FileSet::from_directory(&directory).unwrap(), None).unwrap();
        let out = home.path().join("out.gguf");
        plan.write(DenseType::F16, fs::File::create(&out).unwrap()).unwrap();
        let gguf = Gguf::open_file(&out).unwrap();
        compare(path, &keys_of(&gguf), &expected["keys"], &mut wrong);
        for tensor in gguf.tensors() {
            let ours = json!([tensor.ggml_type.name(), digest(gguf.tensor_data(tensor).unwrap())]);
            // This model ties its output and was saved with the one matrix under the output's name; the reference then leaves the file without
            // an embedding, which nothing can load.
            let is_only_output = path.contains("tinystories") && tensor.name == "token_embd.weight";
            let their_name = if is_only_output { "output.weight" } else { &tensor.name };
            if expected["tensors"][their_name] != ours {
                wrong.push(format!("{path}: {}", tensor.name));
            }
        }
        assert_eq!(
            gguf.tensors().len(),
            expected["tensors"].as_object().unwrap().len(),
            "{path}"
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn real_vocabularies_are_the_references() {
    let recorded = json(&data().join("shared.json"));
    let mut wrong = Vec::new();
    for (name, expected) in recorded["tokenizers"].as_object().unwrap() {
        let Some(directory) = shared(expected["path"].as_str().unwrap()) else {
            return;
        };
        let home = tempfile::tempdir().unwrap();
        for (source, target) in expected["files"].as_object().unwrap() {
            fs::copy(directory.join(source), home.path().join(target.as_str().unwrap())).unwrap();
        }
        if !home.path().join("tokenizer_config.json").exists() {
            fs::write(
                home.path().join("tokenizer_config.json"),
                r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#,
            )
            .unwrap();
        }
        let config = &expected["config"];
        fs::write(home.path().join("config.json"), config.to_string()).unwrap();
        let number = |key: &str| config[key].as_u64().unwrap();
        let (hidden, inner, vocab) = (number("hidden_size"), number("intermediate_size"), number("vocab_size"));
        let mut weights = json!({"model.embed_tokens.weight": [vocab, hidden], "model.norm.weight": [hidden]});
        let head = config["head_dim"]
            .as_u64()
            .unwrap_or(hidden / number("num_attention_heads"));
        let (q, kv) = (
            head * number("num_attention_heads"),
            head * number("num_key_value_heads"),
        );
        for (module, shape) in [
            ("input_layernorm", json!([hidden])),
            ("post_attention_layernorm", json!([hidden])),
            ("self_attn.q_proj", json!([q, hidden])),
            ("self_attn.k_proj", json!([kv, hidden])),
            ("self_attn.v_proj", json!([kv, hidden])),
            ("self_attn.o_proj", json!([hidden, q])),
            ("mlp.gate_proj", json!([inner, hidden])),
            ("mlp.up_proj", json!([inner, hidden])),
            ("mlp.down_proj", json!([hidden, inner])),
        ] {
            weights[format!("model.layers.0.{module}.weight")] = shape;
        }
        write_weights(
            &home.path().join("model.safetensors"),
            &weights,
            witness_formats::Dtype::F16,
        );
        let plan = GgufPlan::from_hf(&FileSet::from_directory(home.path()).unwrap(), None)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let out = home.path().join("out.gguf");
        plan.write(DenseType::F16, fs::File::create(&out).unwrap()).unwrap();
        let mut ours = keys_of(&Gguf::open_file(&out).unwrap());
        ours.retain(|key, _| key.starts_with("tokenizer."));
        compare(name, &ours, &expected["keys"], &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
