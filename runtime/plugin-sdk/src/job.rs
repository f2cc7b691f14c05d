//! The roles `train`, `quantize` and `measure`: one long call that reports as it goes.

use serde::Serialize;
use serde_json::Value;
use witness_plugin_abi::{Buffer, JobSink, JobTable, Slice, Status};
use witness_plugin_protocol::Diagnostic;

use crate::reply::{Failure, answer, bytes_of, decode};

/// A job that runs to its end in one call. Requests, events and replies are the role's own JSON.
pub trait Job: 'static {
    /// Says what the job would do and take, without doing it.
    ///
    /// # Errors
    /// The request is refused.
    fn plan(request: Value) -> Result<Value, Diagnostic>;

    /// Runs the job; emits as it goes and looks at [`JobEvents::should_stop`] at least once a second.
    ///
    /// # Errors
    /// The request is refused or the job failed.
    fn run(request: Value, events: &mut JobEvents<'_>) -> Result<Value, Diagnostic>;
}

/// Where a running job puts its events.
pub struct JobEvents<'a> {
    sink: &'a JobSink,
}

impl JobEvents<'_> {
    /// Sends one event: a JSON object of at most 1 MiB. Waits while the host has many that it has not taken yet.
    pub fn emit(&mut self, event: &Value) {
        self.report(event);
    }

    /// Sends one event of a type that is written as a JSON object: [`crate::protocol::TrainEvent`], say.
    pub fn report(&mut self, event: &impl Serialize) {
        // What cannot be written as JSON (a map with keys that are no texts) is told to the host as such: it ends the job and says why.
        let bytes = serde_json::to_vec(event).unwrap_or_default();
        // SAFETY: the sink is the host's and lives during `run`, which holds this value; `bytes` outlives the call.
        unsafe {
            (self.sink.emit)(
                self.sink.context,
                Slice {
                    ptr: bytes.as_ptr(),
                    len: bytes.len(),
                },
            )
        };
    }

    /// Returns whether the job should save and end.
    pub fn should_stop(&self) -> bool {
        // SAFETY: as in `emit`.
        unsafe { (self.sink.should_stop)(self.sink.context) != 0 }
    }
}

/// Returns the table of a job role.
pub(crate) const fn table<J: Job>() -> JobTable {
    JobTable {
        struct_size: size_of::<JobTable>(),
        plan: plan::<J>,
        run: run::<J>,
    }
}

/// # Safety
/// As the ABI says: `request` readable, `reply` writable.
unsafe extern "C" fn plan<J: Job>(request: Slice, reply: *mut Buffer) -> Status {
    // SAFETY: `request` and `reply` are as the ABI promises.
    unsafe {
        answer("plan", reply, || {
            J::plan(decode("plan", bytes_of(request))?).map_err(Failure::from)
        })
    }
}

/// # Safety
/// As the ABI says: `request` readable, `sink` a live sink, `reply` writable.
unsafe extern "C" fn run<J: Job>(request: Slice, sink: *const JobSink, reply: *mut Buffer) -> Status {
    // SAFETY: `request`, `sink` and `reply` are as the ABI promises.
    unsafe {
        answer("run", reply, || {
            let request = decode("run", bytes_of(request))?;
            J::run(request, &mut JobEvents { sink: &*sink }).map_err(Failure::from)
        })
    }
}
