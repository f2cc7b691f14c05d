//! A list of messages, with the keys of OpenAI's chats (`role`, `content`) or of ShareGPT's (`from`, `value`).

use serde_json::Map;

use super::{Keys, Reading};
use crate::conversation::{Message, Role};
use crate::fault::FaultCode;
use crate::json::{Node, meant, quoted};

/// Keys of a message that chat templates know, besides role and content.
const EXTRA_KEYS: &[&str] = &["name", "tool_calls", "tool_call_id", "reasoning_content", "thinking"];

impl Reading {
    /// Reads every message of a list; each fault is noted, not only the first.
    pub(super) fn chat(&mut self, node: Node<'_>, key: &str) -> Option<Vec<(Message, usize)>> {
        let elements = self.list(node, key)?;
        if elements.is_empty() {
            self.note(node.offset, FaultCode::NoMessages, format!("`{key}` is empty"));
            return None;
        }
        let messages: Vec<Option<(Message, usize)>> =
            elements.into_iter().map(|element| self.message(element)).collect();
        messages.into_iter().collect()
    }

    fn message(&mut self, node: Node<'_>) -> Option<(Message, usize)> {
        if !node.is_object() {
            self.note(
                node.offset,
                FaultCode::WrongType,
                format!("a message must be an object, this is {}", node.kind()),
            );
            return None;
        }
        let keys: Keys = self.noted(node.entries())?.into_iter().collect();
        let (role_key, content_key) = match keys.contains_key("from") && !keys.contains_key("role") {
            true => ("from", "value"),
            false => ("role", "content"),
        };
        let role = self.role(&keys, role_key, node.offset);
        let extra = self.extra(&keys);
        let train = self.train(&keys);
        let has_tool_calls = extra.as_ref().is_some_and(|extra| extra.contains_key("tool_calls"));
        let content = match keys.get(content_key) {
            Some(content) if content.is_null() && has_tool_calls => Some(String::new()),
            None if has_tool_calls => Some(String::new()),
            Some(content) => self.content(*content, content_key),
            None => {
                self.required(&keys, content_key, node.offset, "a message");
                None
            }
        };
        let message = Message {
            role: role?,
            content: content?,
            train: train?,
            extra: extra?,
        };
        Some((message, node.offset))
    }

    fn role(&mut self, keys: &Keys<'_>, key: &str, offset: usize) -> Option<Role> {
        let node = self.required(keys, key, offset, "a message")?;
        let spelling = self.text(node, key)?;
        let role = Role::from_spelling(&spelling);
        if role.is_none() {
            let near = meant(&spelling, Role::spellings()).map(|near| format!("; is `{near}` meant?"));
            let near = near.unwrap_or_else(|| "; known are `system`, `user`, `assistant` and `tool`".to_owned());
            self.note(
                node.offset,
                FaultCode::UnknownRole,
                format!("`{}` is no role{near}", quoted(&spelling)),
            );
        }
        role
    }

    /// Reads what is said: a string, or a list of parts that are all text.
    fn content(&mut self, node: Node<'_>, key: &str) -> Option<String> {
        if !node.is_list() {
            return self.text(node, key);
        }
        let mut whole = String::new();
        for part in self.noted(node.elements())? {
            if part.is_string() {
                whole += &self.text(part, key)?;
                continue;
            }
            let text = part.is_object().then(|| self.noted(part.entries()));
            let keys: Keys = text.unwrap_or(Some(Vec::new()))?.into_iter().collect();
            match keys.get("text") {
                Some(text) => whole += &self.text(*text, "text")?,
                None => {
                    self.note(
                        part.offset,
                        FaultCode::WrongType,
                        "only parts of text can be trained on; this part has no `text`",
                    );
                    return None;
                }
            }
        }
        Some(whole)
    }

    /// Reads whether the row says that a message is (not) learned: `weight` 0 or 1, `train` or `training`.
    fn train(&mut self, keys: &Keys<'_>) -> Option<Option<bool>> {
        for key in ["train", "training", "weight"] {
            let Some(node) = keys.get(key).filter(|node| !node.is_null()) else {
                continue;
            };
            let train = match (key, node.raw()) {
                ("weight", "0" | "0.0") | ("train" | "training", "false") => false,
                ("weight", "1" | "1.0") | ("train" | "training", "true") => true,
                _ => {
                    let wanted = if key == "weight" { "0 or 1" } else { "true or false" };
                    self.note(
                        node.offset,
                        FaultCode::WrongType,
                        format!("`{key}` must be {wanted}, this is `{}`", quoted(node.raw())),
                    );
                    return None;
                }
            };
            return Some(Some(train));
        }
        Some(None)
    }

    fn extra(&mut self, keys: &Keys<'_>) -> Option<Map<String, serde_json::Value>> {
        let mut extra = Map::new();
        for key in EXTRA_KEYS {
            if let Some(node) = keys.get(*key).filter(|node| !node.is_null()) {
                extra.insert((*key).to_owned(), self.noted(node.value())?);
            }
        }
        // An empty list calls nothing.
        if extra
            .get("tool_calls")
            .is_some_and(|calls| calls.as_array().is_some_and(Vec::is_empty))
        {
            extra.remove("tool_calls");
        }
        Some(extra)
    }
}
