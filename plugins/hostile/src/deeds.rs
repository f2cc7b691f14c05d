//! What a hostile plugin does inside a call.

use std::time::Duration;

use witness_plugin_abi::{Buffer, Status};

use crate::mode::{self, Phase};

/// Deeds that end or stop the process, possible in every phase.
pub const FATAL: &[&str] = &[
    "panic", "unwind", "abort", "segfault", "exit0", "exit3", "hang", "busy", "allocate", "close", "garbage",
];
/// Deeds that are a nuisance and no more, possible in every phase.
pub const NUISANCE: &[&str] = &["flood_stderr", "flood_stdout", "slow", "fork"];
/// Lies about the outcome of a call, possible in every phase with a reply.
pub const REPLIES: &[&str] = &[
    "refuse_silently",
    "bad_status",
    "garbage_reply",
    "wrong_reply",
    "null_reply",
    "huge_reply",
    "null_with_length",
];
/// Lies of the entry point.
pub const ENTRIES: &[&str] = &[
    "abi_major",
    "abi_zero",
    "protocol",
    "no_descriptor",
    "broken_descriptor",
    "empty_descriptor",
    "huge_descriptor",
    "bad_name",
    "no_roles",
    "bad_magic",
    "isa",
    "null",
    "misaligned",
    "null_role",
    "null_function",
    "small_table",
    "older_table",
    "huge_table",
    "small_role",
];
/// Lies of `step`.
pub const STEPS: &[&str] = &[
    "flood",
    "flood_progress",
    "stray",
    "bad_utf8",
    "bad_done",
    "double_done",
    "no_done",
    "null_event",
    "small_event",
    "unknown_kind",
    "huge_text",
    "null_text",
    "quiet",
];

/// Lies of a job's `run`.
pub const JOBS: &[&str] = &[
    "flood_events",
    "emit_threads",
    "late_event",
    "bad_event",
    "array_event",
    "null_event",
    "huge_event",
    "endless_bad_events",
];
/// Lies of a job's `run` that the messages' reader has to see through; to the worker they are as good as the truth.
pub const JOB_REPLIES: &[&str] = &["lie_files", "lie_path", "lie_directory", "ignore_stop"];

/// Events of a flood.
pub const FLOOD_EVENTS: usize = 5_000;

/// Bytes of memory that a reply of garbage claims or has.
const GARBAGE: &[u8] = b"\x00\xffnot json{{{";
/// File descriptors that a plugin that closes or writes everything goes through.
const DESCRIPTORS: std::ops::Range<i32> = 3..64;

/// Does what is asked for in a phase. Returns a status when the call is to end with it, and nothing when it is to go on.
pub(crate) fn act(phase: Phase, reply: *mut Buffer) -> Option<Status> {
    let deed = mode::deed(phase)?;
    match deed.as_str() {
        "unwind" => panic!("a hostile panic through the C border"),
        "abort" => std::process::abort(),
        "segfault" => {
            // SAFETY: it is not; the process is to die of it.
            unsafe { std::ptr::without_provenance_mut::<u8>(16).write_volatile(1) };
            None
        }
        "exit0" => std::process::exit(0),
        "exit3" => std::process::exit(3),
        "hang" => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        "busy" => loop {
            std::hint::spin_loop();
        },
        "allocate" => allocate(),
        "close" => {
            for descriptor in DESCRIPTORS {
                // SAFETY: closing what others own is the deed.
                unsafe { libc::close(descriptor) };
            }
            None
        }
        "garbage" => {
            for descriptor in DESCRIPTORS {
                // SAFETY: the bytes are static; writing to what others own is the deed.
                unsafe { libc::write(descriptor, GARBAGE.as_ptr().cast(), GARBAGE.len()) };
            }
            None
        }
        "flood_stderr" => {
            for line in 0..20_000 {
                eprintln!("hostile line {line} {}", "x".repeat(40));
            }
            None
        }
        "flood_stdout" => {
            print!("{}", "y".repeat(1 << 20));
            None
        }
        "slow" => {
            std::thread::sleep(Duration::from_millis(20));
            None
        }
        "fork" => {
            // SAFETY: the child touches nothing that a fork leaves undefined: it waits to be killed.
            unsafe {
                if libc::fork() == 0 {
                    loop {
                        libc::pause();
                    }
                }
            }
            None
        }
        "refuse_silently" => Some(Status::REFUSED),
        "bad_status" => Some(Status(77)),
        "garbage_reply" => Some(answer(reply, GARBAGE)),
        "wrong_reply" => Some(answer(reply, b"[\"not\", \"an\", \"object\"]")),
        "null_reply" => Some(Status::OK),
        "huge_reply" => {
            answer(reply, GARBAGE);
            // SAFETY: `answer` has just written it.
            unsafe { (*reply).len = usize::MAX / 2 };
            Some(Status::OK)
        }
        "null_with_length" => {
            // SAFETY: the host's buffer.
            unsafe { (*reply).len = 100 };
            Some(Status::OK)
        }
        _ => None,
    }
}

/// Writes a copy of `bytes` as a reply, in the form in which the well-behaved free expects it.
pub(crate) fn answer(reply: *mut Buffer, bytes: &[u8]) -> Status {
    let copy: Box<[u8]> = bytes.into();
    let len = copy.len();
    // SAFETY: the host's buffer.
    unsafe {
        reply.write(Buffer {
            ptr: Box::into_raw(copy).cast(),
            len,
            reserved: 0,
        })
    };
    Status::OK
}

/// Allocates and touches memory until there is none.
fn allocate() -> ! {
    let mut all: Vec<Vec<u8>> = Vec::new();
    loop {
        all.push(vec![1; 16 << 20]);
        std::hint::black_box(&all);
    }
}
