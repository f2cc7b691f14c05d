//! The graph against a slow f64 reference and against recorded runs of the reference implementation.
//!
//! `reference` is the specification written the obvious way; `support` makes tiny random models, `peft` their adapters; the other files are the tests.
#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod peft;
mod reference;
mod support;
#[path = "../../../../tests/harness/tmpfs.rs"]
mod tmpfs;

mod adapters;
mod batches;
mod families;
mod hostile;
mod oracle;
mod packed;
mod quantized;
mod small_models;
