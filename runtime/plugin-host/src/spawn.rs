//! Worker processes: started from one thread that never ends, watched by one thread each, killed without a race.
//!
//! **Invariant:** a process is signalled only while its exit status has not been collected, so that a number that the kernel has
//! given to somebody else is never signalled. Each worker leads a process group of its own, which is killed with it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::sync::oneshot;

use crate::config::HostConfig;

/// A running or ended worker process.
pub(crate) struct Process {
    pid: u32,
    /// Nothing once the exit status was collected.
    child: Mutex<Option<Child>>,
}

/// A fresh worker process with everything that leads to it.
pub(crate) struct Spawned {
    pub(crate) process: Arc<Process>,
    pub(crate) socket: UnixStream,
    pub(crate) stdout: ChildStdout,
    pub(crate) stderr: ChildStderr,
    pub(crate) exit: oneshot::Receiver<ExitStatus>,
}

impl Process {
    /// Returns the process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends the process and what it started. Does nothing when it has ended.
    pub(crate) fn kill(&self) {
        if self.child.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            self.kill_group();
        }
    }

    /// Signals the group. Only while the child is held.
    fn kill_group(&self) {
        if let Some(pid) = raw(self.pid) {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }

    /// Waits for the end, kills what is left of the group while the number is still ours, and collects the status.
    fn reap(&self) -> Option<ExitStatus> {
        if let Some(pid) = raw(self.pid) {
            loop {
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
                match rustix::process::waitid(WaitId::Pid(pid), options) {
                    Err(rustix::io::Errno::INTR) => {}
                    _ => break,
                }
            }
        }
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        self.kill_group();
        let status = child.as_mut().and_then(|child| child.wait().ok());
        *child = None;
        status
    }
}

fn raw(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// What the spawning thread is asked for.
struct Order {
    command: Command,
    answer: oneshot::Sender<io::Result<Child>>,
}

/// Starts a worker process.
pub(crate) async fn spawn(config: &HostConfig) -> io::Result<Spawned> {
    let (socket, theirs) = UnixStream::pair()?;
    socket.set_nonblocking(true)?;
    let mut command = Command::new(&config.worker_program);
    command
        .args(&config.worker_args)
        .envs(config.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    if let Some(isa) = &config.isa {
        command.env("WITNESS_ISA", isa);
    }
    let (answer, answered) = oneshot::channel();
    let gone = || io::Error::other("the thread that starts workers has ended");
    spawner()?.send(Order { command, answer }).map_err(|_| gone())?;
    let mut child = answered.await.map_err(|_| gone())??;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("a worker without standard output"));
    };
    let process = Arc::new(Process {
        pid: child.id(),
        child: Mutex::new(Some(child)),
    });
    let (ended, exit) = oneshot::channel();
    let reaped = Arc::clone(&process);
    let reaper = std::thread::Builder::new()
        .name(format!("witness-reap-{}", process.pid))
        .stack_size(128 << 10)
        .spawn(move || {
            if let Some(status) = reaped.reap() {
                let _ = ended.send(status);
            }
        });
    if let Err(error) = reaper {
        process.kill();
        return Err(error);
    }
    Ok(Spawned {
        process,
        socket,
        stdout,
        stderr,
        exit,
    })
}

/// Returns the way to the thread that starts every worker of this process.
///
/// The kernel ends a worker when the *thread* that started it ends (`PR_SET_PDEATHSIG`), and a thread of an async runtime may end
/// at any time: this one lives as long as the process.
fn spawner() -> io::Result<&'static Sender<Order>> {
    static SPAWNER: OnceLock<Option<Sender<Order>>> = OnceLock::new();
    let sender = SPAWNER.get_or_init(|| {
        let (sender, orders) = channel::<Order>();
        let serve = move || {
            for mut order in orders {
                // The caller may have gone away meanwhile: then the child is ended, for nobody else knows of it.
                if let Err(Ok(mut orphan)) = order.answer.send(order.command.spawn()) {
                    let _ = orphan.kill();
                    let _ = orphan.wait();
                }
            }
        };
        std::thread::Builder::new()
            .name("witness-spawner".to_owned())
            .stack_size(256 << 10)
            .spawn(serve)
            .ok()?;
        Some(sender)
    });
    sender
        .as_ref()
        .ok_or_else(|| io::Error::other("the thread that starts workers cannot be started"))
}
