//! The tokens that steer a model: beginning and end of text, unknown, padding, and the set that ends a generation.
//!
//! Files name only some of them, so the rest is known by its usual text. A token that the file calls ordinary is taken for an end only
//! when its text cannot be anything else: `</s>` is an end in one model and a closing tag of HTML in another.

use crate::vocabulary::{TokenKind, Vocabulary};
use std::collections::BTreeSet;

/// Texts that end a turn, a message or the whole text in published models.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Texts that end a turn, the first of them present being the model's end-of-turn token.
const TURN_ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];

/// Texts that mark the parts of a message and are shown as they are.
const SHOWN: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// Whether the kinds that a file gives its tokens are to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kinds {
    /// The file was written by the library that trained the tokenizer.
    Kept,
    /// The file was converted, and converters often call special tokens ordinary.
    Corrected,
}

/// The tokens that steer a model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Specials {
    /// Begins a text.
    pub(crate) bos: Option<u32>,
    /// Ends a text.
    pub(crate) eos: Option<u32>,
    /// Ends a turn of a conversation.
    pub(crate) eot: Option<u32>,
    /// Ends a message that expects an answer from a tool.
    pub(crate) eom: Option<u32>,
    /// Stands for what the vocabulary cannot express.
    pub(crate) unknown: Option<u32>,
    /// Fills a batch.
    pub(crate) pad: Option<u32>,
    /// Put before a text that asks for special tokens.
    pub(crate) prefix: Vec<u32>,
    /// Put after a text that asks for special tokens.
    pub(crate) suffix: Vec<u32>,
    /// Ends a generation.
    pub(crate) ends: BTreeSet<u32>,
}

impl Specials {
    /// Finds by their texts the tokens that the file did not name; with [`Kinds::Corrected`] marks them in the vocabulary as well.
    pub(crate) fn complete(&mut self, vocabulary: &mut Vocabulary, kinds: Kinds) {
        let corrected = kinds == Kinds::Corrected;
        let set_kind = |vocabulary: &mut Vocabulary, id, kind| {
            if corrected {
                vocabulary.set_kind(id, kind);
            }
        };
        let find = |vocabulary: &Vocabulary, text: &str| {
            let id = vocabulary.id(text.as_bytes())?;
            (is_unmistakable(text) || vocabulary.kind(id) != TokenKind::Normal).then_some(id)
        };
        let find_all = |vocabulary: &Vocabulary, texts: &[&str]| -> Vec<u32> {
            texts.iter().filter_map(|text| find(vocabulary, text)).collect()
        };
        if self.eot.is_none() {
            self.eot = TURN_ENDS.iter().find_map(|text| find(vocabulary, text));
        }
        if self.eom.is_none() {
            self.eom = find(vocabulary, "<|eom_id|>");
        }
        for id in find_all(vocabulary, ENDS) {
            self.ends.insert(id);
            set_kind(vocabulary, id, TokenKind::Control);
        }
        for id in find_all(vocabulary, SHOWN) {
            set_kind(vocabulary, id, TokenKind::UserDefined);
        }
        self.ends.extend([self.eos, self.eot, self.eom].into_iter().flatten());
        self.withdraw(vocabulary, set_kind);
    }

    /// Takes back what is an end in most models but not in the ones at hand, known by the company it keeps.
    fn withdraw(&mut self, vocabulary: &mut Vocabulary, set_kind: impl Fn(&mut Vocabulary, u32, TokenKind)) {
        let end = |text: &str| vocabulary.id(text.as_bytes()).filter(|id| self.ends.contains(id));
        let calls = end("<|call|>").or(end("<|calls|>")).is_some();
        let harmony = calls && (end("<|return|>").is_some() || end("<|flush|>").is_some());
        let thinking_end = end("<|end|>").filter(|_| harmony);
        let strike_out = end("</s>").filter(|id| end("<|tool_response>").is_some() && self.eos != Some(*id));
        if let Some(id) = thinking_end {
            self.ends.remove(&id);
            set_kind(vocabulary, id, TokenKind::UserDefined);
        }
        if let Some(id) = strike_out {
            self.ends.remove(&id);
            set_kind(vocabulary, id, TokenKind::Normal);
        }
    }
}

/// Says whether a text is a marker even where the file calls the token ordinary.
fn is_unmistakable(text: &str) -> bool {
    text.contains(['|', '｜']) || text.contains("end_of_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(texts: &[&str]) -> (Specials, Vocabulary) {
        let tokens = texts.iter().map(|text| (*text, TokenKind::Normal));
        let mut vocabulary = Vocabulary::new(texts.len(), tokens, Vec::new()).unwrap();
        let mut specials = Specials {
            eos: Some(0),
            ..Specials::default()
        };
        specials.complete(&mut vocabulary, Kinds::Corrected);
        (specials, vocabulary)
    }

    #[test]
    fn ends_are_found_by_their_usual_texts() {
        let (specials, vocabulary) = complete(&["<x>", "a", "<|im_end|>", "<|eom_id|>", "</s>"]);
        assert_eq!(specials.ends, BTreeSet::from([0, 2, 3]));
        assert_eq!((specials.eot, specials.eom), (Some(2), Some(3)));
        assert_eq!(vocabulary.kind(2), TokenKind::Control);
        assert_eq!(vocabulary.kind(1), TokenKind::Normal);
    }

    #[test]
    fn an_end_of_thinking_is_no_end_of_generation() {
        let (specials, _) = complete(&["<|return|>", "<|call|>", "<|end|>", "<|channel|>"]);
        assert_eq!(specials.ends, BTreeSet::from([0, 1]));
        let (specials, _) = complete(&["<|endoftext|>", "<|end|>"]);
        assert_eq!(specials.ends, BTreeSet::from([0, 1]));
    }
}
