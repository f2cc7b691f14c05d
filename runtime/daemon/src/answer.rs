//! From events to answers: lines of a stream, or one whole.
//!
//! The two APIs differ in where the text stands; [`Shape`] is that difference. Tokens that are already there are sent in one chunk, so a
//! fast model costs one write for many tokens, and a slow one is seen token by token.
//!
//! Cost per token: one JSON line (about 120 bytes) into a buffer, no allocation but the buffer's.

use std::sync::Arc;
use std::time::SystemTime;

use axum::response::Response;
use bytes::Bytes;
use futures_util::{FutureExt, stream};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use witness_api::{ChatResponse, GenerateResponse, Logprob, Message, Metrics, TokenLogprob, rfc3339};
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{Alternative, Done, DoneReason};

use crate::app::App;
use crate::engine::Event;
use crate::limits::CHUNK_BYTES_MAX;
use crate::models::library::shutting_down;
use crate::reply::{self, Failure, Reply, error_body};
use crate::turn::Running;

/// Which API asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `/api/generate`: text in `response`, token ids in `context`.
    Generate {
        /// Whether the last line carries `context`.
        returns_context: bool,
    },
    /// `/api/chat`: text in `message.content`.
    Chat,
}

/// The parts of a line that both shapes have.
#[derive(Default)]
struct Line {
    text: String,
    done_reason: Option<String>,
    context: Option<Vec<u32>>,
    logprobs: Option<Vec<Logprob>>,
    metrics: Metrics,
}

/// A line of a token, written without cloning the model's name.
#[derive(Serialize)]
struct GenerateToken<'a> {
    model: &'a str,
    created_at: String,
    response: &'a str,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<Logprob>>,
}

#[derive(Serialize)]
struct ChatToken<'a> {
    model: &'a str,
    created_at: String,
    message: MessageToken<'a>,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<Logprob>>,
}

#[derive(Serialize)]
struct MessageToken<'a> {
    role: &'static str,
    content: &'a str,
}

/// Answers with a stream of lines.
pub(crate) fn stream(app: &Arc<App>, model: String, shape: Shape, running: Running) -> Response {
    let state = Streaming {
        writer: Writer::new(model, shape, running),
        shutdown: app.shutdown.clone(),
        is_over: false,
        request: reply::request_name(),
    };
    let stream = stream::unfold(state, |mut state| async move {
        let chunk = state.next_chunk().await?;
        Some((Ok(chunk), state))
    });
    reply::lines(stream)
}

/// Answers with one value when all is said.
pub(crate) async fn whole(app: &Arc<App>, model: String, shape: Shape, running: Running) -> Reply {
    let mut writer = Writer::new(model, shape, running);
    let mut text = String::new();
    let mut logprobs = Vec::new();
    loop {
        let event = tokio::select! {
            event = writer.next() => event,
            () = app.shutdown.cancelled() => return Err(shutting_down().into()),
        };
        match event {
            Some(Event::Token {
                id,
                text: piece,
                logprob,
                alternatives,
            }) => {
                text.push_str(&piece);
                writer.note(id, &piece);
                logprobs.extend(writer.logprob(&piece, logprob, alternatives));
            }
            Some(Event::Done(done, rest)) => {
                text.push_str(&rest);
                let mut line = writer.last_line(&done, &rest)?;
                line.text = text;
                line.logprobs = writer.running.wants_logprobs.then_some(logprobs);
                return Ok(match shape {
                    Shape::Generate { .. } => reply::json(&writer.generate_line(line)),
                    Shape::Chat => reply::json(&writer.chat_line(line)),
                });
            }
            Some(Event::Error(diagnostic)) => return Err(diagnostic.into()),
            None => return Err(broke_off().into()),
        }
    }
}

struct Streaming {
    writer: Writer,
    shutdown: CancellationToken,
    is_over: bool,
    /// Streams are polled outside of the request's own task scope, so its name travels along.
    request: String,
}

impl Streaming {
    /// Waits for an event, then takes along what is there already.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        let mut chunk = Vec::new();
        while !self.is_over && chunk.is_empty() {
            let event = tokio::select! {
                event = self.writer.next() => event.unwrap_or_else(|| Event::Error(broke_off())),
                () = self.shutdown.cancelled() => Event::Error(shutting_down()),
            };
            self.write(event, &mut chunk);
            while !self.is_over && chunk.len() < CHUNK_BYTES_MAX {
                let Some(event) = self.writer.next().now_or_never() else {
                    break;
                };
                self.write(event.unwrap_or_else(|| Event::Error(broke_off())), &mut chunk);
            }
        }
        (!chunk.is_empty()).then(|| chunk.into())
    }

    fn write(&mut self, event: Event, chunk: &mut Vec<u8>) {
        let result = match event {
            Event::Token {
                id,
                text,
                logprob,
                alternatives,
            } => {
                self.writer.token(id, &text, logprob, alternatives, chunk);
                return;
            }
            Event::Done(done, rest) => self.writer.done(&done, &rest, chunk),
            Event::Error(diagnostic) => Err(diagnostic),
        };
        self.is_over = true;
        if let Err(diagnostic) = result {
            tracing::warn!(request = %self.request, code = %diagnostic.code, "an answer broke off: {diagnostic}");
            let body = witness_api::ErrorBody {
                request_id: self.request.clone(),
                ..error_body(&diagnostic)
            };
            reply::push_line(chunk, &body);
        }
    }
}

/// Turns events into lines.
struct Writer {
    model: String,
    shape: Shape,
    running: Running,
    /// Ids of the answer so far, for `context`.
    ids: Vec<u32>,
    /// Text of the answer so far, when a later request may continue it.
    said: String,
}

impl Writer {
    fn new(model: String, shape: Shape, running: Running) -> Self {
        Self {
            model,
            shape,
            running,
            ids: Vec::new(),
            said: String::new(),
        }
    }

    /// Keeps what the last line needs. Nothing is kept for answers that hand out no `context`.
    fn note(&mut self, id: u32, text: &str) {
        if self.shape == (Shape::Generate { returns_context: true }) {
            self.ids.push(id);
        }
        if self.running.exchange.is_some() {
            self.said.push_str(text);
        }
    }

    async fn next(&mut self) -> Option<Event> {
        match self.running.first.take() {
            Some(event) => Some(event),
            None => self.running.events.next().await,
        }
    }

    fn token(&mut self, id: u32, text: &str, logprob: Option<f32>, alternatives: Vec<Alternative>, out: &mut Vec<u8>) {
        self.note(id, text);
        let logprobs = self.logprob(text, logprob, alternatives).map(|logprob| vec![logprob]);
        if text.is_empty() && logprobs.is_none() {
            return;
        }
        let created_at = rfc3339(SystemTime::now());
        match self.shape {
            Shape::Generate { .. } => {
                reply::push_line(
                    out,
                    &GenerateToken {
                        model: &self.model,
                        created_at,
                        response: text,
                        done: false,
                        logprobs,
                    },
                );
            }
            Shape::Chat => {
                let message = MessageToken {
                    role: "assistant",
                    content: text,
                };
                reply::push_line(
                    out,
                    &ChatToken {
                        model: &self.model,
                        created_at,
                        message,
                        done: false,
                        logprobs,
                    },
                );
            }
        }
    }

    fn done(&mut self, done: &Done, rest: &str, out: &mut Vec<u8>) -> Result<(), Diagnostic> {
        let line = self.last_line(done, rest)?;
        // Text that was held back (a stop text that did not come to be) is a line of its own, as clients do not look for it in the last.
        if !rest.is_empty() {
            let text = Line {
                text: rest.to_owned(),
                ..Line::default()
            };
            match self.shape {
                Shape::Generate { .. } => reply::push_line(
                    out,
                    &GenerateResponse {
                        done: false,
                        ..self.generate_line(text)
                    },
                ),
                Shape::Chat => reply::push_line(
                    out,
                    &ChatResponse {
                        done: false,
                        ..self.chat_line(text)
                    },
                ),
            }
        }
        match self.shape {
            Shape::Generate { .. } => reply::push_line(out, &self.generate_line(line)),
            Shape::Chat => reply::push_line(out, &self.chat_line(line)),
        }
        Ok(())
    }

    fn logprob(&self, text: &str, logprob: Option<f32>, alternatives: Vec<Alternative>) -> Option<Logprob> {
        let logprob = logprob.filter(|_| self.running.wants_logprobs)?;
        let entry = |text: &str, logprob: f32| TokenLogprob {
            token: text.to_owned(),
            logprob: f64::from(logprob),
            bytes: text.as_bytes().to_vec(),
        };
        Some(Logprob {
            token: entry(text, logprob),
            top_logprobs: alternatives
                .iter()
                .map(|other| entry(&other.text, other.logprob))
                .collect(),
        })
    }

    /// Returns the last line without text.
    fn last_line(&mut self, done: &Done, rest: &str) -> Result<Line, Diagnostic> {
        let reason = match done.reason {
            DoneReason::Stop => "stop",
            DoneReason::Length => "length",
            DoneReason::Cancelled => {
                return Err(Diagnostic::new(
                    "witness::daemon::cancelled",
                    Kind::Cancelled,
                    "the answer was cancelled",
                ));
            }
        };
        let context = match self.shape {
            Shape::Generate { returns_context: true } => {
                let ids: Vec<u32> = self
                    .running
                    .started
                    .prompt_ids
                    .iter()
                    .chain(&self.ids)
                    .copied()
                    .collect();
                self.said.push_str(rest);
                if let Some(exchange) = &self.running.exchange {
                    exchange.complete(&ids, &self.said);
                }
                Some(ids)
            }
            _ => None,
        };
        Ok(Line {
            done_reason: Some(reason.to_owned()),
            context,
            metrics: self.metrics(done),
            ..Line::default()
        })
    }

    fn metrics(&self, done: &Done) -> Metrics {
        let running = &self.running;
        Metrics {
            total_duration: nanos(running.since.elapsed()),
            load_duration: nanos(running.load_time),
            prompt_eval_count: done.prompt_tokens,
            prompt_eval_duration: done.prompt_ns,
            eval_count: done.generated_tokens,
            eval_duration: done.generate_ns,
            truncated_tokens: running.started.truncated_tokens,
            adapter: running.adapter.clone(),
            seed: Some(running.started.seed),
            ignored_options: running.ignored.clone(),
        }
    }

    fn generate_line(&self, line: Line) -> GenerateResponse {
        GenerateResponse {
            model: self.model.clone(),
            created_at: rfc3339(SystemTime::now()),
            response: line.text,
            done: true,
            done_reason: line.done_reason,
            context: line.context,
            logprobs: line.logprobs,
            metrics: line.metrics,
            ..GenerateResponse::default()
        }
    }

    fn chat_line(&self, line: Line) -> ChatResponse {
        ChatResponse {
            model: self.model.clone(),
            created_at: rfc3339(SystemTime::now()),
            message: Message::new("assistant", line.text),
            done: true,
            done_reason: line.done_reason,
            logprobs: line.logprobs,
            metrics: line.metrics,
            ..ChatResponse::default()
        }
    }
}

/// Returns nanoseconds; more than 584 years are cut off there.
pub(crate) fn nanos(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What happened when the events end without a last one: the worker is gone and its own report got lost with it.
fn broke_off() -> Diagnostic {
    Diagnostic::new(
        "witness::daemon::broke_off",
        Kind::Plugin,
        "the answer broke off: its worker is gone",
    )
    .hint("send the request again; the worker is started anew")
    .hint("`witness plugin list` shows whether the plugin was set aside")
}

/// Answers a request that only loads or unloads.
pub(crate) fn lifecycle(
    model: String,
    shape: Shape,
    reason: &str,
    load_time: std::time::Duration,
) -> Result<Response, Failure> {
    let created_at = rfc3339(SystemTime::now());
    let done_reason = Some(reason.to_owned());
    let metrics = Metrics {
        load_duration: nanos(load_time),
        ..Metrics::default()
    };
    Ok(match shape {
        Shape::Generate { .. } => reply::json(&GenerateResponse {
            model,
            created_at,
            done: true,
            done_reason,
            metrics,
            ..GenerateResponse::default()
        }),
        Shape::Chat => reply::json(&ChatResponse {
            model,
            created_at,
            message: Message::new("assistant", ""),
            done: true,
            done_reason,
            metrics,
            ..ChatResponse::default()
        }),
    })
}
