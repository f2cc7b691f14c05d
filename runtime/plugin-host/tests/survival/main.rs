//! Workers and the plugins in them, end to end: real processes, a real socket, and a plugin that breaks every rule.
//!
//! The test program is its own worker program: started with `worker` it becomes [`witness_plugin_host::worker_main`]. That is why it
//! has a main of its own, with a runner that takes a filter like the usual one.
//!
//! It takes some ten seconds: every case starts processes, and a hang can only be told by waiting for it.
#![expect(clippy::unwrap_used, reason = "a test, though one that brings its own main")]

mod basics;
mod c_plugin;
mod jobs;
mod matrix;
mod orphans;
mod restart;
mod stage;
mod trust;

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

/// Cases that run at once: they wait more than they compute.
const AT_ONCE: usize = 6;

/// One test.
struct Case {
    name: String,
    run: Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>,
}

/// Makes a case of an async function.
fn case<F: Future<Output = ()> + Send + 'static>(
    name: impl Into<String>,
    run: impl FnOnce() -> F + Send + 'static,
) -> Case {
    Case {
        name: name.into(),
        run: Box::new(move || Box::pin(run())),
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == "worker" => return witness_plugin_host::worker_main(arguments),
        Some(first) if first == orphans::PARENT => return orphans::parent(arguments.next()),
        _ => {}
    }
    let filters: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let all = [
        basics::cases(),
        trust::cases(),
        restart::cases(),
        c_plugin::cases(),
        jobs::cases(),
        orphans::cases(),
        matrix::cases(),
    ];
    let cases: Vec<Case> = all
        .into_iter()
        .flatten()
        .filter(|case| filters.is_empty() || filters.iter().any(|filter| case.name.contains(filter.as_str())))
        .collect();
    println!("\nrunning {} tests", cases.len());
    let library = stage::copy_library();
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (passed, failed) = runtime.block_on(run_all(cases));
    drop(library);
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    for name in &failed {
        println!("failed: {name}");
    }
    println!(
        "\ntest result: {verdict}. {passed} passed; {} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s\n",
        failed.len(),
        began.elapsed().as_secs_f64()
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs the cases and prints a line for each that fails, and a dot count for the rest.
async fn run_all(cases: Vec<Case>) -> (usize, Vec<String>) {
    let slots = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let mut running = tokio::task::JoinSet::new();
    for case in cases {
        let slots = Arc::clone(&slots);
        running.spawn(async move {
            let slot = slots.acquire_owned().await;
            let began = Instant::now();
            let outcome = tokio::spawn((case.run)()).await;
            drop(slot);
            (case.name, outcome.is_ok(), began.elapsed())
        });
    }
    let (mut passed, mut failed) = (0, Vec::new());
    while let Some(Ok((name, is_ok, took))) = running.join_next().await {
        println!(
            "test {name} ... {} ({:.2}s)",
            if is_ok { "ok" } else { "FAILED" },
            took.as_secs_f64()
        );
        if is_ok {
            passed += 1;
        } else {
            failed.push(name);
        }
    }
    failed.sort();
    (passed, failed)
}
