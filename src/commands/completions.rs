//! `witness completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::{Cli, Completions};
use crate::context::Outcome;
use crate::render::output;

/// Prints the completions for a shell.
pub(crate) fn completions(arguments: &Completions) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(
        Shell::from(arguments.shell),
        &mut Cli::command(),
        "witness",
        &mut script,
    );
    output::print(&String::from_utf8_lossy(&script))
}
