//! The quick start's data: everything in it is right by the facts of the real `witness` command, and what finds faults does find them.
//! The model itself is asked in `tests/e2e/quickstart.rs`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../modelfiles/quickstart/corpus/mod.rs"]
#[expect(dead_code, reason = "each program uses a part of it")]
mod corpus;

mod checker;
mod facts;
mod text;
