//! The tables and structs, in the order of the C header.

use std::ffi::c_void;

/// Borrowed bytes. Valid for the duration of the call that passes them, or for ever where a field says static.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    /// First byte; may be null when `len` is 0.
    pub ptr: *const u8,
    /// Number of bytes.
    pub len: usize,
}

/// Bytes owned by the plugin and handed to the host, which gives them back through [`Plugin::free_buffer`].
#[repr(C)]
#[derive(Debug)]
pub struct Buffer {
    /// First byte; null when empty.
    pub ptr: *mut u8,
    /// Number of bytes.
    pub len: usize,
    /// The plugin's own business (capacity, say).
    pub reserved: usize,
}

/// Result of a call. Anything but `OK` comes with a `Diagnostic` as JSON in the reply buffer, when there is one.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub i32);

impl Status {
    /// Done.
    pub const OK: Status = Status(0);
    /// The request was refused; the reply says why.
    pub const REFUSED: Status = Status(1);
    /// The plugin panicked inside the call and fenced it.
    pub const PANICKED: Status = Status(2);
    /// The model or sequence is not known.
    pub const UNKNOWN_HANDLE: Status = Status(3);
}

/// What the host offers a plugin. Lives as long as the process.
#[repr(C)]
pub struct Host {
    /// `size_of::<Host>()` of the host's version.
    pub struct_size: usize,
    /// The host's [`crate::ABI_MAJOR`].
    pub abi_major: u32,
    /// The host's [`crate::ABI_MINOR`].
    pub abi_minor: u32,
    /// Passed back to `log`.
    pub context: *mut c_void,
    /// Writes one line to the daemon's log. `level`: 1 error, 2 warn, 3 info, 4 debug. Callable from any thread.
    pub log: unsafe extern "C" fn(context: *mut c_void, level: u32, message: Slice),
}

/// What an [`Event`] says.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventKind(pub u32);

impl EventKind {
    /// A token; `text` may be empty while a character or a possible stop text is incomplete.
    pub const TOKEN: EventKind = EventKind(1);
    /// Prompt progress: `token` tokens of it are done. Informative.
    pub const PROGRESS: EventKind = EventKind(2);
    /// The sequence ended; `detail` is `Done` as JSON; `text` is what was held back and is part of the answer. Nothing follows.
    pub const DONE: EventKind = EventKind(3);
    /// The sequence failed; `detail` is a `Diagnostic` as JSON. Nothing follows.
    pub const ERROR: EventKind = EventKind(4);
}

/// One event of a running sequence. Valid during the sink call only.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// `size_of::<Event>()` of the plugin's version.
    pub struct_size: usize,
    /// Number of the sequence, as given to `start`.
    pub sequence: u64,
    /// What this is.
    pub kind: EventKind,
    /// Token id.
    pub token: u32,
    /// Natural logarithm of the token's probability under the model (before sampling transforms); NaN when not asked for.
    pub logprob: f32,
    /// Padding, 0.
    pub reserved: u32,
    /// UTF-8, whole characters only.
    pub text: Slice,
    /// JSON, by kind. For TOKEN: empty, or the alternatives as `[{"id":..,"text":..,"logprob":..}]`.
    pub detail: Slice,
}

/// Where `step` puts its events.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct EventSink {
    /// `size_of::<EventSink>()` of the host's version.
    pub struct_size: usize,
    /// Passed back to `emit`.
    pub context: *mut c_void,
    /// Takes one event. Called on the thread that called `step`, before it returns.
    pub emit: unsafe extern "C" fn(context: *mut c_void, event: *const Event),
}

/// The role `serve`. All calls come from one thread, never two at once. A null reply with status OK means an empty reply.
#[repr(C)]
pub struct ServeTable {
    /// `size_of::<ServeTable>()` of the plugin's version.
    pub struct_size: usize,
    /// `InspectRequest` -> `InspectReply`.
    pub inspect: unsafe extern "C" fn(request: Slice, reply: *mut Buffer) -> Status,
    /// `LoadRequest` -> `LoadReply`; writes the model's handle to `model_out`.
    pub load: unsafe extern "C" fn(request: Slice, model_out: *mut u64, reply: *mut Buffer) -> Status,
    /// Frees a model; its sequences end without events.
    pub unload: unsafe extern "C" fn(model: u64, reply: *mut Buffer) -> Status,
    /// `LoadAdapterRequest` -> `LoadAdapterReply`.
    pub load_adapter: unsafe extern "C" fn(model: u64, request: Slice, reply: *mut Buffer) -> Status,
    /// `UnloadAdapterRequest` -> empty.
    pub unload_adapter: unsafe extern "C" fn(model: u64, request: Slice, reply: *mut Buffer) -> Status,
    /// `GenerateRequest` -> `Started`: admits a sequence under the caller's number. Renders, tokenizes and checks; computes nothing long.
    pub start: unsafe extern "C" fn(model: u64, sequence: u64, request: Slice, reply: *mut Buffer) -> Status,
    /// Ends a sequence now, without events. A sequence that ended by itself is no error.
    pub cancel: unsafe extern "C" fn(model: u64, sequence: u64, reply: *mut Buffer) -> Status,
    /// Advances every admitted sequence of the model by one step (one token, or one chunk of its prompt) and emits what came of it.
    /// Writes the number of sequences still running to `running_out`. A status that is not OK ends every sequence of the model.
    pub step:
        unsafe extern "C" fn(model: u64, sink: *const EventSink, running_out: *mut u64, reply: *mut Buffer) -> Status,
}

/// Where a job puts its events and learns that it should stop. Both functions may be called from any thread until `run` returns; a job
/// that calls neither for long is taken for hung.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct JobSink {
    /// `size_of::<JobSink>()` of the host's version.
    pub struct_size: usize,
    /// Passed back to the functions.
    pub context: *mut c_void,
    /// Takes one event: a JSON object of at most 1 MiB. Waits while the host is behind.
    pub emit: unsafe extern "C" fn(context: *mut c_void, event: Slice),
    /// Not 0 once the job should save and end.
    pub should_stop: unsafe extern "C" fn(context: *mut c_void) -> i32,
}

/// The roles `train` and `quantize`: a job that runs to its end in one call.
#[repr(C)]
pub struct JobTable {
    /// `size_of::<JobTable>()` of the plugin's version.
    pub struct_size: usize,
    /// Says what a job would do and take, without doing it. Request and reply are the role's own JSON.
    pub plan: unsafe extern "C" fn(request: Slice, reply: *mut Buffer) -> Status,
    /// Runs a job. Blocks until it ends.
    pub run: unsafe extern "C" fn(request: Slice, sink: *const JobSink, reply: *mut Buffer) -> Status,
}

/// The table that the entry point returns. Static.
#[repr(C)]
pub struct Plugin {
    /// `size_of::<Plugin>()` of the plugin's version.
    pub struct_size: usize,
    /// The plugin's [`crate::ABI_MAJOR`].
    pub abi_major: u32,
    /// The plugin's [`crate::ABI_MINOR`].
    pub abi_minor: u32,
    /// `Descriptor` as JSON; static.
    pub descriptor: Slice,
    /// Called once before any role; `settings` is a JSON object. Not OK = the plugin is unusable, the reply says why.
    pub init: unsafe extern "C" fn(host: *const Host, settings: Slice, reply: *mut Buffer) -> Status,
    /// Called once at the end.
    pub shutdown: unsafe extern "C" fn(),
    /// Frees what a call put into a [`Buffer`].
    pub free_buffer: unsafe extern "C" fn(buffer: *mut Buffer),
    /// Role `serve`, or null.
    pub serve: *const ServeTable,
    /// Role `train`, or null.
    pub train: *const JobTable,
    /// Role `quantize`, or null.
    pub quantize: *const JobTable,
    /// Role `measure`, or null. Since ABI 1.1.
    pub measure: *const JobTable,
}

// SAFETY: a table is immutable static data; its pointers are to static data or functions.
unsafe impl Sync for Plugin {}
// SAFETY: as above.
unsafe impl Send for Plugin {}

/// Type of the exported entry point. Returns a static table, never null.
pub type Entry = unsafe extern "C" fn() -> *const Plugin;
