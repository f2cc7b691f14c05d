//! Jobs inside the worker: one long call of the plugin, with a way out for its events and a way in for the word to stop.
//!
//! Who does what: the plugin's thread (or any other of the plugin's) emits and asks whether it should stop; the I/O thread opens the gate
//! when the host has taken an event, and closes the job down when the host says so.
//!
//! **Invariant:** an event that leaves this process is one JSON object of at most [`JOB_EVENT_BYTES_MAX`] bytes, and at most
//! [`JOB_EVENTS_MAX`] of them are on their way: the next one waits inside the call that emits it. A plugin that emits anything else breaks
//! its job, not this process.

use std::ffi::c_void;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use witness_plugin_abi::{JobSink, JobTable, Slice};
use witness_plugin_protocol::{Diagnostic, Kind};

use super::library::{CallFailure, Library, slice_of};
use super::link::Link;
use crate::frame::{CallHeader, FrameKind, JOB_EVENT_BYTES_MAX, JOB_EVENTS_MAX, Operation};

/// How often a job that waits for the host shows that it is alive.
const WAIT_PULSE: Duration = Duration::from_millis(100);

/// What the I/O thread and the plugin's threads share about one job.
#[derive(Default)]
pub(super) struct JobGate {
    stop: AtomicBool,
    /// Events that were sent and not yet taken.
    on_the_way: Mutex<usize>,
    room: Condvar,
}

impl JobGate {
    /// The job should save and end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// The host took an event.
    pub(super) fn taken(&self) {
        let mut on_the_way = self.on_the_way();
        *on_the_way = on_the_way.saturating_sub(1);
        self.room.notify_one();
    }

    /// Waits until one more event may be sent, and counts it. `pulse` runs now and then meanwhile.
    fn enter(&self, pulse: impl Fn()) {
        let mut on_the_way = self.on_the_way();
        while *on_the_way >= JOB_EVENTS_MAX {
            let (guard, _) = self
                .room
                .wait_timeout(on_the_way, WAIT_PULSE)
                .unwrap_or_else(PoisonError::into_inner);
            on_the_way = guard;
            pulse();
        }
        *on_the_way += 1;
    }

    fn on_the_way(&self) -> MutexGuard<'_, usize> {
        self.on_the_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands behind the sink of one job.
struct Desk {
    link: Arc<Link>,
    gate: Arc<JobGate>,
    id: u64,
    /// The call has returned: whatever a thread that was left behind still emits is dropped.
    is_over: AtomicBool,
    /// The first event that was none. The job is told to stop, and nothing it does counts as progress any more.
    fault: Mutex<Option<String>>,
}

/// Makes a job call and returns its reply.
pub(super) fn call(
    library: &Library,
    link: &Arc<Link>,
    id: u64,
    header: CallHeader,
    body: &[u8],
    gate: Option<Arc<JobGate>>,
) -> Result<Vec<u8>, CallFailure> {
    let Some(table) = library.jobs(header.model) else {
        let diagnostic = Diagnostic::new(
            "witness::plugin::no_role",
            Kind::Unsupported,
            format!(
                "this plugin does not have the role of the job that `{}` asks for",
                header.operation.name()
            ),
        );
        return Err(Box::new(diagnostic).into());
    };
    match gate {
        Some(gate) if header.operation == Operation::Run => run(library, table, link, id, body, gate),
        _ => library.call(Operation::Plan, |reply| {
            // SAFETY: proven not null; `body` and `reply` outlive the call, which is made from the one calling thread.
            unsafe { (table.plan)(slice_of(body), reply) }
        }),
    }
}

fn run(
    library: &Library,
    table: &JobTable,
    link: &Arc<Link>,
    id: u64,
    body: &[u8],
    gate: Arc<JobGate>,
) -> Result<Vec<u8>, CallFailure> {
    // Leaked, with some hundred bytes a job: a thread that the plugin left behind may still emit when the call has returned.
    let desk: &'static Desk = Box::leak(Box::new(Desk {
        link: Arc::clone(link),
        gate,
        id,
        is_over: AtomicBool::new(false),
        fault: Mutex::new(None),
    }));
    let sink: &'static JobSink = Box::leak(Box::new(JobSink {
        struct_size: size_of::<JobSink>(),
        context: std::ptr::from_ref(desk).cast_mut().cast(),
        emit,
        should_stop,
    }));
    let outcome = library.call(Operation::Run, |reply| {
        // SAFETY: proven not null; the sink is static, `body` and `reply` outlive the call, which is made from the one calling thread.
        unsafe { (table.run)(slice_of(body), &raw const *sink, reply) }
    });
    desk.is_over.store(true, Ordering::Relaxed);
    link.remove_gate(id);
    let fault = desk.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (fault, outcome) {
        (Some(fault), outcome) => Err(CallFailure {
            diagnostic: Box::new(
                Diagnostic::new(
                    "witness::plugin::bad_event",
                    Kind::Plugin,
                    "the plugin broke the rules of `run` and its job was ended",
                )
                .cause(fault)
                .hint("report it to the plugin's author"),
            ),
            is_panic: outcome.is_err_and(|failure| failure.is_panic),
        }),
        (None, outcome) => outcome,
    }
}

impl Desk {
    fn has_fault(&self) -> bool {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Sends one event, or notes why it is none.
    fn take(&self, event: Slice) {
        if self.is_over.load(Ordering::Relaxed) || self.has_fault() {
            return;
        }
        match checked(event) {
            Ok(json) => {
                self.gate.enter(|| self.link.progress());
                // The end of the connection ends this process from the I/O thread.
                let _: io::Result<()> = self.link.send(FrameKind::JobEvent, self.id, &[json]);
                self.link.progress();
            }
            Err(fault) => {
                *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
                self.gate.stop();
            }
        }
    }

    fn should_stop(&self) -> bool {
        if !self.has_fault() {
            self.link.progress();
        }
        self.gate.stop.load(Ordering::Relaxed)
    }
}

/// Returns the bytes of an event: one JSON object of bounded length.
fn checked<'a>(event: Slice) -> Result<&'a [u8], String> {
    if event.len > JOB_EVENT_BYTES_MAX {
        return Err(format!(
            "an event has {} bytes, and {JOB_EVENT_BYTES_MAX} are allowed",
            event.len
        ));
    }
    if event.ptr.is_null() {
        return Err("an event is null".to_owned());
    }
    // SAFETY: not null, of bounded length, and valid during the sink call by contract; `'a` ends with that call. A plugin that lies
    // costs this process and no other.
    let bytes = unsafe { std::slice::from_raw_parts(event.ptr, event.len) };
    // Read as the host will read it, so that what passes here passes there.
    match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(_)) => Ok(bytes),
        Ok(_) => Err("an event is JSON, but no object".to_owned()),
        Err(error) => Err(format!("an event is not JSON: {error}")),
    }
}

/// The sink's `emit`.
///
/// # Safety
/// `context` is null or the static desk of a job; `event` is readable for its length.
unsafe extern "C" fn emit(context: *mut c_void, event: Slice) {
    // SAFETY: `run` made it from a static desk, all of whose parts may be used from any thread.
    if let Some(desk) = unsafe { context.cast::<Desk>().as_ref() } {
        desk.take(event);
    }
}

/// The sink's `should_stop`.
///
/// # Safety
/// `context` is null or the static desk of a job.
unsafe extern "C" fn should_stop(context: *mut c_void) -> i32 {
    // SAFETY: as in `emit`.
    match unsafe { context.cast::<Desk>().as_ref() } {
        Some(desk) => i32::from(desk.should_stop()),
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_object_of_bounded_length() {
        let of = |bytes: &'static [u8]| checked(slice_of(bytes));
        assert_eq!(of(b" {\"a\": [1]}").unwrap(), b" {\"a\": [1]}");
        for (bytes, expected) in [
            (&b"[1]"[..], "no object"),
            (b"", "not JSON"),
            (b"{} {}", "not JSON"),
            (b"{\"a\": \"\xff\"}", "not JSON"),
            (b"{\"a\": 1", "not JSON"),
            (br#"{"a": "\ud800"}"#, "not JSON"),
            (b"{\"a\": 1e999}", "not JSON"),
        ] {
            assert!(of(bytes).unwrap_err().contains(expected), "{bytes:?}");
        }
        let null = Slice {
            ptr: std::ptr::null(),
            len: 5,
        };
        assert!(checked(null).unwrap_err().contains("null"));
        let endless = Slice {
            ptr: b"{}".as_ptr(),
            len: usize::MAX,
        };
        assert!(checked(endless).unwrap_err().contains("are allowed"));
    }

    // The emitter waits at the gate while the agreed number of events is on its way, and goes on as soon as one is taken.
    #[test]
    fn the_gate_lets_through_as_many_as_are_taken() {
        let gate = Arc::new(JobGate::default());
        for _ in 0..JOB_EVENTS_MAX {
            gate.enter(|| panic!("there is room"));
        }
        let waiting = Arc::clone(&gate);
        let pulses = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&pulses);
        let emitter = std::thread::spawn(move || waiting.enter(|| *counted.lock().unwrap() += 1));
        gate.taken();
        emitter.join().unwrap();
        assert_eq!(*gate.on_the_way(), JOB_EVENTS_MAX);
    }
}
