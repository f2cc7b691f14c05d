//! The talk: a prompt, lines with history, `/` commands, one turn after the other.

use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};
use serde_json::Value;
use witness_api::{CreateRequest, Message, Progress, ShowResponse};
use witness_diagnostics::{Diagnostic, Kind};

use super::session::Session;
use super::slash::{Part, Slash};
use super::{ask, checkpoint, session, slash};
use crate::commands::show;
use crate::context::{Context, Outcome};
use crate::render::output;

/// Lines kept in the history file.
const HISTORY_LINES_MAX: usize = 1000;
const PROMPT: &str = ">>> ";
const PROMPT_MORE: &str = "... ";
const FENCE: &str = "\"\"\"";

/// What a person entered.
enum Entry {
    Text(String),
    Nothing,
    End,
}

/// Talks until the user leaves.
pub(crate) fn talk(context: &Context, session: Session) -> Outcome {
    let mut talk = Talk::open(context, session)?;
    loop {
        let said = match talk.read()? {
            Entry::Text(text) => text,
            Entry::Nothing => continue,
            Entry::End => return Ok(()),
        };
        let result = if said.starts_with('/') {
            match slash::parse(&said) {
                Ok(Slash::Bye) => return Ok(()),
                Ok(command) => talk.obey(command),
                Err(sentence) => {
                    output::note(&sentence);
                    Ok(())
                }
            }
        } else {
            talk.answer(&said)
        };
        match result {
            Ok(()) => {}
            Err(closed) if closed.code == output::CLOSED => return Err(closed),
            // A mistake in one line does not end the talk.
            Err(refusal) => output::error(&refusal),
        }
    }
}

struct Talk<'a> {
    context: &'a Context,
    session: Session,
    facts: ShowResponse,
    editor: DefaultEditor,
    is_keeping_history: bool,
}

impl<'a> Talk<'a> {
    fn open(context: &'a Context, session: Session) -> Outcome<Self> {
        let facts = show::ask(context, &session.model, false)?;
        ask::load(context, &session)?;
        let broken = |error: ReadlineError| {
            Diagnostic::new(
                "witness::cli::terminal",
                Kind::Environment,
                "this terminal cannot be read line by line",
            )
            .cause(error.to_string())
            .hint("give the prompt as an argument: `witness run NAME \"...\"`")
        };
        let config = Config::builder()
            .max_history_size(HISTORY_LINES_MAX)
            .map_err(broken)?
            .auto_add_history(false)
            .build();
        let mut editor = DefaultEditor::with_config(config).map_err(broken)?;
        // The first talk has no history yet.
        let _ = editor.load_history(&context.settings.home.join("history"));
        let talk = Self {
            context,
            session,
            facts,
            editor,
            is_keeping_history: true,
        };
        talk.greet();
        Ok(talk)
    }

    fn greet(&self) {
        if self.facts.template.is_empty() {
            output::note("this model has no chat template: each line is continued as it stands");
        }
        output::note("Ask something, or type /? for help.");
    }

    /// Reads one entry: a line, or the lines between two `"""`.
    fn read(&mut self) -> Outcome<Entry> {
        let line = match self.read_line(PROMPT)? {
            Some(line) => line,
            None => return Ok(Entry::End),
        };
        let text = match line.trim_start().strip_prefix(FENCE) {
            None => line.trim().to_owned(),
            Some(first) => match self.read_fenced(first)? {
                Some(text) => text,
                None => return Ok(Entry::Nothing),
            },
        };
        if text.is_empty() {
            return Ok(Entry::Nothing);
        }
        self.remember(&text);
        Ok(Entry::Text(text))
    }

    fn read_fenced(&mut self, first: &str) -> Outcome<Option<String>> {
        let mut text = String::new();
        let mut line = first.to_owned();
        loop {
            if let Some(last) = line.trim_end().strip_suffix(FENCE) {
                text.push_str(last);
                return Ok(Some(text.trim_matches('\n').to_owned()));
            }
            text.push_str(&line);
            text.push('\n');
            line = match self.read_line(PROMPT_MORE)? {
                Some(line) => line,
                None => return Ok(None),
            };
        }
    }

    /// Reads a line; nothing = the end of input. Ctrl-C empties the line and asks again.
    fn read_line(&mut self, prompt: &str) -> Outcome<Option<String>> {
        loop {
            match self.editor.readline(prompt) {
                Ok(line) => return Ok(Some(line)),
                Err(ReadlineError::Eof) => return Ok(None),
                Err(ReadlineError::Interrupted) => output::note("Type /bye or press Ctrl-D to leave."),
                Err(error) => {
                    return Err(Diagnostic::new(
                        "witness::cli::terminal",
                        Kind::Environment,
                        "the terminal cannot be read",
                    )
                    .cause(error.to_string()));
                }
            }
        }
    }

    fn remember(&mut self, text: &str) {
        if !self.is_keeping_history {
            return;
        }
        // Losing the history is not worth interrupting a talk.
        let _ = self.editor.add_history_entry(text);
        let _ = std::fs::create_dir_all(&self.context.settings.home);
        let _ = self.editor.save_history(&self.context.settings.home.join("history"));
    }

    fn answer(&mut self, said: &str) -> Outcome {
        self.context.daemon()?;
        if self.session.is_raw || self.facts.template.is_empty() {
            ask::once(self.context, &mut self.session, said)?;
        } else {
            ask::turn(self.context, &mut self.session, said)?;
        }
        output::note("");
        Ok(())
    }

    fn obey(&mut self, command: Slash) -> Outcome {
        match command {
            Slash::Parameter(name, text) => {
                self.session.set_parameter(&name, &text)?;
                output::note(&format!("set `{name}` to {text}"));
            }
            Slash::System(text) => {
                self.session.system = (!text.is_empty()).then_some(text);
                output::note("set the system message");
            }
            Slash::Format(form) => self.session.format = form.as_deref().map(session::format).transpose()?,
            Slash::Verbose(is_verbose) => self.session.is_verbose = is_verbose,
            Slash::History(is_kept) => self.is_keeping_history = is_kept,
            Slash::Wrap(is_wrapping) => self.session.is_wrapping = is_wrapping,
            Slash::Show(part) => self.show(part)?,
            Slash::Adapter(name) => self.adapter(name),
            Slash::Checkpoint(step) => self.checkpoint(step)?,
            Slash::Load(name) => self.load(name)?,
            Slash::Save(name) => self.save(&name)?,
            Slash::Clear => {
                self.session.messages.clear();
                output::note("forgot the talk so far");
            }
            Slash::Help => output::note(&slash::help()),
            Slash::Bye => {}
        }
        Ok(())
    }

    fn show(&self, part: Part) -> Outcome {
        match part {
            Part::Info => output::print(&show::overview(&self.facts, false, std::time::SystemTime::now())),
            Part::Modelfile => show::print_whole(&self.facts.modelfile),
            Part::Template => show::print_whole(&self.facts.template),
            Part::License => show::print_whole(&self.facts.license),
            Part::System => show::print_whole(self.session.system.as_ref().unwrap_or(&self.facts.system)),
            Part::Parameters => {
                show::print_whole(&self.facts.parameters)?;
                for (name, value) in &self.session.parameters {
                    output::line(&format!("{name} {value} (this talk)"))?;
                }
                Ok(())
            }
        }
    }

    fn adapters(&self) -> &[String] {
        self.facts
            .witness
            .as_ref()
            .map(|ours| ours.adapters.as_slice())
            .unwrap_or_default()
    }

    fn adapter(&mut self, name: Option<String>) {
        let known = self.adapters();
        match name {
            None => {
                let current = self.session.adapter.clone().or_else(|| known.first().cloned());
                let current = current.unwrap_or_else(|| "base".to_owned());
                output::note(&format!("answering with `{current}`; there are: {}", with_base(known)));
            }
            Some(name) if name == "base" || known.contains(&name) => {
                output::note(&format!("answering with `{name}`"));
                self.session.adapter = Some(name);
            }
            Some(name) => output::note(&format!("no adapter `{name}`; there are: {}", with_base(known))),
        }
    }

    fn checkpoint(&mut self, step: u64) -> Outcome {
        // A run may have written checkpoints since the talk began.
        self.facts = show::ask(self.context, &self.session.model, false)?;
        let adapter = checkpoint::of(&self.facts, &self.session.model, step)?;
        output::note(&format!("answering with `{adapter}`"));
        self.session.adapter = Some(adapter);
        Ok(())
    }

    fn load(&mut self, name: String) -> Outcome {
        let facts = show::ask(self.context, &name, false)?;
        let next = Session {
            model: name,
            adapter: None,
            messages: Vec::new(),
            ..self.session.clone()
        };
        ask::load(self.context, &next)?;
        self.session = next;
        self.facts = facts;
        output::note(&format!("talking with `{}`", self.session.model));
        Ok(())
    }

    /// Makes a model of this one with the settings and messages of the talk.
    fn save(&mut self, name: &str) -> Outcome {
        let request = CreateRequest {
            model: name.to_owned(),
            from: Some(self.session.model.clone()),
            system: self.session.system.clone(),
            parameters: self.parameters(),
            messages: self.kept_messages(),
            ..CreateRequest::default()
        };
        let client = self.context.daemon()?;
        self.context.wait(async {
            let mut lines = client.stream::<Progress>("/api/create", &request).await?;
            while lines.next().await?.is_some() {}
            Ok(())
        })?;
        output::note(&format!("saved as `{name}`; `witness run {name}` continues here"));
        Ok(())
    }

    fn parameters(&self) -> Option<serde_json::Map<String, Value>> {
        (!self.session.parameters.is_empty()).then(|| self.session.parameters.clone())
    }

    fn kept_messages(&self) -> Option<Vec<Message>> {
        (!self.session.messages.is_empty()).then(|| self.session.messages.clone())
    }
}

fn with_base(known: &[String]) -> String {
    let mut names: Vec<&str> = known.iter().map(String::as_str).collect();
    names.push("base");
    names.join(", ")
}
