//! `kill -9` of the daemon at random moments while a model and its adapter are being created.

use crate::count;
use crate::harness::gguf::{Shape, write, write_adapter};
use crate::harness::{Daemon, Home};
use crate::random::Random;
use std::path::Path;
use std::time::{Duration, Instant};

/// Goal: after a kill at any moment every name is its old self or its new self, whole, and nothing else is touched.
///
/// Method: `victim` is created again and again from a new base and a new system text, each time cut off at a random moment of the time
/// that an undisturbed create takes; `keeper` stands beside it. After each kill a new daemon lists, shows and checks the store.
/// Slow because each round starts two daemons and a worker.
#[test]
fn a_kill_at_any_moment_leaves_every_name_old_or_new() {
    let shape = Shape::small(4);
    let home = Home::new();
    let adapter = home.path().join("adapter");
    write_adapter(&adapter, shape);

    let daemon = Daemon::start(&home);
    assert!(
        create(&daemon, &home, &adapter, shape, "keeper", "keeper"),
        "an undisturbed create succeeds"
    );
    let start = Instant::now();
    assert!(
        create(&daemon, &home, &adapter, shape, "victim", "round 0"),
        "an undisturbed create succeeds"
    );
    let undisturbed = start.elapsed();
    daemon.stop();

    let seed = count("WITNESS_SEED", 7);
    let mut random = Random(seed);
    let (mut current, mut finished, mut slowest) = (0, 0, Duration::ZERO);
    let rounds = count("WITNESS_KILLS", 12);
    for round in 1..=rounds {
        let daemon = Daemon::start(&home);
        let moment =
            Duration::from_nanos(random.below(u64::try_from(undisturbed.as_nanos() * 11 / 10).expect("short")));
        let done = std::thread::scope(|scope| {
            let creating = scope.spawn(|| create(&daemon, &home, &adapter, shape, "victim", &format!("round {round}")));
            std::thread::sleep(moment);
            daemon.kill_now();
            creating
                .join()
                .expect("the client sees a broken connection, not a panic")
        });
        daemon.kill();
        finished += u64::from(done);

        let start = Instant::now();
        let daemon = Daemon::start(&home);
        let tags = daemon.get("/api/tags");
        slowest = slowest.max(start.elapsed());
        for name in ["keeper:latest", "victim:latest"] {
            assert!(
                tags.contains(name),
                "seed {seed}, round {round}, after {moment:?}: {name} is lost: {tags}"
            );
        }
        assert!(
            daemon
                .post("/api/show", r#"{"model":"keeper"}"#)
                .contains(r#""system":"keeper""#),
            "round {round}"
        );
        let shown = daemon.post("/api/show", r#"{"model":"victim"}"#);
        let is = |number: u64| shown.contains(&format!(r#""system":"round {number}""#));
        assert!(
            is(current) || is(round),
            "seed {seed}, round {round}: neither old nor new: {shown}"
        );
        assert!(!done || is(round), "round {round} was confirmed and is gone");
        current = if is(round) { round } else { current };
        let report = daemon.post("/api/witness/fsck", "{}");
        assert!(
            !report.contains("damaged") && !report.contains("missing"),
            "seed {seed}, round {round}: {report}"
        );
        daemon.stop();
    }
    let daemon = Daemon::start(&home);
    for model in ["keeper", "victim"] {
        let answer = daemon.post(
            "/api/generate",
            &format!(r#"{{"model":"{model}","prompt":"hi","stream":false,"options":{{"num_predict":3}}}}"#),
        );
        assert!(
            answer.contains(r#""done":true"#),
            "{model} answers after {rounds} kills: {answer}"
        );
    }
    println!(
        "{rounds} kills within {undisturbed:?}: {finished} creates had finished, 0 names lost or torn; slowest start and list {slowest:?}"
    );
}

/// Uploads the files and creates the model; false when the daemon went away meanwhile.
fn create(daemon: &Daemon, home: &Home, adapter: &Path, shape: Shape, name: &str, system: &str) -> bool {
    let base = home.path().join("base.gguf");
    write(&base, shape, system);
    let read = |path: &Path| std::fs::read(path).expect("the test wrote it");
    let digests = [
        read(&base),
        read(&adapter.join("adapter_config.json")),
        read(&adapter.join("adapter_model.safetensors")),
    ]
    .map(|content| daemon.upload(&content));
    let [Some(base), Some(config), Some(weights)] = digests else {
        return false;
    };
    let body = format!(
        r#"{{"model":"{name}","files":{{"base.gguf":"{base}"}},"adapters":{{"a/adapter_config.json":"{config}","a/adapter_model.safetensors":"{weights}"}},"system":"{system}","stream":false}}"#
    );
    match daemon.try_request("POST", "/api/create", &body) {
        Some((status, answer)) => {
            assert!(
                status < 300 || answer.contains("shutting down"),
                "create: {status} {answer}"
            );
            status < 300
        }
        None => false,
    }
}
