//! One request for an answer, from its names to the first event: shared by `/api/generate` and `/api/chat`.
//!
//! ```text
//! names -> Stored + ModelInfo -> options merged -> Want -> Held (a place on a loaded base) -> adapter and draft attached -> Answer started
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use witness_api::{KeepAlive, Options, TOP_LOGPROBS_MAX, Think};
use witness_diagnostics::{Diagnostic, Kind, near_miss};
use witness_plugin_protocol::{AdapterSpec, GenerateRequest, ModelInfo, Prompt, SamplingOptions, Started};

use crate::app::App;
use crate::contexts::Exchange;
use crate::draft;
use crate::engine::{Event, Events};
use crate::models::handle::{Held, Want};
use crate::models::slot::AdapterUse;
use crate::models::stored::Stored;
use crate::reckon::{clamp_context, lease_of, want};
use crate::reply::{Failure, invalid};
use crate::template::Template;

/// Name of no adapter: the base alone.
pub(crate) const BASE: &str = "base";

/// What both requests have in common.
pub(crate) struct Common<'a> {
    pub(crate) options: Option<&'a Map<String, Value>>,
    pub(crate) keep_alive: Option<KeepAlive>,
    pub(crate) format: Option<&'a Value>,
    pub(crate) adapter: Option<&'a str>,
    pub(crate) logprobs: bool,
    pub(crate) top_logprobs: Option<u32>,
    pub(crate) truncate: bool,
}

/// A request that was checked, before it waits for anything.
pub(crate) struct Turn {
    pub(crate) stored: Arc<Stored>,
    pub(crate) info: Arc<ModelInfo>,
    adapter: Option<AdapterSpec>,
    options: Options,
    /// Options that were not understood.
    pub(crate) ignored: Vec<String>,
    format: Option<Value>,
    top_logprobs: Option<u32>,
    truncate: bool,
    keep_alive: Option<KeepAlive>,
    since: Instant,
}

/// A place on a loaded base with the adapter attached.
pub(crate) struct Ready {
    pub(crate) held: Held,
    pub(crate) adapter: Option<AdapterUse>,
    pub(crate) draft: Option<AdapterUse>,
    pub(crate) load_time: Duration,
}

/// An answer that has begun: its first event is here. Dropping it cancels the answer, then frees the adapter and the place.
pub(crate) struct Running {
    pub(crate) started: Started,
    pub(crate) events: Box<dyn Events>,
    /// The event that showed that the answer has begun.
    pub(crate) first: Option<Event>,
    pub(crate) since: Instant,
    pub(crate) load_time: Duration,
    pub(crate) adapter: Option<String>,
    pub(crate) ignored: Vec<String>,
    pub(crate) wants_logprobs: bool,
    /// What a later request can continue, when the answer hands out a `context`.
    pub(crate) exchange: Option<Exchange>,
    /// What keeps the model in place; dropped last.
    _ready: Ready,
}

impl Turn {
    /// Returns how the prompt is laid out: by the template that the request asks for, else the model's layer, else the one in its files.
    pub(crate) fn template(&self, asked: Option<&str>) -> Template {
        let layer = asked
            .filter(|text| !text.is_empty())
            .or(self.stored.template.as_deref());
        Template::choose(layer, self.info.chat_template.as_deref())
    }

    /// Finds the model and checks everything that can be checked without loading it.
    pub(crate) async fn prepare(app: &Arc<App>, model: &str, common: Common<'_>) -> Result<Self, Failure> {
        let since = Instant::now();
        let stored = app.library.stored(model).await?;
        if stored.base.files.is_empty() {
            return Err(Diagnostic::new(
                "witness::daemon::no_weights",
                Kind::Unsupported,
                format!("model `{}` has no weights", stored.name),
            )
            .hint("it may be a remote or an image model of another program")
            .into());
        }
        let info = app.library.info(&stored).await?;
        let adapter = choose_adapter(&stored, common.adapter)?;
        let empty = Map::new();
        let (asked, mut ignored) = Options::read(common.options.unwrap_or(&empty))?;
        let (of_model, _) = Options::read(&stored.parameters)?;
        let (of_files, _) = Options::read(&info.parameters)?;
        let mut options = asked.over(of_model).over(of_files);
        ignored.extend(clamp_context(&mut options, &info));
        for warning in &ignored {
            tracing::info!(model = %stored.name, "{warning}");
        }
        ignored.sort();
        Ok(Self {
            adapter,
            options,
            ignored,
            format: checked_format(common.format)?,
            top_logprobs: checked_logprobs(common.logprobs, common.top_logprobs)?,
            truncate: common.truncate,
            keep_alive: common.keep_alive,
            stored,
            info,
            since,
        })
    }

    /// Refuses `think` where the model cannot, and returns the variables that the template gets.
    pub(crate) fn think(&self, think: Option<&Think>) -> Result<Map<String, Value>, Failure> {
        let mut variables = Map::new();
        let Some(think) = think else { return Ok(variables) };
        let is_on = !matches!(think, Think::Flag(false));
        if is_on && !self.can("thinking") {
            return Err(invalid(
                "no_thinking",
                format!("`{}` does not support thinking", self.stored.name),
            )
            .hint("leave `think` out of the request")
            .into());
        }
        variables.insert("enable_thinking".into(), Value::Bool(is_on));
        variables.insert("thinking".into(), Value::Bool(is_on));
        if let Think::Level(level) = think {
            variables.insert("reasoning_effort".into(), Value::String(level.clone()));
        }
        Ok(variables)
    }

    /// Tells whether the model can do what Ollama calls so.
    pub(crate) fn can(&self, capability: &str) -> bool {
        self.info.capabilities.iter().any(|known| known == capability)
    }

    /// Returns what the scheduler has to know, and what a load would need.
    pub(crate) fn want(&self, app: &App) -> Want {
        want(app, &self.stored, &self.info, &self.options, self.keep_alive)
    }

    /// Waits for a place on the loaded base and attaches the adapter and the draft.
    pub(crate) async fn ready(&self, app: &App) -> Result<Ready, Failure> {
        let before = Instant::now();
        let held = app.models.acquire(self.want(app)).await?;
        let adapter = match &self.adapter {
            None => None,
            Some(spec) => {
                let (adapter, is_new) = held.slot.use_adapter(spec, None, lease_of(app, &spec.files)).await?;
                if is_new {
                    tracing::info!(model = %self.stored.name, adapter = %spec.name, "attached");
                    app.models.resized(&held.slot);
                }
                Some(adapter)
            }
        };
        let draft = draft::attach(app, &self.stored, &held).await;
        Ok(Ready {
            held,
            adapter,
            draft,
            load_time: before.elapsed(),
        })
    }

    /// Loads if needed, starts the answer and waits for its first event, so that what goes wrong until then has a status of its own.
    pub(crate) async fn run(self, app: &App, prompt: Prompt, return_prompt_ids: bool) -> Result<Running, Failure> {
        let ready = self.ready(app).await?;
        let exchange = match &prompt {
            Prompt::Chat { messages, .. } if return_prompt_ids => Some(Exchange {
                contexts: Arc::clone(&app.contexts),
                base_key: self.stored.base_key.clone(),
                messages: messages.clone(),
            }),
            _ => None,
        };
        let request = GenerateRequest {
            prompt,
            adapter: ready.adapter.as_ref().map(|adapter| adapter.name.clone()),
            draft: ready.draft.as_ref().map(|draft| draft.name.clone()),
            sampling: sampling(&self.options),
            format: self.format,
            top_logprobs: self.top_logprobs,
            truncate: self.truncate,
            return_prompt_ids,
        };
        let answer = tokio::select! {
            answer = ready.held.slot.worker.generate(&request) => answer?,
            () = app.shutdown.cancelled() => return Err(crate::models::library::shutting_down().into()),
        };
        let (started, mut events) = (answer.started, answer.events);
        let first = tokio::select! {
            event = events.next() => event,
            () = app.shutdown.cancelled() => return Err(crate::models::library::shutting_down().into()),
        };
        if let Some(Event::Error(diagnostic)) = first {
            return Err(diagnostic.into());
        }
        Ok(Running {
            started,
            events,
            first,
            since: self.since,
            load_time: ready.load_time,
            adapter: self.adapter.map(|spec| spec.name),
            ignored: self.ignored,
            wants_logprobs: self.top_logprobs.is_some(),
            exchange,
            _ready: ready,
        })
    }
}

pub(crate) fn choose_adapter(stored: &Stored, asked: Option<&str>) -> Result<Option<AdapterSpec>, Diagnostic> {
    match asked {
        None | Some("") => Ok(stored.adapters.first().cloned()),
        Some(BASE) => Ok(None),
        Some(name) => {
            if let Some(spec) = stored.adapters.iter().find(|adapter| adapter.name == name) {
                return Ok(Some(spec.clone()));
            }
            let known: Vec<&str> = stored
                .adapters
                .iter()
                .map(|adapter| adapter.name.as_str())
                .chain([BASE])
                .collect();
            let mut diagnostic = invalid(
                "adapter_unknown",
                format!("model `{}` has no adapter `{name}`", stored.name),
            );
            if let Some(near) = near_miss(name, known.iter().copied()) {
                diagnostic = diagnostic.hint(format!("did you mean `{near}`?"));
            }
            Err(diagnostic.hint(format!("it has: {}", known.join(", "))))
        }
    }
}

fn checked_format(format: Option<&Value>) -> Result<Option<Value>, Failure> {
    match format {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) if text == "json" => Ok(Some(Value::from("json"))),
        Some(schema @ Value::Object(_)) => Ok(Some(schema.clone())),
        Some(other) => Err(invalid(
            "format",
            format!("the format `{other}` is neither `\"json\"` nor a JSON schema object"),
        )
        .into()),
    }
}

fn checked_logprobs(logprobs: bool, top: Option<u32>) -> Result<Option<u32>, Failure> {
    match top {
        Some(top) if top > TOP_LOGPROBS_MAX => Err(invalid(
            "top_logprobs",
            format!("`top_logprobs` must be between 0 and {TOP_LOGPROBS_MAX}, not {top}"),
        )
        .into()),
        top => Ok(logprobs.then(|| top.unwrap_or(0))),
    }
}

fn sampling(options: &Options) -> SamplingOptions {
    let default = SamplingOptions::default();
    SamplingOptions {
        temperature: options.temperature.unwrap_or(default.temperature),
        top_k: options.top_k.unwrap_or(default.top_k),
        top_p: options.top_p.unwrap_or(default.top_p),
        min_p: options.min_p.unwrap_or(default.min_p),
        typical_p: options.typical_p.unwrap_or(default.typical_p),
        repeat_last_n: options.repeat_last_n.unwrap_or(default.repeat_last_n),
        repeat_penalty: options.repeat_penalty.unwrap_or(default.repeat_penalty),
        presence_penalty: options.presence_penalty.unwrap_or(default.presence_penalty),
        frequency_penalty: options.frequency_penalty.unwrap_or(default.frequency_penalty),
        seed: options.seed.and_then(|seed| u64::try_from(seed).ok()),
        num_predict: options.num_predict.unwrap_or(default.num_predict),
        stop: options.stop.clone().unwrap_or(default.stop),
        ignore_eos: options.ignore_eos.unwrap_or(default.ignore_eos),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn formats_and_logprobs_are_checked() {
        assert_eq!(checked_format(Some(&json!("json"))).unwrap(), Some(json!("json")));
        assert_eq!(checked_format(Some(&json!(""))).unwrap(), None);
        assert!(checked_format(Some(&json!("yaml"))).is_err());
        assert!(checked_format(Some(&json!([1]))).is_err());
        assert_eq!(checked_logprobs(true, None).unwrap(), Some(0));
        assert_eq!(checked_logprobs(false, Some(5)).unwrap(), None);
        assert!(checked_logprobs(true, Some(21)).is_err());
    }
}
