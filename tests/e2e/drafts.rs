//! A model with a draft, from its recipe to its answers: it says what it says without, and the draft goes wherever the model goes.

use crate::desk::{Desk, toy};
use crate::harness::gguf::{self, Shape};

const QUESTION: &str = "What is a blob?";

/// A desk with a base called `small`, and models `plain` and `fast`, which differ in that the second has the first of all as its draft.
fn desk() -> Desk {
    let desk = Desk::new();
    let recipe = |draft: &str| {
        let (base, pirate) = (toy("base"), toy("pirate"));
        format!("FROM {base}\nADAPTER {pirate} AS pirate\n{draft}PARAMETER temperature 0\n")
    };
    let small = format!("FROM {}\nSYSTEM small\n", toy("base"));
    for (name, recipe) in [
        ("small", small),
        ("plain", recipe("")),
        ("fast", recipe("DRAFT small\n")),
    ] {
        let file = desk.write(&format!("{name}.Modelfile"), recipe);
        desk.run(["create", name, "-f", &file]).ok();
    }
    desk
}

/// Asks with the adapter and without, each drawn too, in one worker.
fn answers(desk: &Desk, model: &str) -> Vec<String> {
    let mut answers = Vec::new();
    for adapter in ["pirate", "base"] {
        for drawn in [
            &["--param", "temperature=0"][..],
            &["--param", "temperature=0.8", "--param", "seed=7"],
        ] {
            answers.push(
                desk.run([&["run", model, "--adapter", adapter, QUESTION], drawn].concat())
                    .ok(),
            );
        }
    }
    answers
}

#[test]
fn a_model_says_with_its_draft_what_it_says_without() {
    let desk = desk();
    let expected = answers(&desk, "plain");
    let before = desk.run(["ps", "--json"]).json();
    assert_eq!(answers(&desk, "fast"), expected);
    let after = desk.run(["ps", "--json"]).json();
    assert_eq!(after["models"].as_array().unwrap().len(), 1, "one base for both");
    assert_eq!(after["models"][0]["worker_pid"], before["models"][0]["worker_pid"]);
    assert_eq!(after["models"][0]["drafts"][0], "small:latest");
    let bytes = |ps: &serde_json::Value| ps["models"][0]["size"].as_u64().unwrap();
    assert!(bytes(&after) > bytes(&before), "{before} {after}");
    assert!(desk.run(["ps"]).ok().contains("small:latest"));
    let shown = desk.run(["show", "fast"]).ok();
    assert!(shown.contains("Draft\n  small:latest   llama BF16"), "{shown}");
    assert!(!desk.run(["ps"]).err.contains("not used"));
    // Its own name goes, and a worker that knows nothing of it comes.
    desk.run(["rm", "small"]).ok();
    desk.run(["stop", "fast"]).ok();
    desk.run(["fsck"]).ok();
    assert_eq!(answers(&desk, "fast"), expected);
    assert_eq!(
        desk.run(["ps", "--json"]).json()["models"][0]["drafts"][0],
        "small:latest"
    );
}

#[test]
fn a_draft_goes_with_its_model() {
    let desk = desk();
    let expected = answers(&desk, "fast");
    let file = desk.path().join("fast.tar").to_str().unwrap().to_owned();
    desk.run(["export", "fast", &file, "--to", "bundle"]).ok();
    let other = Desk::new();
    let ran = other.run(["import", &file]);
    assert!(!ran.err.contains("warning"), "{}", ran.err);
    ran.ok();
    assert_eq!(answers(&other, "fast"), expected);
    assert_eq!(
        other.run(["ps", "--json"]).json()["models"][0]["drafts"][0],
        "small:latest"
    );
    other.run(["fsck"]).ok();
}

// Every refusal says what is wrong with the draft, what differs, and what to do.
#[test]
fn refusals_name_the_draft() {
    let desk = Desk::with_quick();
    gguf::write(&desk.path().join("other.gguf"), Shape::small(1), "other");
    let base = toy("base");
    for (recipe, code, words) in [
        (format!("FROM {base}\nDRAFT\n"), 2, vec!["Modelfile:2:1", "DRAFT"]),
        (
            format!("FROM {base}\nDRAFT quick\nDRAFT quick\n"),
            2,
            vec!["Modelfile:3:1", "line 2"],
        ),
        (format!("FROM {base}\nDRAFT ./nowhere\n"), 3, vec!["nowhere"]),
        (
            format!("FROM {base}\nDRAFT quik\n"),
            3,
            vec![
                "model `quik` is not here, and `DRAFT` names it",
                "did you mean `quick`?",
            ],
        ),
        (
            format!("FROM {base}\nDRAFT quick\n"),
            5,
            vec!["has adapters", "witness merge"],
        ),
        (
            format!("FROM {base}\nDRAFT ./other.gguf\n"),
            2,
            vec!["vocabulary", "token 0 is", "same tokenizer"],
        ),
    ] {
        desk.write("Modelfile", &recipe);
        let err = desk.run(["create", "bad"]).refused(code);
        for word in words {
            assert!(err.contains(word), "`{recipe}` lacks `{word}`: {err}");
        }
        assert!(err.contains("hint:"), "{err}");
    }
    // Files make a draft as they make a base.
    desk.write(
        "Modelfile",
        format!("FROM {base}\nDRAFT {base}\nPARAMETER temperature 0\n"),
    );
    desk.run(["create", "good"]).ok();
    assert_eq!(
        desk.run(["run", "good", QUESTION]).ok(),
        desk.run(["run", "quick", "--adapter", "base", QUESTION]).ok()
    );
    assert_eq!(desk.run(["ps", "--json"]).json()["models"][0]["drafts"][0], "draft");
}
