//! `witness run`: one question, or a talk in the terminal.
//!
//! Standard output carries the answer and nothing else; spinners, figures and notes go to standard error.
//! Layout: `session` (what is asked with) -> `ask` (one exchange, streamed) -> `talk` (the loop) -> `slash` (what `/...` means).

mod ask;
pub(crate) mod checkpoint;
mod estimate;
mod parameter;
mod session;
mod slash;
mod talk;

use std::io::{IsTerminal, Read};

use witness_diagnostics::{Diagnostic, Kind};

use crate::cli::Run;
use crate::context::{Context, Outcome};
use session::Session;

/// Longest input taken from a pipe. Beyond any context that a model has.
const INPUT_BYTES_MAX: u64 = 64 << 20;

/// Answers one prompt, or talks.
pub(crate) fn run(context: &Context, arguments: &Run) -> Outcome {
    if arguments.estimate {
        return estimate::estimate(context, arguments);
    }
    let mut session = Session::new(arguments)?;
    if let Some(step) = arguments.checkpoint {
        session.adapter = Some(checkpoint::adapter(context, &session.model, step)?);
    }
    let piped = piped_input()?;
    let given = arguments.prompt.join(" ");
    let prompt = match piped {
        None if arguments.prompt.is_empty() => return talk::talk(context, session),
        None => given,
        Some(piped) if given.is_empty() => piped,
        Some(piped) if piped.is_empty() => given,
        Some(piped) => format!("{given}\n\n{piped}"),
    };
    context.daemon()?;
    match ask::once(context, &mut session, &prompt)? {
        ask::Ending::Complete => Ok(()),
        ask::Ending::Interrupted => Err(Diagnostic::new(
            "witness::cli::interrupted",
            Kind::Cancelled,
            "the answer was stopped",
        )),
    }
}

/// Returns what is piped into this program, without the line end that pipes add; nothing when a person sits there.
fn piped_input() -> Outcome<Option<String>> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let refused = |message: &str| Diagnostic::new("witness::cli::input", Kind::Invalid, message);
    stdin
        .lock()
        .take(INPUT_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| refused("standard input cannot be read").cause(error.to_string()))?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(
            refused(&format!("standard input is longer than {INPUT_BYTES_MAX} bytes"))
                .hint("no model reads so much at once; send a part of it"),
        );
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        refused("standard input is not UTF-8 text")
            .cause(error.to_string())
            .hint("convert it with `iconv`")
    })?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}
