//! kill -9 and stops at chosen steps: every name is old or new, whole, and what was acknowledged is there.
//!
//! The children are this test program itself, started for one `child_*` function; without their variable those do nothing.
//! The kills take a few seconds: each is a process started, a store opened and every blob of it hashed.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::{FsckOptions, GcOptions, RegistryError, fault};

const STORE: &str = "WITNESS_REGISTRY_TEST_STORE";
const FROM: &str = "WITNESS_REGISTRY_TEST_FROM";
/// How many kills; a long run sets it to thousands.
const KILLS: &str = "WITNESS_REGISTRY_TEST_KILLS";
const KILLS_DEFAULT: u64 = 60;

fn child(function: &str, store: &Path, variables: &[(&str, &str)]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("tests::crash::{function}"),
            "--nocapture",
            "--test-threads=1",
        ])
        .env(STORE, store)
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

const NAMES: u64 = 3;

/// After operation `op`, what version its model has: most write one, some delete.
fn version_after(op: u64) -> Option<u64> {
    (op % 5 != 4).then_some(op)
}

/// What each of the models is after the first `ops` operations.
fn state_after(ops: u64) -> Vec<Option<u64>> {
    (0..NAMES)
        .map(|model| (0..ops).rev().find(|op| op % NAMES == model).and_then(version_after))
        .collect()
}

fn weights(model: u64, version: u64) -> Vec<u8> {
    Random(model * 1_000_003 + version + 1).bytes(50_000)
}

fn do_operation(registry: &Registry, op: u64) {
    let model = op % NAMES;
    let called = name(&format!("model{model}"));
    match version_after(op) {
        None => match registry.delete(&called) {
            Ok(_) | Err(RegistryError::NotFound { .. }) => {}
            Err(error) => panic!("{error}"),
        },
        Some(version) => {
            let config = registry
                .put_bytes(format!("{{\"version\":{version}}}").as_bytes())
                .unwrap();
            let weights = registry.put_bytes(&weights(model, version)).unwrap();
            let shared = registry.put_bytes(b"shared by all").unwrap();
            let layers = vec![Layer::of(media::MODEL, &weights), Layer::of(media::LICENSE, &shared)];
            registry
                .write_manifest(&called, &Manifest::new(Layer::of(media::CONFIG, &config), layers))
                .unwrap();
        }
    }
}

/// Reads what each model is on disk, after checking that all of its bytes belong to one version.
fn state_on_disk(registry: &Registry) -> Vec<Option<u64>> {
    let entries = registry.list().unwrap();
    for entry in &entries {
        assert!(entry.result.is_ok(), "{}: {:?}", entry.name, entry.result);
    }
    (0..NAMES)
        .map(|model| {
            let called = format!("model{model}");
            entries.iter().find(|entry| entry.name == name(&called))?;
            let manifest = assert_whole(registry, &called);
            let config: serde_json::Value =
                serde_json::from_slice(&registry.read_blob(&manifest.config.digest, 100).unwrap()).unwrap();
            let version = config["version"].as_u64().unwrap();
            assert_eq!(
                manifest.layers[0].digest,
                Digest::of(&weights(model, version)),
                "weights of another version"
            );
            Some(version)
        })
        .collect()
}

#[test]
fn child_that_writes() {
    let (Ok(store), Ok(from)) = (std::env::var(STORE), std::env::var(FROM)) else {
        return;
    };
    let registry = open(Path::new(&store));
    for op in from.parse::<u64>().unwrap().. {
        do_operation(&registry, op);
        println!("\nack {op}");
        std::io::stdout().flush().unwrap();
        if op % 7 == 0 {
            registry
                .gc_with(GcOptions {
                    grace: std::time::Duration::ZERO,
                    only: None,
                })
                .unwrap();
        }
    }
}

#[test]
fn killed_at_any_moment_every_name_is_old_or_new() {
    let kills = std::env::var(KILLS)
        .ok()
        .and_then(|kills| kills.parse().ok())
        .unwrap_or(KILLS_DEFAULT);
    let dir = dir();
    let mut random = Random(0xdead_beef);
    let mut ops_done = 0;
    let mut interrupted = 0;
    for kill in 0..kills {
        let mut child = child("child_that_writes", dir.path(), &[(FROM, &ops_done.to_string())]);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let acks_wanted = random.below(4);
        let mut acks = 0;
        while acks < acks_wanted {
            let line = lines.next().expect("the child writes until it is killed").unwrap();
            if let Some(op) = line.strip_prefix("ack ") {
                ops_done = op.parse::<u64>().unwrap() + 1;
                acks += 1;
            }
        }
        // A moment somewhere in the next operations: work that cannot be optimised away, for up to about as long as two take.
        (0..random.below(3_000_000)).for_each(|spin| {
            std::hint::black_box(spin);
        });
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            if let Some(op) = line.strip_prefix("ack ").and_then(|op| op.parse::<u64>().ok()) {
                ops_done = op + 1;
            }
        }

        interrupted += usize::from(!files(&dir.path().join(".witness/tmp")).is_empty());
        let registry = open(dir.path());
        assert_eq!(
            files(&dir.path().join(".witness/tmp")),
            [""; 0],
            "the next open removes what was left"
        );
        let on_disk = state_on_disk(&registry);
        ops_done = [ops_done, ops_done + 1]
            .into_iter()
            .find(|ops| state_after(*ops) == on_disk)
            .unwrap_or_else(|| panic!("kill {kill}: after {ops_done} operations {on_disk:?}"));
        if kill % 10 == 9 {
            registry
                .gc_with(GcOptions {
                    grace: std::time::Duration::ZERO,
                    only: None,
                })
                .unwrap();
            assert_eq!(state_on_disk(&registry), on_disk);
            assert!(registry.fsck(FsckOptions::default()).unwrap().findings.is_empty());
        }
    }
    eprintln!("{kills} kills, {interrupted} of them in the middle of a file, {ops_done} operations done");
}

#[test]
fn child_that_replaces() {
    let (Ok(store), Ok(_)) = (std::env::var(STORE), std::env::var(fault::ABORT_AT)) else {
        return;
    };
    do_operation(&open(Path::new(&store)), 3);
}

/// Stops at every step of every publication of one `create` over an existing model: config, weights, licence, manifest.
#[test]
fn stopped_after_any_step_the_model_is_old_or_new() {
    for step in ["Created", "Written", "Synced", "Renamed", "DirectorySynced"] {
        for publication in 1..=4 {
            let dir = dir();
            {
                let registry = open(dir.path());
                do_operation(&registry, 0);
            }
            let abort_at = format!("{step}:{publication}");
            let status = child("child_that_replaces", dir.path(), &[(fault::ABORT_AT, &abort_at)])
                .wait()
                .unwrap();
            assert!(!status.success(), "{abort_at} was not reached");
            let registry = open(dir.path());
            assert_eq!(files(&dir.path().join(".witness/tmp")), [""; 0]);
            let is_new = publication == 4 && matches!(step, "Renamed" | "DirectorySynced");
            assert_eq!(
                state_on_disk(&registry)[0],
                Some(if is_new { 3 } else { 0 }),
                "{abort_at}"
            );
            assert!(registry.fsck(FsckOptions::default()).unwrap().is_sound());
            registry
                .gc_with(GcOptions {
                    grace: std::time::Duration::ZERO,
                    only: None,
                })
                .unwrap();
            do_operation(&registry, 3);
            assert_eq!(state_on_disk(&registry)[0], Some(3));
        }
    }
}

#[test]
fn child_that_holds() {
    let Ok(store) = std::env::var(STORE) else { return };
    let _registry = Registry::open(Path::new(&store), &OpenOptions::new("a child that holds")).unwrap();
    println!("\nheld");
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn another_process_is_kept_out_until_the_holder_is_gone() {
    let dir = dir();
    let mut child = child("child_that_holds", dir.path(), &[]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "held"));
    match Registry::open(dir.path(), &OpenOptions::new("test")) {
        Err(RegistryError::Locked {
            holder: Some(holder),
            path,
        }) => {
            assert_eq!(
                (holder.pid, holder.purpose.as_str()),
                (child.id(), "a child that holds")
            );
            assert_eq!(path, dir.path());
        }
        other => panic!("{other:?}"),
    }
    child.kill().unwrap();
    child.wait().unwrap();
    open(dir.path());
}
