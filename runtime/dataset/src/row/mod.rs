//! One line of JSONL to one conversation, or to every reason why not.
//!
//! The shape is told by the keys, row by row, so files may mix shapes. Of several, the first of [`Shape::ALL`] counts.

mod chat;
mod check;
mod shapes;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::conversation::Conversation;
use crate::fault::{FaultCode, Severity};
use crate::json::{JsonFault, Node, meant, quoted};
use crate::limits::FAULTS_PER_ROW_MAX;

/// How a row is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// `{"messages": [{"role", "content"}, ..]}`
    Messages,
    /// `{"conversations": [{"from", "value"}, ..]}`, with an optional `system`.
    ShareGpt,
    /// `{"prompt", "completion"}`: two strings, or two lists of messages.
    PromptCompletion,
    /// `{"instruction", "input", "output"}`, with an optional `system`.
    Instruction,
    /// `{"text"}`, or a file of plain text.
    Text,
}

impl Shape {
    /// Every shape, the one that wins first.
    pub const ALL: &[Shape] = &[
        Shape::Messages,
        Shape::ShareGpt,
        Shape::PromptCompletion,
        Shape::Instruction,
        Shape::Text,
    ];

    /// Returns the name, as `--json` prints it.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Messages => "messages",
            Shape::ShareGpt => "share_gpt",
            Shape::PromptCompletion => "prompt_completion",
            Shape::Instruction => "instruction",
            Shape::Text => "text",
        }
    }

    /// Returns the keys that tell the shape.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Shape::Messages => &["messages"],
            Shape::ShareGpt => &["conversations", "conversation"],
            Shape::PromptCompletion => &["prompt", "completion"],
            Shape::Instruction => &["instruction", "output"],
            Shape::Text => &["text"],
        }
    }
}

/// Which checks a row has to pass besides being a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checks {
    /// Those that training needs.
    #[default]
    Training,
    /// Also those of the guide's validation script: exactly system, user and assistant; code blocks closed; and warnings for short
    /// answers, for answers without a witness command and for questions asked before.
    Guide,
}

/// A row that can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What it teaches.
    pub conversation: Conversation,
    /// How it was laid out.
    pub shape: Shape,
}

/// What a line holds: a row, unless a fault forbids it, and every fault with its column (characters, from 1).
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) row: Option<Row>,
    pub(crate) faults: Vec<(u64, FaultCode, String)>,
}

/// Reads one line, without its line break.
pub(crate) fn parse(line: &str, checks: Checks) -> Parsed {
    let mut reading = Reading { faults: Vec::new() };
    let row = reading.row(line, checks);
    let is_usable = reading
        .faults
        .iter()
        .all(|(_, code, _)| code.severity() == Severity::Warning);
    let faults = reading.faults.into_iter();
    Parsed {
        row: row.filter(|_| is_usable),
        faults: faults
            .map(|(offset, code, message)| (column(line, offset), code, message))
            .collect(),
    }
}

/// Returns the column of a byte of a line.
fn column(line: &str, offset: usize) -> u64 {
    let before = line.char_indices().take_while(|(at, _)| *at < offset);
    before.count() as u64 + 1
}

/// A row in the making: collects what is wrong with it. `None` from a method means that a fault was noted.
struct Reading {
    faults: Vec<(usize, FaultCode, String)>,
}

/// The keys of an object that was looked into.
type Keys<'a> = BTreeMap<String, Node<'a>>;

impl Reading {
    fn note(&mut self, offset: usize, code: FaultCode, message: impl Into<String>) {
        if self.faults.len() < FAULTS_PER_ROW_MAX {
            self.faults.push((offset, code, message.into()));
        } else if code.severity() == Severity::Error
            && self
                .faults
                .iter()
                .all(|(_, code, _)| code.severity() == Severity::Warning)
        {
            // An error must not be lost among warnings: it decides whether the row can be used.
            self.faults[FAULTS_PER_ROW_MAX - 1] = (offset, code, message.into());
        }
    }

    fn noted<T>(&mut self, result: Result<T, JsonFault>) -> Option<T> {
        result
            .map_err(|fault| self.note(fault.offset, fault.code, fault.message))
            .ok()
    }

    fn row(&mut self, line: &str, checks: Checks) -> Option<Row> {
        let node = self.noted(Node::parse(line))?;
        if !node.is_object() {
            let hint = if node.is_list() {
                "; a JSON list is no JSONL: write one object a line"
            } else {
                ""
            };
            self.note(
                node.offset,
                FaultCode::NotAnObject,
                format!("a row is an object, this is {}{hint}", node.kind()),
            );
            return None;
        }
        let entries = self.noted(node.entries())?;
        let keys: Keys = entries.into_iter().collect();
        let has = |shape: &&Shape| shape.keys().iter().any(|key| keys.contains_key(*key));
        let Some(shape) = Shape::ALL.iter().find(has).copied() else {
            self.note(node.offset, FaultCode::UnknownShape, unknown_shape(&keys));
            return None;
        };
        let (conversation, offsets) = match shape {
            Shape::Messages => self.messages_row(&keys),
            Shape::ShareGpt => self.share_gpt_row(&keys),
            Shape::PromptCompletion => self.prompt_row(&keys),
            Shape::Instruction => self.instruction_row(&keys),
            Shape::Text => self.text_row(&keys),
        }?;
        self.check(&conversation, &offsets, node.offset, checks);
        Some(Row { conversation, shape })
    }

    /// Returns a key that must be there.
    fn required<'a>(&mut self, keys: &Keys<'a>, key: &str, offset: usize, why: &str) -> Option<Node<'a>> {
        let node = keys.get(key).copied();
        if node.is_none() {
            let near = meant(key, keys.keys().map(String::as_str));
            let near = near
                .map(|near| format!("; is `{}` meant?", quoted(near)))
                .unwrap_or_default();
            self.note(offset, FaultCode::MissingKey, format!("{why} needs `{key}`{near}"));
        }
        node
    }

    /// Returns a value that must be a string.
    fn text(&mut self, node: Node<'_>, key: &str) -> Option<String> {
        if !node.is_string() {
            self.note(
                node.offset,
                FaultCode::WrongType,
                format!("`{key}` must be a string, this is {}", node.kind()),
            );
            return None;
        }
        self.noted(node.string())
    }

    /// Returns the elements of a value that must be a list.
    fn list<'a>(&mut self, node: Node<'a>, key: &str) -> Option<Vec<Node<'a>>> {
        if !node.is_list() {
            self.note(
                node.offset,
                FaultCode::WrongType,
                format!("`{key}` must be a list of messages, this is {}", node.kind()),
            );
            return None;
        }
        self.noted(node.elements())
    }
}

fn unknown_shape(keys: &Keys<'_>) -> String {
    let known = || Shape::ALL.iter().flat_map(|shape| shape.keys().iter().copied());
    let near = keys.keys().find_map(|key| Some((key, meant(key, known())?)));
    let near = near.map(|(key, near)| format!("; is `{}` meant to be `{near}`?", quoted(key)));
    let found: Vec<String> = keys.keys().take(5).map(|key| format!("`{}`", quoted(key))).collect();
    let found = if found.is_empty() {
        "no keys".to_owned()
    } else {
        found.join(", ")
    };
    format!(
        "no known shape: found {found}, wanted `messages`, `conversations`, `prompt` and `completion`, `instruction` and `output`, or `text`{}",
        near.unwrap_or_default()
    )
}
