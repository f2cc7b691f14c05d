//! A fixed number of threads: the kernels' own for all that a model computes, and rayon's for what callers compute beside it.

use std::sync::Arc;

use witness_kernels::Pool;

use crate::error::{ModelError, Result};

/// Threads of one model, in place of those of the process.
#[derive(Debug)]
pub struct Threads {
    kernels: Arc<Pool>,
    rest: rayon::ThreadPool,
}

impl Threads {
    /// Starts so many threads for each of the two; they sleep while nothing is computed.
    ///
    /// # Errors
    /// If the system starts no more threads.
    pub fn new(n_threads: usize) -> Result<Threads> {
        let rest = rayon::ThreadPoolBuilder::new()
            .num_threads(n_threads)
            .thread_name(|index| format!("compute-{index}"));
        Ok(Threads {
            kernels: Arc::new(Pool::new(n_threads)),
            rest: rest.build().map_err(|error| ModelError::Threads(error.to_string()))?,
        })
    }

    /// Runs `f` on some threads, or on those of the process.
    pub fn run_on<R: Send>(threads: Option<&Threads>, f: impl FnOnce() -> R + Send) -> R {
        match threads {
            Some(threads) => threads.install(f),
            None => f(),
        }
    }

    /// Runs `f`, whose computing is done on these threads.
    pub fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.rest.install(|| self.kernels.install(f))
    }
}
