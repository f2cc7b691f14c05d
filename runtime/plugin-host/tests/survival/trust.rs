//! Which files are opened as plugins, and what is said about the others.

use std::os::unix::fs::PermissionsExt;

use crate::stage::{LONG, Stage, copy_to, entry, hostile_library, start, text_of, whole_life};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("trust::what_others_can_write_is_refused", writable),
        case("trust::a_symbolic_link_is_judged_by_its_target", link),
        case(
            "trust::truncated_and_foreign_files_are_refused_with_the_reason",
            damaged,
        ),
        case("trust::a_library_without_the_symbol_is_no_plugin", no_symbol),
        case("trust::a_replaced_file_is_looked_at_again", replaced),
        case("trust::a_second_plugin_of_a_name_is_refused", shadowed),
    ]
}

fn set_mode(path: &std::path::Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Returns what is said about the one plugin of a stage.
async fn refusal(stage: &Stage) -> String {
    let host = stage.host();
    text_of(entry(&host).await.refusal().expect("it is accepted"))
}

async fn writable() {
    let stage = Stage::new();
    set_mode(&stage.plugin(), 0o757);
    assert!(refusal(&stage).await.contains("can be written by everybody (mode 757)"));
    set_mode(&stage.plugin(), 0o755);
    set_mode(&stage.plugins(), 0o1777);
    assert!(
        refusal(&stage)
            .await
            .contains("can be written by everybody (mode 1777)")
    );
    set_mode(&stage.plugins(), 0o755);
    whole_life(&stage, &stage.host(), LONG).await.unwrap();
}

async fn link() {
    let stage = Stage::new();
    let open = stage.directory.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::rename(stage.plugin(), open.join("target.so")).unwrap();
    std::os::unix::fs::symlink(open.join("target.so"), stage.plugin()).unwrap();
    whole_life(&stage, &stage.host(), LONG).await.unwrap();
    set_mode(&open, 0o777);
    assert!(refusal(&stage).await.contains("can be written by everybody"));
}

async fn damaged() {
    let stage = Stage::new();
    let whole = std::fs::read(hostile_library()).unwrap();
    let mut foreign = whole.clone();
    foreign[18] = 243;
    let half = whole.len() / 2;
    for (bytes, expected) in [
        (&b""[..], "the file has 0 bytes"),
        (&whole[..63], "the file has 63 bytes"),
        (&whole[..100], "cut short"),
        (&whole[..half], "cut short"),
        (&whole[..whole.len() - 1], "cut short"),
        (
            &b"#!/bin/sh\necho hello, this is no library but a script of some length\n"[..],
            "it starts with [23, 21",
        ),
        (&foreign[..], "it is for ELF machine 243"),
    ] {
        std::fs::write(stage.plugin(), bytes).unwrap();
        let refusal = refusal(&stage).await;
        assert!(
            refusal.contains("is not a shared library that this machine can load"),
            "{refusal}"
        );
        assert!(refusal.contains(expected), "{expected}: {refusal}");
    }
    copy_to(hostile_library(), &stage.plugin());
    stage.prove_good().await;
}

async fn no_symbol() {
    let stage = Stage::new();
    let source = stage.directory.path().join("empty.c");
    std::fs::write(&source, "int witness_nothing(void) { return 0; }\n").unwrap();
    crate::c_plugin::compile(&source, &stage.plugin());
    let refusal = refusal(&stage).await;
    assert!(
        refusal.contains("it has no symbol `witness_plugin_entry_v1`"),
        "{refusal}"
    );
    assert!(refusal.contains("this program speaks plugin ABI 1.1"), "{refusal}");
}

/// The same path with other content: described anew, and a stale entry does not start.
async fn replaced() {
    let stage = Stage::new();
    let host = stage.host();
    let before = entry(&host).await;
    std::fs::remove_file(stage.plugin()).unwrap();
    copy_to(hostile_library(), &stage.plugin());
    let error = host.start(&before, crate::stage::limits()).await.err().unwrap();
    assert_eq!(error.code, "witness::plugin::changed");
    start(&host).await.unwrap();
}

async fn shadowed() {
    let stage = Stage::new();
    copy_to(&stage.plugin(), &stage.plugins().join("witness_second.so"));
    let entries = stage.host().plugins().await;
    assert!(entries[0].descriptor().is_some());
    assert_eq!(entries[1].refusal().unwrap().code, "witness::plugin::shadowed");
}
