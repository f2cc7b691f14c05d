//! Rows that say the same, told apart by fingerprints, so that a data set of any length is compared in 16 bytes a row and measure.
//!
//! A fingerprint is the first half of a SHA-256: two rows of different content that share one are not to be met.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use crate::conversation::{Body, Conversation, Role};
use crate::reader::LineAt;

/// 128 bits that stand for a content.
pub type Fingerprint = [u8; 16];

/// The fingerprints of one row, by how much they overlook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprints {
    /// Roles, contents and tools as they stand. How the row was laid out does not count.
    pub exact: Fingerprint,
    /// The same but for case and white space.
    pub normalised: Fingerprint,
    /// What is asked alone: user and tool messages before the first answer, normalised; for bare text, as `normalised`.
    pub prompt: Fingerprint,
}

impl Fingerprints {
    /// Computes the fingerprints of a row.
    pub fn of(conversation: &Conversation) -> Self {
        let messages = conversation.messages();
        let first_answer = messages.iter().position(|message| message.role == Role::Assistant);
        let asked = &messages[..first_answer.unwrap_or(messages.len())];
        let mut exact = Sha256::new();
        let mut near = Sha256::new();
        let mut prompt = Sha256::new();
        for (role, content) in conversation.parts() {
            piece(&mut exact, role, content);
            piece(&mut near, role, &normalise(content));
        }
        for message in asked.iter().filter(|message| message.role != Role::System) {
            piece(&mut prompt, Some(message.role), &normalise(&message.content));
        }
        if let Body::Text(text) = &conversation.body {
            piece(&mut prompt, None, &normalise(text));
        }
        for message in messages {
            // Tool calls are content too. Their order of keys is kept, so this is exact to the letter.
            for (key, value) in &message.extra {
                piece(&mut exact, Some(message.role), &format!("{key}:{value}"));
                piece(&mut near, Some(message.role), &normalise(&format!("{key}:{value}")));
            }
        }
        if let Some(tools) = &conversation.tools {
            piece(&mut exact, None, &tools.to_string());
            piece(&mut near, None, &normalise(&tools.to_string()));
        }
        Self {
            exact: half(exact),
            normalised: half(near),
            prompt: half(prompt),
        }
    }
}

/// Adds one piece so that no other sequence of pieces hashes the same bytes.
fn piece(hash: &mut Sha256, role: Option<Role>, content: &str) {
    hash.update(role.map_or("text", Role::name).as_bytes());
    hash.update([0]);
    hash.update((content.len() as u64).to_le_bytes());
    hash.update(content.as_bytes());
}

fn half(hash: Sha256) -> Fingerprint {
    let whole = hash.finalize();
    let mut half = Fingerprint::default();
    half.copy_from_slice(&whole[..16]);
    half
}

/// Returns a text in lower case with single spaces and none at its ends.
pub fn normalise(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out += &word.to_lowercase();
    }
    out
}

/// How two rows are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Likeness {
    /// The same question, another answer.
    Prompt,
    /// The same but for case and white space.
    Normalised,
    /// The same.
    Exact,
}

/// Rows that were seen.
#[derive(Default)]
pub(crate) struct Seen {
    exact: HashMap<Fingerprint, LineAt>,
    normalised: HashMap<Fingerprint, LineAt>,
}

impl Seen {
    /// Remembers a row, and returns the first one that was like it.
    pub(crate) fn insert(&mut self, prints: &Fingerprints, at: LineAt) -> Option<(Likeness, LineAt)> {
        let exact = self.exact.get(&prints.exact).copied();
        let normalised = self.normalised.get(&prints.normalised).copied();
        self.exact.entry(prints.exact).or_insert(at);
        self.normalised.entry(prints.normalised).or_insert(at);
        exact
            .map(|first| (Likeness::Exact, first))
            .or(normalised.map(|first| (Likeness::Normalised, first)))
    }
}

/// A validation row that training has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leak {
    /// Index of the training row; the first that is so like it.
    pub train: usize,
    /// Index of the validation row.
    pub validation: usize,
    /// How they are the same; the strongest that holds.
    pub likeness: Likeness,
}

/// Finds every validation row that training has seen too: its loss would measure memory. At most one leak a row; O(n).
pub fn leakage(train: &[Fingerprints], validation: &[Fingerprints]) -> Vec<Leak> {
    let index = |key: fn(&Fingerprints) -> Fingerprint| {
        let mut rows: HashMap<Fingerprint, usize> = HashMap::with_capacity(train.len());
        for (row, prints) in train.iter().enumerate() {
            rows.entry(key(prints)).or_insert(row);
        }
        rows
    };
    let exact = index(|prints| prints.exact);
    let normalised = index(|prints| prints.normalised);
    let prompt = index(|prints| prints.prompt);
    let rows = validation.iter().enumerate();
    rows.filter_map(|(row, prints)| {
        let (train, likeness) = None
            .or_else(|| Some((exact.get(&prints.exact)?, Likeness::Exact)))
            .or_else(|| Some((normalised.get(&prints.normalised)?, Likeness::Normalised)))
            .or_else(|| Some((prompt.get(&prints.prompt)?, Likeness::Prompt)))?;
        Some(Leak {
            train: *train,
            validation: row,
            likeness,
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::Message;

    fn chat(question: &str, answer: &str) -> Conversation {
        Conversation::of(vec![
            Message::new(Role::User, question),
            Message::new(Role::Assistant, answer),
        ])
    }

    fn prints(conversations: &[Conversation]) -> Vec<Fingerprints> {
        conversations.iter().map(Fingerprints::of).collect()
    }

    #[test]
    fn leaks_are_told_with_the_strongest_likeness() {
        let train = prints(&[
            chat("What is a blob?", "Bytes."),
            chat("Why?", "Because."),
            Conversation::of_text("plain text"),
        ]);
        let validation = prints(&[
            chat("what  is\na blob?", "BYTES."),
            chat("Why?", "Because."),
            chat("why?", "No reason."),
            chat("How?", "So."),
            Conversation::of_text("Plain  Text"),
        ]);
        let leaks: Vec<_> = leakage(&train, &validation)
            .iter()
            .map(|leak| (leak.train, leak.validation, leak.likeness))
            .collect();
        let expected = [
            (0, 0, Likeness::Normalised),
            (1, 1, Likeness::Exact),
            (1, 2, Likeness::Prompt),
            (2, 4, Likeness::Normalised),
        ];
        assert_eq!(leaks, expected);
        assert!(leakage(&[], &validation).is_empty());
        assert!(leakage(&train, &[]).is_empty());
    }

    // Against the slow obvious version: compare the contents themselves, pair by pair.
    #[test]
    fn leaks_are_those_of_comparing_every_pair() {
        let mut generator = crate::random::TorchGenerator::seeded(11);
        let words = ["go", "Go", "go ", "build", "Build", "a b", "a  b"];
        let mut row = || {
            let mut word = || words[generator.word() as usize % words.len()];
            chat(word(), word())
        };
        let train: Vec<_> = (0..12).map(|_| row()).collect();
        let validation: Vec<_> = (0..60).map(|_| row()).collect();
        let text = |c: &Conversation, i: usize| normalise(&c.messages()[i].content);
        type Same<'a> = &'a dyn Fn(&Conversation, &Conversation) -> bool;
        let tests: [Same<'_>; 3] = [
            &|a, b| a == b,
            &|a, b| text(a, 0) == text(b, 0) && text(a, 1) == text(b, 1),
            &|a, b| text(a, 0) == text(b, 0),
        ];
        let slow: Vec<(usize, usize)> = validation
            .iter()
            .enumerate()
            .filter_map(|(v, row)| {
                let found = tests.iter().find_map(|test| train.iter().position(|t| test(t, row)));
                Some((found?, v))
            })
            .collect();
        let fast: Vec<(usize, usize)> = leakage(&prints(&train), &prints(&validation))
            .iter()
            .map(|leak| (leak.train, leak.validation))
            .collect();
        assert_eq!(fast, slow);
        assert!(!slow.is_empty());
    }

    #[test]
    fn content_that_moves_between_messages_is_another_row() {
        let rows = [chat("ab", "c"), chat("a", "bc"), Conversation::of_text("abc")];
        let prints = prints(&rows);
        assert_ne!(prints[0].exact, prints[1].exact);
        assert_ne!(prints[0].exact, prints[2].exact);
    }
}
