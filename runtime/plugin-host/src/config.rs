//! What the caller decides: directories, programs, limits, times. Defaults live here, each with its reason.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

/// How a [`crate::Host`] works. Make one with [`HostConfig::new`] and change what differs.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Where plugins are looked for, in order: among equals the first wins. A directory that does not exist is passed over.
    pub directories: Vec<PathBuf>,
    /// The program that runs [`crate::worker_main`].
    pub worker_program: PathBuf,
    /// Its arguments.
    pub worker_args: Vec<OsString>,
    /// More environment variables for workers.
    pub environment: Vec<(OsString, OsString)>,
    /// Instruction set that plugins are to compute with, passed on as `WITNESS_ISA`.
    pub isa: Option<String>,
    /// Settings that each plugin gets at its `init`.
    pub settings: Map<String, Value>,
    /// Time between two pings. Also how exactly the two times below are kept.
    pub heartbeat: Duration,
    /// A worker that owes a pong for this long is ended. Generous: a machine that swaps answers late.
    pub heartbeat_timeout: Duration,
    /// A worker whose plugin gets nothing done for this long inside one `start`, `step`, `cancel` or `unload` is ended;
    /// one `start`, which renders and tokenizes but computes nothing, gets 20 s at most.
    pub stall_timeout: Duration,
    /// A plugin that is not opened and initialized by then is ended. A cold disk and a large library fit in.
    pub start_timeout: Duration,
    /// Bytes of memory for reading a descriptor: the plugin is not known yet.
    pub describe_memory_bytes: Option<u64>,
    /// When a plugin that crashes is started again, and when not any more.
    pub restart: RestartPolicy,
    /// Events of one answer that may wait for its reader; beyond, the answer is cancelled. About 100 bytes each.
    pub stream_events_max: usize,
    /// The clock of the restart policy.
    pub clock: Clock,
}

impl HostConfig {
    /// Returns the defaults for a worker program.
    pub fn new(worker_program: impl Into<PathBuf>) -> Self {
        Self {
            directories: Vec::new(),
            worker_program: worker_program.into(),
            worker_args: vec!["worker".into()],
            environment: Vec::new(),
            isa: None,
            settings: Map::new(),
            heartbeat: Duration::from_secs(5),
            heartbeat_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(120),
            start_timeout: Duration::from_secs(30),
            describe_memory_bytes: Some(1 << 30),
            restart: RestartPolicy::default(),
            stream_events_max: 1 << 18,
            clock: Clock::monotonic(),
        }
    }
}

/// When a plugin whose worker died is started again. Counted per plugin file and [`Limits::purpose`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Pause after the second death in a row; doubled by each further one. After the first there is none: it may have been chance.
    pub pause_base: Duration,
    /// Longest pause.
    pub pause_max: Duration,
    /// A pause that is shorter than this is waited for; a longer one is refused with the seconds that are left.
    pub wait_max: Duration,
    /// Deaths within [`RestartPolicy::window`] that set the plugin aside until it is reset or its file changes.
    pub deaths_max: usize,
    /// How long a death counts.
    pub window: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            pause_base: Duration::from_millis(500),
            pause_max: Duration::from_secs(30),
            wait_max: Duration::from_secs(2),
            deaths_max: 5,
            window: Duration::from_secs(600),
        }
    }
}

/// What one worker may use, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of private memory (heap, stacks; mapped files do not count); nothing = unlimited.
    pub memory_bytes: Option<u64>,
    /// What for, in words: appears in messages and separates the counts of deaths (the model's name, say).
    pub purpose: String,
    /// The worker looks at files that nobody vouches for: its death says nothing about the plugin and is not counted.
    pub is_untrusted: bool,
    /// The worker takes the processor only when nothing else wants it, so that a long job does not slow answers down.
    pub is_background: bool,
}

impl Limits {
    /// Returns limits for serving `purpose`, without one on memory.
    pub fn for_purpose(purpose: impl Into<String>) -> Self {
        Self {
            memory_bytes: None,
            purpose: purpose.into(),
            is_untrusted: false,
            is_background: false,
        }
    }
}

/// A monotonic clock that tests can replace.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Clock {
    /// Returns the machine's clock, counted from now.
    pub fn monotonic() -> Self {
        let start = Instant::now();
        Self::from_fn(move || start.elapsed())
    }

    /// Returns a clock that reads `now`.
    pub fn from_fn(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Returns the time since the clock's beginning.
    pub fn now(&self) -> Duration {
        (self.0)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}
