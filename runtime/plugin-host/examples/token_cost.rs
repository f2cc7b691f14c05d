//! What the worker process costs: a call's round trip, an answer's first token, and each token, over the same plugin called directly.
//!
//! `cargo run --release -p witness-plugin-host --example token_cost`
//!
//! The plugin is the hostile one in its good mode, which computes nothing, so that all that is measured is the way. The program is
//! its own worker program. Each figure is the median of [`ROUNDS`], with the spread; "paced" tokens come every half millisecond, as
//! a fast model's would, so that no two share a write.
#![expect(clippy::unwrap_used, reason = "a bench: what fails ends it")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use witness_plugin_host::{Generation, Host, HostConfig, Limits, ModelHandle, Worker, worker_main};
use witness_plugin_hostile::good::Echo;
use witness_plugin_protocol::{
    AdapterSpec, FileRef, GenerateRequest, LoadAdapterRequest, LoadOptions, LoadRequest, ModelSpec, Prompt,
    SamplingOptions,
};
use witness_plugin_sdk::{Init, Serve};

const ROUNDS: usize = 7;
const CALLS: u32 = 2_000;
const TOKENS: u32 = 200_000;
const PACED_TOKENS: u32 = 1_000;
const DEADLINE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "worker") {
        return worker_main(arguments);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure());
    ExitCode::SUCCESS
}

async fn measure() {
    let directory = tempfile::tempdir().unwrap();
    let fast = write_model(directory.path(), "fast", "num_ctx 100000000");
    let paced = write_model(directory.path(), "paced", "num_ctx 100000000\ndelay_us 500");
    let mut config = HostConfig::new(std::env::current_exe().unwrap());
    config.directories = vec![plugin_directory()];
    config.stream_events_max = 1 << 22;
    let host = Host::new(config);
    let entry = host.find("hostile").await.unwrap();

    let mut starts = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let worker = host.start(&entry, Limits::for_purpose("bench")).await.unwrap();
        starts.push(began.elapsed().as_secs_f64() * 1e6);
        worker.kill();
        worker.died().await;
    }
    report("start of a worker, plugin initialized", starts);

    let worker = host.start(&entry, Limits::for_purpose("bench")).await.unwrap();
    let (model, _) = worker.load(&load_request(&fast), DEADLINE).await.unwrap();
    let (paced_model, _) = worker.load(&load_request(&paced), DEADLINE).await.unwrap();
    let adapter = LoadAdapterRequest {
        adapter: AdapterSpec {
            name: "a".into(),
            files: vec![],
        },
        check: false,
        draft: None,
    };
    let mut trips = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        for _ in 0..CALLS {
            worker.load_adapter(model, &adapter, DEADLINE).await.unwrap();
        }
        trips.push(micros(began, CALLS));
    }
    report("round trip of a call", trips);

    let mut answers = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        for _ in 0..CALLS {
            through_worker(&worker, model, 1).await;
        }
        answers.push(micros(began, CALLS));
    }
    report("answer of one token, start to end", answers);

    let (mut direct, mut worked) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        direct.push(directly(&fast, TOKENS));
        let began = Instant::now();
        through_worker(&worker, model, TOKENS).await;
        worked.push(micros(began, TOKENS));
    }
    let (direct, worked) = (
        report("token, called directly", direct),
        report("token, through the worker", worked),
    );
    println!(
        "{:<44} {:>9.2} us",
        "  cost of the worker per token, unpaced",
        worked - direct
    );

    let (mut direct, mut worked) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        direct.push(directly(&paced, PACED_TOKENS));
        let began = Instant::now();
        through_worker(&worker, paced_model, PACED_TOKENS).await;
        worked.push(micros(began, PACED_TOKENS));
    }
    let direct = report("token every 500 us, called directly", direct);
    let worked = report("token every 500 us, through the worker", worked);
    println!(
        "{:<44} {:>9.2} us",
        "  cost of the worker per token, paced",
        worked - direct
    );
}

/// Runs an answer in a worker and reads it to its end.
async fn through_worker(worker: &Worker, model: ModelHandle, tokens: u32) {
    let mut generation: Generation = worker.generate(model, &request(tokens)).await.unwrap();
    let mut seen = 0;
    while generation.recv().await.is_some() {
        seen += 1;
    }
    assert_eq!(seen, tokens + 1);
}

/// Runs an answer in this process and returns the microseconds of a token.
fn directly(model: &Path, tokens: u32) -> f64 {
    let mut engine = Echo::init(&Init::default()).unwrap();
    let (mut model, _) = engine.load(load_request(model)).unwrap();
    let began = Instant::now();
    engine.start(&mut model, 1, request(tokens)).unwrap();
    let mut seen = 0;
    while engine
        .step(&mut model, &mut |event| {
            std::hint::black_box(&event);
            seen += 1;
        })
        .unwrap()
        > 0
    {}
    assert_eq!(seen, tokens + 1);
    micros(began, tokens)
}

fn micros(began: Instant, count: u32) -> f64 {
    began.elapsed().as_secs_f64() * 1e6 / f64::from(count)
}

/// Prints median and spread, and returns the median.
fn report(what: &str, mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    let median = samples[samples.len() / 2];
    println!(
        "{what:<44} {median:>9.2} us  ({:.2} to {:.2})",
        samples[0],
        samples[samples.len() - 1]
    );
    median
}

fn write_model(directory: &Path, name: &str, lines: &str) -> PathBuf {
    let path = directory.join(name).with_extension("hostile");
    std::fs::write(&path, format!("HOSTILE1\n{lines}\n")).unwrap();
    path
}

fn load_request(model: &Path) -> LoadRequest {
    let file = FileRef {
        name: "model.hostile".into(),
        path: model.to_owned(),
        digest: String::new(),
        size: 0,
    };
    LoadRequest {
        model: ModelSpec { files: vec![file] },
        options: LoadOptions::default(),
        chats: None,
        packed: None,
    }
}

fn request(tokens: u32) -> GenerateRequest {
    GenerateRequest {
        prompt: Prompt::Text {
            text: format!("emit {tokens}"),
            context: vec![],
            add_special: false,
        },
        adapter: None,
        draft: None,
        sampling: SamplingOptions::default(),
        format: None,
        top_logprobs: None,
        truncate: false,
        return_prompt_ids: false,
    }
}

/// Returns where cargo leaves the plugins of dev-dependencies.
fn plugin_directory() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.parent().and_then(Path::parent).unwrap().join("deps")
}
