//! Drafts: small models of the base's vocabulary, whose most likely continuation is guessed where the text itself offers nothing.
//!
//! | step | when |
//! | --- | --- |
//! | it reads what it has not seen, a chunk a step | a sequence wants a guess of it, and it lags behind |
//! | it goes on by some tokens, for all sequences that want it in one batch | it has caught up |
//! | it is cut back to what was said | after each step |
//!
//! Cost of a guess of `n` tokens: `n` passes over the draft's weights, which count with the step that the guess is fed in. Reading the text comes before the first
//! guess and is done once: it is weighed beforehand, against what guesses saved in the answers before ([`Outlay`]), and left where it would take longer. What one
//! sequence has read is kept for those that begin the same.
//!
//! A draft runs without adapters, also for a sequence that has one. It was trained for no such adapter, and what is said does not depend on it: it is only right less
//! often where the adapter speaks otherwise than its base.
//!
//! **Invariant:** a draft offers and nothing more. Without its room, its vocabulary or its numbers a sequence goes on without its guesses and says the same.

mod guess;
mod vocabulary;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use witness_batching::{Outlay, Speculation};
use witness_diagnostics::{Diagnostic, Kind, near_miss};
use witness_model::{KvCache, Model, Threads};
use witness_plugin_protocol::{AdapterInfo, AdapterSpec, DraftOptions, LoadAdapterReply};
use witness_plugin_sdk::{Level, log};

use crate::bundle::Bundle;
use crate::inspect::kv_type;
use crate::model::{Loaded, same_files};
use crate::pages::{Pages, PrefixKey};
use crate::sequence::Sequence;
use crate::serve::max_pages;
use crate::step::GUESSING_MAX;

pub(crate) use vocabulary::inspect;

/// Drafts that may be attached at once. Each is a model; more than a few on one base are a mistake.
const DRAFTS_MAX: usize = 4;

/// A draft that is attached.
pub(crate) struct Draft {
    spec: AdapterSpec,
    info: AdapterInfo,
    /// No other draft of this model has or had it.
    key: PrefixKey,
    model: Arc<Model>,
    pub(crate) pages: Pages,
    capacity_tokens: usize,
    outlay: Outlay,
    /// Tokens read so far beside those that were read with guesses.
    n_read: usize,
}

/// What a sequence has of its draft.
pub(crate) struct Drafting {
    key: PrefixKey,
    /// Keys and values of the text so far; nothing until a guess is wanted.
    cache: Option<KvCache>,
    pub(crate) speculation: Speculation,
    /// How long the guess of this step took, if the draft made it.
    pub(crate) spent: Option<Duration>,
    /// The text is worth reading, and is not read yet.
    is_reading: bool,
    /// How long reading took, of what was read together this sequence's share.
    read: Duration,
    /// It will not guess for this sequence any more.
    is_over: bool,
}

impl Drafting {
    /// Forgets what was not said, of a text of `n_tokens` whose last token has not been fed.
    pub(crate) fn cut_back(&mut self, n_tokens: usize) {
        if let Some(cache) = &mut self.cache {
            cache.truncate(n_tokens.saturating_sub(1));
        }
    }

    /// Lets go of its pages, until the sequence runs again.
    pub(crate) fn set_back(&mut self) {
        (self.cache, self.spent, self.is_reading) = (None, None, false);
    }

    fn give_up(&mut self) {
        self.set_back();
        self.is_over = true;
    }
}

impl Loaded {
    /// Attaches a draft.
    pub(crate) fn load_draft(
        &mut self,
        spec: AdapterSpec,
        options: DraftOptions,
    ) -> Result<LoadAdapterReply, Diagnostic> {
        let known = self.drafts.get(&spec.name);
        if let Some(known) = known.filter(|known| same_files(&known.spec, &spec)) {
            return Ok(reply(known.info.clone()));
        }
        if self.engine.graph().is_none() {
            return Err(vocabulary::base_unsupported(&self.info().architecture));
        }
        if self.drafts.len() >= DRAFTS_MAX && known.is_none() {
            let message = format!("{DRAFTS_MAX} drafts are attached already");
            return Err(Diagnostic::new("witness::serve::too_many_drafts", Kind::Busy, message)
                .hint("unload the model; it comes back with the draft that requests name"));
        }
        let bundle = Bundle::open(&spec.files)?;
        let (config, info) = vocabulary::examine(&bundle, &self.tokenizer)?;
        let capacity_tokens = self.limits.num_ctx.min(vocabulary::positions(&config));
        let model = Arc::new(bundle.load(config, None)?);
        let storage = kv_type(self.kv_cache_type, &info);
        let n_parallel = self.num_parallel.min(GUESSING_MAX);
        let n_pages = max_pages(&model, storage, options.kv_bytes, capacity_tokens, n_parallel);
        let pages = Pages::new(model.new_pool(storage, n_pages));
        let kv_bytes = (n_pages * pages.pool().page_bytes()) as u64;
        let info = AdapterInfo {
            name: spec.name.clone(),
            format: "draft".to_owned(),
            bytes: model.bytes().max(info.memory.weights_bytes) + kv_bytes,
            ..AdapterInfo::default()
        };
        self.last_key += 1;
        let draft = Draft {
            spec,
            info: info.clone(),
            key: self.last_key,
            model,
            pages,
            capacity_tokens,
            outlay: Outlay::default(),
            n_read: 0,
        };
        self.drafts.insert(info.name.clone(), draft);
        Ok(reply(info))
    }

    /// Makes a sequence's part of the draft of this name.
    pub(crate) fn drafting(&self, name: &str) -> Result<Drafting, Diagnostic> {
        let Some(draft) = self.drafts.get(name) else {
            let message = format!("no draft `{name}` is loaded");
            let diagnostic = Diagnostic::new("witness::serve::unknown_draft", Kind::NotFound, message);
            return Err(match near_miss(name, self.drafts.keys().map(String::as_str)) {
                Some(near) => diagnostic.hint(format!("did you mean `{near}`?")),
                None => diagnostic.hint("leave `draft` out: the answer is the same without it"),
            });
        };
        Ok(Drafting {
            key: draft.key,
            cache: None,
            speculation: Speculation::default(),
            spent: None,
            is_reading: false,
            read: Duration::ZERO,
            is_over: false,
        })
    }

    /// Keeps what a sequence's draft has read for others that begin the same.
    pub(crate) fn keep_draft(&mut self, sequence: &Sequence) {
        let Some(drafting) = &sequence.drafting else { return };
        let draft = self.drafts.values_mut().find(|draft| draft.key == drafting.key);
        if let (Some(draft), Some(cache)) = (draft, &drafting.cache) {
            draft.pages.keep(0, &sequence.tokens, cache);
        }
    }

    /// Notes for a sequence's draft what it was worth to an answer that was said to its end. One that was cut off says nothing of what whole ones save.
    pub(crate) fn settle_draft(&mut self, sequence: &Sequence) {
        let Some(drafting) = &sequence.drafting else { return };
        let saved = drafting.speculation.saved();
        let draft = self.drafts.values_mut().find(|draft| draft.key == drafting.key);
        if let Some(draft) = draft
            && (saved != 0.0 || !drafting.read.is_zero())
        {
            draft.outlay.observe_answer(drafting.read, saved);
        }
    }

    /// Returns how many tokens of texts a draft has read, beside those that it read with guesses: what it costs where nothing is guessed.
    pub fn draft_tokens_read(&self, name: &str) -> Option<usize> {
        self.drafts.get(name).map(|draft| draft.n_read)
    }

    /// Has drafts guess for the sequences that go on, have no guess yet and for which it may pay.
    pub(crate) fn draft(&mut self) {
        let Loaded {
            drafts,
            running,
            threads,
            tokenizer,
            limits,
            ..
        } = self;
        let wishes: Vec<(PrefixKey, usize)> = running.iter().map(wish).collect();
        let wanted = wishes.iter().filter(|(_, len)| *len > 0);
        for key in wanted.map(|(key, _)| *key).collect::<BTreeSet<_>>() {
            let mine = running.iter_mut().zip(&wishes).filter(|(_, wish)| wish.0 == key);
            let mut mine: Vec<(&mut Sequence, usize)> = mine.map(|(sequence, wish)| (sequence, wish.1)).collect();
            let Some(draft) = drafts.values_mut().find(|draft| draft.key == key) else {
                // It was detached.
                mine.iter_mut().for_each(|(sequence, _)| sequence.drafting = None);
                continue;
            };
            let wishing = mine.iter_mut().filter(|(_, len)| *len > 0);
            let wishing = wishing
                .filter_map(|(sequence, len)| draft.begin(sequence, *len))
                .collect();
            let ends = |token| tokenizer.end_of_generation().contains(&token);
            let guessed = Threads::run_on(threads.as_ref(), || draft.guess(wishing, limits.vocab_size, ends));
            if let Err(diagnostic) = guessed {
                log(Level::Error, &format!("a draft guesses no more: {diagnostic}"));
                for (sequence, _) in mine {
                    sequence.guess.clear();
                    sequence.drafting = None;
                }
            }
        }
    }
}

/// Returns the draft that a sequence has, and how many tokens it wants of it.
fn wish(sequence: &Sequence) -> (PrefixKey, usize) {
    match &sequence.drafting {
        Some(drafting) if !drafting.is_over => {
            let is_wanted = sequence.guess.is_empty() && !sequence.load().is_prompt;
            let len = sequence.n_guessable(&drafting.speculation);
            (drafting.key, if is_wanted { len } else { 0 })
        }
        _ => (0, 0),
    }
}

fn reply(info: AdapterInfo) -> LoadAdapterReply {
    LoadAdapterReply { info, check: None }
}
