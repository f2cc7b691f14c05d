//! The C header and the Rust tables are one thing: a C program, compiled here against the header, prints every size and offset,
//! and Rust prints the same. Constants are compared the same way.

use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::Command;

use witness_plugin_abi::{
    ABI_MAJOR, ABI_MINOR, Buffer, ENTRY_SYMBOL, Event, EventKind, EventSink, Host, JobSink, JobTable, Plugin,
    ServeTable, Slice, Status,
};

/// Prints size and offsets of a struct in both languages, from one list of its fields.
macro_rules! layouts {
    ($($rust:ident = $c:literal { $($field:ident),* $(,)? })*) => {
        /// The lines of Rust.
        fn of_rust() -> String {
            let mut lines = String::new();
            $(
                lines += &format!("{} {}\n", $c, size_of::<$rust>());
                $(lines += &format!("{}.{} {}\n", $c, stringify!($field), offset_of!($rust, $field));)*
            )*
            lines
        }

        /// The statements of C that print the same lines.
        fn of_c() -> String {
            let mut statements = String::new();
            $(
                statements += &format!("printf(\"{0} %zu\\n\", sizeof({0}));\n", $c);
                $(statements += &format!(
                    "printf(\"{0}.{1} %zu\\n\", offsetof({0}, {1}));\n", $c, stringify!($field)
                );)*
            )*
            statements
        }
    };
}

layouts! {
    Slice = "witness_slice" { ptr, len }
    Buffer = "witness_buffer" { ptr, len, reserved }
    Host = "witness_host" { struct_size, abi_major, abi_minor, context, log }
    Event = "witness_event" { struct_size, sequence, kind, token, logprob, reserved, text, detail }
    EventSink = "witness_event_sink" { struct_size, context, emit }
    ServeTable = "witness_serve_table" {
        struct_size, inspect, load, unload, load_adapter, unload_adapter, start, cancel, step
    }
    JobSink = "witness_job_sink" { struct_size, context, emit, should_stop }
    JobTable = "witness_job_table" { struct_size, plan, run }
    Plugin = "witness_plugin" {
        struct_size, abi_major, abi_minor, descriptor, init, shutdown, free_buffer, serve, train, quantize, measure
    }
}

/// The constants, as C writes them and as Rust has them.
fn constants() -> Vec<(&'static str, i64)> {
    vec![
        ("WITNESS_ABI_MAJOR", i64::from(ABI_MAJOR)),
        ("WITNESS_ABI_MINOR", i64::from(ABI_MINOR)),
        ("WITNESS_OK", i64::from(Status::OK.0)),
        ("WITNESS_REFUSED", i64::from(Status::REFUSED.0)),
        ("WITNESS_PANICKED", i64::from(Status::PANICKED.0)),
        ("WITNESS_UNKNOWN_HANDLE", i64::from(Status::UNKNOWN_HANDLE.0)),
        ("WITNESS_EVENT_TOKEN", i64::from(EventKind::TOKEN.0)),
        ("WITNESS_EVENT_PROGRESS", i64::from(EventKind::PROGRESS.0)),
        ("WITNESS_EVENT_DONE", i64::from(EventKind::DONE.0)),
        ("WITNESS_EVENT_ERROR", i64::from(EventKind::ERROR.0)),
        ("sizeof(witness_status)", size_of::<Status>() as i64),
        ("sizeof(witness_event_kind)", size_of::<EventKind>() as i64),
    ]
}

fn header() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("include")
}

#[test]
fn the_header_and_the_tables_agree_in_every_size_offset_and_constant() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (directory.join("layout.c"), directory.join("layout"));
    let mut statements = of_c();
    let mut expected = of_rust();
    for (name, value) in constants() {
        statements += &format!("printf(\"{name} %ld\\n\", (long)({name}));\n");
        expected += &format!("{name} {value}\n");
    }
    // Naming the entry point in C proves that the header declares the symbol that the host looks for.
    let text = format!(
        "#include \"witness_plugin.h\"\n#include <stdio.h>\nint main(void) {{\n{statements}return sizeof(&{ENTRY_SYMBOL}) == 0;\n}}\n"
    );
    std::fs::write(&source, text).unwrap();
    let compiled = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I"])
        .args([header(), "-o".into(), program.clone(), source])
        .output()
        .unwrap();
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    let printed = Command::new(&program).output().unwrap();
    assert!(printed.status.success());
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), expected);
}

/// A field that is in a table and not in the list above would go unchecked: the last one listed must end the struct.
#[test]
fn the_lists_of_fields_reach_the_end_of_every_struct() {
    let word = size_of::<usize>();
    for (name, end, size) in [
        ("Slice", offset_of!(Slice, len) + word, size_of::<Slice>()),
        ("Buffer", offset_of!(Buffer, reserved) + word, size_of::<Buffer>()),
        ("Host", offset_of!(Host, log) + word, size_of::<Host>()),
        (
            "Event",
            offset_of!(Event, detail) + size_of::<Slice>(),
            size_of::<Event>(),
        ),
        ("EventSink", offset_of!(EventSink, emit) + word, size_of::<EventSink>()),
        (
            "ServeTable",
            offset_of!(ServeTable, step) + word,
            size_of::<ServeTable>(),
        ),
        ("JobSink", offset_of!(JobSink, should_stop) + word, size_of::<JobSink>()),
        ("JobTable", offset_of!(JobTable, run) + word, size_of::<JobTable>()),
        ("Plugin", offset_of!(Plugin, measure) + word, size_of::<Plugin>()),
    ] {
        assert_eq!(end, size, "{name}");
    }
}
