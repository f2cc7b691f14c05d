//! `/api/generate`: one prompt, one answer; and the parts that `/api/chat` shares with it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::lenient::{is_zero, null_default};
use crate::{ErrorBody, KeepAlive};

/// Alternatives that may be asked for beside each token, at most. Ollama's own bound.
pub const TOP_LOGPROBS_MAX: u32 = 20;

/// Body of `POST /api/generate`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerateRequest {
    /// Name of the model.
    #[serde(alias = "name", deserialize_with = "null_default")]
    pub model: String,
    /// Text to continue or to answer. Empty (without messages or context) = load the model only.
    #[serde(deserialize_with = "null_default")]
    pub prompt: String,
    /// Text after the insertion point, for models that fill in the middle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
    /// System message in place of the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Template in place of the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Token ids of an earlier exchange, as its last line returned them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<Vec<u32>>,
    /// Send NDJSON lines as tokens come; true when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Send the prompt as it stands, without a template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw: Option<bool>,
    /// `"json"` or a JSON schema that the answer must follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Value>,
    /// How long the model stays loaded afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
    /// Images in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Vec<Value>>,
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
    /// Ours: name of the adapter; `base` = none, absent = the model's first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// Ours: ids of the prompt's tokens as they stand, in place of `prompt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_ids: Option<Vec<u32>>,
}

/// `think`: on, off, or a level that the template understands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Think {
    /// On or off.
    Flag(bool),
    /// `low`, `medium`, `high`.
    Level(String),
}

/// One line (or the whole) of an answer of `/api/generate`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerateResponse {
    /// Name as asked.
    pub model: String,
    /// When this line was made, RFC 3339.
    pub created_at: String,
    /// Text of this line; of the whole answer when not streaming.
    pub response: String,
    /// Reasoning text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    /// Whether this is the last line.
    pub done: bool,
    /// `stop`, `length`, `load`, `unload`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done_reason: Option<String>,
    /// Token ids of the exchange so far, to be sent with the next request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<Vec<u32>>,
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

/// Counts and durations (nanoseconds) of the last line. Zero values are left out, as Ollama does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// From the request's arrival to the last token.
    #[serde(skip_serializing_if = "is_zero")]
    pub total_duration: u64,
    /// Spent on loading the model and the adapter.
    #[serde(skip_serializing_if = "is_zero")]
    pub load_duration: u64,
    /// Tokens in the prompt.
    #[serde(skip_serializing_if = "is_zero")]
    pub prompt_eval_count: u64,
    /// Spent on the prompt.
    #[serde(skip_serializing_if = "is_zero")]
    pub prompt_eval_duration: u64,
    /// Tokens in the answer.
    #[serde(skip_serializing_if = "is_zero")]
    pub eval_count: u64,
    /// Spent on the answer.
    #[serde(skip_serializing_if = "is_zero")]
    pub eval_duration: u64,
    /// Ours: prompt tokens dropped because the request said `truncate: true`.
    #[serde(skip_serializing_if = "is_zero")]
    pub truncated_tokens: u64,
    /// Ours: adapter that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// Ours: seed in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Ours: options that were not understood and therefore ignored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignored_options: Vec<String>,
}

/// A token and its log probability, with alternatives when asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Logprob {
    /// The token.
    #[serde(flatten)]
    pub token: TokenLogprob,
    /// The likeliest tokens at this place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top_logprobs: Vec<TokenLogprob>,
}

/// Text of a token and its natural log probability.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Text of the token.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f64,
    /// Bytes of the token's text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bytes: Vec<u8>,
}

impl GenerateRequest {
    /// Returns whether lines are sent as tokens come.
    pub fn streams(&self) -> bool {
        self.stream.unwrap_or(true)
    }
    /// Returns whether the prompt goes in as it stands.
    pub fn is_raw(&self) -> bool {
        self.raw.unwrap_or(false)
    }
}
