//! `witness bench`: how fast a model reads and answers on this machine, beside llama.cpp where it is there.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use witness_api::{BenchRequest, Measured, MeasuredModel, SpeedCase};
use witness_diagnostics::{Diagnostic, Kind};

use super::measuring::Followed;
use crate::cli::Bench;
use crate::context::{Context, Outcome};
use crate::render::progress::Bars;
use crate::render::{output, speed};

/// Times a model, in turns with the peer where one is named.
pub(crate) fn bench(context: &Context, arguments: &Bench) -> Outcome {
    let cases = cases(arguments);
    let rows = match &arguments.vs {
        None => {
            let measured = run(context, arguments, &cases, arguments.repeats)?;
            if arguments.json {
                return output::json(&measured);
            }
            speed::Row::of(&measured)
        }
        Some(peer) => {
            let rows = race(context, arguments, &cases, peer)?;
            if arguments.json {
                return output::json(&speed::Row::as_json(&rows));
            }
            rows
        }
    };
    output::print(&speed::table(&rows, output::width()))
}

fn cases(arguments: &Bench) -> Vec<SpeedCase> {
    let prompts = arguments.prompt.iter().map(|&prompt| SpeedCase {
        prompt,
        generate: 0,
        parallel: 1,
        seen: None,
    });
    let answers = arguments.depth.iter().flat_map(|&depth| {
        arguments.parallel.iter().map(move |&parallel| SpeedCase {
            prompt: depth,
            generate: arguments.generate,
            parallel,
            seen: None,
        })
    });
    let first_tokens = arguments.seen.iter().map(|&seen| SpeedCase {
        prompt: arguments.prompt.first().copied().unwrap_or(seen),
        generate: 1,
        parallel: 1,
        seen: Some(seen),
    });
    prompts.chain(answers).chain(first_tokens).collect()
}

fn run(context: &Context, arguments: &Bench, cases: &[SpeedCase], repeats: u64) -> Outcome<Measured> {
    let client = context.daemon()?;
    let bars = Bars::new();
    let mut followed = Followed::default();
    let ended = context.wait_or_interrupt(async {
        let request = BenchRequest {
            model: MeasuredModel {
                model: arguments.name.clone(),
                adapter: arguments.adapter.clone(),
            },
            cases: cases.to_vec(),
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

/// Runs one round of ours and one of the peer's, and again: what disturbs the machine disturbs both.
fn race(context: &Context, arguments: &Bench, cases: &[SpeedCase], peer: &Path) -> Outcome<Vec<speed::Row>> {
    let mut rows: Vec<speed::Row> = Vec::new();
    for round in 1..=arguments.repeats {
        let measured = run(context, arguments, cases, 1)?;
        let Some(file) = measured.file.clone() else {
            return Err(Diagnostic::new(
                "witness::cli::bench_peer",
                Kind::Unsupported,
                format!(
                    "`{}` is not one GGUF file, and llama-bench reads nothing else",
                    arguments.name
                ),
            )
            .hint(format!("quantize it first: `witness quantize {} q8_0`", arguments.name)));
        };
        if rows.is_empty() {
            rows = speed::Row::of(&measured);
        } else {
            for (row, found) in rows.iter_mut().zip(&measured.speed) {
                row.ours.extend(speed::found(found));
            }
        }
        for row in &mut rows {
            // llama-bench runs one sequence, and reads every prompt anew.
            if row.case.parallel <= 1 && row.case.seen.is_none() {
                row.peer.push(peer_speed(peer, &file, row.case, arguments.threads)?);
            }
        }
        output::note(&format!("round {round} of {}", arguments.repeats));
    }
    Ok(rows)
}

fn peer_speed(peer: &Path, file: &Path, case: SpeedCase, threads: Option<u32>) -> Outcome<f64> {
    let failed = |cause: String| {
        Diagnostic::new(
            "witness::cli::bench_peer",
            Kind::Environment,
            format!("`{}` did not measure", peer.display()),
        )
        .cause(cause)
        .hint("name llama.cpp's `llama-bench`; it takes the arguments `-m -p -n -d -r -t -o json`")
    };
    let (prompt, generate, depth) = match case.generate {
        0 => (case.prompt, 0, 0),
        generate => (0, generate, case.prompt),
    };
    let threads = threads.map_or_else(available_threads, |threads| threads as usize);
    let output = Command::new(peer)
        .arg("-m")
        .arg(file)
        .args([
            "-p",
            &prompt.to_string(),
            "-n",
            &generate.to_string(),
            "-d",
            &depth.to_string(),
        ])
        .args(["-r", "1", "-t", &threads.to_string(), "-o", "json"])
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(said.lines().last().unwrap_or("it said nothing").to_owned()));
    }
    let found: Value = serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))?;
    let speed = found
        .get(0)
        .and_then(|found| found.get("avg_ts"))
        .and_then(Value::as_f64);
    speed.ok_or_else(|| failed("its answer has no `avg_ts`".to_owned()))
}

fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
