//! The task that watches one worker: reads its frames, pings it, and settles everything when it ends.

use std::process::{ChildStderr, ChildStdout, ExitStatus};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use witness_plugin_abi::EventKind;
use witness_plugin_protocol::{Diagnostic, Kind};

use super::{Connection, OnDeath, State};
use crate::config::HostConfig;
use crate::death::{Cause, Death};
use crate::frame::{
    self, CallHeader, EventRecord, FrameError, FrameKind, HEADER_BYTES, Header, JOB_EVENT_BYTES_MAX, Operation, Pulse,
};
use crate::generation::GenEvent;
use crate::logs::{self, Source, Tail};

/// How long a worker that closed its connection may take to end by itself, so that its exit status can be told. One in the background class on
/// a busy machine is slow to.
const HANG_UP_GRACE: Duration = Duration::from_secs(3);
/// How long the last lines of an ended worker are waited for.
const LAST_LINES_GRACE: Duration = Duration::from_millis(250);
/// Longest `start` without progress. It renders and tokenizes one prompt, a second's work at most, while every other sequence of the
/// worker waits: a template that was made to run for ever must not hold them for the whole stall timeout.
const START_STALL_MAX: Duration = Duration::from_secs(20);
/// Bytes that a read makes room for.
const READ_BYTES: usize = 16 << 10;

/// What is captured of a worker's output.
pub(super) struct Logs {
    tail: Tail,
    tasks: Vec<JoinHandle<()>>,
}

/// Starts to capture what a worker prints.
pub(super) fn start_logs(connection: &Connection, stdout: ChildStdout, stderr: ChildStderr) -> std::io::Result<Logs> {
    let source = Source {
        plugin: connection.name.plugin.clone(),
        pid: connection.pid(),
    };
    let tail = Tail::default();
    let stdout = pipe::Receiver::from_owned_fd(stdout.into())?;
    let stderr = pipe::Receiver::from_owned_fd(stderr.into())?;
    let tasks = vec![
        tokio::spawn(logs::capture(stdout, source.clone(), None)),
        tokio::spawn(logs::capture(stderr, source, Some(tail.clone()))),
    ];
    Ok(Logs { tail, tasks })
}

/// Writes frames until the queue or the connection ends.
pub(super) async fn write_all(mut write: OwnedWriteHalf, mut queue: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        if write.write_all(&frame).await.is_err() {
            // The watching task sees the same end and settles who waits.
            break;
        }
    }
}

/// The state of the watching task.
pub(super) struct Watch {
    connection: Arc<Connection>,
    heartbeat: Duration,
    heartbeat_timeout: Duration,
    stall_timeout: Duration,
    logs: Logs,
    on_death: OnDeath,
    /// When the ping that is not answered yet was sent.
    pinged: Option<Instant>,
    /// The last pulse, when it came, and for how long nothing got done before it. Time in which the process waited for a processor
    /// rather than ran does not count.
    pulse: Option<(Pulse, Instant, Duration)>,
}

impl Watch {
    pub(super) fn new(connection: Arc<Connection>, config: &HostConfig, logs: Logs, on_death: OnDeath) -> Self {
        Self {
            connection,
            heartbeat: config.heartbeat,
            heartbeat_timeout: config.heartbeat_timeout,
            stall_timeout: config.stall_timeout,
            logs,
            on_death,
            pinged: None,
            pulse: None,
        }
    }

    /// Watches until the process has ended, then settles everything.
    pub(super) async fn run(mut self, mut read: OwnedReadHalf, mut exit: oneshot::Receiver<ExitStatus>) {
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        let mut tick = interval(self.heartbeat);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let status = loop {
            tokio::select! {
                read = read.read_buf(&mut buffer) => match read {
                    Ok(0) | Err(_) => break self.after_hang_up(&mut exit).await,
                    Ok(_) => {
                        if let Err(error) = self.take_frames(&mut buffer) {
                            // What a worker writes on its way out does not matter: whoever told it to stop sets the limit.
                            if !self.connection.state().is_stopping {
                                self.connection.end(Cause::Garbage(error));
                            }
                            break (&mut exit).await.ok();
                        }
                        buffer.reserve(READ_BYTES);
                    }
                },
                status = &mut exit => {
                    self.drain(&read, &mut buffer);
                    break status.ok();
                }
                _ = tick.tick() => self.ping(),
            }
        };
        self.settle(status).await;
    }

    /// Waits for a worker that closed its connection, not for long.
    async fn after_hang_up(&self, exit: &mut oneshot::Receiver<ExitStatus>) -> Option<ExitStatus> {
        if let Ok(status) = tokio::time::timeout(HANG_UP_GRACE, &mut *exit).await {
            return status.ok();
        }
        self.connection.end(Cause::HungUp);
        exit.await.ok()
    }

    /// Takes what an ended worker had written before it ended.
    fn drain(&mut self, read: &OwnedReadHalf, buffer: &mut BytesMut) {
        while read_now(read, buffer).is_ok_and(|bytes| bytes > 0) {
            if self.take_frames(buffer).is_err() {
                return;
            }
        }
    }

    /// Sends a ping, or ends a worker that owes a pong for too long.
    fn ping(&mut self) {
        match self.pinged {
            Some(sent) if sent.elapsed() >= self.heartbeat_timeout => {
                self.connection.end(Cause::Silent(self.heartbeat_timeout));
            }
            Some(_) => {}
            None => {
                self.pinged = Some(Instant::now());
                self.connection.state().send(FrameKind::Ping, 0, &[]);
            }
        }
    }

    /// Notes a pong, and ends a worker whose plugin gets nothing done.
    fn pong(&mut self, pulse: Pulse) {
        self.pinged = None;
        let now = Instant::now();
        let mut stalled = Duration::ZERO;
        if let Some((last, at, before)) = &self.pulse
            && is_watched(pulse.operation)
            && (last.operation, last.activity) == (pulse.operation, pulse.activity)
        {
            stalled = *before;
            if !pulse.is_starved {
                stalled += now.duration_since(*at);
            }
            let limit = match pulse.operation {
                Operation::Start => self.stall_timeout.min(START_STALL_MAX),
                _ => self.stall_timeout,
            };
            if stalled >= limit {
                self.connection.end(Cause::Stalled(pulse.operation, limit));
            }
        }
        self.pulse = Some((pulse, now, stalled));
    }

    /// Takes every whole frame off the buffer.
    fn take_frames(&mut self, buffer: &mut BytesMut) -> Result<(), FrameError> {
        while let Some(header) = buffer.first_chunk::<HEADER_BYTES>() {
            let header = frame::decode_header(header)?;
            if buffer.len() < HEADER_BYTES + header.payload_bytes {
                buffer.reserve(HEADER_BYTES + header.payload_bytes - buffer.len());
                return Ok(());
            }
            buffer.advance(HEADER_BYTES);
            let payload = buffer.split_to(header.payload_bytes);
            self.take_frame(header, &payload)?;
        }
        Ok(())
    }

    fn take_frame(&mut self, header: Header, payload: &[u8]) -> Result<(), FrameError> {
        match header.kind {
            FrameKind::Pong => {
                self.pong(Pulse::decode(payload)?);
                Ok(())
            }
            FrameKind::Reply => {
                let model = frame::u64_at(payload, 0).ok_or(FrameError::Short)?;
                self.connection
                    .settle_call(header.id, Ok((model, payload[8..].to_vec())));
                Ok(())
            }
            FrameKind::Failure => {
                let diagnostic = self.connection.diagnostic_of(payload);
                self.connection.settle_call(header.id, Err(diagnostic));
                Ok(())
            }
            FrameKind::Events => {
                let mut rest = payload;
                while !rest.is_empty() {
                    let (event, after) = EventRecord::decode(rest)?;
                    self.connection.settle_event(&event);
                    rest = after;
                }
                Ok(())
            }
            FrameKind::JobEvent => self.connection.settle_job_event(header.id, payload),
            FrameKind::Boot
            | FrameKind::Call
            | FrameKind::Cancel
            | FrameKind::Ping
            | FrameKind::Stop
            | FrameKind::StopJob
            | FrameKind::JobTaken => Err(FrameError::NoFrame([b'W', frame::FRAME_VERSION, header.kind as u8, 0])),
        }
    }

    /// Tells everybody who waits how the worker ended.
    async fn settle(self, status: Option<ExitStatus>) {
        for task in self.logs.tasks {
            let abort = task.abort_handle();
            if tokio::time::timeout(LAST_LINES_GRACE, task).await.is_err() {
                abort.abort();
            }
        }
        let connection = &self.connection;
        let (diagnostic, is_own, calls, streams) = {
            let mut state = connection.state();
            state.outbound = None;
            let is_clean = state.is_stopping && status.is_some_and(|status| status.success());
            let cause = if is_clean {
                Some(Cause::Wanted)
            } else {
                state.cause.clone()
            };
            let is_own = !state.is_stopping && !matches!(cause, Some(Cause::Wanted));
            let death = Death {
                plugin: &connection.name.plugin,
                pid: connection.pid(),
                purpose: &connection.name.purpose,
                memory_bytes: connection.name.memory_bytes,
                cause,
                status,
                during: state.during(),
                last_lines: self.logs.tail.lines(),
            };
            let (calls, streams) = (std::mem::take(&mut state.calls), std::mem::take(&mut state.streams));
            state.jobs.clear();
            let diagnostic = death.diagnostic();
            // Set before the lock is let go: a caller who finds no way out finds the reason.
            connection.death.send_replace(Some(diagnostic.clone()));
            (diagnostic, is_own, calls, streams)
        };
        if is_own {
            tracing::warn!(plugin = %connection.name.plugin, pid = connection.pid(), "{diagnostic}");
        }
        for (_, call) in calls {
            let _ = call.answer.send(Err(diagnostic.clone()));
        }
        for (_, stream) in streams {
            *stream.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(GenEvent::Error(diagnostic.clone()));
        }
        (self.on_death)(&diagnostic, is_own);
    }
}

/// Reads what is there, without waiting. Asks the kernel: tokio's own `try_read` answers from what its reactor has heard so far, and the word
/// that a process ended can overtake the word that it wrote.
fn read_now(read: &OwnedReadHalf, buffer: &mut BytesMut) -> std::io::Result<usize> {
    let mut chunk = [0; READ_BYTES];
    let bytes = rustix::io::read(read.as_ref(), &mut chunk)?;
    buffer.extend_from_slice(&chunk[..bytes]);
    Ok(bytes)
}

/// Returns whether silence during an operation is a hang: not while it is idle, and not where the caller set a deadline.
fn is_watched(operation: Operation) -> bool {
    operation != Operation::Idle && !operation.has_deadline()
}

impl State {
    /// Returns what the worker was asked for and had not answered: the oldest call, else the steps of running answers.
    fn during(&self) -> Option<Operation> {
        let oldest = self
            .calls
            .iter()
            .min_by_key(|(id, _)| **id)
            .map(|(_, call)| call.operation);
        oldest
            .or((!self.streams.is_empty()).then_some(Operation::Step))
            .or(self.is_stopping.then_some(Operation::Shutdown))
    }
}

impl Connection {
    /// Gives an answer to who waits for it. A model that was loaded for nobody is unloaded.
    fn settle_call(&self, id: u64, answer: Result<super::Answer, Diagnostic>) {
        let mut state = self.state();
        let Some(call) = state.calls.remove(&id) else { return };
        // After the last event: who reads them finds the end of the queue.
        state.jobs.remove(&id);
        if answer.is_err() && call.operation == Operation::Start {
            state.streams.remove(&id);
        }
        if let Err(Ok((model, _))) = call.answer.send(answer)
            && call.operation == Operation::Load
        {
            let (id, unload) = (
                state.next_id(),
                CallHeader {
                    operation: Operation::Unload,
                    model,
                    tokens_max: 0,
                },
            );
            state.send(FrameKind::Call, id, &[&unload.encode()]);
        }
    }

    /// Gives an event to who reads the events of its job. An event that nobody wants counts as taken.
    fn settle_job_event(&self, id: u64, payload: &[u8]) -> Result<(), FrameError> {
        let mut state = self.state();
        let Some(events) = state.jobs.get(&id) else {
            return Ok(());
        };
        if payload.len() > JOB_EVENT_BYTES_MAX {
            return Err(FrameError::Overrun);
        }
        // The worker has checked that it is an object; one that lies sends nothing else than nothing.
        let event = serde_json::from_slice(payload).map_err(|_| FrameError::Short)?;
        match events.try_send(event) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(FrameError::Overrun),
            Err(mpsc::error::TrySendError::Closed(_)) => {
                state.send(FrameKind::JobTaken, id, &[]);
                Ok(())
            }
        }
    }

    /// Gives an event to the stream of its sequence.
    fn settle_event(&self, event: &EventRecord<'_>) {
        let mut state = self.state();
        let Some(stream) = state.streams.get(&event.sequence) else {
            return;
        };
        // The worker has checked that it is UTF-8; a worker that lies gets replacement characters, and never an unsound string.
        let text = String::from_utf8_lossy(event.text).into_owned();
        let last = match EventKind(event.kind) {
            EventKind::TOKEN => {
                let alternatives = match event.detail {
                    [] => Vec::new(),
                    detail => serde_json::from_slice(detail).unwrap_or_default(),
                };
                let logprob = (!event.logprob.is_nan()).then_some(event.logprob);
                let token = GenEvent::Token {
                    id: event.token,
                    text,
                    logprob,
                    alternatives,
                };
                match stream.events.try_send(token) {
                    Ok(()) => return,
                    Err(mpsc::error::TrySendError::Closed(_)) => None,
                    Err(mpsc::error::TrySendError::Full(_)) => Some(GenEvent::Error(
                        Diagnostic::new(
                            "witness::plugin::slow_reader",
                            Kind::Cancelled,
                            format!(
                                "the answer was ended: {} tokens of it waited to be read",
                                stream.events.max_capacity()
                            ),
                        )
                        .hint("read the answer as it comes, or ask for fewer tokens"),
                    )),
                }
            }
            EventKind::DONE => Some(match serde_json::from_slice(event.detail) {
                Ok(done) => GenEvent::Done(done, text),
                Err(error) => GenEvent::Error(
                    Diagnostic::new(
                        "witness::plugin::bad_event",
                        Kind::Plugin,
                        format!("plugin `{}` ended an answer with what is no report", self.name.plugin),
                    )
                    .cause(error.to_string())
                    .hint("report it to the plugin's author"),
                ),
            }),
            EventKind::ERROR => Some(GenEvent::Error(self.diagnostic_of(event.detail))),
            _ => return,
        };
        let is_over = matches!(EventKind(event.kind), EventKind::DONE | EventKind::ERROR);
        *stream.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
        state.streams.remove(&event.sequence);
        if !is_over {
            state.send(FrameKind::Cancel, event.sequence, &[]);
        }
    }

    /// Reads a diagnostic that came from the worker.
    fn diagnostic_of(&self, json: &[u8]) -> Diagnostic {
        serde_json::from_slice(json).unwrap_or_else(|error| {
            Diagnostic::new(
                "witness::plugin::bad_reply",
                Kind::Plugin,
                format!("plugin `{}` failed and its reason cannot be read", self.name.plugin),
            )
            .cause(error.to_string())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn what_was_written_is_read_before_the_reactor_hears_of_it() {
        let (mut theirs, ours) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (read, _write) = tokio::net::UnixStream::from_std(ours).unwrap().into_split();
        let mut buffer = BytesMut::new();
        // The reactor hears of one write, and nothing of the second: no await follows.
        theirs.write_all(b"first").unwrap();
        read.readable().await.unwrap();
        assert_eq!(read.try_read_buf(&mut buffer).unwrap(), 5);
        assert!(read.try_read_buf(&mut buffer).is_err(), "nothing is left");
        theirs.write_all(b", last words").unwrap();
        drop(theirs);
        assert!(read.try_read_buf(&mut buffer).is_err(), "the reactor has not heard yet");
        assert_eq!(read_now(&read, &mut buffer).unwrap(), 12);
        assert_eq!(read_now(&read, &mut buffer).unwrap(), 0);
        assert_eq!(&buffer[..], b"first, last words");
    }
}
