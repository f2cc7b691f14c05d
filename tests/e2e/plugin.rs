//! `witness plugin`: ours, one in C, and files that are none.

use std::process::Command;

use crate::desk::Desk;
use crate::harness;

#[test]
fn the_engine_is_listed_and_shown() {
    let desk = Desk::new();
    assert!(desk.run(["plugin", "list"]).ok().contains("serve"));
    let json = desk.run(["plugin", "list", "--json"]).json();
    let names: Vec<_> = json["plugins"]
        .as_array()
        .unwrap()
        .iter()
        .map(|plugin| &plugin["descriptor"]["name"])
        .collect();
    assert!(names.iter().any(|name| *name == "serve"), "{json}");
    let shown = desk.run(["plugin", "show", "serve"]).ok();
    assert!(
        shown.contains("llama") && shown.contains("gguf") && shown.contains("safetensors"),
        "{shown}"
    );
    assert!(
        desk.run(["plugin", "show", "sevre"])
            .refused(3)
            .contains("did you mean `serve`?")
    );
}

#[test]
fn files_that_are_no_plugins_are_refused_before_they_are_run() {
    let desk = Desk::new();
    let text = desk.write("plugins-here/libwitness_text.so", "#!/bin/sh\nexit 0\n");
    let truncated = {
        let elf = std::fs::read(env!("CARGO_BIN_EXE_witness")).unwrap();
        desk.write("plugins-here/libwitness_cut.so", &elf[..4096])
    };
    for path in [
        text,
        truncated,
        desk.path().join("absent.so").to_str().unwrap().to_owned(),
    ] {
        let ran = desk.run(["plugin", "check", &path]);
        assert_ne!(ran.code, 0, "{path}: {}", ran.out);
        assert!(ran.err.contains("error["), "{path}: {}", ran.err);
    }
    // The daemon is unharmed.
    assert!(desk.run(["plugin", "list"]).ok().contains("serve"));
}

// The C plugin that the repository publishes as an example, built with the C compiler, is found and accepted.
#[test]
fn a_plugin_in_c_is_accepted() {
    let abi = harness::checkout().join("runtime/plugin-abi");
    let desk = Desk::new();
    std::fs::create_dir(desk.path().join("plugins")).unwrap();
    let library = desk.path().join("plugins/libwitness_echo.so");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wall", "-o"])
        .arg(&library)
        .arg("-I")
        .arg(abi.join("include"))
        .arg(abi.join("examples/echo_plugin.c"))
        .status();
    match built {
        Ok(status) => assert!(status.success()),
        Err(error) => return eprintln!("skipped: this test needs a C compiler: {error}"),
    }
    desk.run(["plugin", "check", library.to_str().unwrap()]).ok();
    let list = desk.run(["plugin", "list", "--json"]).json();
    let file = library.to_str().unwrap();
    assert!(
        list["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .any(|plugin| plugin["path"] == file && plugin.get("refused").is_none()),
        "{list}"
    );
}
