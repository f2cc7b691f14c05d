//! Plugins as the daemon uses them: found in directories, checked, and each run in a process of its own that can be lost.
//!
//! - [`Host`] finds plugins and starts workers; [`HostConfig`] says where and within which limits.
//! - [`Worker`] is a running process with typed calls; [`Generation`] an answer as it comes, [`Job`] a long piece of
//!   work with its reports.
//! - [`worker_main`] is the other side: what the worker program runs.
//!
//! **Invariant:** the process that holds a [`Host`] never opens a plugin. Files are checked and opened, descriptors read and calls
//! made in worker processes; a plugin that crashes, hangs, lies or allocates without end costs the requests of its own worker, each
//! of which gets a diagnostic that names what happened.
//!
//! Cost of a token: the plugin's event is copied into the worker's buffer, one `write` per step for all sequences, one `read` and
//! one channel send here. `cargo run --release -p witness-plugin-host --example token_cost` measures it.
//!
//! ```no_run
//! # async fn example() -> Result<(), witness_diagnostics::Diagnostic> {
//! use witness_plugin_host::{Host, HostConfig, Limits};
//! use witness_plugin_protocol::Role;
//!
//! let mut config = HostConfig::new("/usr/local/bin/witness");
//! config.directories.push("/usr/local/lib/witness/plugins".into());
//! let host = Host::new(config);
//! let plugin = host.choose(Role::Serve, &[], None).await?;
//! let worker = host.start(&plugin, Limits::for_purpose("an example")).await?;
//! println!("{} runs in process {}", worker.descriptor().name, worker.pid());
//! # Ok(())
//! # }
//! ```
#![expect(unsafe_code, reason = "a worker opens a library and calls its C tables")]

mod boot;
mod choose;
mod config;
mod connection;
mod death;
mod discover;
mod entry;
mod frame;
mod generation;
mod host;
mod inside;
mod job;
mod ledger;
mod logs;
mod spawn;
mod worker;

pub use config::{Clock, HostConfig, Limits, RestartPolicy};
pub use entry::{FileFacts, PluginEntry, PluginState, SetAside};
pub use generation::{GenEvent, Generation};
pub use host::Host;
pub use inside::worker_main;
pub use job::Job;
pub use worker::{ModelHandle, Worker};
