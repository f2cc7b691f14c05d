//! What `/...` means in a talk. Pure: a line becomes a value; `talk` carries it out.

use witness_diagnostics::near_miss;

/// A command of the talk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slash {
    /// `/set parameter NAME VALUE`
    Parameter(String, String),
    /// `/set system TEXT`
    System(String),
    /// `/set format json`, `/set noformat`
    Format(Option<String>),
    /// `/set verbose`, `/set quiet`
    Verbose(bool),
    /// `/set history`, `/set nohistory`
    History(bool),
    /// `/set wordwrap`, `/set nowordwrap`
    Wrap(bool),
    /// `/show PART`
    Show(Part),
    /// `/adapter NAME`; nothing = say which there are.
    Adapter(Option<String>),
    /// `/checkpoint STEP`
    Checkpoint(u64),
    /// `/load NAME`
    Load(String),
    /// `/save NAME`
    Save(String),
    /// `/clear`
    Clear,
    /// `/bye`
    Bye,
    /// `/?`
    Help,
}

/// What `/show` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The facts.
    Info,
    /// A Modelfile that makes the model again.
    Modelfile,
    /// Parameters of the model and of this talk.
    Parameters,
    /// System message.
    System,
    /// Chat template.
    Template,
    /// Licences.
    License,
}

/// The commands, for `/?` and for near misses.
const COMMANDS: &[(&str, &str)] = &[
    ("/set parameter NAME VALUE", "set a parameter, such as `temperature 0`"),
    ("/set system TEXT", "set the system message"),
    ("/set format json", "answer in JSON; `/set noformat` ends it"),
    ("/set verbose", "print figures after each answer; `/set quiet` ends it"),
    ("/set nohistory", "do not keep what is typed; `/set history` does"),
    ("/set nowordwrap", "do not wrap lines; `/set wordwrap` does"),
    ("/show PART", "info, modelfile, parameters, system, template or license"),
    (
        "/adapter NAME",
        "answer with this adapter; `base` = none; alone: list them",
    ),
    ("/checkpoint STEP", "answer as after so many steps of training"),
    ("/load NAME", "talk with another model"),
    ("/save NAME", "keep model, settings and talk as a new model"),
    ("/clear", "forget the talk so far"),
    ("/bye", "leave (also Ctrl-D)"),
    ("/?", "print this"),
];

const SETTABLE: &[&str] = &[
    "parameter",
    "system",
    "format",
    "noformat",
    "verbose",
    "quiet",
    "history",
    "nohistory",
    "wordwrap",
    "nowordwrap",
];

/// Returns the help of the talk.
pub(crate) fn help() -> String {
    let width = COMMANDS.iter().map(|(usage, _)| usage.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (usage, meaning) in COMMANDS {
        out += &format!("  {usage:<width$}  {meaning}\n");
    }
    out + "\nText between lines of \"\"\" may have several lines. Ctrl-C stops an answer.\n"
}

/// Reads a line that begins with `/`. The error is a sentence for the user.
pub(crate) fn parse(line: &str) -> Result<Slash, String> {
    let (command, rest) = split(line);
    let name = |slash: fn(String) -> Slash| {
        if rest.is_empty() {
            Err(format!("`{command}` needs a name"))
        } else {
            Ok(slash(rest.to_owned()))
        }
    };
    match command {
        "/set" => set(rest),
        "/show" => show(rest),
        "/adapter" => Ok(Slash::Adapter((!rest.is_empty()).then(|| rest.to_owned()))),
        "/checkpoint" => match rest.parse() {
            Ok(step) => Ok(Slash::Checkpoint(step)),
            Err(_) => Err("write `/checkpoint STEP`, such as `/checkpoint 300`".into()),
        },
        "/load" => name(Slash::Load),
        "/save" => name(Slash::Save),
        "/clear" => Ok(Slash::Clear),
        "/bye" | "/exit" | "/quit" => Ok(Slash::Bye),
        "/?" | "/help" => Ok(Slash::Help),
        _ => Err(unknown(command, COMMANDS.iter().map(|(usage, _)| split(usage).0))),
    }
}

fn set(rest: &str) -> Result<Slash, String> {
    let (what, value) = split(rest);
    match (what, value) {
        ("parameter", value) => match split(value) {
            ("", _) | (_, "") => {
                Err("write `/set parameter NAME VALUE`, such as `/set parameter temperature 0`".into())
            }
            (name, text) => Ok(Slash::Parameter(name.to_owned(), text.to_owned())),
        },
        ("system", text) => Ok(Slash::System(unquoted(text).to_owned())),
        ("format", "") => Err("write `/set format json`".into()),
        ("format", form) => Ok(Slash::Format(Some(form.to_owned()))),
        ("noformat", _) => Ok(Slash::Format(None)),
        ("verbose", _) => Ok(Slash::Verbose(true)),
        ("quiet", _) => Ok(Slash::Verbose(false)),
        ("history", _) => Ok(Slash::History(true)),
        ("nohistory", _) => Ok(Slash::History(false)),
        ("wordwrap", _) => Ok(Slash::Wrap(true)),
        ("nowordwrap", _) => Ok(Slash::Wrap(false)),
        ("", _) => Err(format!("`/set` takes one of {}", SETTABLE.join(", "))),
        _ => Err(unknown(what, SETTABLE.iter().copied())),
    }
}

fn show(rest: &str) -> Result<Slash, String> {
    const PARTS: &[(&str, Part)] = &[
        ("info", Part::Info),
        ("modelfile", Part::Modelfile),
        ("parameters", Part::Parameters),
        ("system", Part::System),
        ("template", Part::Template),
        ("license", Part::License),
    ];
    let wanted = if rest.is_empty() { "info" } else { rest };
    match PARTS.iter().find(|(name, _)| *name == wanted) {
        Some((_, part)) => Ok(Slash::Show(*part)),
        None => Err(unknown(wanted, PARTS.iter().map(|(name, _)| *name))),
    }
}

fn unknown<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    match near_miss(word, known) {
        Some(meant) => format!("`{word}` is not known; did you mean `{meant}`?"),
        None => format!("`{word}` is not known; `/?` lists what is"),
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    text.split_once(char::is_whitespace)
        .map_or((text, ""), |(first, rest)| (first, rest.trim()))
}

fn unquoted(text: &str) -> &str {
    let inner = |quote: &str| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    inner("\"\"\"").or_else(|| inner("\"")).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_commands() {
        let text = str::to_owned;
        for (line, expected) in [
            (
                "/set parameter temperature 0",
                Ok(Slash::Parameter(text("temperature"), text("0"))),
            ),
            (
                "/set parameter stop a b",
                Ok(Slash::Parameter(text("stop"), text("a b"))),
            ),
            ("/set system \"Be brief.\"", Ok(Slash::System(text("Be brief.")))),
            ("/set format json", Ok(Slash::Format(Some(text("json"))))),
            ("/set noformat", Ok(Slash::Format(None))),
            ("/set quiet", Ok(Slash::Verbose(false))),
            ("/show", Ok(Slash::Show(Part::Info))),
            ("/show  modelfile ", Ok(Slash::Show(Part::Modelfile))),
            ("/adapter", Ok(Slash::Adapter(None))),
            ("/adapter base", Ok(Slash::Adapter(Some(text("base"))))),
            ("/checkpoint 300", Ok(Slash::Checkpoint(300))),
            (
                "/checkpoint last",
                Err(text("write `/checkpoint STEP`, such as `/checkpoint 300`")),
            ),
            ("/save mine:v2", Ok(Slash::Save(text("mine:v2")))),
            ("/load", Err(text("`/load` needs a name"))),
            ("/bye", Ok(Slash::Bye)),
            ("/?", Ok(Slash::Help)),
            ("/shwo", Err(text("`/shwo` is not known; did you mean `/show`?"))),
            (
                "/set verbos",
                Err(text("`verbos` is not known; did you mean `verbose`?")),
            ),
            (
                "/set parameter seed",
                Err(text(
                    "write `/set parameter NAME VALUE`, such as `/set parameter temperature 0`",
                )),
            ),
        ] {
            assert_eq!(parse(line), expected, "{line}");
        }
    }
}
