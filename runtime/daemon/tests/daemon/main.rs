//! The daemon over real HTTP, in this process, with an engine that does as it is told: no plugin, no worker, no weights.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test's helper may panic like the test itself"
)]

mod adapters;
mod answers;
mod blobs;
mod bundle;
mod create;
mod doors;
mod drafts;
mod export;
mod fake;
mod library;
mod native;
mod ollama;
mod scheduling;
mod support;
mod transform;
