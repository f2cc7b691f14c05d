//! Damaged model files of every kind, sent to the daemon as a stranger would.

use crate::count;
use crate::harness::gguf::{Shape, write, write_adapter};
use crate::harness::{Daemon, Home, checkout};
use crate::random::Random;
use std::collections::BTreeMap;

/// Files of one create request: those of the base and those of the adapter.
struct Sample {
    base: BTreeMap<String, Vec<u8>>,
    adapter: BTreeMap<String, Vec<u8>>,
}

/// Goal: a damaged file gives a clear error or a working model; the daemon lives, does not grow, and serves its neighbours.
///
/// Method: seeded truncations and byte mutations of one file at a time of a GGUF with an adapter and of a Hugging Face directory, each
/// created through the real daemon and its workers. Slow because each create starts a worker. The crates that parse run many more.
#[test]
fn a_damaged_file_is_an_error_or_a_model_and_never_a_crash() {
    let home = Home::new();
    let shape = Shape {
        hidden: 32,
        feed_forward: 64,
        n_layers: 1,
    };
    let gguf = home.path().join("base.gguf");
    write(&gguf, shape, "sample");
    let adapter = home.path().join("adapter");
    write_adapter(&adapter, shape);
    let read_all = |directory: &std::path::Path| -> BTreeMap<String, Vec<u8>> {
        std::fs::read_dir(directory)
            .expect("the sample is there")
            .map(|entry| entry.expect("the sample can be listed"))
            .map(|entry| {
                (
                    entry.file_name().into_string().expect("ASCII"),
                    std::fs::read(entry.path()).expect("readable"),
                )
            })
            .collect()
    };
    let samples = [
        Sample {
            base: BTreeMap::from([("base.gguf".to_owned(), std::fs::read(&gguf).expect("just written"))]),
            adapter: read_all(&adapter),
        },
        Sample {
            base: read_all(&checkout().join("tests/toy/base")),
            adapter: BTreeMap::new(),
        },
    ];

    let daemon = Daemon::start(&home);
    daemon.make_echo_model("neighbour");
    for (index, sample) in samples.iter().enumerate() {
        let (status, answer) = create(&daemon, &format!("whole-{index}"), &sample.base, &sample.adapter);
        assert!(status < 300, "an undamaged sample is created: {status} {answer}");
    }
    let seed = count("WITNESS_SEED", 11);
    let mut random = Random(seed);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..count("WITNESS_MUTATIONS", 60) {
        let sample = &samples[usize::try_from(random.below(2)).expect("small")];
        let (mut base, mut adapter) = (sample.base.clone(), sample.adapter.clone());
        let index = usize::try_from(random.below((base.len() + adapter.len()) as u64)).expect("small");
        let (name, content) = base
            .iter_mut()
            .chain(adapter.iter_mut())
            .nth(index)
            .expect("below the count");
        damage(content, &mut random);
        let name = name.clone();
        let (status, answer) = create(&daemon, "mutant", &base, &adapter);
        let context = format!("seed {seed}, round {round}, `{name}`: {status} {answer}");
        if status < 300 {
            accepted += 1;
            daemon.delete("/api/delete", r#"{"model":"mutant"}"#);
        } else {
            refused += 1;
            assert!(
                answer.contains(r#""error":""#) && answer.len() > 40,
                "a refusal says what is wrong: {context}"
            );
            assert!(!answer.contains("panicked"), "a parser panicked: {context}");
        }
    }
    let answer = daemon.post(
        "/api/generate",
        r#"{"model":"neighbour","prompt":"hi","stream":false,"options":{"num_predict":2}}"#,
    );
    assert!(answer.contains(r#""done":true"#), "the neighbour answers: {answer}");
    let resident = daemon.resident_bytes();
    assert!(resident < 96 << 20, "the daemon grew to {resident} bytes");
    println!(
        "{accepted} accepted, {refused} refused, daemon at {} KiB",
        resident / 1024
    );
    daemon.stop();
}

fn create(
    daemon: &Daemon,
    name: &str,
    base: &BTreeMap<String, Vec<u8>>,
    adapter: &BTreeMap<String, Vec<u8>>,
) -> (u16, String) {
    let upload = |files: &BTreeMap<String, Vec<u8>>| -> String {
        let pairs: Vec<String> = files
            .iter()
            .map(|(file, content)| format!(r#""{file}":"{}""#, daemon.upload(content).expect("there is room")))
            .collect();
        pairs.join(",")
    };
    let body = format!(
        r#"{{"model":"{name}","files":{{{}}},"adapters":{{{}}},"stream":false}}"#,
        upload(base),
        upload(adapter)
    );
    daemon
        .try_request("POST", "/api/create", &body)
        .expect("the daemon is alive")
}

/// Cuts the content short, or changes, inserts or repeats some of its bytes. Headers and small numbers are hit most often.
fn damage(content: &mut Vec<u8>, random: &mut Random) {
    let length = content.len() as u64;
    let place = |random: &mut Random| {
        let bound = if random.below(4) == 0 { length } else { length.min(2048) };
        usize::try_from(random.below(bound.max(1))).expect("inside the file")
    };
    match random.below(5) {
        0 => content.truncate(place(random)),
        1 => {
            let at = place(random);
            content[at] = [0, 1, 0x7F, 0x80, 0xFF][usize::try_from(random.below(5)).expect("small")];
        }
        2 => {
            let at = place(random);
            let extra: Vec<u8> = (0..random.below(16)).map(|_| random.next() as u8).collect();
            content.splice(at..at, extra);
        }
        3 => {
            let at = place(random).min(content.len().saturating_sub(8));
            let end = (at + 8).min(content.len());
            content[at..end].fill(0xFF);
        }
        _ => {
            for _ in 0..=random.below(8) {
                let at = place(random);
                content[at] ^= 1 << random.below(8);
            }
        }
    }
}
