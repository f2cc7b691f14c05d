//! Finds whole tokens (special or added ones) inside text: at each place the longest that matches.
//!
//! A byte trie in one flat array. A step follows one byte; the first byte goes through a table, so text without special tokens
//! costs one lookup per byte. Cost of a match: at most [`TRIE_TOKEN_BYTES_MAX`] steps.

use std::ops::Range;

/// The longest token that can be matched whole. Real ones stay below 100 bytes; the limit bounds the work at each place of a text.
pub(crate) const TRIE_TOKEN_BYTES_MAX: usize = 512;

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Node {
    byte: u8,
    sibling: u32,
    child: u32,
    accept: Option<Entry>,
}

/// A token that the trie knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its id.
    pub(crate) id: u32,
    /// It is matched only where special tokens are parsed.
    pub(crate) control: bool,
    /// White space after it belongs to it.
    pub(crate) takes_space_after: bool,
}

/// One stretch of a text: a whole token, or text between tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fragment {
    /// A token matched whole.
    Token(u32),
    /// Ordinary text, as a range of the whole.
    Text(Range<usize>),
}

/// The set of tokens that are matched whole.
#[derive(Debug)]
pub(crate) struct Trie {
    first: Box<[u32; 256]>,
    nodes: Vec<Node>,
}

impl Trie {
    /// Makes a set without tokens.
    pub(crate) fn new() -> Self {
        Self {
            first: Box::new([NONE; 256]),
            nodes: Vec::new(),
        }
    }

    /// Adds a token; texts that are empty or beyond [`TRIE_TOKEN_BYTES_MAX`] are left out, and the first id of a text stays.
    pub(crate) fn insert(&mut self, text: &[u8], entry: Entry) {
        if text.is_empty() || text.len() > TRIE_TOKEN_BYTES_MAX {
            return;
        }
        let mut at = self.first[usize::from(text[0])];
        if at == NONE {
            at = self.add_node(text[0], NONE);
            self.first[usize::from(text[0])] = at;
        }
        for &byte in &text[1..] {
            at = match self.child(at, byte) {
                Some(child) => child,
                None => {
                    let sibling = self.nodes[at as usize].child;
                    let child = self.add_node(byte, sibling);
                    self.nodes[at as usize].child = child;
                    child
                }
            };
        }
        let node = &mut self.nodes[at as usize];
        if node.accept.is_none() {
            node.accept = Some(entry);
        }
    }

    /// Cuts `text` at every token of the set; control tokens count only with `parse_special`.
    pub(crate) fn cut(&self, text: &str, parse_special: bool) -> Vec<Fragment> {
        let bytes = text.as_bytes();
        let mut fragments = Vec::new();
        let mut start = 0;
        let mut at = 0;
        while at < bytes.len() {
            let Some((entry, len)) = self.longest(&bytes[at..], parse_special) else {
                at += 1;
                continue;
            };
            if start < at {
                fragments.push(Fragment::Text(start..at));
            }
            fragments.push(Fragment::Token(entry.id));
            at += len;
            if entry.takes_space_after {
                at += bytes[at..]
                    .iter()
                    .take_while(|byte| byte.is_ascii_whitespace() || **byte == 0x0b)
                    .count();
            }
            start = at;
        }
        if start < bytes.len() {
            fragments.push(Fragment::Text(start..bytes.len()));
        }
        fragments
    }

    /// Returns the longest token that `bytes` begins with, and its length.
    pub(crate) fn longest(&self, bytes: &[u8], parse_special: bool) -> Option<(Entry, usize)> {
        let mut at = self.first[usize::from(*bytes.first()?)];
        let mut best = None;
        for (depth, _) in bytes.iter().enumerate() {
            if at == NONE {
                break;
            }
            if let Some(entry) = self.nodes[at as usize].accept
                && (parse_special || !entry.control)
            {
                best = Some((entry, depth + 1));
            }
            at = bytes
                .get(depth + 1)
                .and_then(|byte| self.child(at, *byte))
                .unwrap_or(NONE);
        }
        best
    }

    /// Calls `found` with every token that `bytes` begins with, shortest first, and its length.
    pub(crate) fn prefixes(&self, bytes: &[u8], mut found: impl FnMut(Entry, usize)) {
        let Some((first, rest)) = bytes.split_first() else {
            return;
        };
        let mut at = self.first[usize::from(*first)];
        let mut rest = rest.iter();
        let mut len = 1;
        while at != NONE {
            if let Some(entry) = self.nodes[at as usize].accept {
                found(entry, len);
            }
            at = rest.next().and_then(|byte| self.child(at, *byte)).unwrap_or(NONE);
            len += 1;
        }
    }

    fn child(&self, parent: u32, byte: u8) -> Option<u32> {
        let mut at = self.nodes[parent as usize].child;
        while at != NONE {
            let node = &self.nodes[at as usize];
            if node.byte == byte {
                return Some(at);
            }
            at = node.sibling;
        }
        None
    }

    fn add_node(&mut self, byte: u8, sibling: u32) -> u32 {
        self.nodes.push(Node {
            byte,
            sibling,
            child: NONE,
            accept: None,
        });
        (self.nodes.len() - 1) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u32, control: bool) -> Entry {
        Entry {
            id,
            control,
            takes_space_after: id == 9,
        }
    }

    #[test]
    fn the_longest_token_wins_and_control_tokens_need_leave() {
        let mut trie = Trie::new();
        trie.insert(b"<a>", entry(1, true));
        trie.insert(b"<a>b", entry(2, false));
        trie.insert(b"  ", entry(3, false));
        trie.insert(b"    ", entry(4, false));
        trie.insert(b"<n>", entry(9, true));
        let cut = |text, parse| trie.cut(text, parse);
        use Fragment::{Text, Token};
        assert_eq!(cut("x<a>y", true), [Text(0..1), Token(1), Text(4..5)]);
        assert_eq!(cut("x<a>y", false), [Text(0..5)]);
        assert_eq!(cut("<a>b", false), [Token(2)]);
        assert_eq!(cut("      é", true), [Token(4), Token(3), Text(6..8)]);
        assert_eq!(cut("<n> \n z", true), [Token(9), Text(6..7)]);
        assert_eq!(cut("", true), []);
    }
}
