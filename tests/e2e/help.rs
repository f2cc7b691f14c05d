//! What the program says about itself.

use crate::desk::Desk;

#[test]
fn exit_codes_are_explained_by_help() {
    let desk = Desk::new();
    let codes = desk.run(["exit-codes"]).ok();
    assert!(codes.contains("130  you stopped it"), "{codes}");
    assert!(desk.run(["help", "exit-codes"]).ok().contains("130  you stopped it"));
}

#[test]
fn a_mistyped_verb_is_answered_with_the_right_one() {
    let desk = Desk::new();
    assert!(desk.run(["shwo", "x"]).refused(2).contains("show"));
    assert!(desk.run(["run"]).refused(2).contains("<NAME>"));
    assert!(desk.run(["list", "--jsn"]).refused(2).contains("--json"));
}

#[test]
fn every_shell_gets_completions_with_every_verb() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = desk.run(["completions", shell]).ok();
        assert!(script.contains("fsck") && script.contains("doctor"), "{shell}");
    }
}
