//! `witness version`: of this program and of the daemon, which may be another build that was started earlier.

use serde::Serialize;
use witness_api::VersionResponse;

use crate::cli::Listing;
use crate::context::{Context, Outcome};
use crate::render::output;

/// Version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Serialize)]
struct Versions {
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon: Option<String>,
}

/// Prints both versions; starts nothing.
pub(crate) fn version(context: &Context, arguments: &Listing) -> Outcome {
    let daemon = context.wait(context.client.get::<VersionResponse>("/api/version"));
    let versions = Versions {
        version: VERSION,
        daemon: daemon.ok().map(|answer| answer.version),
    };
    if arguments.json {
        return output::json(&versions);
    }
    output::line(&format!("witness {VERSION}"))?;
    match versions.daemon {
        Some(daemon) if daemon == VERSION => output::line(&format!("daemon  {daemon}")),
        Some(daemon) => output::line(&format!(
            "daemon  {daemon} (another version; `witness stop --daemon` and the next command starts this one)"
        )),
        None => output::line("daemon  not running"),
    }
}
