//! The shapes other than a list of messages, brought to messages.

use serde_json::Value;

use super::{Keys, Reading};
use crate::conversation::{Body, Conversation, Message, Role};
use crate::fault::FaultCode;

/// A conversation, and for each message (or its text) the byte at which it stands.
pub(super) type Placed = (Conversation, Vec<usize>);

impl Reading {
    pub(super) fn messages_row(&mut self, keys: &Keys<'_>) -> Option<Placed> {
        let messages = self.chat(keys["messages"], "messages");
        let tools = self.tools(keys);
        placed(messages?, tools?)
    }

    pub(super) fn share_gpt_row(&mut self, keys: &Keys<'_>) -> Option<Placed> {
        let key = ["conversations", "conversation"]
            .into_iter()
            .find(|key| keys.contains_key(*key))?;
        let messages = self.chat(keys[key], key);
        let system = self.system(keys);
        let tools = self.tools(keys);
        let (system, mut messages) = (system?, messages?);
        messages.splice(0..0, system);
        placed(messages, tools?)
    }

    pub(super) fn prompt_row(&mut self, keys: &Keys<'_>) -> Option<Placed> {
        let offset = keys.get("prompt").or(keys.get("completion"))?.offset;
        let prompt = self.required(keys, "prompt", offset, "a row with a `completion`");
        let completion = self.required(keys, "completion", offset, "a row with a `prompt`");
        let (prompt, completion) = (prompt?, completion?);
        let system = self.system(keys);
        let tools = self.tools(keys);
        let asked = match prompt.is_list() {
            true => self.chat(prompt, "prompt"),
            false => self.said(prompt, "prompt", Role::User),
        };
        let answered = match completion.is_list() {
            true => self.chat(completion, "completion"),
            false => self.said(completion, "completion", Role::Assistant),
        };
        let mut messages: Vec<(Message, usize)> = system?.into_iter().collect();
        messages.extend(asked?);
        messages.extend(answered?);
        placed(messages, tools?)
    }

    pub(super) fn instruction_row(&mut self, keys: &Keys<'_>) -> Option<Placed> {
        let offset = keys.get("instruction").or(keys.get("output"))?.offset;
        let instruction = self.required(keys, "instruction", offset, "a row with an `output`");
        let output = self.required(keys, "output", offset, "a row with an `instruction`");
        let (instruction, output) = (instruction?, output?);
        let input = match keys.get("input") {
            Some(input) if !input.is_null() => self.text(*input, "input"),
            _ => Some(String::new()),
        };
        let system = self.system(keys);
        let asked = self.said(instruction, "instruction", Role::User);
        let answered = self.said(output, "output", Role::Assistant);
        let (input, mut asked) = (input?, asked?);
        if let Some((message, _)) = asked.first_mut().filter(|_| !input.trim().is_empty()) {
            message.content = format!("{}\n\n{input}", message.content);
        }
        let mut messages: Vec<(Message, usize)> = system?.into_iter().collect();
        messages.extend(asked);
        messages.extend(answered?);
        placed(messages, None)
    }

    pub(super) fn text_row(&mut self, keys: &Keys<'_>) -> Option<Placed> {
        let node = keys["text"];
        let text = self.text(node, "text")?;
        let conversation = Conversation {
            body: Body::Text(text),
            tools: None,
        };
        Some((conversation, vec![node.offset]))
    }

    /// Reads one message that stands in the row as a string.
    fn said(&mut self, node: crate::json::Node<'_>, key: &str, role: Role) -> Option<Vec<(Message, usize)>> {
        if !(node.is_string() || node.is_list()) {
            let wanted = match role {
                Role::User | Role::Assistant if key == "prompt" || key == "completion" => {
                    "a string or a list of messages"
                }
                _ => "a string",
            };
            self.note(
                node.offset,
                FaultCode::WrongType,
                format!("`{key}` must be {wanted}, this is {}", node.kind()),
            );
            return None;
        }
        let text = self.text(node, key)?;
        Some(vec![(Message::new(role, text), node.offset)])
    }

    /// Reads the row's own `system`; one that is null or blank counts as none.
    fn system(&mut self, keys: &Keys<'_>) -> Option<Option<(Message, usize)>> {
        let Some(node) = keys.get("system").filter(|node| !node.is_null()) else {
            return Some(None);
        };
        let text = self.text(*node, "system")?;
        let message = (Message::new(Role::System, text), node.offset);
        Some(Some(message).filter(|(message, _)| !message.content.trim().is_empty()))
    }

    /// Reads the row's `tools`: a list, or the text of one.
    fn tools(&mut self, keys: &Keys<'_>) -> Option<Option<Value>> {
        let Some(node) = keys.get("tools").filter(|node| !node.is_null()) else {
            return Some(None);
        };
        let value = self.noted(node.value())?;
        let value = match &value {
            Value::String(text) => serde_json::from_str(text).unwrap_or(value),
            _ => value,
        };
        if !value.is_array() {
            self.note(
                node.offset,
                FaultCode::WrongType,
                format!("`tools` must be a list, this is {}", node.kind()),
            );
            return None;
        }
        Some(Some(value))
    }
}

fn placed(messages: Vec<(Message, usize)>, tools: Option<Value>) -> Option<Placed> {
    let (messages, offsets) = messages.into_iter().unzip();
    let conversation = Conversation {
        body: Body::Messages(messages),
        tools,
    };
    Some((conversation, offsets))
}
