//! The `witness` program: flags -> settings -> one command -> an exit code. Thin: every verb but `serve` and `worker` is a client of
//! the daemon.
//!
//! Layout: `cli` (the command line as data) -> `context` (settings, client, autostart) -> `commands/<verb>` -> `render` (how it looks).
//! **Invariant:** nothing here opens the store or a plugin.

mod cli;
mod commands;
mod context;
mod render;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(refusal) => {
            // Help and version are "errors" of clap that succeed.
            let _ = refusal.print();
            return ExitCode::from(u8::try_from(refusal.exit_code()).unwrap_or(2));
        }
    };
    match commands::dispatch(cli) {
        Ok(code) => code,
        Err(diagnostic) if diagnostic.code == render::output::CLOSED => ExitCode::SUCCESS,
        Err(diagnostic) => {
            render::output::error(&diagnostic);
            ExitCode::from(diagnostic.kind.exit_code())
        }
    }
}
