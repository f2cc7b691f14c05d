//! How fast a model is, for real: the engine, clients at once, first tokens, memory; and beside a llama.cpp that only plays.

use std::process::Stdio;

use serde_json::Value;

use crate::desk::Desk;
use crate::fake_llama::{FakeLlama, Server};
use crate::measure::base;

const SMALL: [&str; 9] = ["bench", "base", "-p", "40", "-n", "3", "-d", "8", "--repeats=2"];

fn row<'a>(found: &'a Value, test: &str) -> Vec<&'a Value> {
    let rows = found["rows"].as_array().unwrap();
    rows.iter().filter(|row| row["test"] == test).collect()
}

fn n_numbers(row: &Value, side: &str) -> usize {
    let numbers = row[side].as_array().unwrap();
    assert!(numbers.iter().all(|number| number.as_f64().unwrap() > 0.0), "{row}");
    numbers.len()
}

#[test]
fn a_model_is_timed_by_itself() {
    let desk = Desk::new();
    base(&desk);
    let more = [
        "--parallel",
        "1,2",
        "--adapters",
        "2",
        "--chats",
        "1,3",
        "--seen",
        "0,32,40",
        "--json",
    ];
    let found = desk.run([&SMALL[..], &more].concat()).json();
    for (test, n_rows) in [
        ("read", 1),
        ("answer", 3),
        ("first_token", 3),
        ("chats", 2),
        ("between_tokens", 6),
        ("peak_memory", 2),
    ] {
        let rows = row(&found, test);
        assert_eq!(rows.len(), n_rows, "{test}: {found}");
        for row in rows {
            let wanted = if test == "peak_memory" { 1 } else { 2 };
            assert_eq!(n_numbers(row, "witness"), wanted, "{row}");
            assert_eq!(row.get("peer"), None);
        }
    }
    // What was loaded for it alone is not left behind.
    assert_eq!(desk.run(["ps", "--json"]).json()["models"], serde_json::json!([]));
    let told = desk.run([&SMALL[..], &["--chats", "2", "--seen", "32"]].concat()).ok();
    for said in [
        "first token of 40, 8 new",
        "2 chats, 3 behind 8",
        "between tokens, p99",
        "between tokens, max",
        "peak memory",
    ] {
        assert!(told.contains(said), "{said}: {told}");
    }
    assert!(!told.contains("LLAMA.CPP"), "{told}");
}

#[test]
fn a_model_is_timed_beside_a_peer() {
    let desk = Desk::new();
    base(&desk);
    let llama = FakeLlama::new(&desk, Server::Answers);
    let vs = [
        "--chats",
        "2,3",
        "--seen",
        "32",
        "--threads",
        "1",
        "--vs",
        &llama.bench(),
    ];
    let told = desk.run([&SMALL[..], &vs].concat());
    assert!(told.err.contains("round 2 of 2"), "{}", told.err);
    let told = told.ok();
    assert!(told.contains("LLAMA.CPP") && told.contains("0.50 tok/s"), "{told}");
    assert!(told.lines().all(|line| line.chars().count() <= 100), "{told}");
    llama.assert_ended();
    let arguments = llama.arguments();
    for argument in ["--host 127.0.0.1 ", "-np 3 ", "-c 768", "-t 1 "] {
        assert!(arguments.contains(argument), "{argument}: {arguments}");
    }
    // A warm-up, a prompt before and one after, two chats and three; and all of it again with other prompts.
    let asked = llama.asked();
    assert_eq!(asked.len(), 2 * (1 + 2 + 2 + 3));
    let chats = asked.iter().filter(|asked| asked["n_predict"] == 3);
    let mut prompts: Vec<String> = chats.map(|asked| asked["prompt"].to_string()).collect();
    prompts.sort();
    prompts.dedup();
    assert_eq!(prompts.len(), 2 * (2 + 3));
    let first: Vec<&Value> = asked.iter().filter(|asked| asked["n_predict"] == 1).collect();
    let ids = |index: usize| first[index]["prompt"].as_array().unwrap();
    assert_eq!(ids(0)[..32], ids(1)[..32]);
    assert_ne!(ids(0)[32..], ids(1)[32..]);
    assert!(
        first
            .iter()
            .all(|asked| asked["cache_prompt"] == true && asked["ignore_eos"] == true)
    );

    let found = desk.run([&SMALL[..], &vs, &["--json"]].concat()).json();
    for test in ["read", "answer", "first_token", "chats", "between_tokens"] {
        for row in row(&found, test) {
            assert_eq!((n_numbers(row, "witness"), n_numbers(row, "peer")), (2, 2), "{row}");
            assert!(row["ratio"].as_f64().unwrap() > 0.0, "{row}");
        }
    }
    let served = row(&found, "peak_memory")
        .into_iter()
        .find(|row| row["served"] == 3)
        .unwrap();
    assert_eq!((n_numbers(served, "witness"), n_numbers(served, "peer")), (2, 2));
    assert_eq!(found["notes"], serde_json::json!([]));
}

#[test]
fn a_peer_without_a_server_is_raced_as_far_as_it_goes() {
    let desk = Desk::new();
    base(&desk);
    let llama = FakeLlama::new(&desk, Server::Missing);
    let vs = ["--chats", "2", "--parallel", "1,2", "--vs", &llama.bench()];
    let told = desk.run([&SMALL[..], &vs].concat()).ok();
    assert!(told.contains("no `llama-server` lies beside"), "{told}");
    assert!(told.contains("what ran at once was not raced"), "{told}");
    assert!(
        told.contains("2 chats, 3 behind 8") && told.contains("0.50 tok/s"),
        "{told}"
    );
}

#[test]
fn a_peer_that_fails_is_told_of_and_ended() {
    let desk = Desk::new();
    base(&desk);
    for (server, words) in [
        (
            Server::Refuses,
            &["llama-server", "failed to load model", "before it was ready"][..],
        ),
        (
            Server::NeverReady,
            &["llama-server was not ready within 2 seconds", "--limit"],
        ),
        (Server::Fails, &["llama-server", "no slot is free"]),
        (Server::Dies, &["llama-server", "GGML_ASSERT failed"]),
    ] {
        let llama = FakeLlama::new(&desk, server);
        let vs = ["--chats", "2", "--limit", "2", "--vs", &llama.bench()];
        let refused = desk.run([&SMALL[..], &vs].concat());
        assert_ne!(refused.code, 0);
        for word in words {
            assert!(refused.err.contains(word), "{server:?}: {}", refused.err);
        }
        llama.assert_ended();
        std::fs::remove_dir_all(desk.path().join("llama")).unwrap();
    }
    let slow = desk.write("slow/llama-bench", "#!/bin/sh\nexec sleep 600\n");
    let broken = desk.write(
        "broken/llama-bench",
        "#!/bin/sh\necho 'error: no such model' >&2; exit 1\n",
    );
    let strange = desk.write("strange/llama-bench", "#!/bin/sh\necho '[{\"avg_ts\": 0}]'\n");
    for path in [&slow, &broken, &strange] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    for (path, word) in [
        (slow.as_str(), "llama-bench did not end within 2 seconds"),
        (&broken, "no such model"),
        (&strange, "0 tokens a second"),
        ("./nowhere", "llama-bench"),
    ] {
        let refused = desk.run([&SMALL[..], &["--limit", "2", "--vs", path]].concat());
        assert_ne!(refused.code, 0);
        assert!(refused.err.contains(word), "{path}: {}", refused.err);
    }
}

#[test]
fn a_peer_ends_with_who_started_it() {
    use rustix::process::{Pid, Signal, kill_process};
    let desk = Desk::new();
    base(&desk);
    for signal in [Signal::INT, Signal::TERM] {
        let llama = FakeLlama::new(&desk, Server::NeverReady);
        let mut command = desk.command();
        command.args(SMALL).args(["--chats", "2", "--vs", &llama.bench()]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        llama.wait_for_start();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        llama.assert_ended();
        std::fs::remove_dir_all(desk.path().join("llama")).unwrap();
    }
}

#[test]
fn what_cannot_be_timed_is_told() {
    let desk = Desk::new();
    base(&desk);
    for (arguments, word) in [
        (&["--seen", "513"][..], "cannot have been read before"),
        (&["-p", "1000000"], "cannot be timed"),
        (&["--chats", "0"], "--chats"),
        (&["--chats", "65"], "--chats"),
        (&["--repeats", "0"], "--repeats"),
        (&["-n", "0"], "--generate"),
        (&["--limit", "0"], "--limit"),
    ] {
        let refused = desk.run([&["bench", "base"], arguments].concat());
        assert_ne!(refused.code, 0, "{arguments:?}");
        assert!(refused.err.contains(word), "{arguments:?}: {}", refused.err);
    }
}
