//! What a run asks with: model, adapter, parameters, messages. Pure, but for the width of the terminal that is read once.

use serde_json::{Map, Value};
use witness_api::{ChatRequest, GenerateRequest, KeepAlive, Message};
use witness_diagnostics::{Diagnostic, Kind};

use crate::cli::Run;
use crate::context::Outcome;
use crate::render::output;

/// The state of a run; `/set` and its like change it.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// Model that answers.
    pub(crate) model: String,
    /// Adapter named, if any; `base` = none.
    pub(crate) adapter: Option<String>,
    /// System message in place of the model's own.
    pub(crate) system: Option<String>,
    /// `json`, or a schema.
    pub(crate) format: Option<Value>,
    /// Parameters over the model's own.
    pub(crate) parameters: Map<String, Value>,
    /// How long the model stays loaded.
    pub(crate) keep_alive: Option<KeepAlive>,
    /// Figures after each answer.
    pub(crate) is_verbose: bool,
    /// Wrap at the terminal's width.
    pub(crate) is_wrapping: bool,
    /// No chat template.
    pub(crate) is_raw: bool,
    /// Drop what does not fit.
    pub(crate) is_truncating: bool,
    /// The talk so far.
    pub(crate) messages: Vec<Message>,
}

impl Session {
    /// Reads the flags.
    pub(crate) fn new(arguments: &Run) -> Outcome<Self> {
        let mut session = Self {
            model: arguments.name.clone(),
            adapter: arguments.adapter.clone(),
            system: arguments.system.clone(),
            format: arguments.format.as_deref().map(format).transpose()?,
            parameters: Map::new(),
            keep_alive: arguments.keepalive.as_deref().map(keep_alive).transpose()?,
            is_verbose: arguments.verbose,
            is_wrapping: !arguments.nowordwrap,
            is_raw: arguments.raw,
            is_truncating: arguments.truncate,
            messages: Vec::new(),
        };
        for parameter in &arguments.params {
            let (name, text) = parameter.split_once('=').ok_or_else(|| {
                invalid(format!("`--param {parameter}` has no value"))
                    .hint("write it as `--param name=value`, such as `--param temperature=0`")
            })?;
            session.set_parameter(name.trim(), text)?;
        }
        Ok(session)
    }

    /// Sets a parameter from text, checked against the table of parameters. `stop` adds to the stops already set.
    pub(crate) fn set_parameter(&mut self, name: &str, text: &str) -> Outcome {
        let (name, value) = super::parameter::read(name, text)?;
        match (self.parameters.get_mut(&name), value) {
            (Some(Value::Array(texts)), Value::Array(more)) => texts.extend(more),
            (_, value) => drop(self.parameters.insert(name, value)),
        }
        Ok(())
    }

    /// Returns the columns to wrap at, if at all.
    pub(crate) fn width(&self) -> Option<usize> {
        // JSON is for a reader that counts characters.
        if self.is_wrapping && self.format.is_none() {
            output::width()
        } else {
            None
        }
    }

    /// Returns the request that continues the talk.
    pub(crate) fn chat(&self) -> ChatRequest {
        let system = self.system.iter().map(|text| Message::new("system", text));
        ChatRequest {
            model: self.model.clone(),
            messages: system.chain(self.messages.iter().cloned()).collect(),
            format: self.format.clone(),
            keep_alive: self.keep_alive,
            options: self.options(),
            truncate: self.is_truncating.then_some(true),
            adapter: self.adapter.clone(),
            ..ChatRequest::default()
        }
    }

    /// Returns the request that answers one prompt on its own. An empty prompt only loads the model.
    pub(crate) fn generate(&self, prompt: &str) -> GenerateRequest {
        GenerateRequest {
            model: self.model.clone(),
            prompt: prompt.to_owned(),
            system: self.system.clone(),
            raw: self.is_raw.then_some(true),
            format: self.format.clone(),
            keep_alive: self.keep_alive,
            options: self.options(),
            truncate: self.is_truncating.then_some(true),
            adapter: self.adapter.clone(),
            ..GenerateRequest::default()
        }
    }

    fn options(&self) -> Option<Map<String, Value>> {
        (!self.parameters.is_empty()).then(|| self.parameters.clone())
    }
}

/// Reads a form of the answer: `json`, or a JSON schema.
pub(crate) fn format(text: &str) -> Outcome<Value> {
    if text == "json" {
        return Ok(Value::from("json"));
    }
    match serde_json::from_str::<Value>(text) {
        Ok(schema @ Value::Object(_)) => Ok(schema),
        _ => Err(invalid(format!("`{text}` is no form of an answer")).hint("use `json`, or a JSON schema in braces")),
    }
}

fn keep_alive(text: &str) -> Outcome<KeepAlive> {
    witness_api::parse_duration(text)
        .map_err(|message| invalid(message).hint("use a time such as `5m`, `0` to unload at once, or `-1` for ever"))
}

fn invalid(message: impl Into<String>) -> Diagnostic {
    Diagnostic::new("witness::cli::argument", Kind::Invalid, message)
}
