//! The recorded chats again, through GGUF: bases with the converter's row order, PEFT adapters on them, and GGUF adapters on both forms.

use witness_plugin_protocol::{FileRef, LoadOptions};

use crate::convert;
use crate::oracle::{alternate, compare};
use crate::support::{file, files, greedy, load, shared, text};
use crate::tiny;

#[test]
fn peft_adapters_on_gguf_bases() {
    let directory = tempfile::tempdir().unwrap();
    for (family, pre, adapters) in [
        ("llama", "llama-bpe", &["lora_50", "lora_all_linear_rslora_10"][..]),
        ("qwen2", "qwen2", &["lora_50"]),
    ] {
        let Some(root) = shared(&format!("oracle/{family}")) else {
            return;
        };
        let path = directory.path().join(format!("{family}.gguf"));
        convert::model(&root.join("base"), pre, &path);
        alternate(file(&path), &root, adapters);
    }
}

/// A GGUF adapter for architecture llama has interleaved rows in lora_B; on either form of the base it says what the PEFT one says.
#[test]
fn gguf_adapters_on_both_forms() {
    let Some(root) = shared("oracle/llama") else { return };
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("base.gguf");
    convert::model(&root.join("base"), "llama-bpe", &base);
    let lora = directory.path().join("lora.gguf");
    convert::adapter(&root.join("lora_50/final_adapter"), "llama", 4, 2, &lora);
    let bases: [Vec<FileRef>; 2] = [files(&root.join("base")), file(&base)];
    for base in bases {
        let mut session = load(base, LoadOptions::default()).unwrap();
        let reply = session.adapter("lora", file(&lora)).unwrap();
        assert_eq!(
            (reply.info.format.as_str(), reply.info.rank, reply.info.alpha),
            ("gguf", 16, 32.0)
        );
        compare(&mut session, &root.join("lora_50/adapter_greedy.json"), Some("lora"));
    }
}

/// Llama 3's rotary scaling is a rule in one format and a tensor of divisors in the other; both give the same answer, which is not that
/// of the model without it.
#[test]
fn scaled_rotary_positions_in_both_forms() {
    let directory = tiny::model();
    let prompt = || text(&"a prompt long enough for low frequencies to matter ".repeat(4));
    let plain = load(files(directory.path()), LoadOptions::default())
        .unwrap()
        .run(greedy(prompt(), 24))
        .ids;
    let path = directory.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["rope_scaling"] = serde_json::json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    std::fs::write(&path, config.to_string()).unwrap();
    let scaled = load(files(directory.path()), LoadOptions::default())
        .unwrap()
        .run(greedy(prompt(), 24))
        .ids;
    let gguf = tempfile::tempdir().unwrap();
    let gguf = gguf.path().join("scaled.gguf");
    convert::model(directory.path(), "gpt-2", &gguf);
    let through_gguf = load(file(&gguf), LoadOptions::default())
        .unwrap()
        .run(greedy(prompt(), 24))
        .ids;
    assert_eq!(scaled, through_gguf);
    assert_ne!(scaled, plain);
}
