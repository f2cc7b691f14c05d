//! What every route can reach.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use witness_settings::Settings;

use crate::contexts::Contexts;
use crate::engine::Engine;
use crate::guard::Guard;
use crate::jobs::Jobs;
use crate::models::handle::Models;
use crate::models::library::Library;

/// Version that the API reports: that of the workspace.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The daemon's parts. One value, shared by all connections; nothing in it is changed after the start but through its own parts.
pub(crate) struct App {
    pub(crate) settings: Settings,
    pub(crate) library: Arc<Library>,
    pub(crate) models: Models,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) guard: Guard,
    /// Exchanges that `/api/generate` can continue.
    pub(crate) contexts: Arc<Contexts>,
    /// Cancelled when the daemon goes down; answers end then.
    pub(crate) shutdown: CancellationToken,
    pub(crate) started: Instant,
    pub(crate) memory_budget_bytes: u64,
    /// Address that the TCP listener has.
    pub(crate) address: String,
    pub(crate) socket: PathBuf,
}
