//! What makes messages a conversation that can be learned: something said, by turns, with an answer.

use super::{Checks, Reading};
use crate::conversation::{Body, Conversation, Message, Role};
use crate::fault::FaultCode;

/// Answers shorter than this are warned of by the guide's checks, in characters.
const GUIDE_ANSWER_CHARS_MIN: usize = 100;

/// One of these must stand in an answer, or the guide's checks warn.
const GUIDE_COMMANDS: [&str; 2] = ["witness run", "witness verify"];

impl Reading {
    /// Notes everything that is wrong with a conversation. `offsets` are those of its messages (or text), `start` that of the row.
    pub(super) fn check(&mut self, conversation: &Conversation, offsets: &[usize], start: usize, checks: Checks) {
        match &conversation.body {
            Body::Text(text) => {
                if text.trim().is_empty() {
                    self.note(offsets[0], FaultCode::EmptyContent, "`text` is empty");
                }
                if checks == Checks::Guide {
                    self.note(
                        start,
                        FaultCode::NotThreeMessages,
                        "the guide wants `messages`, this is bare text",
                    );
                }
            }
            Body::Messages(messages) => {
                self.check_content(messages, offsets);
                self.check_order(messages, offsets);
                self.check_answer(messages, offsets, start);
                if checks == Checks::Guide {
                    self.check_guide(messages, offsets, start);
                }
            }
        }
    }

    fn check_content(&mut self, messages: &[Message], offsets: &[usize]) {
        for (message, offset) in messages.iter().zip(offsets) {
            let may_be_empty = message.role == Role::Tool || message.extra.contains_key("tool_calls");
            if message.content.trim().is_empty() && !may_be_empty {
                let name = message.role.name();
                self.note(
                    *offset,
                    FaultCode::EmptyContent,
                    format!("this {name} message is empty"),
                );
            }
        }
    }

    fn check_order(&mut self, messages: &[Message], offsets: &[usize]) {
        let mut before: Option<&Message> = None;
        for (i, (message, offset)) in messages.iter().zip(offsets).enumerate() {
            let previous = before.map(|before| before.role);
            let fault = match (previous, message.role) {
                (_, Role::System) if i > 0 => Some("a system message can only be the first"),
                (None, Role::System | Role::User) => None,
                (None | Some(Role::System), Role::Assistant) => Some("an assistant message has no question before it"),
                (None | Some(Role::System | Role::User), Role::Tool) => {
                    Some("a tool message follows an assistant message that calls the tool")
                }
                (Some(Role::User), Role::User) => {
                    Some("two user messages follow each other; join them, or add the answer")
                }
                (Some(Role::Assistant), Role::Assistant) => {
                    Some("two assistant messages follow each other; join them, or add the question")
                }
                _ => None,
            };
            if let Some(fault) = fault {
                self.note(*offset, FaultCode::RoleOrder, fault);
            }
            before = Some(message);
        }
    }

    fn check_answer(&mut self, messages: &[Message], offsets: &[usize], start: usize) {
        let last = messages.iter().rposition(|message| message.role == Role::Assistant);
        match last {
            None => self.note(
                start,
                FaultCode::NoAssistant,
                "no assistant message: there is nothing to learn here",
            ),
            Some(last) if last + 1 < messages.len() => self.note(
                offsets[last + 1],
                FaultCode::AfterLastAnswer,
                "what follows the last answer teaches nothing",
            ),
            Some(_) => {}
        }
    }

    fn check_guide(&mut self, messages: &[Message], offsets: &[usize], start: usize) {
        let roles: Vec<Role> = messages.iter().map(|message| message.role).collect();
        if roles != [Role::System, Role::User, Role::Assistant] {
            let names: Vec<&str> = roles.iter().take(6).map(|role| role.name()).collect();
            let message = format!(
                "the guide wants system, user, assistant; this has {} messages: {}",
                roles.len(),
                names.join(", ")
            );
            self.note(start, FaultCode::NotThreeMessages, message);
            return;
        }
        let (answer, offset) = (&messages[2].content, offsets[2]);
        if answer.matches("```").count() % 2 != 0 {
            self.note(
                offset,
                FaultCode::UnclosedCode,
                "a code block (```) of the answer is not closed",
            );
        }
        let chars = answer.chars().count();
        if chars < GUIDE_ANSWER_CHARS_MIN {
            let message = format!("the answer is short: {chars} characters of {GUIDE_ANSWER_CHARS_MIN}");
            self.note(offset, FaultCode::ShortAnswer, message);
        }
        if !GUIDE_COMMANDS.iter().any(|command| answer.contains(command)) {
            self.note(
                offset,
                FaultCode::NoCommand,
                "the answer has neither `witness run` nor `witness verify`",
            );
        }
    }
}
