//! The tables: the good plugin's functions, each with a look at what is asked for first.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use witness_plugin_abi::{
    Buffer, Event, EventKind, EventSink, Host, JobSink, JobTable, Plugin, ServeTable, Slice, Status,
};
use witness_plugin_sdk::__private as sdk;

use crate::deeds::{FLOOD_EVENTS, act};
use crate::good::{Echo, describe};
use crate::mode::{Phase, deed, listen};
use crate::trainer::Drill;

/// The well-behaved plugin, made by hand from what `export_plugin!` would expand to: its symbol is taken by the liar.
struct Good;
static GOOD: sdk::PluginStatic = sdk::PluginStatic::new();
static GOOD_CELL: sdk::ServeCell<Echo> = sdk::ServeCell::new();
static GOOD_SERVE: ServeTable = sdk::serve_table::<Good>();
static GOOD_TRAIN: JobTable = sdk::job_table::<Drill>();

impl sdk::ServeExport for Good {
    type Serve = Echo;
    fn cell() -> &'static sdk::ServeCell<Echo> {
        &GOOD_CELL
    }
}

impl sdk::PluginExport for Good {
    fn descriptor() -> sdk::Descriptor {
        describe()
    }
    fn roles() -> sdk::Roles {
        sdk::Roles::none()
            .serve::<Good, Echo>(&GOOD_SERVE)
            .train::<Drill>(&GOOD_TRAIN)
    }
}

/// Returns the good plugin. Only after the entry point has made it.
fn good() -> &'static Plugin {
    // SAFETY: the entry point returns null only when the descriptor panicked, and then nothing else is ever called.
    unsafe { &*sdk::entry::<Good>(&GOOD) }
}

/// Number of the sequence that was started last.
static LAST_SEQUENCE: AtomicU64 = AtomicU64::new(0);

static TRAIN: JobTable = JobTable {
    struct_size: size_of::<JobTable>(),
    plan,
    run,
};
static SERVE: ServeTable = TABLE;
static SMALL_SERVE: ServeTable = ServeTable {
    struct_size: 16,
    ..TABLE
};
const TABLE: ServeTable = ServeTable {
    struct_size: size_of::<ServeTable>(),
    inspect,
    load,
    unload,
    load_adapter,
    unload_adapter,
    start,
    cancel,
    step,
};

/// Returns the plugin's table, or a lie.
#[expect(unreachable_pub, reason = "the symbol is reached by its name")]
#[unsafe(no_mangle)]
pub extern "C" fn witness_plugin_entry_v1() -> *const Plugin {
    static MADE: OnceLock<usize> = OnceLock::new();
    std::ptr::with_exposed_provenance(*MADE.get_or_init(|| make_table().expose_provenance()))
}

/// Makes the table, or a lie. Leaked: a table is static.
fn make_table() -> *const Plugin {
    act(Phase::Entry, std::ptr::null_mut());
    let good = sdk::entry::<Good>(&GOOD);
    if good.is_null() {
        return good;
    }
    // SAFETY: not null, and static.
    let good = unsafe { &*good };
    let mut plugin = Plugin {
        init,
        shutdown,
        serve: &raw const SERVE,
        train: &raw const TRAIN,
        ..copy(good)
    };
    // SAFETY: static bytes of the good plugin.
    let honest = unsafe { std::slice::from_raw_parts(good.descriptor.ptr, good.descriptor.len) };
    let honest = String::from_utf8_lossy(honest);
    let mut say = |text: String| {
        let bytes: &'static [u8] = text.into_bytes().leak();
        plugin.descriptor = Slice {
            ptr: bytes.as_ptr(),
            len: bytes.len(),
        };
    };
    match deed(Phase::Entry).as_deref() {
        Some("abi_major") => plugin.abi_major = 99,
        Some("abi_zero") => plugin.abi_major = 0,
        Some("protocol") => say(honest.replace("\"protocol\":1", "\"protocol\":7")),
        Some("no_descriptor") => {
            plugin.descriptor = Slice {
                ptr: std::ptr::null(),
                len: 0,
            }
        }
        Some("broken_descriptor") => say("{\"name\": \"hosti".to_owned()),
        Some("empty_descriptor") => say("{}".to_owned()),
        Some("huge_descriptor") => plugin.descriptor.len = 1 << 40,
        Some("bad_name") => say(honest.replace("\"hostile\"", "\"../../Etc\"")),
        Some("no_roles") => say(honest.replace("[\"serve\",\"train\"]", "[]")),
        Some("bad_magic") => say(honest.replace("\"suffix\":\".hostile\"", "\"magic_hex\":\"zz\"")),
        Some("isa") => say(honest.replace("\"isa\":[]", "\"isa\":[\"quantum\"]")),
        Some("null") => return std::ptr::null(),
        Some("misaligned") => return std::ptr::without_provenance(0x1001),
        Some("null_role") => plugin.serve = std::ptr::null(),
        Some("null_function") => return without_function(plugin, std::mem::offset_of!(Plugin, init)),
        Some("small_table") => plugin.struct_size = 24,
        // No lie: the table of ABI 1.0 ended here.
        Some("older_table") => plugin.struct_size = std::mem::offset_of!(Plugin, measure),
        Some("huge_table") => plugin.struct_size = usize::MAX,
        Some("small_role") => plugin.serve = &raw const SMALL_SERVE,
        _ => {}
    }
    Box::leak(Box::new(plugin))
}

fn copy(plugin: &Plugin) -> Plugin {
    // SAFETY: a table is plain static data.
    unsafe { std::ptr::read(plugin) }
}

/// Returns a leaked copy of a table whose function at `offset` is null, which no Rust value may be.
fn without_function(plugin: Plugin, offset: usize) -> *const Plugin {
    let leaked: *mut Plugin = Box::leak(Box::new(plugin));
    // SAFETY: the offset is that of a field; the value is only read through raw pointers from here on.
    unsafe { leaked.byte_add(offset).cast::<usize>().write(0) };
    leaked
}

unsafe extern "C" fn init(host: *const Host, settings: Slice, reply: *mut Buffer) -> Status {
    if let Some(status) = act(Phase::Init, reply) {
        return status;
    }
    // SAFETY: the host's arguments, passed on.
    unsafe { (good().init)(host, settings, reply) }
}

unsafe extern "C" fn shutdown() {
    let mut unused = Buffer {
        ptr: std::ptr::null_mut(),
        len: 0,
        reserved: 0,
    };
    act(Phase::Shutdown, &raw mut unused);
    // SAFETY: as the host calls it.
    unsafe { (good().shutdown)() }
}

/// Looks for wishes in a request.
fn hear(request: Slice) {
    if !request.ptr.is_null() {
        // SAFETY: readable during the call, as the ABI promises.
        listen(unsafe { std::slice::from_raw_parts(request.ptr, request.len) });
    }
}

unsafe extern "C" fn inspect(request: Slice, reply: *mut Buffer) -> Status {
    hear(request);
    if let Some(status) = act(Phase::Inspect, reply) {
        return status;
    }
    // SAFETY: the host's arguments, passed on.
    unsafe { (GOOD_SERVE.inspect)(request, reply) }
}

unsafe extern "C" fn load(request: Slice, model_out: *mut u64, reply: *mut Buffer) -> Status {
    hear(request);
    if let Some(status) = act(Phase::Load, reply) {
        return status;
    }
    // SAFETY: the host's arguments, passed on.
    unsafe { (GOOD_SERVE.load)(request, model_out, reply) }
}

unsafe extern "C" fn unload(model: u64, reply: *mut Buffer) -> Status {
    if let Some(status) = act(Phase::Unload, reply) {
        return status;
    }
    // SAFETY: the host's arguments, passed on.
    unsafe { (GOOD_SERVE.unload)(model, reply) }
}

unsafe extern "C" fn load_adapter(model: u64, request: Slice, reply: *mut Buffer) -> Status {
    if let Some(status) = act(Phase::LoadAdapter, reply) {
        return status;
    }
    // SAFETY: the host's arguments, passed on.
    unsafe { (GOOD_SERVE.load_adapter)(model, request, reply) }
}

unsafe extern "C" fn unload_adapter(model: u64, request: Slice, reply: *mut Buffer) -> Status {
    if let Some(status) = act(Phase::UnloadAdapter, reply) {
        return status;
    }
    // SAFETY: the host's arguments, passed on.
    unsafe { (GOOD_SERVE.unload_adapter)(model, request, reply) }
}

unsafe extern "C" fn start(model: u64, sequence: u64, request: Slice, reply: *mut Buffer) -> Status {
    hear(request);
    LAST_SEQUENCE.store(sequence, Ordering::Relaxed);
    if let Some(status) = act(Phase::Start, reply) {
        return status;
    }
    // SAFETY: the host's arguments, passed on.
    unsafe { (GOOD_SERVE.start)(model, sequence, request, reply) }
}

unsafe extern "C" fn cancel(model: u64, sequence: u64, reply: *mut Buffer) -> Status {
    if let Some(status) = act(Phase::Cancel, reply) {
        return status;
    }
    // SAFETY: the host's arguments, passed on.
    unsafe { (GOOD_SERVE.cancel)(model, sequence, reply) }
}

unsafe extern "C" fn step(model: u64, sink: *const EventSink, running: *mut u64, reply: *mut Buffer) -> Status {
    if let Some(status) = act(Phase::Step, reply) {
        return status;
    }
    if let Some(deed) = deed(Phase::Step) {
        // SAFETY: the host's sink, live during this call.
        let live = unsafe { &*sink };
        let emitter = Emitter {
            sink: live,
            sequence: LAST_SEQUENCE.load(Ordering::Relaxed),
        };
        if let Some(still_running) = emitter.misbehave(&deed) {
            // SAFETY: the host's place for the number.
            unsafe { running.write(still_running) };
            return Status::OK;
        }
    }
    // SAFETY: the host's arguments, passed on.
    unsafe { (GOOD_SERVE.step)(model, sink, running, reply) }
}

unsafe extern "C" fn plan(request: Slice, reply: *mut Buffer) -> Status {
    hear(request);
    if let Some(status) = act(Phase::Plan, reply) {
        return status;
    }
    // SAFETY: the host's arguments, passed on.
    unsafe { (GOOD_TRAIN.plan)(request, reply) }
}

unsafe extern "C" fn run(request: Slice, sink: *const JobSink, reply: *mut Buffer) -> Status {
    hear(request);
    if let Some(status) = act(Phase::Run, reply) {
        return status;
    }
    if let Some(deed) = deed(Phase::Run) {
        // SAFETY: the host's sink, live during this call.
        misbehave(&deed, unsafe { *sink });
    }
    // SAFETY: the host's arguments, passed on.
    unsafe { (GOOD_TRAIN.run)(request, sink, reply) }
}

/// Does a deed of [`crate::deeds::JOBS`] before the good trainer takes over.
fn misbehave(deed: &str, sink: JobSink) {
    let emit = move |bytes: &[u8]| {
        let event = Slice {
            ptr: bytes.as_ptr(),
            len: bytes.len(),
        };
        // SAFETY: the host's sink; `bytes` outlives the call.
        unsafe { (sink.emit)(sink.context, event) };
    };
    match deed {
        "flood_events" => {
            for number in 0..FLOOD_EVENTS {
                emit(format!("{{\"type\":\"status\",\"message\":\"{number}\"}}").as_bytes());
            }
        }
        "emit_threads" => {
            let shared = Shared(sink);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    let shared = &shared;
                    scope.spawn(move || {
                        for _ in 0..FLOOD_EVENTS / 4 {
                            shared.status();
                        }
                    });
                }
            });
        }
        "late_event" => {
            let shared = Shared(sink);
            std::thread::spawn(move || {
                loop {
                    shared.status();
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            });
        }
        "bad_event" => emit(b"\xff{no json"),
        "array_event" => emit(b"[1, 2]"),
        "null_event" => {
            let null = Slice {
                ptr: std::ptr::null(),
                len: 7,
            };
            // SAFETY: null is what no host may follow.
            unsafe { (sink.emit)(sink.context, null) };
        }
        "huge_event" => {
            let huge = Slice {
                ptr: b"{}".as_ptr(),
                len: 1 << 40,
            };
            // SAFETY: it is not; a host that believes the length deserves what comes.
            unsafe { (sink.emit)(sink.context, huge) };
        }
        "endless_bad_events" => loop {
            emit(b"?");
        },
        _ => {}
    }
}

/// A sink that is used from several threads, also after its call has returned.
struct Shared(JobSink);

// SAFETY: the ABI lets every thread use the sink while the job runs; whoever uses it later breaks the rules on purpose.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn status(&self) {
        let event = br#"{"type":"status","message":"from a thread"}"#;
        let slice = Slice {
            ptr: event.as_ptr(),
            len: event.len(),
        };
        // SAFETY: see above; the bytes are static.
        unsafe { (self.0.emit)(self.0.context, slice) };
    }
}

const DONE: &[u8] = br#"{"reason":"stop","prompt_tokens":1,"generated_tokens":1,"prompt_ns":1,"generate_ns":1}"#;

/// Sends events past the SDK.
struct Emitter<'a> {
    sink: &'a EventSink,
    sequence: u64,
}

impl Emitter<'_> {
    /// Does a deed of [`crate::deeds::STEPS`]. Returns how many sequences it says are running; nothing = the good step goes on.
    fn misbehave(&self, deed: &str) -> Option<u64> {
        match deed {
            "flood" => loop {
                self.send(self.event(EventKind::TOKEN, b"flood ", b""));
            },
            "flood_progress" => loop {
                self.send(self.event(EventKind::PROGRESS, b"", b""));
            },
            "stray" => {
                for sequence in 1000..1100 {
                    self.send(Event {
                        sequence,
                        ..self.event(EventKind::TOKEN, b"stray", b"")
                    });
                }
                None
            }
            "bad_utf8" => self.and_run(self.event(EventKind::TOKEN, b"\xff\xfe", b"")),
            "bad_done" => self.and_run(self.event(EventKind::DONE, b"", b"no json")),
            "double_done" => {
                self.send(self.event(EventKind::DONE, b"once", DONE));
                self.send(self.event(EventKind::DONE, b"twice", DONE));
                self.send(self.event(EventKind::TOKEN, b"and more", b""));
                Some(0)
            }
            "no_done" => {
                self.send(self.event(EventKind::TOKEN, b"unfinished", b""));
                Some(0)
            }
            "null_event" => {
                // SAFETY: null is what no host may follow.
                unsafe { (self.sink.emit)(self.sink.context, std::ptr::null()) };
                None
            }
            "small_event" => {
                self.send(Event {
                    struct_size: 8,
                    ..self.event(EventKind::TOKEN, b"small", b"")
                });
                None
            }
            "unknown_kind" => self.and_run(self.event(EventKind(99), b"", b"")),
            "huge_text" => {
                let mut event = self.event(EventKind::TOKEN, b"huge", b"");
                event.text.len = 1 << 40;
                self.and_run(event)
            }
            "null_text" => {
                let mut event = self.event(EventKind::TOKEN, b"", b"");
                event.text = Slice {
                    ptr: std::ptr::null(),
                    len: 5,
                };
                self.and_run(event)
            }
            "quiet" => Some(1),
            _ => None,
        }
    }

    fn event(&self, kind: EventKind, text: &'static [u8], detail: &'static [u8]) -> Event {
        Event {
            struct_size: size_of::<Event>(),
            sequence: self.sequence,
            kind,
            token: 1,
            logprob: f32::NAN,
            reserved: 0,
            text: Slice {
                ptr: text.as_ptr(),
                len: text.len(),
            },
            detail: Slice {
                ptr: detail.as_ptr(),
                len: detail.len(),
            },
        }
    }

    fn send(&self, event: Event) {
        // SAFETY: the host's sink; the event and its static bytes outlive the call.
        unsafe { (self.sink.emit)(self.sink.context, &raw const event) };
    }

    fn and_run(&self, event: Event) -> Option<u64> {
        self.send(event);
        Some(1)
    }
}
