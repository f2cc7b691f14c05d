//! The worker's end of the socket: one reader thread, and writes from any thread.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::background::Share;
use super::jobs::JobGate;
use crate::boot::Boot;
use crate::frame::{self, CallHeader, FrameKind, HEADER_BYTES, Header, Operation, Pulse};

/// What the main thread is asked to do. The queue is bounded by the host, which limits its calls in flight.
pub(super) enum Command {
    /// Run a call and answer under its number. A job comes with its gate.
    Call {
        id: u64,
        header: CallHeader,
        body: Vec<u8>,
        gate: Option<Arc<JobGate>>,
    },
    /// End a sequence.
    Cancel { sequence: u64 },
    /// Shut down.
    Stop,
}

/// The writing end, and what the pulse reports.
pub(super) struct Link {
    writer: Mutex<UnixStream>,
    operation: AtomicU8,
    activity: AtomicU64,
    /// Gates of the jobs that were asked for and have not ended.
    gates: Mutex<BTreeMap<u64, Arc<JobGate>>>,
    /// What this process had of the processors at the last pong; nothing when it does not stand back.
    share: Option<Mutex<Share>>,
}

impl Link {
    /// Starts the reader thread. A process that stands back tells with every pong whether it got its share.
    pub(super) fn start(socket: UnixStream, is_background: bool) -> io::Result<(Arc<Self>, Receiver<Command>)> {
        let reader = socket.try_clone()?;
        let link = Arc::new(Self {
            writer: Mutex::new(socket),
            operation: AtomicU8::new(Operation::Idle as u8),
            activity: AtomicU64::new(0),
            gates: Mutex::default(),
            share: is_background.then(Mutex::default),
        });
        let (sender, receiver) = channel();
        let for_thread = Arc::clone(&link);
        std::thread::Builder::new()
            .name("witness-worker-io".to_owned())
            .stack_size(256 << 10)
            .spawn(move || for_thread.read_all(reader, &sender))?;
        Ok((link, receiver))
    }

    /// Notes what the main thread is about to do.
    pub(super) fn begin(&self, operation: Operation) {
        self.operation.store(operation as u8, Ordering::Relaxed);
        self.progress();
    }

    /// Notes that something got done.
    pub(super) fn progress(&self) {
        self.activity.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes one frame.
    pub(super) fn send(&self, kind: FrameKind, id: u64, parts: &[&[u8]]) -> io::Result<()> {
        let bytes = frame::encode(kind, id, parts).map_err(io::Error::other)?;
        self.write(&bytes)
    }

    /// Writes whole frames.
    pub(super) fn write(&self, frames: &[u8]) -> io::Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.write_all(frames)
    }

    fn add_gate(&self, job: u64) -> Arc<JobGate> {
        let gate = Arc::new(JobGate::default());
        self.gates().insert(job, Arc::clone(&gate));
        gate
    }

    /// Forgets the gate of a job that has ended.
    pub(super) fn remove_gate(&self, job: u64) {
        self.gates().remove(&job);
    }

    fn gates(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<JobGate>>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_starved(&self) -> bool {
        self.share
            .as_ref()
            .is_some_and(|share| share.lock().unwrap_or_else(PoisonError::into_inner).is_starved())
    }

    /// Serves the socket until it ends. The host's end is the end of this process: nobody is left to answer.
    fn read_all(&self, mut reader: UnixStream, sender: &Sender<Command>) {
        loop {
            match self.read_one(&mut reader, sender) {
                Ok(true) => {}
                Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                    eprintln!("the worker lost its connection: {error}");
                    std::process::exit(i32::from(super::EXIT_CONNECTION));
                }
                Ok(false) | Err(_) => super::end_at_once(),
            }
        }
    }

    /// Reads one frame and acts on it. Returns whether there may be more.
    fn read_one(&self, reader: &mut UnixStream, sender: &Sender<Command>) -> io::Result<bool> {
        let (header, payload) = read_frame(reader)?;
        let command = match header.kind {
            FrameKind::Ping => {
                let operation = Operation::from_byte(self.operation.load(Ordering::Relaxed));
                let pulse = Pulse {
                    operation: operation.unwrap_or(Operation::Idle),
                    activity: self.activity.load(Ordering::Relaxed),
                    is_starved: self.is_starved(),
                };
                self.send(FrameKind::Pong, header.id, &[&pulse.encode()])?;
                return Ok(true);
            }
            FrameKind::Call => {
                let (call, body) = CallHeader::decode(&payload).map_err(io::Error::other)?;
                Command::Call {
                    id: header.id,
                    header: call,
                    body: body.to_vec(),
                    // Here and not when the call is made: a word to stop may come before that.
                    gate: (call.operation == Operation::Run).then(|| self.add_gate(header.id)),
                }
            }
            FrameKind::Cancel => Command::Cancel { sequence: header.id },
            FrameKind::StopJob | FrameKind::JobTaken => {
                if let Some(gate) = self.gates().get(&header.id) {
                    match header.kind {
                        FrameKind::StopJob => gate.stop(),
                        _ => gate.taken(),
                    }
                }
                return Ok(true);
            }
            FrameKind::Stop => {
                // A job that runs is asked to end; the rest of the shutdown follows when it has.
                self.gates().values().for_each(|gate| gate.stop());
                Command::Stop
            }
            FrameKind::Boot
            | FrameKind::Reply
            | FrameKind::Failure
            | FrameKind::Events
            | FrameKind::Pong
            | FrameKind::JobEvent => {
                return Ok(false);
            }
        };
        // The receiver goes away when the main thread returns; the process is ending then.
        Ok(sender.send(command).is_ok())
    }
}

/// Reads the first frame, which must be the boot.
pub(super) fn read_boot(mut socket: &UnixStream) -> io::Result<Boot> {
    let (header, payload) = read_frame(&mut socket)?;
    if header.kind != FrameKind::Boot {
        return Err(io::Error::other("the first frame is not a boot"));
    }
    serde_json::from_slice(&payload).map_err(io::Error::other)
}

fn read_frame(reader: &mut impl Read) -> io::Result<(Header, Vec<u8>)> {
    let mut header = [0; HEADER_BYTES];
    reader.read_exact(&mut header)?;
    let header = frame::decode_header(&header).map_err(io::Error::other)?;
    let mut payload = vec![0; header.payload_bytes];
    reader.read_exact(&mut payload)?;
    Ok((header, payload))
}
