//! Small real models tell the stories that an independent reference recorded, from either container, through the whole program.

use serde_json::Value;

use crate::desk::{Desk, shared};

// A base model without a chat template continues its prompt as it stands.
#[test]
fn the_recorded_stories_come_out() {
    let Some(shared) = shared() else { return };
    let models = shared.join("models");
    let truth: Value = serde_json::from_slice(&std::fs::read(models.join("ground-truth.json")).unwrap()).unwrap();
    let cases = truth["cases"].as_array().unwrap();
    let desk = Desk::new();
    for (name, prompt) in [
        ("stories260K", "Lily and Tom went to the"),
        ("tinystories-656k", "Once upon a time"),
    ] {
        let text_of = |case: &Value| {
            case["text"]
                .as_str()
                .unwrap()
                .trim_start_matches("<|start_story|> ")
                .to_owned()
        };
        let told = |case: &&Value| case["model"] == name && text_of(case).starts_with(prompt);
        // The reference starts one case from nothing but the begin mark; its prompt is not text.
        let case = cases
            .iter()
            .filter(told)
            .find(|case| case["prompt_ids"].as_array().unwrap().len() > 1)
            .unwrap();
        let count = format!("num_predict={}", case["generated_ids"].as_array().unwrap().len());
        for source in [format!("{name}-hf"), format!("{name}-gguf/{name}-f32.gguf")] {
            let recipe = format!(
                "FROM {}\nPARAMETER temperature 0\nPARAMETER repeat_penalty 1\n",
                models.join(&source).display()
            );
            desk.run_with(["create", "story", "-f", "-"], &recipe).ok();
            let answer = desk.run(["run", "story", "--param", &count, prompt]).ok();
            let text = text_of(case);
            let expected = text.strip_prefix(prompt).unwrap();
            assert_eq!(answer.trim(), expected.trim(), "{source}");
        }
    }
}
