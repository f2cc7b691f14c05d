//! A `llama-server` of our own: started on a free port of the loopback address, waited for, and ended whatever happens.

use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use witness_client::TimedClient;
use witness_diagnostics::Diagnostic;
use witness_plugin_protocol::ProcessMemory;

use super::load::timed_out;
use super::{last_words, memory_of, peer};
use crate::context::Outcome;

/// Pause between questions whether it is ready.
const POLL: Duration = Duration::from_millis(20);
/// What is read of the end of its log.
const TAIL_BYTES: usize = 4096;

/// A server that answers. Killed when dropped.
pub(super) struct LlamaServer {
    program: PathBuf,
    child: Child,
    client: TimedClient,
    log: std::fs::File,
}

impl LlamaServer {
    /// Starts it and waits until it has loaded the model; nothing where there is no such program.
    pub(super) async fn start(
        program: &Path,
        file: &Path,
        (n_context, n_places): (u64, u64),
        threads: usize,
        limit: Duration,
    ) -> Outcome<Option<LlamaServer>> {
        let failed = |cause: String| peer::failed(program, cause);
        // Freed again: it takes the port by number. Should another program be quicker, it says so and ends.
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .map_err(|error| failed(error.to_string()))?
            .port();
        let log = tempfile::tempfile().map_err(|error| failed(error.to_string()))?;
        let log_of_child = || log.try_clone().map_err(|error| failed(error.to_string()));
        let mut command = Command::new(program);
        command
            .arg("-m")
            .arg(file)
            .args(["--host", "127.0.0.1", "--no-webui"])
            .args(["--port", &port.to_string()])
            .args(["-t", &threads.to_string()])
            .args(["-np", &n_places.to_string()])
            .args(["-c", &n_context.saturating_mul(n_places).to_string()])
            .stdin(Stdio::null())
            .stdout(log_of_child()?)
            .stderr(log_of_child()?)
            .kill_on_drop(true);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error.to_string())),
        };
        let mut server = LlamaServer {
            program: program.to_owned(),
            child,
            client: TimedClient::of_llama_server(port)?,
            log,
        };
        match tokio::time::timeout(limit, server.ready()).await {
            Ok(ready) => ready.map(|()| Some(server)),
            Err(_) => Err(server.explain(timed_out("llama-server was not ready", limit))),
        }
    }

    async fn ready(&mut self) -> Outcome {
        while !self.client.is_ready().await {
            if let Some(ended) = self.child.try_wait().ok().flatten() {
                let cause = format!("it ended before it was ready ({ended}): {}", self.last_words());
                return Err(peer::failed(&self.program, cause)
                    .hint("it takes the arguments `-m --host --port --no-webui -t -np -c`; does it run by itself?")
                    .hint("too large for this machine? ask for fewer `--chats` or shorter ones (`-d`, `-n`)"));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    pub(super) fn client(&self) -> &TimedClient {
        &self.client
    }

    pub(super) fn memory(&self) -> Option<ProcessMemory> {
        memory_of(self.child.id()?)
    }

    /// Says of an error that it is this server's, and what it said last.
    pub(super) fn explain(mut self, refusal: Diagnostic) -> Diagnostic {
        let state = match self.child.try_wait().ok().flatten() {
            Some(ended) => format!("it ended by itself ({ended})"),
            None => "it was running still".to_owned(),
        };
        let mut explained = peer::failed(&self.program, refusal.message);
        explained.causes.extend(refusal.causes);
        explained.hints.extend(refusal.hints);
        explained.cause(format!("{state}; its last words: {}", self.last_words()))
    }

    /// Ends it, and waits until it has.
    pub(super) async fn end(mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill().await;
    }

    fn last_words(&self) -> String {
        let mut tail = vec![0; TAIL_BYTES];
        let length = self.log.metadata().map_or(0, |metadata| metadata.len());
        // At a place of its own: the server goes on writing where the file's is.
        match self.log.read_at(&mut tail, length.saturating_sub(TAIL_BYTES as u64)) {
            Ok(n_bytes) => last_words(&String::from_utf8_lossy(&tail[..n_bytes])),
            Err(error) => format!("they cannot be read: {error}"),
        }
    }
}
