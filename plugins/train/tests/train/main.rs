//! Runs through the plugin's own loop: against recorded runs, killed and resumed, and when things go wrong.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bases;
mod faults;
mod kills;
mod oracle;
mod runs;
mod support;

#[path = "../../../../tests/harness/tmpfs.rs"]
mod tmpfs;
