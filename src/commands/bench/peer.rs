//! llama.cpp on the same file: `llama-bench` for the engine, and the `llama-server` beside it for what clients see.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use witness_api::{Measured, SpeedCase};
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::ProcessMemory;

use super::load::{Load, Prompts, timed_out};
use super::server::LlamaServer;
use super::{last_words, memory_of};
use crate::cli::Bench;
use crate::context::Outcome;
use crate::render::speed::{Found, Place, Side, Test};

/// How often the memory of a program is looked at while it runs. Its peak only grows, so what is missed is growth in the last of these.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Name of the server's program, which llama.cpp's build leaves beside `llama-bench`.
const SERVER: &str = "llama-server";

/// The programs, and what they are told.
pub(super) struct Peer {
    bench: PathBuf,
    server: PathBuf,
    threads: usize,
    limit: Duration,
}

impl Peer {
    pub(super) fn new(bench: &Path, arguments: &Bench) -> Peer {
        let all = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Peer {
            bench: bench.to_owned(),
            server: bench.with_file_name(SERVER),
            threads: arguments.threads.map_or_else(all, |threads| threads as usize),
            limit: Duration::from_secs(arguments.limit),
        }
    }

    /// Runs every case that it knows.
    pub(super) async fn run_cases(&self, file: &Path, cases: &[SpeedCase], found: &mut Found) -> Outcome {
        let mut most: Option<ProcessMemory> = None;
        for case in cases {
            // It runs one sequence, of the base.
            if case.parallel > 1 || case.adapters > 0 {
                continue;
            }
            let (speed, memory) = self.run_case(file, case).await?;
            found.add(Side::Peer, Test::Engine(*case), speed);
            most = [most, memory]
                .into_iter()
                .flatten()
                .max_by_key(|memory| memory.peak_bytes);
        }
        if let Some(memory) = most {
            found.add_memory(Side::Peer, Place::Engine, &memory);
        }
        Ok(())
    }

    async fn run_case(&self, file: &Path, case: &SpeedCase) -> Outcome<(f64, Option<ProcessMemory>)> {
        let failed = |cause: String| {
            failed(&self.bench, cause)
                .hint("name llama.cpp's `llama-bench`; it takes the arguments `-m -p -n -d -r -t -o json`")
        };
        let (prompt, generate, depth) = match case.generate {
            0 => (case.prompt, 0, 0),
            generate => (0, generate, case.prompt),
        };
        let mut command = Command::new(&self.bench);
        command.arg("-m").arg(file);
        for (flag, value) in [("-p", prompt), ("-n", generate), ("-d", depth), ("-r", 1)] {
            command.arg(flag).arg(value.to_string());
        }
        command.arg("-t").arg(self.threads.to_string()).args(["-o", "json"]);
        let ran = tokio::time::timeout(self.limit, watched(&mut command)).await;
        let (output, memory) = match ran {
            Ok(ran) => ran.map_err(|error| failed(error.to_string()))?,
            Err(_) => return Err(timed_out("llama-bench did not end", self.limit)),
        };
        if !output.status.success() {
            let said = last_words(&String::from_utf8_lossy(&output.stderr));
            return Err(failed(format!("{}: {said}", output.status)));
        }
        Ok((tokens_per_second(&output.stdout).map_err(failed)?, memory))
    }

    /// Starts its server, asks it what ours was asked, and ends it. Says so where there is none.
    pub(super) async fn serve(&self, file: &Path, load: &Load, mut prompts: Prompts, found: &mut Found) -> Outcome {
        let started = LlamaServer::start(
            &self.server,
            file,
            (load.n_context(), load.n_places()),
            self.threads,
            self.limit,
        );
        let Some(server) = started.await? else {
            found.note(format!(
                "no `{SERVER}` lies beside `{}`: first tokens and chats were not raced",
                self.bench.display()
            ));
            return Ok(());
        };
        let asked = async {
            load.warm_up(server.client(), &mut prompts).await?;
            load.run(server.client(), &mut prompts, &mut |test, value| {
                found.add(Side::Peer, test, value);
            })
            .await
        };
        if let Err(refusal) = asked.await {
            return Err(server.explain(refusal));
        }
        if let Some(memory) = server.memory() {
            found.add_memory(Side::Peer, Place::Served(load.n_places()), &memory);
        }
        server.end().await;
        Ok(())
    }
}

/// Returns the file that both run.
pub(super) fn file(measured: &Measured) -> Outcome<&Path> {
    measured.file.as_deref().ok_or_else(|| {
        let name = &measured.model;
        let message = format!("`{name}` is not one GGUF file, and llama-bench reads nothing else");
        Diagnostic::new("witness::cli::bench_peer", Kind::Unsupported, message)
            .hint(format!("quantize it first: `witness quantize {name} q8_0`"))
    })
}

/// Why a program of the peer gave nothing.
pub(super) fn failed(program: &Path, cause: String) -> Diagnostic {
    let message = format!("`{}` did not measure", program.display());
    Diagnostic::new("witness::cli::bench_peer", Kind::Environment, message).cause(cause)
}

/// Runs a program to its end and returns what it said, and its memory when it was last seen.
async fn watched(command: &mut Command) -> std::io::Result<(Output, Option<ProcessMemory>)> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let child = command.spawn()?;
    let pid = child.id();
    let mut memory = None;
    let mut ended = std::pin::pin!(child.wait_with_output());
    loop {
        tokio::select! {
            output = &mut ended => return Ok((output?, memory)),
            () = tokio::time::sleep(LOOK_EVERY) => memory = pid.and_then(memory_of).or(memory),
        }
    }
}

/// Reads the average of `llama-bench -o json`.
fn tokens_per_second(said: &[u8]) -> Result<f64, String> {
    let found: Value = serde_json::from_slice(said).map_err(|error| format!("its answer is no JSON: {error}"))?;
    let speed = found.get(0).and_then(|found| found.get("avg_ts"));
    match speed.and_then(Value::as_f64) {
        Some(speed) if speed > 0.0 => Ok(speed),
        Some(speed) => Err(format!("its answer says {speed} tokens a second")),
        None => Err("its answer has no `avg_ts`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_llama_bench_says_is_read_or_refused() {
        let read = |text: &str| tokens_per_second(text.as_bytes());
        let whole =
            r#"[{"build_commit":"x","n_prompt":512,"n_gen":0,"n_depth":0,"avg_ns":9,"avg_ts":83.5,"stddev_ts":0.0}]"#;
        assert_eq!(read(whole), Ok(83.5));
        for (text, said) in [
            ("", "no JSON"),
            ("llama_load: failed", "no JSON"),
            ("[]", "`avg_ts`"),
            (r#"[{"avg_ts":"fast"}]"#, "`avg_ts`"),
            (r#"[{"avg_ts":0}]"#, "0 tokens a second"),
        ] {
            let refused = read(text).unwrap_err();
            assert!(refused.contains(said), "{text}: {refused}");
        }
    }
}
