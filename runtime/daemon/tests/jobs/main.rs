//! Training runs, end to end: a daemon in a process of its own, real workers, real HTTP, and the plugin that breaks every rule when asked.
//!
//! The test program is its own daemon and its own worker program, hence a main of its own, with a runner that takes a filter. Daemons are
//! killed here, so each case has one to itself.
#![expect(clippy::unwrap_used, reason = "a test, though one that brings its own main")]

mod desk;
mod ends;
mod publish;
mod requests;
mod runs;

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;

/// Cases that run at once: they wait more than they compute.
const AT_ONCE: usize = 4;

/// One test.
pub(crate) struct Case {
    name: String,
    run: Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>,
}

/// Makes a case of an async function.
pub(crate) fn case<F: Future<Output = ()> + Send + 'static>(
    name: &str,
    run: impl FnOnce() -> F + Send + 'static,
) -> Case {
    Case {
        name: name.to_owned(),
        run: Box::new(move || Box::pin(run())),
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == "worker" => return witness_plugin_host::worker_main(arguments),
        Some(first) if first == desk::DAEMON => return desk::daemon(arguments),
        _ => {}
    }
    let all = [requests::cases(), runs::cases(), publish::cases(), ends::cases()];
    let all: Vec<Case> = all.into_iter().flatten().collect();
    if std::env::args().any(|argument| argument == "--list") {
        all.iter().for_each(|case| println!("{}: test", case.name));
        return ExitCode::SUCCESS;
    }
    let filters: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let cases: Vec<Case> = all
        .into_iter()
        .filter(|case| filters.is_empty() || filters.iter().any(|filter| case.name.contains(filter.as_str())))
        .collect();
    println!("\nrunning {} tests", cases.len());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let failed = runtime.block_on(run_all(cases));
    for name in &failed {
        println!("failed: {name}");
    }
    if failed.is_empty() {
        println!("test result: ok");
        ExitCode::SUCCESS
    } else {
        println!("test result: FAILED. {} failed", failed.len());
        ExitCode::FAILURE
    }
}

async fn run_all(cases: Vec<Case>) -> Vec<String> {
    let slots = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let mut running = tokio::task::JoinSet::new();
    for case in cases {
        let slots = Arc::clone(&slots);
        running.spawn(async move {
            let _slot = slots.acquire_owned().await;
            let began = std::time::Instant::now();
            let is_ok = tokio::spawn((case.run)()).await.is_ok();
            (case.name, is_ok, began.elapsed().as_secs_f64())
        });
    }
    let mut failed = Vec::new();
    while let Some(Ok((name, is_ok, seconds))) = running.join_next().await {
        println!(
            "test {name} ... {} ({seconds:.2}s)",
            if is_ok { "ok" } else { "FAILED" }
        );
        if !is_ok {
            failed.push(name);
        }
    }
    failed
}
