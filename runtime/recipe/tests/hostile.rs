//! Texts that mean harm: each is answered, quickly and without a panic.

use witness_recipe::{Layers, NODES_MAX, Recipe, TEXT_BYTES_MAX, Text};

fn answers(text: &str) -> bool {
    Recipe::resolve(Layers {
        text: Some(Text {
            name: "recipe.yml",
            text,
        }),
        ..Layers::default()
    })
    .is_ok()
}

#[test]
fn depth_size_and_aliases_are_limited() {
    let deep = |open: &str, close: &str, depth: usize| format!("base: {}{}\n", open.repeat(depth), close.repeat(depth));
    let mut lines = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let items = vec![format!("*a{}", level - 1); 10].join(", ");
        lines += &format!("a{level}: &a{level} [{items}]\n");
    }
    let block: String = (0..2_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    let merges: String = (0..3_000).map(|n| format!("m{n}: {{<<: *x}}\n")).collect();
    for (name, text) in [
        ("lists", deep("[", "]", 100_000)),
        ("maps", deep("{a: ", "}", 100_000)),
        ("blocks", block),
        ("laughs", lines),
        ("merges", format!("x: &x {{a: 1}}\n{merges}")),
        ("itself", "a: &a [*a]\n".to_owned()),
        ("many values", format!("base: [{}]\n", "1,".repeat(NODES_MAX + 10))),
        ("many bytes", format!("base: {}\n", "x".repeat(TEXT_BYTES_MAX))),
        ("two documents", "base: x\n---\nbase: y\n".to_owned()),
        ("a tag", "base: !!binary '####'\n".to_owned()),
        ("infinity", "learning_rate: .inf\n".to_owned()),
        ("no number", "learning_rate: .nan\n".to_owned()),
        ("a large number", "seed: 99999999999999999999999999\n".to_owned()),
        ("a negative number", "micro_batch_size: -1\n".to_owned()),
        ("a key that is a list", "[a, b]: c\n".to_owned()),
        ("control characters", "base: \"\\u0000\u{7}\"\nbas\u{1}: 1\n".to_owned()),
    ] {
        assert!(!answers(&text), "{name}");
    }
    assert!(answers("base: x\nseed: 18446744073709551615\n"));
    assert!(answers(""));
    assert!(answers("# nothing\n"));
    assert!(answers("{\"base\": \"x\", \"data\": [\"a.jsonl\"]}"));
    // What YAML has beside the plain form: aliases and merges of honest size.
    assert!(answers("lora: &l {r: 4}\nscratch: {config: {x: *l}}\n"));
}

// A text cut anywhere, or with a byte changed, is a recipe or a fault.
#[test]
fn cut_and_mutated_texts_are_answered() {
    let text = "base_model: x\ndatasets:\n  - path: a.jsonl\n    type: chat_template\n    roles: {user: [human]}\nadapter: lora\nlora_r: 8\nspecial_tokens: {pad_token: '<|x|>'}\nlearning_rate: 2e-4\nevals_per_epoch: 4\neval_steps: 100\n";
    for end in 0..=text.len() {
        answers(&text[..end]);
    }
    let mut state = 7_u64;
    let mut next = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as usize) % below
    };
    const SIGNS: &[u8] = b":{}[]-&*!|>'\"%@`#,?\n\t 0a";
    for _ in 0..1_500 {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..=next(4) {
            let at = next(bytes.len());
            bytes[at] = SIGNS[next(SIGNS.len())];
        }
        answers(&String::from_utf8_lossy(&bytes));
    }
}
