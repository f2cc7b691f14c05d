//! Recorded chats of the reference implementation, from messages to tokens, with two adapters alternately on one base.

use std::path::Path;

use serde_json::Value;
use witness_plugin_protocol::{FileRef, LoadOptions};

use crate::support::{Session, chat, file, files, greedy, load, shared};

/// The recorded continuations of a case: system, user, ids, text.
pub(crate) fn recorded(path: &Path) -> Vec<(String, String, Vec<u32>, String)> {
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let text = |case: &Value, key: &str| case[key].as_str().unwrap().to_owned();
    let ids = |case: &Value| -> Vec<u32> {
        let ids = case["greedy_ids"].as_array().unwrap().iter();
        ids.map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
    };
    cases
        .iter()
        .map(|case| {
            (
                text(case, "system"),
                text(case, "prompt"),
                ids(case),
                text(case, "greedy_text"),
            )
        })
        .collect()
}

/// Asks what was asked of the reference and compares token for token. A sequence ends where the reference's did.
pub(crate) fn compare(session: &mut Session, path: &Path, adapter: Option<&str>) {
    for (system, prompt, ids, text) in recorded(path) {
        let mut request = greedy(chat(&[("system", &system), ("user", &prompt)]), ids.len() as i64);
        request.adapter = adapter.map(str::to_owned);
        let answer = session.run(request);
        assert_eq!(answer.error, None);
        assert_eq!(answer.ids, ids, "{}, adapter {adapter:?}", path.display());
        assert_eq!(
            answer.text().trim_end_matches('\u{fffd}'),
            text.trim_end_matches('\u{fffd}')
        );
        assert_eq!(answer.done.unwrap().generated_tokens, ids.len() as u64);
    }
}

/// Loads a base once and asks it and two adapters in turn.
pub(crate) fn alternate(base: Vec<FileRef>, root: &Path, adapters: &[&str]) {
    let mut session = load(base, LoadOptions::default()).unwrap();
    let bytes = session.model.base_bytes();
    for name in adapters {
        let reply = session
            .adapter(name, files(&root.join(name).join("final_adapter")))
            .unwrap();
        let check = reply.check.unwrap();
        assert!(check.logit_difference_max > 1e-3, "{name}: {check:?}");
        // Loading it again does nothing.
        let again = session
            .adapter(name, files(&root.join(name).join("final_adapter")))
            .unwrap();
        assert_eq!(again.info, reply.info);
    }
    for _ in 0..2 {
        for name in adapters {
            compare(&mut session, &root.join(name).join("adapter_greedy.json"), Some(name));
        }
        compare(&mut session, &root.join("base_greedy.json"), None);
    }
    assert_eq!(session.serve.loads(), 1, "the base is loaded once");
    assert_eq!(session.model.base_bytes(), bytes, "the base is counted once");
}

#[test]
fn llama_and_its_adapters() {
    let Some(root) = shared("oracle/llama") else { return };
    alternate(
        files(&root.join("base")),
        &root,
        &["lora_50", "lora_all_linear_rslora_10"],
    );
}

#[test]
fn qwen2_and_its_adapter() {
    let Some(root) = shared("oracle/qwen2") else { return };
    alternate(files(&root.join("base")), &root, &["lora_50"]);
}

/// The same conversation tokenizes to the ids that the reference recorded.
#[test]
fn prompts_are_the_recorded_ids() {
    for family in ["llama", "qwen2"] {
        let Some(root) = shared(&format!("oracle/{family}")) else {
            return;
        };
        let mut session = load(files(&root.join("base")), LoadOptions::default()).unwrap();
        let logits = file(&root.join("base_logits.safetensors"));
        let tensors = witness_formats::safetensors::SafeTensors::open_file(&logits[0].path).unwrap();
        for (index, (system, prompt, ..)) in recorded(&root.join("base_greedy.json")).into_iter().enumerate() {
            let ids = tensors
                .require(&format!("prompt{index}.input_ids"))
                .unwrap()
                .to_f32()
                .unwrap();
            let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
            let answer = session.run(greedy(chat(&[("system", &system), ("user", &prompt)]), 0));
            assert_eq!(answer.started.prompt_ids, ids, "{family}, prompt {index}");
        }
    }
}
