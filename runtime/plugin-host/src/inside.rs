//! What runs in the worker process: open one plugin, serve its calls, and be ready to die.
//!
//! Two threads. The I/O thread reads frames, answers pings at once and queues the rest; the main thread runs every call of the
//! plugin, and while sequences are active it steps them in a loop, taking new calls between two steps. A plugin that hangs therefore
//! still answers pings with the operation it hangs in, and the host decides. A job is one long call: what the host has to say to it
//! meanwhile goes through its gate ([`jobs::JobGate`]), past the queue.
//!
//! Uses no async runtime: a blocking read and a blocking write are all it needs. Whatever the plugin does to this process (close the
//! socket, write to it, crash, fork, exit), the host sees it from outside.

mod background;
mod descriptor;
mod elf;
mod events;
mod isa;
mod jobs;
mod library;
mod link;
mod run;
mod trust;

use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc::Receiver;

use rustix::process::{Resource, Rlimit, Signal};
use witness_plugin_protocol::{Diagnostic, Kind};

use crate::boot::{Boot, Booted, Identity};
use crate::frame::{FrameKind, Operation};
use library::Library;
use link::{Command, Link};

/// Exit code of a worker that ended itself because the plugin panicked: its state is not to be trusted any more.
pub(crate) const EXIT_PANICKED: u8 = 113;
/// Exit code of a worker whose connection broke, or that was handed something it cannot serve.
pub(crate) const EXIT_CONNECTION: u8 = 114;
/// Exit code when it is started by hand.
const EXIT_USAGE: u8 = 2;

/// Runs a worker: what `witness worker` does. The host starts it with a socket as standard input; there is nothing to type.
///
/// Call it before any other thread exists and before any async runtime is made. It returns when the host said stop; it ends the
/// process itself when the host is gone.
pub fn worker_main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    if let Some(unknown) = arguments.into_iter().next() {
        eprintln!(
            "error: `witness worker` takes no arguments, and got `{}`",
            unknown.display()
        );
        return ExitCode::from(EXIT_USAGE);
    }
    let Some(socket) = take_socket() else {
        eprintln!(
            "error: `witness worker` is started by `witness serve` itself, with a socket as standard input\n  hint: run `witness serve`, or `witness run NAME`, which starts it"
        );
        return ExitCode::from(EXIT_USAGE);
    };
    match serve(socket) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("the worker lost its connection: {error}");
            ExitCode::from(EXIT_CONNECTION)
        }
    }
}

/// Moves the socket away from standard input, where the plugin or a library of its may read.
fn take_socket() -> Option<UnixStream> {
    let stdin = rustix::stdio::stdin();
    rustix::net::getpeername(stdin).ok()?;
    let socket = rustix::io::fcntl_dupfd_cloexec(stdin, 3).ok()?;
    let null = std::fs::File::open("/dev/null").ok()?;
    rustix::stdio::dup2_stdin(&null).ok()?;
    Some(UnixStream::from(socket))
}

/// Boots and serves until the host says stop.
fn serve(socket: UnixStream) -> std::io::Result<u8> {
    let boot = link::read_boot(&socket)?;
    let confined = confine(&boot);
    let (link, commands) = Link::start(socket, boot.is_background)?;
    // After the thread that answers pings, which costs nothing and must not wait; before any thread of the plugin's, which inherit it.
    if boot.is_background {
        background::stand_back();
    }
    link.begin(Operation::Open);
    let opened = confined.and_then(|()| open(&boot, &link));
    link.begin(Operation::Idle);
    let library = match opened {
        Ok((library, booted)) => {
            let json = serde_json::to_vec(&booted).map_err(std::io::Error::other)?;
            link.send(FrameKind::Reply, 0, &[&0u64.to_le_bytes(), &json])?;
            library
        }
        Err(diagnostic) => {
            let json = serde_json::to_vec(&*diagnostic).map_err(std::io::Error::other)?;
            link.send(FrameKind::Failure, 0, &[&json])?;
            wait_for_stop(&commands);
            return Ok(0);
        }
    };
    if boot.describe_only {
        wait_for_stop(&commands);
        return Ok(0);
    }
    run::run(&library, &link, &commands)
}

/// Waits until the host has read the answer and says stop or hangs up.
fn wait_for_stop(commands: &Receiver<Command>) {
    while let Ok(command) = commands.recv() {
        if matches!(command, Command::Stop) {
            break;
        }
    }
}

/// Puts the limits on this process. Before any byte of the plugin is looked at.
fn confine(boot: &Boot) -> Result<(), Box<Diagnostic>> {
    let refused = |what: &str, error: rustix::io::Errno| {
        Box::new(
            Diagnostic::new(
                "witness::plugin::limits",
                Kind::Environment,
                format!("the worker cannot limit {what} of its own process"),
            )
            .cause(error.to_string()),
        )
    };
    die_with_parent(boot.parent);
    let limit = |bytes: u64| Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    rustix::process::setrlimit(Resource::Core, limit(0)).map_err(|error| refused("the core file", error))?;
    if let Some(bytes) = boot.memory_bytes {
        rustix::process::setrlimit(Resource::Data, limit(bytes)).map_err(|error| refused("the memory", error))?;
    }
    // When the machine runs out of memory, the kernel shall take the worker and not the daemon. Best effort: without /proc, nothing.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    Ok(())
}

/// Asks the kernel to end this process with its parent. Where the kernel cannot, the end of the connection does it.
fn die_with_parent(parent: u32) {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let is_orphan = rustix::process::getppid().is_none_or(|pid| pid.as_raw_nonzero().get().unsigned_abs() != parent);
    if is_orphan {
        end_at_once();
    }
}

/// Ends the process without running anything of the plugin's.
fn end_at_once() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    std::process::abort()
}

/// Opens, checks and initializes the plugin.
fn open(boot: &Boot, link: &std::sync::Arc<Link>) -> Result<(Library, Booted), Box<Diagnostic>> {
    let file = trust::open_trusted(&boot.path)?;
    let metadata = file.metadata().map_err(|error| trust::unreadable(&boot.path, &error))?;
    let identity = Identity::of(&metadata);
    if boot.identity.is_some_and(|expected| expected != identity) {
        return Err(Box::new(
            Diagnostic::new(
                "witness::plugin::changed",
                Kind::Conflict,
                format!("the plugin file `{}` changed since it was checked", boot.path.display()),
            )
            .hint("try again: it is checked anew"),
        ));
    }
    elf::check(&boot.path, &file)?;
    let sha256 = match boot.identity {
        Some(_) => None,
        None => Some(trust::sha256(&boot.path, &file)?),
    };
    let mut library = Library::open(&boot.path, file)?;
    isa::check(library.descriptor())?;
    if !boot.describe_only {
        library.init(link, &boot.settings)?;
    }
    let booted = Booted {
        descriptor: library.descriptor().clone(),
        abi: library.abi(),
        identity,
        sha256,
    };
    Ok((library, booted))
}
