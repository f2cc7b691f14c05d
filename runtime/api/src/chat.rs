//! `/api/chat`: a conversation, one answer.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::lenient::null_default;
use crate::{ErrorBody, KeepAlive, Logprob, Metrics, Think};

/// Body of `POST /api/chat`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatRequest {
    /// Name of the model.
    #[serde(alias = "name", deserialize_with = "null_default")]
    pub model: String,
    /// The conversation so far. Empty = load the model only.
    #[serde(deserialize_with = "null_default")]
    pub messages: Vec<Message>,
    /// Tools that the model may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<Value>>,
    /// Send NDJSON lines as tokens come; true when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// `"json"` or a JSON schema that the answer must follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Value>,
    /// How long the model stays loaded afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
    /// Model options by name; see [`crate::Options`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<Map<String, Value>>,
    /// Whether, or how hard, the model thinks before it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub think: Option<Think>,
    /// Report the log probability of each token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<bool>,
    /// Report so many likely alternatives beside each token; needs `logprobs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<u32>,
    /// Drop the oldest tokens of a prompt that is longer than the context, instead of refusing it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
    /// Ours: template in place of the model's own, as in `/api/generate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Ours: name of the adapter; `base` = none, absent = the model's first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
}

impl ChatRequest {
    /// Returns whether lines are sent as tokens come.
    pub fn streams(&self) -> bool {
        self.stream.unwrap_or(true)
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    #[serde(deserialize_with = "null_default")]
    pub role: String,
    /// Text.
    #[serde(deserialize_with = "null_default")]
    pub content: String,
    /// Reasoning text before the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    /// Images in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Vec<Value>>,
    /// Calls that the assistant made.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Tool that a `tool` message answers for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_name: Option<String>,
    /// Call that a `tool` message answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl Message {
    /// Makes a message of text alone.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            ..Self::default()
        }
    }
}

/// A call of a tool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Name of the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What is called.
    pub function: ToolFunction,
}

/// Name and arguments of a call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ToolFunction {
    /// Place among several calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// Name of the function.
    pub name: String,
    /// Arguments as an object.
    #[serde(default, deserialize_with = "null_default")]
    pub arguments: Map<String, Value>,
}

/// One line (or the whole) of an answer of `/api/chat`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatResponse {
    /// Name as asked.
    pub model: String,
    /// When this line was made, RFC 3339.
    pub created_at: String,
    /// Text of this line; the whole answer when not streaming.
    pub message: Message,
    /// Whether this is the last line.
    pub done: bool,
    /// `stop`, `length`, `load`, `unload`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done_reason: Option<String>,
    /// Log probabilities of the tokens of this line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<Logprob>>,
    /// Counts and durations, on the last line.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Why the answer broke off, on a last line that is an error.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ErrorBody>,
}
