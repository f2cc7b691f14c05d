//! Bundles under duress: `kill -9` of the daemon in the middle of an import, and disks without room on either side.

use std::process::Output;
use std::time::{Duration, Instant};

use crate::count;
use crate::harness::gguf::{Shape, write};
use crate::harness::tmpfs::Mounted;
use crate::harness::{Daemon, Home};
use crate::random::Random;

fn run(home: &Home, arguments: &[&str]) -> Output {
    let mut command = home.witness();
    command.current_dir(home.path()).args(arguments);
    command.output().expect("the program can be started")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Makes a model of so many layers and packs it; returns the bundle's path.
fn bundle(home: &Home, n_layers: usize) -> String {
    write(&home.path().join("base.gguf"), Shape::small(n_layers), "packed");
    std::fs::write(home.path().join("Modelfile"), "FROM ./base.gguf\nSYSTEM packed\n").expect("the home is writable");
    let made = run(home, &["create", "packed"]);
    assert!(made.status.success(), "{}", said(&made));
    let packed = run(home, &["export", "packed", "packed.witness.tar", "--to", "bundle"]);
    assert!(packed.status.success(), "{}", said(&packed));
    let path = home.path().join("packed.witness.tar");
    path.to_str().expect("a plain path").to_owned()
}

/// Goal: after a kill at any moment of an import there is the whole model or none, and the store is sound.
///
/// Method: a bundle is imported again and again into a store that stays, each time cut off at a random moment of the time that an undisturbed import
/// takes; what came of it is removed before the next. Slow because each round starts two daemons and a worker.
#[test]
fn a_kill_during_an_import_leaves_a_whole_model_or_none() {
    let source = Home::new();
    let daemon = Daemon::start(&source);
    let path = bundle(&source, 6);
    daemon.stop();
    let home = Home::new();
    let daemon = Daemon::start(&home);
    assert!(run(&home, &["import", &path, "keeper"]).status.success());
    daemon.delete("/api/delete", r#"{"model":"keeper"}"#);
    let start = Instant::now();
    assert!(run(&home, &["import", &path, "victim"]).status.success());
    let undisturbed = start.elapsed();
    daemon.delete("/api/delete", r#"{"model":"victim"}"#);
    daemon.make_echo_model("keeper");
    daemon.stop();

    let seed = count("WITNESS_SEED", 11);
    let mut random = Random(seed);
    let rounds = count("WITNESS_KILLS", 8);
    let mut whole = 0;
    for round in 1..=rounds {
        let daemon = Daemon::start(&home);
        let nanos = u64::try_from(undisturbed.as_nanos() * 11 / 10).expect("short");
        let moment = Duration::from_nanos(random.below(nanos));
        let importing = home
            .witness()
            .args(["import", &path, "victim"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn();
        let mut importing = importing.expect("the program can be started");
        std::thread::sleep(moment);
        daemon.kill();
        let done = importing.wait().expect("the program was ours").success();

        let daemon = Daemon::start(&home);
        let tags = daemon.get("/api/tags");
        let is_there = tags.contains("victim:latest");
        assert!(tags.contains("keeper:latest"), "seed {seed}, round {round}: {tags}");
        assert!(!tags.contains("damage"), "seed {seed}, round {round}: {tags}");
        assert!(
            !done || is_there,
            "seed {seed}, round {round} was confirmed and is gone"
        );
        if is_there {
            whole += 1;
            let shown = daemon.post("/api/show", r#"{"model":"victim"}"#);
            assert!(
                shown.contains(r#""system":"packed""#),
                "seed {seed}, round {round}: {shown}"
            );
        }
        let report = daemon.post("/api/witness/fsck", "{}");
        assert!(
            !report.contains("damaged") && !report.contains("missing") && !report.contains("corrupt"),
            "seed {seed}, round {round}: {report}"
        );
        let staged = std::fs::read_dir(home.path().join("models/.witness/tmp")).map_or(0, Iterator::count);
        assert_eq!(staged, 0, "seed {seed}, round {round}: what was on its way is gone");
        if is_there {
            daemon.delete("/api/delete", r#"{"model":"victim"}"#);
        }
        daemon.stop();
    }
    let daemon = Daemon::start(&home);
    assert!(run(&home, &["import", &path, "victim"]).status.success());
    let answer = daemon.post(
        "/api/generate",
        r#"{"model":"victim","prompt":"hi","stream":false,"options":{"num_predict":3}}"#,
    );
    assert!(answer.contains(r#""done":true"#), "{answer}");
    println!("{rounds} kills within {undisturbed:?}: {whole} models whole, the others not there");
}

/// Goal: a store or a target without room costs the request and nothing else. Method: small file systems in memory, which need the right to mount.
#[test]
fn a_full_disk_costs_nothing_but_the_bundle() {
    let home = Home::new();
    let daemon = Daemon::start(&home);
    let path = bundle(&home, 6);
    let small = home.path().join("small");
    std::fs::create_dir(&small).expect("the temporary home is writable");
    let Some(_mounted) = Mounted::tmpfs(&small, "8m") else {
        eprintln!("skipped: a full disk needs the right to mount a tmpfs");
        return;
    };
    let refused = run(&home, &["export", "packed", "small/x.tar", "--to", "bundle"]);
    assert_eq!(refused.status.code(), Some(9), "{}", said(&refused));
    assert!(said(&refused).contains("are needed"), "{}", said(&refused));
    let ollama = run(&home, &["export", "packed", "small/ollama", "--to", "ollama"]);
    assert_eq!(ollama.status.code(), Some(9), "{}", said(&ollama));
    assert!(!small.join("ollama/manifests/registry.ollama.ai").exists());
    std::fs::remove_dir_all(small.join("ollama")).expect("it is ours");
    let left = std::fs::read_dir(&small).expect("it is there").count();
    assert_eq!(left, 0, "nothing was left on the full disk");
    daemon.stop();

    let other = Home::new();
    let models = other.path().join("models");
    std::fs::create_dir(&models).expect("the temporary home is writable");
    let Some(_mounted) = Mounted::tmpfs(&models, "12m") else {
        return;
    };
    let daemon = Daemon::start(&other);
    daemon.make_echo_model("keeper");
    for _ in 0..2 {
        let refused = run(&other, &["import", &path]);
        assert_eq!(refused.status.code(), Some(9), "{}", said(&refused));
        assert!(said(&refused).contains("bytes free"), "{}", said(&refused));
        let tags = daemon.get("/api/tags");
        assert!(
            tags.contains("keeper:latest") && !tags.contains("packed:latest"),
            "{tags}"
        );
    }
    daemon.stop();
}
