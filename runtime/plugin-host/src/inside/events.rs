//! Events of one step: checked as the plugin emits them, collected, and written to the socket together.
//!
//! **Invariant:** an event leaves this process only for a sequence that was started, has not ended and stays within the number of
//! tokens that it was given; its text is UTF-8 of bounded length. Everything else is dropped, or ends that sequence with an error.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::io;

use witness_plugin_abi::{Event, EventKind, EventSink, Slice};
use witness_plugin_protocol::{Diagnostic, Kind};

use super::link::Link;
use crate::frame::{EventRecord, FrameKind};

/// Longest text of one token event.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Longest JSON of one event: hundreds of alternatives, or a diagnostic.
const DETAIL_BYTES_MAX: usize = 4 << 20;
/// Events are written once a step has ended, or earlier when this many bytes are waiting.
const FLUSH_BYTES: usize = 64 << 10;

/// A running sequence as the worker knows it.
pub(super) struct Sequence {
    /// Tokens that it may still emit.
    pub(super) tokens_left: u64,
}

/// The running sequences of one model, by number.
pub(super) type Sequences = BTreeMap<u64, Sequence>;

/// The events of one step of one model.
pub(super) struct Batch<'a> {
    link: &'a Link,
    sequences: &'a mut Sequences,
    payload: Vec<u8>,
    /// Events that were accepted.
    pub(super) accepted: u64,
    /// Events that belong to no running sequence.
    pub(super) strays: u64,
    /// Sequences that were ended here and that the plugin still believes to be running.
    pub(super) broken: Vec<u64>,
    connection: io::Result<()>,
}

impl<'a> Batch<'a> {
    /// Returns an empty batch. `payload` lends its capacity.
    pub(super) fn new(link: &'a Link, sequences: &'a mut Sequences, mut payload: Vec<u8>) -> Self {
        payload.clear();
        Self {
            link,
            sequences,
            payload,
            accepted: 0,
            strays: 0,
            broken: Vec::new(),
            connection: Ok(()),
        }
    }

    /// Returns the sink to hand to the plugin. Valid while this batch is neither moved nor dropped.
    pub(super) fn sink(&mut self) -> EventSink {
        EventSink {
            struct_size: size_of::<EventSink>(),
            context: std::ptr::from_mut(self).cast(),
            emit,
        }
    }

    /// Ends every remaining sequence with an error.
    pub(super) fn fail_all(&mut self, diagnostic: &Diagnostic) {
        while let Some((sequence, _)) = self.sequences.pop_first() {
            self.put_error(sequence, diagnostic);
        }
    }

    /// Writes what is waiting and returns the buffer for the next batch.
    pub(super) fn finish(mut self) -> io::Result<Vec<u8>> {
        self.flush();
        self.connection?;
        Ok(self.payload)
    }

    fn flush(&mut self) {
        if !self.payload.is_empty() && self.connection.is_ok() {
            self.connection = self.link.send(FrameKind::Events, 0, &[&self.payload]);
        }
        self.payload.clear();
    }

    /// Takes one event of the plugin.
    fn take(&mut self, event: &Event) {
        let Some(running) = self.sequences.get_mut(&event.sequence) else {
            self.strays += 1;
            return;
        };
        let fault = match event.kind {
            EventKind::PROGRESS => return,
            EventKind::TOKEN => match running.tokens_left.checked_sub(1) {
                Some(left) => {
                    running.tokens_left = left;
                    None
                }
                None => Some("it emitted more tokens than the request allows".to_owned()),
            },
            EventKind::DONE | EventKind::ERROR => None,
            EventKind(other) => Some(format!("it sent an event of unknown kind {other}")),
        };
        let outcome = match fault {
            Some(fault) => Err(fault),
            None => self.put(event),
        };
        match outcome {
            Ok(()) if event.kind == EventKind::TOKEN => {}
            Ok(()) => drop(self.sequences.remove(&event.sequence)),
            Err(fault) => {
                self.sequences.remove(&event.sequence);
                self.broken.push(event.sequence);
                let diagnostic = Diagnostic::new(
                    "witness::plugin::bad_event",
                    Kind::Plugin,
                    "the plugin broke the rules of `step` and the answer was ended",
                );
                self.put_error(
                    event.sequence,
                    &diagnostic.cause(fault).hint("report it to the plugin's author"),
                );
                // Now and not at the end of the step, which may never come.
                self.flush();
            }
        }
        self.accepted += 1;
        self.link.progress();
        if self.payload.len() >= FLUSH_BYTES {
            self.flush();
        }
    }

    /// Appends a checked event.
    fn put(&mut self, event: &Event) -> Result<(), String> {
        let text = bytes_of("text", event.text, TEXT_BYTES_MAX)?;
        if let Err(error) = std::str::from_utf8(text) {
            return Err(format!("its text is not UTF-8: {error}"));
        }
        let detail = bytes_of("detail", event.detail, DETAIL_BYTES_MAX)?;
        let record = EventRecord {
            sequence: event.sequence,
            kind: event.kind.0,
            token: event.token,
            logprob: event.logprob,
            text,
            detail,
        };
        record.encode_into(&mut self.payload);
        Ok(())
    }

    fn put_error(&mut self, sequence: u64, diagnostic: &Diagnostic) {
        let detail = serde_json::to_vec(diagnostic).unwrap_or_default();
        let record = EventRecord {
            sequence,
            kind: EventKind::ERROR.0,
            token: 0,
            logprob: f32::NAN,
            text: b"",
            detail: &detail,
        };
        record.encode_into(&mut self.payload);
    }
}

/// Returns the bytes of a slice of the plugin's, of bounded length.
fn bytes_of<'a>(name: &str, slice: Slice, bytes_max: usize) -> Result<&'a [u8], String> {
    if slice.len == 0 {
        return Ok(&[]);
    }
    if slice.len > bytes_max {
        return Err(format!(
            "its {name} has {} bytes, and {bytes_max} are allowed",
            slice.len
        ));
    }
    if slice.ptr.is_null() {
        return Err(format!("its {name} is null with a length of {}", slice.len));
    }
    // SAFETY: not null, of bounded length, and valid during the sink call by contract; `'a` ends with that call. A plugin that lies
    // costs this process and no other.
    Ok(unsafe { std::slice::from_raw_parts(slice.ptr, slice.len) })
}

/// The sink's function.
///
/// # Safety
/// `context` is the batch of the step that is running; `event` is null or points to an event that says its size.
unsafe extern "C" fn emit(context: *mut c_void, event: *const Event) {
    if context.is_null() || event.is_null() || !event.is_aligned() {
        return;
    }
    // SAFETY: `Batch::sink` made it from a live batch, which nothing else touches while the plugin steps.
    let batch = unsafe { &mut *context.cast::<Batch<'_>>() };
    // SAFETY: aligned and not null; the size comes first.
    let struct_size = unsafe { (&raw const (*event).struct_size).read() };
    if struct_size < size_of::<Event>() {
        batch.strays += 1;
        return;
    }
    // SAFETY: at least as large as our version of it.
    batch.take(unsafe { &*event });
}
