//! The real program, verb by verb: a temporary home, the real daemon, the real plugins, real HTTP. No network, nothing global.
//!
//! `desk` is what every test sits at; the other modules are one verb or one promise each.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../harness/mod.rs"]
mod harness;

#[path = "../../modelfiles/quickstart/corpus/mod.rs"]
#[expect(dead_code, reason = "each program uses a part of it")]
mod corpus;

mod bench;
mod bundle;
mod client_of_ollama;
mod create;
mod daemon;
mod data;
mod desk;
mod doctor;
mod drafts;
mod fake_daemon;
mod fake_llama;
mod fsck;
mod help;
mod list;
mod measure;
mod names;
mod ollama_store;
mod oracle;
mod packed;
mod plugin;
mod quantize;
mod quickstart;
mod readme;
mod run;
mod show;
mod stories;
mod talk;
mod toy;
mod train;
mod transform;
