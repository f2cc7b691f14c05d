//! PyPI's `ollama` client, unmodified, against the daemon: lists, shows, creates, chats, generates, copies and deletes.

use std::process::Command;

use crate::desk::{finish, toy};
use crate::harness::{self, Daemon, Home};

#[test]
fn the_unmodified_client_works() {
    let Some(python) = python_with_ollama() else {
        eprintln!("skipped: no python with PyPI's `ollama`; name one in WITNESS_TEST_PYTHON");
        return;
    };
    let home = Home::new();
    let daemon = Daemon::start(&home);
    let script = harness::checkout().join("tests/compat/ollama_client.py");
    let ran = finish(
        Command::new(python)
            .arg(script)
            .arg(toy("").trim_end_matches('/'))
            .env("OLLAMA_HOST", format!("http://127.0.0.1:{}", daemon.port))
            .env("NO_PROXY", "127.0.0.1")
            .env_remove("http_proxy")
            .env_remove("HTTP_PROXY"),
    );
    let told = ran.ok();
    assert_eq!(told.lines().count(), 12, "{told}");
}

fn python_with_ollama() -> Option<String> {
    let named = std::env::var("WITNESS_TEST_PYTHON").ok();
    let candidates = named.into_iter().chain(["python3".to_owned()]);
    candidates.into_iter().find(|python| {
        let probe = Command::new(python).args(["-c", "import ollama"]).output();
        probe.is_ok_and(|output| output.status.success())
    })
}
