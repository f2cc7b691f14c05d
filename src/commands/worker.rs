//! `witness worker`: one plugin in a process that can be lost. Started by the daemon.

use std::process::ExitCode;

use crate::cli::Worker;

/// Serves frames until the daemon closes the socket.
pub(crate) fn worker(arguments: Worker) -> ExitCode {
    witness_plugin_host::worker_main(arguments.arguments)
}
