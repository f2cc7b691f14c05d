//! A plugin in C, compiled here against the published header: found, checked, loaded, and it answers.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::stage::{LONG, Stage, collect, entry, limits, request};
use crate::{Case, case};
use witness_plugin_host::GenEvent;

pub(crate) fn cases() -> Vec<Case> {
    vec![case("c_plugin::is_found_checked_loaded_and_answers", works)]
}

fn abi_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-abi")
}

/// Compiles a C file to a shared library, warnings being errors.
pub(crate) fn compile(source: &Path, library: &Path) {
    let output = Command::new("cc")
        .args([
            "-std=c11",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-pedantic",
            "-O1",
            "-shared",
            "-fPIC",
            "-I",
        ])
        .arg(abi_directory().join("include"))
        .arg("-o")
        .args([library, source])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn works() {
    let stage = Stage::new();
    std::fs::remove_file(stage.plugin()).unwrap();
    compile(
        &abi_directory().join("examples/echo_plugin.c"),
        &stage.plugins().join("witness_echo.so"),
    );
    let host = stage.host();
    let found = entry(&host).await;
    assert_eq!(found.name(), "echo-c", "{found:?}");
    assert!(host.check(&found.path).await.descriptor().is_some());
    let worker = host.start(&found, limits()).await.unwrap();
    let info = worker.inspect(&stage.inspect_request(), LONG).await.unwrap();
    assert_eq!(info.model.architecture, "echo");
    let (model, reply) = worker.load(&stage.load_request(), LONG).await.unwrap();
    assert_eq!(reply.num_ctx, 256);
    let generation = worker.generate(model, &request("from C with care")).await.unwrap();
    assert_eq!(collect(generation).await.unwrap(), "from C with care");
    let error = worker
        .load_adapter(model, &crate::stage::adapter(), LONG)
        .await
        .unwrap_err();
    assert_eq!(error.code, "echo::no_adapters");
    // Two answers at once, one of them dropped.
    let mut dropped = worker.generate(model, &request("this one is dropped")).await.unwrap();
    assert!(matches!(dropped.recv().await, Some(GenEvent::Token { .. })));
    drop(dropped);
    let second = worker.generate(model, &request("and this one is not")).await.unwrap();
    assert_eq!(collect(second).await.unwrap(), "and this one is not");
    worker.unload(model).await.unwrap();
    worker.stop(LONG).await.unwrap();
}
