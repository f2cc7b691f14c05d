//! Compiles and renders a template within its limits.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, OutputSpanKind};
use serde_json::Value as Json;

use crate::clock::CivilTime;
use crate::error::TemplateError;
use crate::filters::{self, Refusal};
use crate::{go, limits, methods, python, rewrite};

const NAME: &str = "chat_template";

/// A compiled chat template. Cheap to clone; rendering shares nothing that changes.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
}

/// What a template is rendered with. The names are those that templates use.
#[derive(Clone, Copy, Debug)]
pub struct RenderInput<'a> {
    /// Array of messages, each an object with `role` and `content`.
    pub messages: &'a Json,
    /// Array of tools in the OpenAI shape; nothing = the template sees `none`.
    pub tools: Option<&'a Json>,
    /// End with the beginning of the assistant's answer.
    pub add_generation_prompt: bool,
    /// Text of the tokenizer's BOS token; nothing = undefined.
    pub bos_token: Option<&'a str>,
    /// Text of the tokenizer's EOS token; nothing = undefined.
    pub eos_token: Option<&'a str>,
    /// More variables, such as `enable_thinking` or `documents`. They win over the ones above.
    pub variables: Option<&'a serde_json::Map<String, Json>>,
    /// What `strftime_now` tells.
    pub now: CivilTime,
}

/// A rendered conversation and which of its parts the assistant says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Byte ranges of `text` written inside `{% generation %}` tags, in order. Empty when the template has none.
    pub assistant: Vec<Range<usize>>,
}

impl<'a> RenderInput<'a> {
    /// Renders these messages, ending with the beginning of the answer; everything else is absent.
    pub fn new(messages: &'a Json, now: CivilTime) -> Self {
        Self {
            messages,
            tools: None,
            add_generation_prompt: true,
            bos_token: None,
            eos_token: None,
            variables: None,
            now,
        }
    }

    /// Returns the variables of the template, as Hugging Face names them.
    fn context(&self) -> Value {
        let now = self.now;
        let mut context: Vec<(String, Value)> = vec![
            ("messages".to_owned(), value_of(self.messages)),
            ("tools".to_owned(), self.tools.map_or(Value::from(()), value_of)),
            ("documents".to_owned(), Value::from(())),
            (
                "add_generation_prompt".to_owned(),
                Value::from(self.add_generation_prompt),
            ),
            (
                "strftime_now".to_owned(),
                Value::from_function(move |format: &str| now.format(format)),
            ),
        ];
        for (name, token) in [("bos_token", self.bos_token), ("eos_token", self.eos_token)] {
            context.extend(token.map(|token| (name.to_owned(), Value::from(token))));
        }
        for (name, value) in self.variables.into_iter().flatten() {
            context.push((name.clone(), value_of(value)));
        }
        Value::from_pairs(context)
    }

    /// Counts the bytes of text in the input, roughly.
    fn n_bytes(&self) -> u64 {
        let variables = self.variables.into_iter().flat_map(|variables| variables.values());
        [self.messages]
            .into_iter()
            .chain(self.tools)
            .chain(variables)
            .map(json_bytes)
            .sum()
    }
}

/// Converts JSON as Python reads it: integers stay integers, objects keep their order.
fn value_of(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(integer)) => Value::from(integer),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(value_of).collect::<Vec<_>>()),
        Json::Object(fields) => Value::from_pairs(fields.iter().map(|(key, value)| (key.as_str(), value_of(value)))),
    }
}

fn json_bytes(value: &Json) -> u64 {
    match value {
        Json::String(text) => text.len() as u64 + 8,
        Json::Array(items) => items.iter().map(json_bytes).sum::<u64>() + 8,
        Json::Object(fields) => {
            fields
                .iter()
                .map(|(key, value)| key.len() as u64 + json_bytes(value))
                .sum::<u64>()
                + 8
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => 8,
    }
}

impl ChatTemplate {
    /// Compiles a Jinja template.
    ///
    /// # Errors
    /// [`TemplateError::GoTemplate`], [`TemplateError::SourceTooLong`], [`TemplateError::Syntax`].
    pub fn compile(source: &str) -> Result<Self, TemplateError> {
        if source.len() > limits::SOURCE_BYTES_MAX {
            return Err(TemplateError::SourceTooLong { n_bytes: source.len() });
        }
        if go::is_go_template(source) {
            return Err(TemplateError::GoTemplate);
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| syntax_error(&error))?);
        environment.set_recursion_limit(limits::RECURSION_MAX);
        environment.set_unknown_method_callback(methods::call);
        environment.set_formatter(|out, _state, value| match value.kind() {
            ValueKind::String | ValueKind::Undefined => Ok(out.write_str(value.as_str().unwrap_or_default())?),
            _ => Ok(out.write_str(&python::str(value)?)?),
        });
        filters::add_to(&mut environment);
        let source = rewrite::rewrite(source)?;
        environment
            .add_template_owned(NAME, source)
            .map_err(|error| syntax_error(&error))?;
        Ok(Self {
            environment: Arc::new(environment),
        })
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// [`TemplateError::Refused`] in the template's own words, [`TemplateError::Failed`], [`TemplateError::OutOfFuel`],
    /// [`TemplateError::TooLarge`].
    pub fn render(&self, input: &RenderInput<'_>) -> Result<String, TemplateError> {
        let (environment, fuel) = self.fuelled(input);
        let mut output = Limited(Vec::new());
        let rendered = environment
            .get_template(NAME)
            .and_then(|template| template.render_captured_to(input.context(), &mut output).map(|_| ()));
        match rendered {
            Ok(()) => Ok(String::from_utf8_lossy(&output.0).into_owned()),
            Err(error) => Err(render_error(&error, fuel)),
        }
    }

    /// Renders a conversation and tells which parts of the text the assistant says, by the template's `{% generation %}` tags.
    ///
    /// A tag inside a macro or a captured block is rendered, but its part is not known.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_marked(&self, input: &RenderInput<'_>) -> Result<Rendered, TemplateError> {
        let (environment, fuel) = self.fuelled(input);
        let rendered = environment.get_template(NAME).and_then(|template| {
            let (text, spans) = template.render_with_spans(input.context())?;
            let is_generation = |range: Range<usize>| {
                template
                    .source()
                    .get(range)
                    .is_some_and(|source| source.starts_with(rewrite::GENERATION))
            };
            let assistant = spans
                .iter()
                .filter(|span| span.kind() == OutputSpanKind::Expression && is_generation(span.source_range()))
                .map(|span| span.output_range())
                .collect();
            Ok(Rendered { text, assistant })
        });
        let rendered = rendered.map_err(|error| render_error(&error, fuel))?;
        if rendered.text.len() > limits::OUTPUT_BYTES_MAX {
            return Err(output_too_large());
        }
        Ok(rendered)
    }

    /// Returns the environment with the fuel that this input is worth.
    fn fuelled(&self, input: &RenderInput<'_>) -> (Environment<'static>, u64) {
        let fuel = limits::FUEL_BASE.saturating_add(input.n_bytes().saturating_mul(limits::FUEL_PER_INPUT_BYTE));
        let mut environment = (*self.environment).clone();
        environment.set_fuel(Some(fuel));
        (environment, fuel)
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").finish_non_exhaustive()
    }
}

/// Output that refuses to grow beyond [`limits::OUTPUT_BYTES_MAX`].
struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > limits::OUTPUT_BYTES_MAX {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn detail(error: &Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)
}

fn syntax_error(error: &Error) -> TemplateError {
    TemplateError::Syntax {
        line: error.line().unwrap_or(0),
        detail: detail(error),
    }
}

fn output_too_large() -> TemplateError {
    TemplateError::TooLarge {
        what: "a text",
        limit: format!("{} bytes", limits::OUTPUT_BYTES_MAX),
    }
}

/// Finds what is behind an error: a refusal, a limit, or a fault at a line.
fn render_error(error: &Error, fuel: u64) -> TemplateError {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(Refusal(message)) = cause.downcast_ref::<Refusal>() {
            return TemplateError::Refused {
                message: message.clone(),
            };
        }
        if let Some(cause) = cause.downcast_ref::<Error>() {
            match cause.kind() {
                ErrorKind::OutOfFuel => return TemplateError::OutOfFuel { fuel },
                ErrorKind::WriteFailure => return output_too_large(),
                _ => {}
            }
        }
        next = cause.source();
    }
    TemplateError::Failed {
        line: error.line().unwrap_or(0),
        detail: detail(error),
    }
}
