//! Answers as a client sees them come: when the first token was there, and how far each is behind the one before.
//!
//! Our daemon and llama.cpp's `llama-server` are asked and read by the same code over TCP, so that a difference between them is theirs. What differs between the two
//! is in [`Wire`]: a path, a body, and where a line has its text.

use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};
use witness_diagnostics::{Diagnostic, Kind};
use witness_settings::HostAddr;

use crate::error::ClientError;
use crate::http::{Call, Client};

/// How long a model that nobody asks any more stays loaded: a bench that is broken off leaves it behind.
const KEEP_ALIVE: &str = "1m";

/// A server of answers, and how it is asked.
#[derive(Clone, Debug)]
pub struct TimedClient {
    client: Client,
    wire: Wire,
}

#[derive(Clone, Debug)]
enum Wire {
    Witness {
        model: String,
        adapter: Option<String>,
        options: Value,
    },
    LlamaServer,
}

/// What is asked: to continue tokens, by as many as are wanted whatever they are.
///
/// They are drawn and not the likeliest ones: those soon repeat themselves, which a server may guess ahead, and what is timed would be how dull the model is.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Ids of the prompt's tokens.
    pub prompt: &'a [u32],
    /// Tokens of the answer.
    pub n_answer: u64,
    /// Whether what was read before may be found again.
    pub reuses: bool,
}

/// When an answer came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timed {
    /// From the request to the first token.
    pub first: Duration,
    /// From each piece of text to the next.
    pub gaps: Vec<Duration>,
    /// Tokens of the answer, as the server counts them.
    pub n_tokens: u64,
}

impl TimedClient {
    /// Asks our daemon. `n_parallel` requests find a place at once, each with a context of `n_context` tokens; nothing of it is kept on disk.
    pub fn of_daemon(
        client: &Client,
        (model, adapter): (&str, Option<&str>),
        (n_context, n_parallel): (u64, u64),
        num_thread: Option<u32>,
    ) -> TimedClient {
        let mut options = json!({
            "num_ctx": n_context,
            "num_parallel": n_parallel,
            "chat_cache": false,
            "ignore_eos": true,
        });
        if let Some(num_thread) = num_thread {
            options["num_thread"] = json!(num_thread);
        }
        TimedClient {
            client: client.clone(),
            wire: Wire::Witness {
                model: model.to_owned(),
                adapter: adapter.map(str::to_owned),
                options,
            },
        }
    }

    /// Asks a `llama-server` at this port of the loopback address.
    pub fn of_llama_server(port: u16) -> Result<TimedClient, ClientError> {
        let host = HostAddr::parse(&format!("127.0.0.1:{port}"))
            .map_err(|wanted| ClientError::Broken { source: wanted.into() })?;
        Ok(TimedClient {
            client: Client::at(host),
            wire: Wire::LlamaServer,
        })
    }

    /// Returns whether a `llama-server` has loaded its model.
    pub async fn is_ready(&self) -> bool {
        let call = Call::get("/health");
        let Ok(answer) = self.client.call_at(&self.client.tcp(), call).await else {
            return false;
        };
        answer.collect().await.is_ok()
    }

    /// Asks, reads the answer to its end, and says when it came.
    pub async fn ask(&self, question: Question<'_>) -> Result<Timed, ClientError> {
        let (path, body) = self.wire.request(question);
        let begun = Instant::now();
        let call = Call::json(Method::POST, path, &body)?;
        let mut lines = self.client.call_at(&self.client.tcp(), call).await?.lines::<Value>();
        let mut timed = Timed::default();
        let mut before = None;
        while let Some(line) = lines.next_raw().await? {
            let now = Instant::now();
            let Some(piece) = Piece::read(path, &line)? else {
                continue;
            };
            match before {
                None if piece.has_text || piece.ended.is_some() => timed.first = now - begun,
                Some(before) if piece.has_text => timed.gaps.push(now - before),
                _ => {}
            }
            if piece.has_text {
                before = Some(now);
            }
            if let Some(n_tokens) = piece.ended {
                timed.n_tokens = n_tokens;
                return Ok(timed);
            }
        }
        Err(ClientError::Malformed {
            request: format!("POST {path}"),
            detail: "the answer ended before its last line".to_owned(),
        })
    }
}

impl Wire {
    fn request(&self, question: Question<'_>) -> (&'static str, Value) {
        match self {
            Wire::Witness {
                model,
                adapter,
                options,
            } => {
                let mut options = options.clone();
                options["num_predict"] = json!(question.n_answer);
                draw(&mut options, &question);
                let body = json!({
                    "model": model,
                    "adapter": adapter,
                    "prompt_ids": question.prompt,
                    "keep_alive": KEEP_ALIVE,
                    "options": options,
                });
                ("/api/generate", body)
            }
            Wire::LlamaServer => {
                let mut body = json!({
                    "prompt": question.prompt,
                    "n_predict": question.n_answer,
                    "stream": true,
                    "ignore_eos": true,
                    "cache_prompt": question.reuses,
                });
                draw(&mut body, &question);
                ("/completion", body)
            }
        }
    }
}

/// Says how tokens are drawn, in the words that both servers have.
fn draw(options: &mut Value, question: &Question<'_>) {
    for (name, value) in [
        ("temperature", json!(1)),
        ("top_k", json!(40)),
        ("top_p", json!(1)),
        ("min_p", json!(0)),
        ("repeat_penalty", json!(1)),
        ("seed", json!(question.prompt.first())),
    ] {
        options[name] = value;
    }
}

/// What a line says of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Piece {
    has_text: bool,
    /// Tokens of the whole, on the last line.
    ended: Option<u64>,
}

impl Piece {
    /// Reads a line of either server: JSON, or an event with JSON. Nothing for what only keeps a connection open.
    fn read(path: &str, line: &[u8]) -> Result<Option<Piece>, ClientError> {
        let data = match line {
            [b'{', ..] => line,
            _ => match line.strip_prefix(b"data:").or_else(|| line.strip_prefix(b"error:")) {
                Some(data) if !data.trim_ascii().starts_with(b"[") => data,
                _ => return Ok(None),
            },
        };
        let value: Value = serde_json::from_slice(data).map_err(|error| ClientError::Malformed {
            request: format!("POST {path}"),
            detail: error.to_string(),
        })?;
        if let Some(error) = value.get("error") {
            let said = error.get("message").unwrap_or(error);
            let said = said.as_str().map_or_else(|| said.to_string(), str::to_owned);
            let broke_off = Diagnostic::new("witness::client::broke_off", Kind::Internal, "an answer broke off");
            return Err(ClientError::Answered(Box::new(broke_off.cause(said))));
        }
        let text = value.get("response").or_else(|| value.get("content"));
        let is_last = ["done", "stop"]
            .iter()
            .any(|name| value.get(name).and_then(Value::as_bool) == Some(true));
        let n_tokens = value.get("eval_count").or_else(|| value.get("tokens_predicted"));
        Ok(Some(Piece {
            has_text: text.and_then(Value::as_str).is_some_and(|text| !text.is_empty()),
            ended: is_last.then(|| n_tokens.and_then(Value::as_u64).unwrap_or(0)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Option<Piece>, ClientError> {
        Piece::read("/completion", line.as_bytes())
    }

    fn piece(has_text: bool, ended: Option<u64>) -> Option<Piece> {
        Some(Piece { has_text, ended })
    }

    #[test]
    fn lines_of_both_servers_are_read() {
        for (line, expected) in [
            (r#"{"model":"m","response":" a","done":false}"#, piece(true, None)),
            (
                r#"{"model":"m","response":"","done":true,"eval_count":7}"#,
                piece(false, Some(7)),
            ),
            (
                r#"data: {"index":0,"content":" a","tokens":[5],"stop":false,"tokens_predicted":1}"#,
                piece(true, None),
            ),
            // Its first event only says that it has begun.
            (
                r#"data: {"index":0,"content":"","tokens":[],"stop":false,"tokens_predicted":0}"#,
                piece(false, None),
            ),
            (
                r#"data: {"content":"","stop":true,"tokens_predicted":7,"stop_type":"limit"}"#,
                piece(false, Some(7)),
            ),
            (": ping", None),
            ("event: x", None),
            ("data: [DONE]", None),
        ] {
            assert_eq!(read(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn what_a_server_refuses_with_is_quoted() {
        for (line, said) in [
            (
                r#"data: {"error":{"code":500,"message":"no room","type":"server_error"}}"#,
                "no room",
            ),
            (r#"{"error":"the worker is gone"}"#, "the worker is gone"),
        ] {
            let Err(ClientError::Answered(diagnostic)) = read(line) else {
                panic!("{line} was taken for an answer");
            };
            assert_eq!(diagnostic.causes, [said]);
        }
        assert!(matches!(read("data: {"), Err(ClientError::Malformed { .. })));
    }
}
