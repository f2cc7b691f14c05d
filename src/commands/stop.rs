//! `witness stop`: unload a model, or end the daemon.

use std::time::{Duration, Instant};

use witness_api::{UnloadRequest, UnloadResponse};
use witness_diagnostics::{Diagnostic, Kind};

use crate::cli::Stop;
use crate::context::{Context, Outcome};
use crate::render::output;

/// How long a daemon may take to end: it finishes what it writes and stops its workers.
const GONE_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// Stops what was named.
pub(crate) fn stop(context: &Context, arguments: &Stop) -> Outcome {
    match &arguments.name {
        Some(name) => unload(context, name),
        None => stop_daemon(context),
    }
}

fn unload(context: &Context, name: &str) -> Outcome {
    let request = UnloadRequest { model: name.to_owned() };
    match context.wait(context.client.post::<UnloadResponse>("/api/witness/unload", &request)) {
        Ok(answer) if answer.unloaded => output::note(&format!("unloaded `{name}`")),
        Ok(_) => output::note(&format!("`{name}` was not loaded")),
        Err(refusal) if refusal.code == "witness::client::not_running" => {
            output::note(&format!("no daemon is running, so `{name}` is not loaded"));
        }
        Err(refusal) => return Err(context.explain_missing(name, refusal)),
    }
    Ok(())
}

fn stop_daemon(context: &Context) -> Outcome {
    match context.wait(context.client.shutdown()) {
        Ok(()) => {}
        Err(refusal) if refusal.code == "witness::client::not_running" => {
            output::note("no daemon is running");
            return Ok(());
        }
        Err(refusal) => return Err(refusal),
    }
    let deadline = Instant::now() + GONE_TIMEOUT;
    let is_gone = context.wait(async {
        loop {
            if context.client.is_gone().await {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(POLL).await;
        }
    })?;
    if is_gone {
        output::note("the daemon has stopped");
        Ok(())
    } else {
        Err(Diagnostic::new(
            "witness::cli::stop",
            Kind::Environment,
            format!("the daemon did not end within {} s", GONE_TIMEOUT.as_secs()),
        )
        .hint(format!(
            "read `{}`",
            witness_client::log_path(&context.settings).display()
        )))
    }
}
