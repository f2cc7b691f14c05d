//! The crate from outside: real files, second opinions, damaged files. One program, so that it is linked once.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod adapters;
mod configs;
mod counting;
mod gguf;
mod hostile;
mod imatrix;
mod safetensors;
mod support;
