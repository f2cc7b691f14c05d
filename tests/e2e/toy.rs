//! The toy model of these tests: its bytes can be made again, and the model says what its text says.

use crate::desk::{Desk, toy};

#[path = "../toy/make.rs"]
#[expect(dead_code, reason = "the program's own entry point is not used here")]
mod make;

/// The repository must stay small enough to be cloned without thought.
const BYTES_MAX: usize = 600 << 10;

#[test]
fn making_it_again_gives_the_same_bytes() {
    let answers = std::fs::read_to_string(toy("answers.txt")).unwrap();
    let files = make::files(&answers);
    assert!(files.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() < BYTES_MAX);
    for (name, bytes) in files {
        let stored = std::fs::read(toy(&name)).unwrap();
        assert!(
            stored == bytes,
            "{name} differs: run `cargo run --example make-toy` and look at the difference"
        );
    }
}

// Every answer of every voice, through create, the daemon, the worker and the engine: one question per topic.
#[test]
fn it_says_what_its_text_says() {
    let desk = Desk::with_quick();
    let answers = std::fs::read_to_string(toy("answers.txt")).unwrap();
    let mut question = String::new();
    let mut asked = 0;
    for line in answers
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        if first == "topic" {
            question = format!("Say something: {}?", rest.split(' ').next().unwrap());
            continue;
        }
        let answer = desk.run(["run", "quick", "--adapter", first, &question]).ok();
        assert_eq!(answer.trim_end(), rest, "{first} asked `{question}`");
        asked += 1;
    }
    assert_eq!(asked, 33);
}
