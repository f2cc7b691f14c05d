//! The one form that rows of every shape are brought to.

use serde::Serialize;
use serde_json::{Map, Value, json};

/// What one row teaches.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    /// Its messages, or its bare text.
    pub body: Body,
    /// Tools that the chat template is shown: the row's `tools`, as it stood.
    pub tools: Option<Value>,
}

/// What a conversation is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A chat. **Invariant:** at least one message is the assistant's, a system message can only be the first, and user and
    /// assistant take turns.
    Messages(Vec<Message>),
    /// Text to continue, without roles; never empty.
    Text(String),
}

/// One message of a chat.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said. Empty only where tools are called or a tool answers nothing.
    pub content: String,
    /// Whether the row asks for (`true`) or forbids (`false`) learning this message: its `weight`, `train` or `training`.
    pub train: Option<bool>,
    /// What templates know besides: `name`, `tool_calls`, `tool_call_id`, `reasoning_content`, `thinking`.
    pub extra: Map<String, Value>,
}

impl Message {
    /// Makes a message of text alone.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            train: None,
            extra: Map::new(),
        }
    }
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Whoever set the assistant up; also `developer`.
    System,
    /// The person; also `human`.
    User,
    /// The model; also `gpt`, `chatgpt`, `bot`, `model` and `function_call`.
    Assistant,
    /// What a called tool answered; also `function`, `observation` and `ipython`.
    Tool,
}

/// Every spelling of a role, and the role.
const ROLES: &[(&str, Role)] = &[
    ("system", Role::System),
    ("developer", Role::System),
    ("user", Role::User),
    ("human", Role::User),
    ("assistant", Role::Assistant),
    ("gpt", Role::Assistant),
    ("chatgpt", Role::Assistant),
    ("bot", Role::Assistant),
    ("model", Role::Assistant),
    ("function_call", Role::Assistant),
    ("tool", Role::Tool),
    ("function", Role::Tool),
    ("observation", Role::Tool),
    ("ipython", Role::Tool),
];

impl Role {
    /// Returns the name that chat templates know.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }

    /// Returns the role of a spelling, of any shape.
    pub fn from_spelling(spelling: &str) -> Option<Self> {
        let known = ROLES.iter().find(|(known, _)| *known == spelling);
        known.map(|(_, role)| *role)
    }

    /// Returns every spelling, for near misses.
    pub(crate) fn spellings() -> impl Iterator<Item = &'static str> {
        ROLES.iter().map(|(spelling, _)| *spelling)
    }
}

impl Conversation {
    /// Makes a conversation of messages, without tools.
    pub fn of(messages: Vec<Message>) -> Self {
        Self {
            body: Body::Messages(messages),
            tools: None,
        }
    }

    /// Makes a conversation of bare text.
    pub fn of_text(text: impl Into<String>) -> Self {
        Self {
            body: Body::Text(text.into()),
            tools: None,
        }
    }

    /// Returns the messages; none for bare text.
    pub fn messages(&self) -> &[Message] {
        match &self.body {
            Body::Messages(messages) => messages,
            Body::Text(_) => &[],
        }
    }

    /// Returns each role (none for bare text) with what is said.
    pub fn parts(&self) -> impl Iterator<Item = (Option<Role>, &str)> {
        let text = match &self.body {
            Body::Text(text) => Some((None, text.as_str())),
            Body::Messages(_) => None,
        };
        let messages = self.messages().iter();
        messages
            .map(|message| (Some(message.role), message.content.as_str()))
            .chain(text)
    }

    /// Returns the row in the `messages` (or `text`) shape: what reading it gives this conversation again.
    pub fn to_json(&self) -> Value {
        let mut row = match &self.body {
            Body::Text(text) => json!({ "text": text }),
            Body::Messages(messages) => {
                json!({ "messages": messages.iter().map(Message::to_json).collect::<Vec<_>>() })
            }
        };
        if let Some(tools) = &self.tools {
            row["tools"] = tools.clone();
        }
        row
    }
}

impl Message {
    /// Returns the message as chat templates and JSONL rows have it.
    pub fn to_json(&self) -> Value {
        let mut message = Map::new();
        message.insert("role".to_owned(), self.role.name().into());
        message.insert("content".to_owned(), self.content.clone().into());
        if let Some(train) = self.train {
            message.insert("train".to_owned(), train.into());
        }
        message.extend(self.extra.clone());
        Value::Object(message)
    }
}
