//! The figures that this program promises, measured on the machine at hand: `cargo bench --bench figures`.
//!
//! Prints a table of medians with their spread; it judges nothing and asserts no time. Every figure uses the real binary over real
//! sockets in a temporary home. `-- NAME...` runs only the named figures; `WITNESS_BENCH_BYTES` changes the size of the imported file.

#[path = "../harness/mod.rs"]
mod harness;
mod load;
mod yielding;

use harness::{Daemon, Home, gguf};
use std::process::Command;
use std::time::{Duration, Instant};

/// One figure: its name on the command line, and how it is taken.
type Figure = (&'static str, fn() -> Vec<Row>);

const FIGURES: [Figure; 6] = [
    ("cold-start", cold_start),
    ("tags", tags),
    ("token", token),
    ("create", create),
    ("idle-memory", idle_memory),
    ("yielding", yielding::yielding),
];

/// A line of the table.
struct Row {
    figure: String,
    value: String,
    aim: &'static str,
}

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    println!("{:<58} {:<44} aim", "figure", "measured (median, min to max)");
    for (name, take) in FIGURES {
        if wanted.is_empty() || wanted.iter().any(|one| one == name) {
            for Row { figure, value, aim } in take() {
                println!("{figure:<58} {value:<44} {aim}");
            }
        }
    }
}

/// Time from starting the process to the first answered request, 20 times.
fn cold_start() -> Vec<Row> {
    let home = Home::new();
    let times = (0..20)
        .map(|_| {
            let daemon = Daemon::start(&home);
            let taken = daemon.ready_after;
            daemon.stop();
            taken
        })
        .collect();
    vec![Row {
        figure: "daemon cold start to first answer".into(),
        value: spread(times),
        aim: "20 ms",
    }]
}

/// `/api/tags` over 64 kept-alive connections against a store of 100 models; the load generator shares the machine.
fn tags() -> Vec<Row> {
    let home = Home::new();
    let daemon = Daemon::start(&home);
    daemon.make_echo_model("model-0");
    for index in 1..100 {
        daemon.post(
            "/api/copy",
            &format!(r#"{{"source":"model-0","destination":"model-{index}"}}"#),
        );
    }
    let runs: Vec<load::Outcome> = (0..5)
        .map(|_| load::get(daemon.port, "/api/tags", 64, Duration::from_secs(2)))
        .collect();
    let bytes = runs[0].body_bytes;
    let mut rates: Vec<f64> = runs
        .iter()
        .map(|run| run.requests as f64 / run.elapsed.as_secs_f64())
        .collect();
    rates.sort_by(f64::total_cmp);
    vec![
        Row {
            figure: format!("/api/tags, 100 models ({bytes} bytes), 64 connections"),
            value: format!("{:.0}/s ({:.0} to {:.0})", rates[2], rates[0], rates[4]),
            aim: "10,000/s",
        },
        Row {
            figure: "/api/tags, 99th percentile".into(),
            value: spread(runs.iter().map(|run| run.p99).collect()),
            aim: "20 ms",
        },
    ]
}

/// What a token costs through worker, daemon and HTTP. The echo engine computes nothing, so all of the time is transport.
fn token() -> Vec<Row> {
    const TOKENS: usize = 20_000;
    let home = Home::new();
    let daemon = Daemon::start(&home);
    daemon.make_echo_model("echo");
    let body = format!(r#"{{"model":"echo","prompt":"emit {TOKENS}","options":{{"num_predict":-1}},"raw":true}}"#);
    daemon.post("/api/generate", &body);
    let times = (0..7)
        .map(|_| {
            let start = Instant::now();
            let lines = daemon.post("/api/generate", &body).matches("\"response\"").count();
            assert!(
                lines > TOKENS / 2,
                "the echo engine streamed {lines} lines, wanted about {TOKENS}"
            );
            start.elapsed() / u32::try_from(lines).expect("fits")
        })
        .collect();
    vec![Row {
        figure: "worker + daemon + HTTP, each streamed token".into(),
        value: spread(times),
        aim: "50 us",
    }]
}

/// `create` from a GGUF of about 1 GB against `cp` and `sha256sum` run one after the other on the same file, in turn.
fn create() -> Vec<Row> {
    let bytes = std::env::var("WITNESS_BENCH_BYTES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_000_000_000);
    let home = Home::new();
    let model = home.path().join("big.gguf");
    let written = gguf::write(&model, gguf::Shape::of_bytes(bytes), "big");
    let modelfile = home.path().join("Modelfile");
    std::fs::write(&modelfile, "FROM ./big.gguf\n").expect("the temporary home is writable");
    let daemon = Daemon::start(&home);
    let copy = home.path().join("copy.gguf");
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        let start = Instant::now();
        run(Command::new("cp").arg(&model).arg(&copy));
        run(Command::new("sha256sum").arg(&copy));
        theirs.push(start.elapsed());
        std::fs::remove_file(&copy).expect("cp made it");

        let start = Instant::now();
        run(home.witness().args(["create", "big", "-f"]).arg(&modelfile));
        ours.push(start.elapsed());
        daemon.delete("/api/delete", r#"{"model":"big"}"#);
        ratios.push(ours[ours.len() - 1].as_secs_f64() / theirs[theirs.len() - 1].as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    vec![
        Row {
            figure: format!("witness create of {:.2} GB", written as f64 / 1e9),
            value: spread(ours),
            aim: "",
        },
        Row {
            figure: "cp, then sha256sum".into(),
            value: spread(theirs),
            aim: "",
        },
        Row {
            figure: "ratio, pair by pair".into(),
            value: format!("{:.2} ({:.2} to {:.2})", ratios[2], ratios[0], ratios[4]),
            aim: "below 1",
        },
    ]
}

/// Resident memory of the daemon after its start, and after it has served a listing and one model has come and gone.
fn idle_memory() -> Vec<Row> {
    let home = Home::new();
    let daemon = Daemon::start(&home);
    let fresh = daemon.resident_bytes();
    daemon.make_echo_model("echo");
    daemon.post(
        "/api/generate",
        r#"{"model":"echo","prompt":"a b c","raw":true,"keep_alive":0}"#,
    );
    let used = daemon.resident_bytes();
    let row = |figure: &str, bytes: u64| Row {
        figure: figure.into(),
        value: format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        aim: "20 MiB",
    };
    vec![
        row("daemon resident memory, fresh", fresh),
        row("daemon resident memory, after a create and an answer", used),
    ]
}

fn run(command: &mut Command) {
    let output = command.output().expect("the command can be started");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Formats the median and the range of some durations.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let text = |time: Duration| {
        let micros = time.as_secs_f64() * 1e6;
        if micros < 1000.0 {
            format!("{micros:.1} us")
        } else if micros < 1e6 {
            format!("{:.1} ms", micros / 1e3)
        } else {
            format!("{:.2} s", micros / 1e6)
        }
    };
    format!(
        "{} ({} to {})",
        text(times[times.len() / 2]),
        text(times[0]),
        text(times[times.len() - 1])
    )
}
