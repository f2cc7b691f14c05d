//! The C ABI between a plugin and the worker process that loads it.
//!
//! A plugin is a shared library that exports one symbol, [`ENTRY_SYMBOL`], returning a pointer to a static [`Plugin`] table.
//! Only integers, floats, raw pointers and `(pointer, length)` pairs cross; every struct starts with its own size, so that either
//! side may be older. No Rust type, panic, allocator or async runtime crosses. `include/witness_plugin.h` is the same in C.
//!
//! **Invariant:** a table is read only up to its own `struct_size`; a function pointer beyond it is absent.
#![expect(unsafe_code, reason = "the crate declares extern \"C\" function types")]

mod table;

pub use table::{
    Buffer, Entry, Event, EventKind, EventSink, Host, JobSink, JobTable, Plugin, ServeTable, Slice, Status,
};

/// Major version: tables of another major number are refused before any call.
pub const ABI_MAJOR: u32 = 1;
/// Minor version: raised when fields are appended.
pub const ABI_MINOR: u32 = 1;
/// Name of the exported entry point, of type [`Entry`].
pub const ENTRY_SYMBOL: &str = "witness_plugin_entry_v1";
