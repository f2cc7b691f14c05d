//! The host's end of one worker: calls in flight, answers on their way, and the one task that reads, pings and notices the end.
//!
//! Who writes: anybody through [`Connection::call`] and friends, into a queue that a writer task empties. Who waits: callers, each
//! on its own channel. The watching task alone takes entries out when a worker ends, so every caller is told exactly once.

mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch as latch};
use witness_plugin_protocol::{Diagnostic, Kind};

use crate::config::HostConfig;
use crate::death::Cause;
use crate::frame::{self, CallHeader, FrameKind, JOB_EVENTS_MAX, Operation};
use crate::generation::{GenEvent, Stream};
use crate::spawn::{Process, Spawned};

/// Calls and answers of one worker that may be in flight together; far above what a scheduler lets through.
const IN_FLIGHT_MAX: usize = 4096;

/// What a successful call brought: the number of the model and JSON.
pub(crate) type Answer = (u64, Vec<u8>);

/// A job's number, its events, and its answer.
pub(crate) type RunningJob = (
    u64,
    mpsc::Receiver<Value>,
    oneshot::Receiver<Result<Answer, Diagnostic>>,
);

/// Called once when the worker has ended: how, and whether it ended by itself.
pub(crate) type OnDeath = Box<dyn FnOnce(&Diagnostic, bool) + Send + Sync>;

/// Who the worker is, for messages.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub(crate) plugin: String,
    pub(crate) purpose: String,
    pub(crate) memory_bytes: Option<u64>,
}

/// One worker as its callers see it.
pub(crate) struct Connection {
    name: Name,
    process: Arc<Process>,
    state: Mutex<State>,
    death: latch::Sender<Option<Diagnostic>>,
}

#[derive(Default)]
struct State {
    last_id: u64,
    calls: HashMap<u64, PendingCall>,
    streams: HashMap<u64, RunningStream>,
    /// Jobs that have not ended: where their events go. Whoever reads them may have left.
    jobs: HashMap<u64, mpsc::Sender<Value>>,
    outbound: Option<mpsc::UnboundedSender<Vec<u8>>>,
    /// Why the host ended it; the first reason stands.
    cause: Option<Cause>,
    /// It was told to shut down.
    is_stopping: bool,
}

struct PendingCall {
    operation: Operation,
    answer: oneshot::Sender<Result<Answer, Diagnostic>>,
}

struct RunningStream {
    events: mpsc::Sender<GenEvent>,
    last: Arc<Mutex<Option<GenEvent>>>,
}

impl Connection {
    /// Takes charge of a fresh worker process. Needs a tokio runtime.
    pub(crate) fn open(
        spawned: Spawned,
        name: Name,
        config: &HostConfig,
        on_death: OnDeath,
    ) -> std::io::Result<Arc<Self>> {
        let Spawned {
            process,
            socket,
            stdout,
            stderr,
            exit,
        } = spawned;
        let guard = KillOnError(Some(Arc::clone(&process)));
        let (read, write) = tokio::net::UnixStream::from_std(socket)?.into_split();
        let (outbound, queue) = mpsc::unbounded_channel();
        let connection = Arc::new(Self {
            name,
            process,
            state: Mutex::new(State {
                outbound: Some(outbound),
                ..State::default()
            }),
            death: latch::Sender::new(None),
        });
        let logs = watch::start_logs(&connection, stdout, stderr)?;
        tokio::spawn(watch::write_all(write, queue));
        tokio::spawn(watch::Watch::new(Arc::clone(&connection), config, logs, on_death).run(read, exit));
        guard.disarm();
        Ok(connection)
    }

    /// Returns the process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Makes a call and waits for its answer; a deadline that passes ends the worker.
    pub(crate) async fn call(
        self: &Arc<Self>,
        header: CallHeader,
        body: &[u8],
        deadline: Option<Duration>,
    ) -> Result<Answer, Diagnostic> {
        let id = self.state().next_id();
        let answer = self.post(id, FrameKind::Call, header.operation, &[&header.encode(), body])?;
        self.wait(answer, header.operation, deadline).await
    }

    /// Sends the boot and waits for its answer.
    pub(crate) async fn boot(self: &Arc<Self>, boot: &[u8], deadline: Duration) -> Result<Answer, Diagnostic> {
        let answer = self.post(0, FrameKind::Boot, Operation::Open, &[boot])?;
        self.wait(answer, Operation::Open, Some(deadline)).await
    }

    /// Starts a sequence; its events go to the returned stream from the first one on. Dropping the stream cancels it.
    pub(crate) async fn start(
        self: &Arc<Self>,
        header: CallHeader,
        body: &[u8],
        events_max: usize,
    ) -> Result<(Stream, Vec<u8>), Diagnostic> {
        let (events, receiver) = mpsc::channel(events_max.max(1));
        let last = Arc::new(Mutex::new(None));
        let id = {
            let mut state = self.state();
            let id = state.next_id();
            state.streams.insert(
                id,
                RunningStream {
                    events,
                    last: Arc::clone(&last),
                },
            );
            id
        };
        let stream = Stream::new(Arc::clone(self), id, receiver, last);
        let answer = self.post(id, FrameKind::Call, header.operation, &[&header.encode(), body])?;
        let (_, reply) = self.wait(answer, header.operation, None).await?;
        Ok((stream, reply))
    }

    /// Starts a job. Returns its number, its events, and its answer when it has ended.
    pub(crate) fn run_job(&self, header: CallHeader, body: &[u8]) -> Result<RunningJob, Diagnostic> {
        // The worker keeps to the same number: a channel that is full means one that does not.
        let (events, receiver) = mpsc::channel(JOB_EVENTS_MAX);
        let id = {
            let mut state = self.state();
            let id = state.next_id();
            state.jobs.insert(id, events);
            id
        };
        let posted = self.post(id, FrameKind::Call, header.operation, &[&header.encode(), body]);
        match posted {
            Ok(answer) => Ok((id, receiver, answer)),
            Err(diagnostic) => {
                self.state().jobs.remove(&id);
                Err(diagnostic)
            }
        }
    }

    /// Asks a job to save and end, unless it has ended.
    pub(crate) fn stop_job(&self, id: u64) {
        let mut state = self.state();
        if state.jobs.contains_key(&id) {
            state.send(FrameKind::StopJob, id, &[]);
        }
    }

    /// Tells the worker that an event of a job was taken, unless the job has ended.
    pub(crate) fn job_taken(&self, id: u64) {
        let mut state = self.state();
        if state.jobs.contains_key(&id) {
            state.send(FrameKind::JobTaken, id, &[]);
        }
    }

    /// Ends a sequence, unless it has ended.
    pub(crate) fn cancel(&self, sequence: u64) {
        let mut state = self.state();
        if state.streams.remove(&sequence).is_some() {
            state.send(FrameKind::Cancel, sequence, &[]);
        }
    }

    /// Ends the process for a reason; the first reason stands.
    pub(crate) fn end(&self, cause: Cause) {
        self.state().cause.get_or_insert(cause);
        self.process.kill();
    }

    /// Tells the worker to shut down; after `grace` it is ended. Returns how it ended.
    pub(crate) async fn stop(&self, grace: Duration) -> Diagnostic {
        {
            let mut state = self.state();
            state.is_stopping = true;
            state.send(FrameKind::Stop, 0, &[]);
        }
        if let Ok(death) = tokio::time::timeout(grace, self.died()).await {
            return death;
        }
        self.end(Cause::Deadline(Operation::Shutdown, grace));
        self.died().await
    }

    /// Waits for the end of the worker and returns how it ended.
    pub(crate) async fn died(&self) -> Diagnostic {
        let mut death = self.death.subscribe();
        match death.wait_for(Option::is_some).await {
            Ok(diagnostic) => diagnostic.clone(),
            Err(_) => None,
        }
        .unwrap_or_else(|| self.unknown_end())
    }

    /// Returns how the worker ended, if it has.
    pub(crate) fn death(&self) -> Option<Diagnostic> {
        self.death.borrow().clone()
    }

    /// Returns how the worker ended, for a caller who was told nothing else.
    pub(crate) fn gone(&self) -> Diagnostic {
        self.death().unwrap_or_else(|| self.unknown_end())
    }

    fn unknown_end(&self) -> Diagnostic {
        Diagnostic::new(
            "witness::plugin::worker_died",
            Kind::Plugin,
            format!("the worker of plugin `{}` is gone", self.name.plugin),
        )
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a frame and registers who waits for its answer.
    fn post(
        &self,
        id: u64,
        kind: FrameKind,
        operation: Operation,
        parts: &[&[u8]],
    ) -> Result<oneshot::Receiver<Result<Answer, Diagnostic>>, Diagnostic> {
        let bytes = frame::encode(kind, id, parts).map_err(|error| {
            Diagnostic::new(
                "witness::plugin::request_too_long",
                Kind::Invalid,
                format!("the request for `{}` is too long for a plugin", operation.name()),
            )
            .cause(error.to_string())
        })?;
        let (answer, answered) = oneshot::channel();
        let mut state = self.state();
        if state.calls.len() + state.streams.len() >= IN_FLIGHT_MAX {
            return Err(Diagnostic::new(
                "witness::plugin::too_many_calls",
                Kind::Busy,
                format!(
                    "the worker of plugin `{}` has {IN_FLIGHT_MAX} calls in flight already",
                    self.name.plugin
                ),
            ));
        }
        let Some(outbound) = &state.outbound else {
            drop(state);
            return Err(self.gone());
        };
        // The writer ends only with the connection; the watching task then answers for it.
        let _ = outbound.send(bytes);
        state.calls.insert(id, PendingCall { operation, answer });
        Ok(answered)
    }

    async fn wait(
        self: &Arc<Self>,
        mut answer: oneshot::Receiver<Result<Answer, Diagnostic>>,
        operation: Operation,
        deadline: Option<Duration>,
    ) -> Result<Answer, Diagnostic> {
        if let Some(deadline) = deadline {
            match tokio::time::timeout(deadline, &mut answer).await {
                Ok(answer) => return answer.unwrap_or_else(|_| Err(self.unknown_end())),
                Err(_) => self.end(Cause::Deadline(operation, deadline)),
            }
        }
        answer.await.unwrap_or_else(|_| Err(self.unknown_end()))
    }
}

impl State {
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Queues a small frame that nobody waits for.
    fn send(&mut self, kind: FrameKind, id: u64, parts: &[&[u8]]) {
        if let (Some(outbound), Ok(bytes)) = (&self.outbound, frame::encode(kind, id, parts)) {
            let _ = outbound.send(bytes);
        }
    }
}

/// Ends a process that could not be taken charge of.
struct KillOnError(Option<Arc<Process>>);

impl KillOnError {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for KillOnError {
    fn drop(&mut self) {
        if let Some(process) = &self.0 {
            process.kill();
        }
    }
}
