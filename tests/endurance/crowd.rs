//! Many chats at once against the real daemon and the real engine, half of them hung up on: nothing is lost, nothing leaks, and nobody's answer changes.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::count;
use crate::harness::gguf::{Shape, write, write_adapter};
use crate::harness::{Daemon, Home};
use crate::random::Random;

/// Requests that are on their way at any time.
const CROWD: u64 = 64;
/// Different prompts, so that each can be asked again alone.
const PROMPTS: u64 = 48;

/// Goal: 64 requests of mixed lengths at a time, half of them cut off at random, on too few pages for all. Every answer that came whole is the one that the same request
/// gets alone; when all is quiet the engine's own account of pages is right, and the worker is not larger than soon after the start.
///
/// Method: `WITNESS_CROWD_SECS` seconds (600 is the promised number). Prompts have common beginnings, a third go to an adapter. The engine writes a fault of its account
/// into the log, which is read.
#[test]
fn a_crowd_leaks_nothing_and_changes_nobody_s_answer() {
    let shape = Shape::small(2);
    let home = Home::new();
    let adapter = home.path().join("adapter");
    write_adapter(&adapter, shape);
    // Sixteen run; their pages are those of four full contexts.
    let config = "num_parallel = 16\ncontext_length = 512\nkv_cache_type = \"f16\"\nmemory_budget = \"24MiB\"\nmax_queue = 1000\n";
    std::fs::write(home.path().join("config.toml"), config).expect("the home can be written to");
    let log = home.path().join("log");
    let daemon = Daemon::start_telling(
        &home,
        std::fs::File::create(&log).expect("the home can be written to").into(),
    );
    let base = home.path().join("base.gguf");
    write(&base, shape, "crowd");
    let modelfile = |text: String, name: &str| {
        let path = home.path().join(format!("{name}.modelfile"));
        std::fs::write(&path, text).expect("the home can be written to");
        let made = home
            .witness()
            .args(["create", name, "-f"])
            .arg(&path)
            .output()
            .expect("the program runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    modelfile(format!("FROM {}\n", base.display()), "plain");
    modelfile(
        format!("FROM {}\nADAPTER {}\n", base.display(), adapter.display()),
        "adapted",
    );

    let length = Duration::from_secs(count("WITNESS_CROWD_SECS", 4));
    let seed = count("WITNESS_SEED", 7);
    let answers: Mutex<BTreeMap<u64, String>> = Mutex::new(BTreeMap::new());
    let (n_whole, n_cut) = (AtomicU64::new(0), AtomicU64::new(0));
    let start = Instant::now();
    let mut early = 0;
    std::thread::scope(|scope| {
        for member in 0..CROWD {
            let (daemon, answers, n_whole, n_cut) = (&daemon, &answers, &n_whole, &n_cut);
            scope.spawn(move || {
                let mut random = Random(seed * 1000 + member);
                while start.elapsed() < length {
                    let prompt = random.below(PROMPTS);
                    if random.below(2) == 0 {
                        hang_up(daemon, prompt, &mut random);
                        n_cut.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    let text = answer(daemon, prompt);
                    let mut answers = answers.lock().expect("no test thread panicked");
                    let known = answers.entry(prompt).or_insert_with(|| text.clone());
                    assert_eq!(*known, text, "seed {seed}: prompt {prompt} has two answers");
                    n_whole.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(length / 4);
        early = workers_bytes(&daemon);
    });
    let late = workers_bytes(&daemon);
    let answers = answers.into_inner().expect("no test thread panicked");
    for (prompt, text) in &answers {
        assert_eq!(answer(&daemon, *prompt), *text, "seed {seed}: prompt {prompt} alone");
    }
    let log = std::fs::read_to_string(&log).expect("the log can be read");
    assert!(
        log.contains("loaded") && !log.contains("account of keys and values"),
        "{log}"
    );
    // A quarter of an hour's noise of the allocator, not a leak of each request.
    assert!(late < early + early / 2 + (16 << 20), "from {early} to {late} bytes");
    daemon.stop();
    println!(
        "{:?}: {} whole answers of {} prompts, {} cut off; the workers had {} MiB early and {} MiB at the end",
        length,
        n_whole.into_inner(),
        answers.len(),
        n_cut.into_inner(),
        early >> 20,
        late >> 20
    );
}

/// The request of a prompt: one of four beginnings, an end of its own, a length of its own.
fn request(prompt: u64, stream: bool) -> String {
    let mut random = Random(prompt + 1);
    let model = ["plain", "plain", "adapted"][(prompt % 3) as usize];
    let mut text = format!("Beginning number {}. ", prompt % 4).repeat((prompt % 4 * 4) as usize);
    for _ in 0..random.below(60) {
        text.push(char::from(b'a' + random.below(26) as u8));
    }
    let num_predict = 1 + random.below(60);
    format!(
        r#"{{"model":"{model}","prompt":"{text}","raw":true,"stream":{stream},"keep_alive":"10m","options":{{"temperature":0,"repeat_penalty":1,"num_predict":{num_predict}}}}}"#
    )
}

/// Asks and waits for the whole answer.
fn answer(daemon: &Daemon, prompt: u64) -> String {
    let answer = daemon.post("/api/generate", &request(prompt, false));
    let value: serde_json::Value = serde_json::from_str(&answer).expect("an answer is JSON");
    assert_eq!(value["done"], true, "{answer}");
    format!("{} {}", value["context"], value["response"])
}

/// Asks, reads a little, and leaves.
fn hang_up(daemon: &Daemon, prompt: u64, random: &mut Random) {
    let body = request(prompt, true);
    let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).expect("the daemon listens");
    let head = format!(
        "POST /api/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).expect("the daemon reads");
    std::thread::sleep(Duration::from_millis(random.below(120)));
    if random.below(2) == 0 {
        let _ = stream.read(&mut [0; 300]);
    }
}

/// Bytes that the workers of a daemon have in memory.
fn workers_bytes(daemon: &Daemon) -> u64 {
    let parent = format!("{}", daemon.pid());
    let mut sum = 0;
    for process in std::fs::read_dir("/proc").expect("Linux has /proc").flatten() {
        let status = std::fs::read_to_string(process.path().join("status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()
        };
        if field("PPid:") == Some(&parent) {
            sum += field("VmRSS:").and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024;
        }
    }
    sum
}
