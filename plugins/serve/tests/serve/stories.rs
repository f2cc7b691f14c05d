//! Small models that tell stories: the recorded text comes out, whatever the container.

use serde_json::Value;
use witness_plugin_protocol::{LoadOptions, Prompt};

use crate::support::{file, files, greedy, load, shared};

/// Takes seconds: four loads and 500 tokens twice.
#[test]
fn recorded_stories() {
    let Some(root) = shared("models") else { return };
    let truth: Value = serde_json::from_slice(&std::fs::read(root.join("ground-truth.json")).unwrap()).unwrap();
    let ids = |value: &Value| -> Vec<u32> {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
            .collect()
    };
    for name in ["stories260K", "tinystories-656k"] {
        for files in [
            files(&root.join(format!("{name}-hf"))),
            file(&root.join(format!("{name}-gguf/{name}-f32.gguf"))),
        ] {
            let mut session = load(files, LoadOptions::default()).unwrap();
            for case in truth["cases"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|case| case["model"] == name)
            {
                let (prompt, expected) = (ids(&case["prompt_ids"]), ids(&case["generated_ids"]));
                let answer = session.run(greedy(Prompt::Tokens { ids: prompt }, expected.len() as i64));
                assert_eq!(answer.ids, expected, "{name} as {}", session.reply.info.format);
                // The recorded text begins with the prompt's.
                let text = case["text"].as_str().unwrap();
                assert!(
                    text.ends_with(answer.text().trim_start()),
                    "{:?} is no end of {text:?}",
                    answer.text()
                );
            }
        }
    }
}
