//! `context` of `/api/generate` for models with a chat template.
//!
//! A client sends back the token ids of the exchange so far. Rendering a template needs the messages, which ids cannot give back exactly,
//! so the daemon remembers, for the ids that it handed out, the messages that made them: a bounded memory, the oldest forgotten first. Ids
//! that it does not know are refused rather than guessed at.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use witness_plugin_protocol::Message;
use witness_registry::Digest;

use crate::limits::{CONTEXTS_BYTES_MAX, CONTEXTS_MAX};

/// Exchanges that can be continued.
#[derive(Default)]
pub(crate) struct Contexts(Mutex<Memory>);

#[derive(Default)]
struct Memory {
    entries: VecDeque<Entry>,
    bytes: usize,
}

struct Entry {
    digest: Digest,
    messages: Arc<[Message]>,
    bytes: usize,
}

/// An exchange under way: becomes known when its answer is complete.
pub(crate) struct Exchange {
    pub(crate) contexts: Arc<Contexts>,
    /// Of the base: ids mean nothing elsewhere.
    pub(crate) base_key: String,
    pub(crate) messages: Vec<Message>,
}

impl Exchange {
    /// Remembers the exchange with its answer under the ids that the client is about to get.
    pub(crate) fn complete(&self, ids: &[u32], answer: &str) {
        let answer = Message {
            role: "assistant".into(),
            content: answer.to_owned(),
            ..Message::default()
        };
        let messages: Vec<Message> = self.messages.iter().cloned().chain([answer]).collect();
        self.contexts.remember(digest(&self.base_key, ids), messages);
    }
}

impl Contexts {
    /// Returns the messages behind ids that were handed out for a base.
    pub(crate) fn recall(&self, base_key: &str, ids: &[u32]) -> Option<Vec<Message>> {
        let digest = digest(base_key, ids);
        let memory = self.memory();
        memory
            .entries
            .iter()
            .rev()
            .find(|entry| entry.digest == digest)
            .map(|entry| entry.messages.to_vec())
    }

    fn remember(&self, digest: Digest, messages: Vec<Message>) {
        let bytes = messages
            .iter()
            .map(|message| message.content.len() + size_of::<Message>())
            .sum();
        if bytes > CONTEXTS_BYTES_MAX {
            return;
        }
        let mut memory = self.memory();
        while memory.entries.len() >= CONTEXTS_MAX || memory.bytes + bytes > CONTEXTS_BYTES_MAX {
            let Some(oldest) = memory.entries.pop_front() else {
                break;
            };
            memory.bytes -= oldest.bytes;
        }
        memory.bytes += bytes;
        memory.entries.push_back(Entry {
            digest,
            messages: messages.into(),
            bytes,
        });
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest(base_key: &str, ids: &[u32]) -> Digest {
    let bytes: Vec<u8> = base_key
        .bytes()
        .chain(ids.iter().flat_map(|id| id.to_le_bytes()))
        .collect();
    Digest::of(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_within_its_bounds() {
        let contexts = Arc::new(Contexts::default());
        let exchange = |text: String| Exchange {
            contexts: Arc::clone(&contexts),
            base_key: "k".into(),
            messages: vec![Message {
                role: "user".into(),
                content: text,
                ..Message::default()
            }],
        };
        for id in 0..CONTEXTS_MAX as u32 + 2 {
            exchange(id.to_string()).complete(&[id], "yes");
        }
        assert!(contexts.recall("k", &[1]).is_none(), "the oldest are forgotten");
        let messages = contexts.recall("k", &[2]).unwrap();
        assert_eq!(
            (messages[0].content.as_str(), messages[1].content.as_str()),
            ("2", "yes")
        );
        assert!(contexts.recall("other", &[2]).is_none());
        exchange("x".repeat(CONTEXTS_BYTES_MAX)).complete(&[9999], "");
        assert!(
            contexts.recall("k", &[9999]).is_none(),
            "one that is too large is not taken"
        );
        exchange("x".repeat(CONTEXTS_BYTES_MAX / 2)).complete(&[7777], "");
        assert!(contexts.recall("k", &[7777]).is_some());
        assert!(contexts.memory().bytes <= CONTEXTS_BYTES_MAX);
    }
}
