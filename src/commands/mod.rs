//! The verbs, one file each: parse what was given, ask the daemon, print.

mod bench;
mod compare;
mod completions;
mod cp;
mod create;
mod data;
mod doctor;
pub(crate) mod exit_codes;
mod export;
mod following;
mod fsck;
mod imatrix;
mod import;
mod list;
mod measuring;
mod merge;
mod names;
mod perplexity;
mod plugin;
mod ps;
mod quantize;
mod rm;
mod run;
mod serve;
mod show;
mod stop;
mod train;
mod version;
mod worker;

use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::context::{Context, Outcome};

/// Runs the verb that was asked for.
pub(crate) fn dispatch(cli: Cli) -> Outcome<ExitCode> {
    // These need no settings, and must work when the settings are wrong.
    match cli.command {
        Command::Worker(arguments) => return Ok(worker::worker(arguments)),
        Command::Completions(arguments) => return completions::completions(&arguments).map(|()| ExitCode::SUCCESS),
        Command::ExitCodes => return exit_codes::exit_codes().map(|()| ExitCode::SUCCESS),
        Command::Data(ref verb) if !data::asks_a_model(verb) => return data::data(verb),
        _ => {}
    }
    if let Command::Serve(arguments) = cli.command {
        return serve::serve(&cli.global, &arguments).map(|()| ExitCode::SUCCESS);
    }
    let context = Context::new(&cli.global)?;
    match cli.command {
        Command::Create(arguments) => create::create(&context, &arguments)?,
        Command::Run(arguments) => run::run(&context, &arguments)?,
        Command::List(arguments) => list::list(&context, &arguments)?,
        Command::Show(arguments) => show::show(&context, &arguments)?,
        Command::Rm(arguments) => rm::rm(&context, &arguments)?,
        Command::Cp(arguments) => cp::cp(&context, &arguments)?,
        Command::Ps(arguments) => ps::ps(&context, &arguments)?,
        Command::Stop(arguments) => stop::stop(&context, &arguments)?,
        Command::Plugin(verb) => return plugin::plugin(&context, &verb),
        Command::Fsck(arguments) => return fsck::fsck(&context, &arguments),
        Command::Doctor(arguments) => return doctor::doctor(&context, &arguments),
        Command::Train(arguments) => return train::train(&context, &arguments),
        Command::Quantize(arguments) => quantize::quantize(&context, &arguments)?,
        Command::Perplexity(arguments) => perplexity::perplexity(&context, &arguments)?,
        Command::Compare(arguments) => compare::compare(&context, &arguments)?,
        Command::Bench(arguments) => bench::bench(&context, &arguments)?,
        Command::Imatrix(arguments) => imatrix::imatrix(&context, &arguments)?,
        Command::Merge(arguments) => merge::merge(&context, &arguments)?,
        Command::Export(arguments) => export::export(&context, &arguments)?,
        Command::Import(arguments) => import::import(&context, &arguments)?,
        Command::Data(verb) => data::with_model(&context, &verb)?,
        Command::Version(arguments) => version::version(&context, &arguments)?,
        Command::Serve(_) | Command::Worker(_) | Command::Completions(_) | Command::ExitCodes => {
            unreachable!("handled above")
        }
    }
    Ok(ExitCode::SUCCESS)
}
