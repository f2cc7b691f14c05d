//! `witness bench`: how fast a model reads and answers on this machine, beside llama.cpp where it is there.
//!
//! ```text
//! a round: our engine (a job of the daemon) -> llama-bench, case by case -> our daemon over HTTP -> llama-server over HTTP
//! ```
//!
//! With a peer there are as many rounds as repeats, so that what disturbs the machine disturbs both; without one a round holds all repeats.

mod load;
mod peer;
mod server;

use std::future::Future;

use witness_api::{BenchRequest, Measured, MeasuredModel, SpeedCase, StatusResponse, UnloadRequest, UnloadResponse};
use witness_client::TimedClient;
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::ProcessMemory;

use super::following;
use super::measuring::Followed;
use crate::cli::Bench;
use crate::context::{Context, Outcome};
use crate::render::progress::Bars;
use crate::render::speed::{self, Found, Place, Side};
use crate::render::{output, table::one_line};
use load::{Load, Prompts};
use peer::Peer;

/// Times a model, in turns with the peer where one is named.
pub(crate) fn bench(context: &Context, arguments: &Bench) -> Outcome {
    let load = Load::of(arguments)?;
    let peer = arguments.vs.as_deref().map(|program| Peer::new(program, arguments));
    let (rounds, repeats) = match peer {
        Some(_) => (arguments.repeats, 1),
        None => (1, arguments.repeats),
    };
    let mut found = Found::new(peer.is_some());
    for round in 1..=rounds {
        let measured = engine(context, arguments, repeats)?;
        found.add_engine(&measured);
        if let Some(peer) = &peer {
            let file = peer::file(&measured)?;
            let cases: Vec<SpeedCase> = measured.speed.iter().map(|found| found.case).collect();
            unless_ended(context, peer.run_cases(file, &cases, &mut found))?;
        }
        if !load.is_empty() {
            served(context, arguments, &load, (round, repeats), &measured, &mut found)?;
            if let Some(peer) = &peer {
                let prompts = Prompts::new(round, measured.vocab_size);
                unless_ended(context, peer.serve(peer::file(&measured)?, &load, prompts, &mut found))?;
            }
        }
        if peer.is_some() {
            output::note(&format!("round {round} of {rounds}"));
        }
    }
    if arguments.json {
        return output::json(&found.as_json());
    }
    output::print(&speed::table(&found, output::width()))
}

/// Returns what the engine is timed at. A batch with adapters has the same without beside it.
fn cases(arguments: &Bench) -> Vec<SpeedCase> {
    let prompts = arguments.prompt.iter().map(|&prompt| SpeedCase {
        prompt,
        ..SpeedCase::default()
    });
    let answers = arguments.depth.iter().flat_map(|&depth| {
        arguments.parallel.iter().map(move |&parallel| SpeedCase {
            prompt: depth,
            generate: arguments.generate,
            parallel,
            ..SpeedCase::default()
        })
    });
    let depth = arguments.depth.first().copied().unwrap_or_default();
    let adapted = arguments.adapters.iter().flat_map(|&parallel| {
        [0, parallel].map(|adapters| SpeedCase {
            prompt: depth,
            generate: arguments.generate,
            parallel,
            adapters,
        })
    });
    let mut cases: Vec<SpeedCase> = prompts.chain(answers).collect();
    for case in adapted {
        if !cases.contains(&case) {
            cases.push(case);
        }
    }
    cases
}

/// Times the engine by itself, in a worker of its own.
fn engine(context: &Context, arguments: &Bench, repeats: u64) -> Outcome<Measured> {
    let client = context.daemon()?;
    let bars = Bars::new();
    let mut followed = Followed::default();
    let ended = context.wait_or_interrupt(async {
        let request = BenchRequest {
            model: MeasuredModel {
                model: arguments.name.clone(),
                adapter: arguments.adapter.clone(),
            },
            cases: cases(arguments),
            repeats: Some(repeats),
            num_thread: arguments.threads,
        };
        followed.follow(&bars, client.bench(&request).await).await
    });
    bars.clear();
    let results = followed.end(context, ended, &[&arguments.name])?;
    results.into_iter().next().ok_or_else(|| {
        Diagnostic::new(
            "witness::cli::no_result",
            Kind::Internal,
            "the daemon ended without a result",
        )
        .hint("please report it")
    })
}

/// Times answers of our daemon as its clients see them.
fn served(
    context: &Context,
    arguments: &Bench,
    load: &Load,
    (round, repeats): (u64, u64),
    measured: &Measured,
    found: &mut Found,
) -> Outcome {
    let client = context.daemon()?;
    let timed = TimedClient::of_daemon(
        client,
        (&arguments.name, arguments.adapter.as_deref()),
        (load.n_context(), load.n_places()),
        arguments.threads,
    );
    unless_ended(context, async {
        let mut prompts = Prompts::new(round, measured.vocab_size);
        load.warm_up(&timed, &mut prompts).await?;
        for _ in 0..repeats {
            load.run(&timed, &mut prompts, &mut |test, value| {
                found.add(Side::Ours, test, value)
            })
            .await?;
        }
        let status: StatusResponse = client.get("/api/witness/status").await?;
        let loaded = status.loaded.iter().find(|loaded| loaded.model == measured.model);
        if let Some(memory) = loaded.and_then(|loaded| memory_of(loaded.worker_pid)) {
            found.add_memory(Side::Ours, Place::Served(load.n_places()), &memory);
        }
        // It was loaded with places and a context of its own, which nobody else asked for.
        let request = UnloadRequest {
            model: arguments.name.clone(),
        };
        client.post::<UnloadResponse>("/api/witness/unload", &request).await?;
        Ok(())
    })
}

/// Reads what the system says of a process's memory; nothing where it does not, or the process has ended.
fn memory_of(pid: u32) -> Option<ProcessMemory> {
    ProcessMemory::from_status(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// Runs to the end, or until Ctrl-C or a request to end: what is dropped then ends the programs that it started.
fn unless_ended<T>(context: &Context, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let ended = context.wait_or_interrupt(async {
        let mut terminated =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(|error| {
                Diagnostic::new(
                    "witness::cli::signals",
                    Kind::Environment,
                    "signals cannot be waited for",
                )
                .cause(error.to_string())
                .hint("raise the limit of open files (`ulimit -n`)")
            })?;
        tokio::select! {
            done = work => done.map(Some),
            _ = terminated.recv() => Ok(None),
        }
    })?;
    ended
        .flatten()
        .ok_or_else(|| following::interrupted("the measurement was broken off".to_owned()))
}

/// Returns the last thing that a program said, for a message.
fn last_words(said: &str) -> String {
    let last = said.lines().rfind(|line| !line.trim().is_empty());
    last.map_or_else(|| "it said nothing".to_owned(), |line| one_line(line.trim()))
}
