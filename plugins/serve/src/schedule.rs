//! Who runs: waiting sequences are let in as there are places and pages, and one is set back when pages run out.
//!
//! | rule | why |
//! | --- | --- |
//! | first come first served; who finds no pages holds up those behind | a long prompt gets its turn |
//! | but a prompt that begins like one which is being read steps aside until that part is read | it is computed once, not side by side |
//! | a page for each running sequence stays free when another is let in | those that run can go on for a while |
//! | when pages run out, what is only kept goes first, then what waiting sequences hold, then the youngest is set back and waits in front | the oldest ends, so all do |
//!
//! A sequence that was set back reads its prompt and its answer so far again, which gives the same keys and values, since rows do not depend on each other; it
//! goes on where it was.

use std::collections::BTreeMap;

use witness_model::{KvPage, PAGE_TOKENS};
use witness_plugin_sdk::{Level, log};

use crate::chats;
use crate::engine::State;
use crate::model::Loaded;
use crate::sequence::Sequence;

/// Tokens that a prompt must share with one that is being read to wait for it: fewer are read quicker than waited for.
const SHARED_MIN: usize = 32;

impl Loaded {
    /// Gives a sequence the beginning that is known, if that is more than it has.
    pub(crate) fn begin(&mut self, sequence: &mut Sequence) {
        self.bring_back(sequence);
        if let Some(pages) = &mut self.pages {
            let cache = pages.begin(sequence.key(), &sequence.tokens, self.limits.num_ctx);
            if sequence.state.as_ref().is_none_or(|state| state.len() < cache.len()) {
                sequence.state = Some(State::Graph(cache));
            }
        }
    }

    /// Brings back what was kept on disk of a text that begins the same, if that is more than is known.
    fn bring_back(&mut self, sequence: &Sequence) {
        let (Some(pages), Some(chats)) = (&mut self.pages, &mut self.chats) else {
            return;
        };
        let Some(adapter) = sequence.worn.as_ref().map_or(Some(""), |worn| worn.name.as_deref()) else {
            return;
        };
        let Some((text, n_common)) = chats.best(adapter, &sequence.tokens) else {
            return;
        };
        if n_common < pages.n_known(sequence.key(), &sequence.tokens) + chats::TOKENS_MIN {
            return;
        }
        let n_pages = n_common.div_ceil(PAGE_TOKENS);
        let n_tokens = text.tokens.len().min(n_pages * PAGE_TOKENS);
        let taken = pages.take_back(sequence.key(), &text.tokens[..n_tokens], n_pages, |index| {
            let number = text.pages.get(index).ok_or(std::io::ErrorKind::InvalidData)?;
            chats.page(*number)
        });
        if let Err(error) = taken {
            log(Level::Warn, &format!("kept chats are not used: {error}"));
            chats.distrust();
        }
    }

    /// Keeps the keys and values of chats on disk, for the day that this model is loaded again.
    pub(crate) fn keep_chats(&mut self) {
        self.running.clear();
        self.waiting.clear();
        let names = self.adapter_names();
        let (Some(pages), Some(chats)) = (&self.pages, &mut self.chats) else {
            return;
        };
        let known = pages.texts();
        let mut by_id: BTreeMap<u64, &KvPage> = BTreeMap::new();
        let mut texts = Vec::new();
        for (key, tokens, pages) in &known {
            let (Some(adapter), true) = (names.get(key), tokens.len() >= chats::TOKENS_MIN) else {
                continue;
            };
            by_id.extend(pages.iter().map(|page| (page.id(), page)));
            texts.push(chats::Text {
                adapter: adapter.clone(),
                tokens: tokens.clone(),
                pages: pages.iter().map(KvPage::id).collect(),
            });
        }
        let kept = chats.keep(texts, |id| Some(by_id.get(&id)?.to_bytes()));
        if let Err(error) = kept {
            log(Level::Warn, &format!("chats cannot be kept on disk: {error}"));
        }
    }

    /// Keeps what a sequence has computed for others that begin the same.
    pub(crate) fn keep(&mut self, sequence: &Sequence) {
        if let (Some(pages), Some(State::Graph(cache))) = (&mut self.pages, &sequence.state) {
            pages.keep(sequence.key(), &sequence.tokens, cache);
        }
        self.keep_draft(sequence);
    }

    /// Moves waiting sequences into free places.
    pub(crate) fn admit(&mut self) {
        self.keep_what_is_read();
        let mut at = 0;
        while self.running.len() < self.num_parallel && at < self.waiting.len() {
            if self.is_being_read(&self.waiting[at]) {
                at += 1;
                continue;
            }
            let Some(mut sequence) = self.waiting.remove(at) else {
                break;
            };
            self.begin(&mut sequence);
            if !self.has_room_for(&sequence) {
                self.waiting.insert(at, sequence);
                break;
            }
            if sequence.state.is_none() {
                sequence.state = Some(self.engine.new_state(self.limits.num_ctx));
            }
            self.running.push(sequence);
        }
    }

    /// Makes sure that all running sequences can feed as many tokens as `fed` says, where need be by setting some back. The entries of those are removed.
    pub(crate) fn make_room(&mut self, fed: &mut Vec<usize>) {
        loop {
            let wanted: usize = self
                .running
                .iter()
                .zip(fed.iter())
                .map(|(sequence, n_tokens)| pages_wanted(sequence, *n_tokens))
                .sum();
            let Some(pages) = &mut self.pages else { return };
            if pages.make_room(wanted) {
                return;
            }
            let holding = self.waiting.iter_mut().rfind(|sequence| sequence.state.is_some());
            if let Some(sequence) = holding {
                sequence.state = None;
                continue;
            }
            // One alone is never set back: a context of pages is the least that there are.
            if self.running.len() <= 1 {
                return;
            }
            if let Some(mut sequence) = self.running.pop() {
                fed.pop();
                self.keep(&sequence);
                sequence.state = None;
                sequence.guess.clear();
                if let Some(drafting) = &mut sequence.drafting {
                    drafting.set_back();
                }
                self.waiting.push_front(sequence);
            }
        }
    }

    /// Lets those that wait begin with what is read of prompts so far.
    fn keep_what_is_read(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let running = std::mem::take(&mut self.running);
        for sequence in running.iter().filter(|sequence| sequence.load().is_prompt) {
            self.keep(sequence);
        }
        self.running = running;
    }

    /// Says whether a running sequence is about to compute what this one could begin with.
    fn is_being_read(&self, waiting: &Sequence) -> bool {
        let Some(pages) = &self.pages else { return false };
        let n_known = pages.n_known(waiting.key(), &waiting.tokens);
        self.running.iter().any(|sequence| {
            let n_read = sequence.state.as_ref().map_or(0, State::len);
            let common = sequence.tokens.iter().zip(&waiting.tokens);
            let n_common = common.take_while(|(a, b)| a == b).count();
            sequence.key() == waiting.key() && n_read < n_common && n_known + SHARED_MIN <= n_common
        })
    }

    fn has_room_for(&self, sequence: &Sequence) -> bool {
        let Some(pages) = &self.pages else { return true };
        let wanted = pages_wanted(sequence, sequence.pending().len() + 1);
        self.running.is_empty() || wanted + self.running.len() <= pages.n_available()
    }
}

/// Returns the pages that feeding so many tokens takes.
fn pages_wanted(sequence: &Sequence, n_tokens: usize) -> usize {
    match &sequence.state {
        Some(State::Graph(cache)) => cache.pages_wanted(n_tokens),
        // Nothing is found again: all of them.
        None => n_tokens.div_ceil(PAGE_TOKENS),
        Some(State::Foreign(_)) => 0,
    }
}
