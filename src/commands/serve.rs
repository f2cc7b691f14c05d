//! `witness serve`: the daemon, in this process.

use witness_daemon::{Bound, ServeOptions};
use witness_diagnostics::{Diagnostic, Kind};

use crate::cli::{Global, Serve};
use crate::context::Outcome;
use crate::render::output;

/// Runs the daemon until it is told to stop.
pub(crate) fn serve(global: &Global, arguments: &Serve) -> Outcome {
    let settings = witness_settings::resolve(&global.overrides(), &witness_settings::process_environment)?;
    if arguments.detached {
        // Refused when this process leads a group already; it is then detached enough.
        let _ = witness_client::leave_terminal();
    }
    let program = std::env::current_exe().map_err(|error| {
        Diagnostic::new(
            "witness::cli::program",
            Kind::Environment,
            "this program cannot find its own file",
        )
        .cause(error.to_string())
        .hint("start it by its whole path")
    })?;
    let (ready, bound) = tokio::sync::oneshot::channel::<Bound>();
    let options = ServeOptions {
        plugin_dirs: plugin_directories(&program),
        worker_program: program,
        ready: Some(ready),
    };
    std::thread::spawn(move || {
        // An error means that the daemon could not start, which it says itself.
        if let Ok(bound) = bound.blocking_recv() {
            output::note(&format!(
                "listening on http://{} and `{}`",
                bound.address,
                bound.socket.display()
            ));
        }
    });
    witness_daemon::run(settings, options)
}

/// Returns where plugins that came with the program lie: beside it, as a build leaves them, or in the directories of an installation.
fn plugin_directories(program: &std::path::Path) -> Vec<std::path::PathBuf> {
    // A link in PATH leads to the installation.
    let program = program.canonicalize().unwrap_or_else(|_| program.to_owned());
    let Some(beside) = program.parent() else {
        return Vec::new();
    };
    let mut directories = vec![beside.to_owned(), beside.join("plugins")];
    directories.extend(beside.parent().map(|prefix| prefix.join("lib/witness/plugins")));
    directories
}
