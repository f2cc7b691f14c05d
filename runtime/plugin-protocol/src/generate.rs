//! One generation: what is asked, how it starts, how it ends. The tokens between travel as plain structs (`witness-plugin-abi`).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::SamplingOptions;

/// Asks for one answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerateRequest {
    /// What to continue.
    pub prompt: Prompt,
    /// Name of a loaded adapter; nothing = the base alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// Name of a loaded draft whose guesses may be used. The answer is the same with any and with none: only the time differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<String>,
    /// How to choose tokens.
    #[serde(default)]
    pub sampling: SamplingOptions,
    /// `"json"` constrains the answer to one JSON value; a schema object to that schema. Nothing = free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Value>,
    /// Report this many most likely alternatives beside each token's own log probability; nothing = no log probabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<u32>,
    /// Drop the oldest tokens of a prompt that is too long, and say how many. Otherwise such a prompt is refused with both counts.
    #[serde(default)]
    pub truncate: bool,
    /// Report the ids of the prompt's tokens in [`Started`].
    #[serde(default)]
    pub return_prompt_ids: bool,
}

/// What a generation continues.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Prompt {
    /// Text as it stands. Special tokens in it are recognised; the tokenizer's own BOS is added when `add_special`.
    Text {
        /// The text.
        text: String,
        /// Token ids that come before it (Ollama's `context`).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        context: Vec<u32>,
        /// Add what the tokenizer adds by itself (BOS), once.
        add_special: bool,
    },
    /// A conversation, rendered with a Jinja chat template.
    Chat {
        /// The messages in order.
        messages: Vec<Message>,
        /// Tools as the API gave them (JSON schema functions).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tools: Vec<Value>,
        /// Template to use instead of the model's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        template: Option<String>,
        /// More variables for the template, such as `enable_thinking`.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        variables: Map<String, Value>,
    },
    /// Token ids as they stand; nothing is added.
    Tokens {
        /// The ids.
        ids: Vec<u32>,
    },
}

/// One message of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// Text.
    #[serde(default)]
    pub content: String,
    /// Reasoning text that a model produced before its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    /// Calls that the assistant made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Name of the tool that a `tool` message answers for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_name: Option<String>,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The function called.
    pub function: ToolFunction,
}

/// Name and arguments of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolFunction {
    /// Name of the function.
    pub name: String,
    /// Arguments as an object.
    #[serde(default)]
    pub arguments: Value,
}

/// First report of an admitted generation, before any token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Tokens in the prompt as run.
    pub prompt_tokens: u64,
    /// Tokens dropped from it because `truncate` was set.
    #[serde(default)]
    pub truncated_tokens: u64,
    /// Prompt tokens whose keys and values were already there.
    #[serde(default)]
    pub cached_tokens: u64,
    /// Seed in force.
    pub seed: u64,
    /// Ids of the prompt's tokens, when asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompt_ids: Vec<u32>,
}

/// Last report of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Why it ended.
    pub reason: DoneReason,
    /// Tokens in the prompt.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Time spent on the prompt, nanoseconds.
    pub prompt_ns: u64,
    /// Time spent on generating, nanoseconds.
    pub generate_ns: u64,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DoneReason {
    /// The model ended its turn, or a stop text was met.
    Stop,
    /// `num_predict` or the context was reached.
    Length,
    /// The caller went away.
    Cancelled,
}

/// One of the most likely tokens at a place of an answer. Travels as JSON in the detail of a token event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    /// Token id.
    pub id: u32,
    /// Its text, lossy where it is part of a character.
    pub text: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}
