//! The plugin over real models: what comes out is what llama.cpp's programs write, what goes wrong is named, and what goes there and back is the same.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod faults;
mod forms;
mod nf4;
mod oracle;
mod support;
mod types;

#[path = "../../../../tests/harness/tmpfs.rs"]
mod tmpfs;
