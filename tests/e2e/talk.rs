//! The talk, in a pseudo-terminal that Python's standard library gives.

use std::process::Command;

use crate::desk::{Desk, finish};
use crate::harness;

/// Types these lines into `witness run MODEL` and returns what the terminal showed, without its control sequences.
fn talk(desk: &Desk, model: &str, lines: &[&str]) -> Option<String> {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: this test needs python3 for a pseudo-terminal");
        return None;
    }
    let typed = desk.write("typed", lines.join("\n"));
    let aimed = desk.command();
    let mut command = Command::new("python3");
    command
        .arg(harness::checkout().join("tests/compat/talk.py"))
        .arg(typed)
        .arg(env!("CARGO_BIN_EXE_witness"));
    command.args(["run", model, "--nowordwrap"]);
    for (name, value) in aimed.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Some(without_control_sequences(&finish(&mut command).ok()))
}

fn without_control_sequences(shown: &str) -> String {
    let mut plain = String::new();
    let mut characters = shown.chars();
    while let Some(character) = characters.next() {
        match character {
            '\x1b' => {
                // A control sequence ends with a letter.
                let _ = characters.find(char::is_ascii_alphabetic);
            }
            '\r' => {}
            other => plain.push(other),
        }
    }
    plain
}

#[test]
fn a_talk_remembers_switches_and_saves() {
    let desk = Desk::with_quick();
    let lines = [
        "What is a plugin?",
        "/adapter pirate",
        "\"\"\"What is",
        "a manifest?\"\"\"",
        "/adapter nobody",
        "/set parameter temperature 0.5",
        "/set parameter temprature 1",
        "/shwo",
        "/show system",
        "/set system Be kind.",
        "/show system",
        "/save kept",
        "/?",
        "/bye",
    ];
    let Some(shown) = talk(&desk, "quick", &lines) else {
        return;
    };
    for words in [
        "A plugin does the heavy work, such as running a model.",
        "answering with `pirate`",
        "A manifest be the captain's list of every chest aboard.",
        "no adapter `nobody`; there are: guide, pirate, base",
        "set `temperature` to 0.5",
        "did you mean `temperature`?",
        "did you mean `/show`?",
        "Be kind.",
        "saved as `kept`",
        "/set parameter NAME VALUE",
    ] {
        assert!(shown.contains(words), "lacks `{words}`:\n{shown}");
    }
    assert_eq!(desk.run(["show", "kept", "--system"]).ok(), "Be kind.\n");
    assert!(desk.run(["show", "kept", "--parameters"]).ok().contains("0.5"));
    let history = std::fs::read_to_string(desk.path().join("history")).unwrap();
    assert!(history.contains("What is a plugin?"), "{history}");
}

// Ctrl-C at the prompt and Ctrl-D do what a terminal user expects, and a mistake does not end the talk.
#[test]
fn ctrl_c_stays_and_ctrl_d_leaves() {
    let desk = Desk::with_quick();
    let Some(shown) = talk(&desk, "quick", &["^C", "/load nobody", "hi", "^D"]) else {
        return;
    };
    assert!(shown.contains("Type /bye"), "{shown}");
    assert!(shown.contains("`nobody`"), "{shown}");
    assert!(shown.contains("Hello! I am the toy model"), "{shown}");
}

// Ctrl-C stops an answer that does not come, not the program: the talk goes on at its prompt.
#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let desk = Desk::new();
    desk.write("echo.hostile", "HOSTILE1\n");
    desk.run_with(
        ["create", "mute", "-f", "-"],
        "FROM ./echo.hostile\nTEMPLATE {{ messages[-1].content }}\n",
    )
    .ok();
    let lines = ["hostile! step:hang", "~^C", "/set verbos", "/bye"];
    let Some(shown) = talk(&desk, "mute", &lines) else {
        return;
    };
    assert!(shown.contains("did you mean `verbose`?"), "{shown}");
}
