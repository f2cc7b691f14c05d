//! The client of our own daemon: connect, ask, read streams, store files, start the daemon when none answers.
//!
//! A small HTTP/1.1 client on hyper over the daemon's unix socket or TCP. Every error becomes a [`witness_diagnostics::Diagnostic`];
//! the daemon's own errors arrive unchanged. Dropping an answer that is still coming cancels the request.
//!
//! What it does not know: terminals, progress bars, what is inside a model file.
//!
//! Layout: `connect` (addresses) -> `http` (one request) -> `stream` and `lines` (NDJSON) -> `upload` (files as blobs) -> `source`
//! (which files make a model) -> `create` (a Modelfile's plan as a request) · `transform` (making, planning, exporting) · `measure` · `timed` (answers as they come, of
//! ours and of llama.cpp's server) · `train` (runs) · `autostart` · `error`.
//!
//! ```no_run
//! # async fn list() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = witness_settings::resolve(&Default::default(), &witness_settings::process_environment)?;
//! let client = witness_client::Client::new(&settings);
//! let list: witness_api::ListResponse = client.get("/api/tags").await?;
//! # Ok(()) }
//! ```

mod autostart;
mod connect;
mod create;
mod error;
mod http;
mod lines;
mod measure;
mod source;
mod stream;
mod timed;
mod train;
mod transform;
mod upload;

pub use autostart::{Autostart, Readiness, ensure, leave_terminal, log_path};
pub use connect::Endpoint;
pub use create::{Roots, Sources};
pub use error::ClientError;
pub use http::Client;
pub use source::{SourceFile, adapter_files, model_files};
pub use stream::Lines;
pub use timed::{Question, Timed, TimedClient};
pub use upload::{FileProgress, StoredFile};

/// The HTTP methods that callers name.
pub use hyper::Method;

#[cfg(test)]
mod tests;
