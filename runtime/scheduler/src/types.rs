//! What goes in and what comes out.

use witness_diagnostics::{Diagnostic, Kind};

/// Limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Memory that all models may take together.
    pub budget_bytes: u64,
    /// Models in memory at most.
    pub loaded_max: usize,
    /// Requests that run on one load at most, unless it was asked for with another number.
    pub parallel: usize,
    /// Requests that wait at most.
    pub queue_max: usize,
}

/// A request, named by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// One loading of one base model into one worker, named by the scheduler; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoadId(pub u64);

/// How long a model stays once it is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// So many milliseconds; zero = goes at once.
    Ms(u64),
    /// Until it is asked to go or makes room.
    Forever,
}

/// What a request needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The base model: equal keys share one load.
    pub key: String,
    /// Load options that the request insists on, as one number; nothing = as it is loaded, if it is.
    pub shape: Option<u64>,
    /// Shape to load with when `shape` is nothing and the model is not loaded.
    pub shape_default: u64,
    /// Requests that run at most on the load that this one brings about; nothing = [`Config::parallel`]. A shape stands for one such number.
    pub parallel: Option<usize>,
    /// Memory that a load takes, estimated.
    pub bytes: u64,
    /// How long it stays afterwards.
    pub keep_alive: KeepAlive,
}

/// What the caller has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a worker and load; then report `loaded` or `load_failed`.
    Load {
        /// Name of the load.
        load: LoadId,
        /// What to load.
        key: String,
        /// Load options.
        shape: u64,
        /// Request on whose behalf.
        request: RequestId,
    },
    /// Stop the worker; then report `unloaded`.
    Unload {
        /// Name of the load.
        load: LoadId,
        /// Why.
        reason: UnloadReason,
    },
    /// Run a request on a loaded model; then report `finished`.
    Run {
        /// The request.
        request: RequestId,
        /// Where.
        load: LoadId,
    },
    /// Answer a request with an error.
    Reject {
        /// The request.
        request: RequestId,
        /// Why.
        why: Rejection,
    },
}

/// Why a model goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnloadReason {
    /// It was idle for its keep-alive.
    Expired,
    /// Another model needs the room.
    Evicted,
    /// Somebody asked.
    Asked,
    /// A request wants it with other load options.
    Reshaped,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Too many wait already.
    #[error("the queue is full: {waiting} requests wait, {queue_max} may")]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
        /// Requests that may.
        queue_max: usize,
        /// When to try again.
        retry_after_ms: u64,
    },
    /// It cannot fit even alone.
    #[error("the model needs {needed_bytes} bytes of memory and the budget is {budget_bytes} bytes")]
    TooLarge {
        /// Estimate.
        needed_bytes: u64,
        /// Budget.
        budget_bytes: u64,
    },
    /// The load it waited for failed; the caller knows why.
    #[error("the model could not be loaded")]
    LoadFailed {
        /// The load.
        load: LoadId,
    },
    /// The daemon is going down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
}

impl From<Rejection> for Diagnostic {
    fn from(rejection: Rejection) -> Self {
        let message = rejection.to_string();
        match rejection {
            Rejection::QueueFull { .. } => Diagnostic::new("witness::scheduler::queue_full", Kind::Busy, message)
                .hint("try again after the time in `Retry-After`")
                .hint("raise the limit with `WITNESS_MAX_QUEUE`"),
            Rejection::TooLarge { .. } => Diagnostic::new("witness::scheduler::too_large", Kind::Environment, message)
                .hint("ask for a smaller context with the option `num_ctx`")
                .hint("raise the limit with `WITNESS_MEMORY_BUDGET` if the machine has more memory"),
            Rejection::LoadFailed { .. } => Diagnostic::new("witness::scheduler::load_failed", Kind::Plugin, message),
            Rejection::ShuttingDown => Diagnostic::new("witness::scheduler::shutting_down", Kind::Busy, message),
        }
    }
}
