//! Removes now and then what nobody names: uploads that no model was made of, layers of models that failed half-way. The store keeps what is
//! young or leased by itself.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use witness_registry::Registry;

/// The first time comes late enough not to disturb a start, and a command that starts the daemon for one answer.
const FIRST: Duration = Duration::from_secs(600);
/// As old as an upload must be to be taken.
const EVERY: Duration = Duration::from_secs(3600);

/// Runs until the daemon goes down.
pub(crate) async fn run(registry: Registry, shutdown: CancellationToken) {
    let mut pause = FIRST;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
        pause = EVERY;
        let registry = registry.clone();
        let collected = tokio::task::spawn_blocking(move || registry.gc()).await;
        match collected {
            Ok(Ok(report)) if report.bytes_freed > 0 => {
                tracing::info!(bytes_freed = report.bytes_freed, "removed what no model names")
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!("what no model names was not removed: {error}"),
            Err(_) => return,
        }
    }
}
