//! What a chat notices of a training run beside it: the same requests, in turn without a run and with one that would take every processor.
//!
//! The chat computes: a Llama of random weights in the serve plugin. The run is that of the test plugin's trainer, whose steps spin on as
//! many threads as there are processors: the worst neighbour, and one that needs no weights. Phases alternate, so that whatever else the
//! machine does falls on both.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::harness::{Daemon, Home, gguf};
use crate::{Row, run, spread};

/// Phases of each kind, and requests of each phase.
const ROUNDS: usize = 10;
const REQUESTS: usize = 12;
const TOKENS: usize = 16;

/// Times of the requests of one kind of phase.
#[derive(Default)]
struct Times {
    requests: Vec<Duration>,
    gaps: Vec<Duration>,
}

pub(crate) fn yielding() -> Vec<Row> {
    let home = Home::new();
    let shape = gguf::Shape::small(4);
    gguf::write(&home.path().join("chat.gguf"), shape, "chat");
    let modelfile = home.path().join("Modelfile");
    std::fs::write(&modelfile, "FROM ./chat.gguf\n").expect("the temporary home is writable");
    let daemon = Daemon::start(&home);
    run(home.witness().args(["create", "chat", "-f"]).arg(&modelfile));
    daemon.make_echo_model("base");
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let rows = format!("row\nburn {threads}\nstep_ms 200\n");
    let digest = daemon.upload(rows.as_bytes()).expect("there is room for a line");
    let order = format!(
        r#"{{"model":"trained","from":"base","data":[{{"name":"rows","digest":"{digest}"}}],"stream":false,
            "settings":{{"max_steps":1000000,"save_strategy":"no","save_steps":1000000}}}}"#
    );
    let mut warm_up = Times::default();
    ask(&daemon, &mut warm_up);
    let (mut idle, mut beside) = (Times::default(), Times::default());
    for _ in 0..ROUNDS {
        (0..REQUESTS).for_each(|_| ask(&daemon, &mut idle));
        let id = start(&daemon, &order);
        (0..REQUESTS).for_each(|_| ask(&daemon, &mut beside));
        daemon.post(&format!("/api/train/{id}/stop"), "{}");
        wait_for(&daemon, &id, &["stopped", "failed"]);
    }
    let figure = |name: &str, idle: Vec<Duration>, beside: Vec<Duration>, aim| {
        let ratio = |share| at(&beside, share).as_secs_f64() / at(&idle, share).as_secs_f64();
        [
            Row {
                figure: format!("{name}, p99 alone and beside a training run"),
                value: format!(
                    "{:.1} ms and {:.1} ms",
                    at(&idle, 99).as_secs_f64() * 1e3,
                    at(&beside, 99).as_secs_f64() * 1e3
                ),
                aim: "",
            },
            Row {
                figure: format!("{name}, ratio of the p99 (of the medians)"),
                value: format!("{:.2} ({:.2})", ratio(99), ratio(50)),
                aim,
            },
        ]
    };
    let mut table = vec![Row {
        figure: format!("chat of {TOKENS} tokens, alone"),
        value: spread(idle.requests.clone()),
        aim: "",
    }];
    table.extend(figure("chat", idle.requests, beside.requests, "at most 2"));
    table.extend(figure("token", idle.gaps, beside.gaps, "at most 2"));
    table
}

/// Returns the time that so many percent are at most.
fn at(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// Starts the run and waits until it makes steps.
fn start(daemon: &Daemon, order: &str) -> String {
    let answer = daemon.post("/api/train", order);
    let id = value_of(&answer, "id");
    wait_for(daemon, &id, &["running"]);
    id
}

fn wait_for(daemon: &Daemon, id: &str, states: &[&str]) {
    loop {
        let state = value_of(&daemon.get(&format!("/api/train/{id}")), "state");
        if states.contains(&state.as_str()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Returns the first text under a key.
fn value_of(json: &str, key: &str) -> String {
    let start = json.split_once(&format!("\"{key}\":\"")).map(|(_, rest)| rest);
    start
        .and_then(|rest| rest.split_once('"'))
        .map(|(value, _)| value.to_owned())
        .unwrap_or_else(|| panic!("no `{key}` in {json}"))
}

/// Asks for tokens and notes when each part of the answer comes.
fn ask(daemon: &Daemon, times: &mut Times) {
    let body = format!(
        r#"{{"model":"chat","prompt":"hello there","raw":true,"keep_alive":"1h","options":{{"num_predict":{TOKENS},"temperature":2.0}}}}"#
    );
    let start = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).expect("the daemon listens");
    let head = format!(
        "POST /api/generate HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        daemon.port,
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).expect("the daemon reads");
    let mut buffer = vec![0; 64 << 10];
    let (mut last, mut is_first) = (start, true);
    loop {
        let read = stream.read(&mut buffer).expect("the daemon answers");
        if read == 0 {
            break;
        }
        let now = Instant::now();
        // The first part waits for the prompt.
        if !std::mem::take(&mut is_first) {
            times.gaps.push(now - last);
        }
        last = now;
    }
    times.requests.push(start.elapsed());
}
