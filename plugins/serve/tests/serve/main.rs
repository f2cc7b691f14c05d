//! The engine through the traits that the host calls it by.
//!
//! `support` drives one model to its end; `tiny` is a model of this test's own making; `convert` writes GGUF files of Hugging Face ones.
#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod convert;
mod support;
mod tiny;

mod adapters;
mod batching;
mod drafts;
mod foreign;
mod gguf;
mod hostile;
mod measure;
mod oracle;
mod requests;
mod stories;
