//! One step of a model: every running sequence advances by a token or by a chunk of its prompt, in one batch.

use std::time::{Duration, Instant};

use witness_batching::{Pending, shares};
use witness_diagnostics::Diagnostic;
use witness_kernels::Pool;
use witness_model::Threads;
use witness_plugin_protocol::DoneReason;
use witness_plugin_sdk::{Level, ServeEvent, log};
use witness_tokenizer::Tokenizer;

use crate::engine::{Advance, State};
use crate::model::Loaded;
use crate::sequence::{Said, Sequence};

/// Tokens of prompts that are read in one step while nobody answers. Enough for matrix products to pay, few enough that a cancel is heard.
pub(crate) const CHUNK_TOKENS: usize = 256;
/// The same while somebody answers: two groups of the kernels', so that products are nearly as quick, and answers wait some three of their own steps rather than twenty.
const CHUNK_TOKENS_BESIDE: usize = 32;

/// What a step took.
#[derive(Clone, Copy)]
struct Spent {
    /// All of it, guesses included.
    whole: Duration,
    /// The pass over the weights alone.
    pass: Duration,
}

/// What a sequence says in one step.
#[derive(Default)]
struct Spoken {
    said: Vec<Said>,
    /// Guesses that were right.
    n_right: usize,
    /// Why it says no more, where something went wrong.
    failed: Option<Diagnostic>,
}

/// Sequences that guess at most: with more, the rows that they have anyway keep the processor busy.
pub(crate) const GUESSING_MAX: usize = 4;

impl Loaded {
    /// Advances all running sequences and returns how many run or wait.
    pub(crate) fn step(&mut self, emit: &mut dyn FnMut(ServeEvent<'_>)) -> usize {
        self.admit();
        self.finish_empty(emit);
        if !self.running.is_empty() {
            let begun = Instant::now();
            self.guess();
            let loads: Vec<Pending> = self.running.iter().map(Sequence::load).collect();
            let chunk = match loads.iter().all(|load| load.is_prompt) {
                true => CHUNK_TOKENS,
                false => CHUNK_TOKENS_BESIDE,
            };
            let mut fed = shares(&loads, chunk);
            for (fed, sequence) in fed.iter_mut().zip(&self.running) {
                *fed += sequence.guess.len();
            }
            self.make_room(&mut fed);
            let guessed = Instant::now();
            match self.forward(&fed) {
                Ok(()) => {
                    let spent = Spent {
                        whole: begun.elapsed(),
                        pass: guessed.elapsed(),
                    };
                    self.take(&fed, spent, emit);
                }
                Err(diagnostic) => self.fail(&diagnostic, emit),
            }
        }
        self.look_over();
        self.running.len() + self.waiting.len()
    }

    /// Has sequences guess ahead, while so few run that more rows cost little.
    fn guess(&mut self) {
        let may_guess = self.pages.is_some() && self.running.len() <= GUESSING_MAX;
        for sequence in &mut self.running {
            sequence.guess.clear();
            if may_guess && !sequence.load().is_prompt {
                sequence.guess_ahead();
            }
        }
        if may_guess {
            self.draft();
        }
    }

    /// Runs a batch of `fed[i]` tokens of sequence `i`, guesses included, those without any left out. No logits come of a sequence that has more to feed.
    fn forward(&mut self, fed: &[usize]) -> Result<(), Diagnostic> {
        let Loaded {
            engine,
            running,
            threads,
            logits,
            ..
        } = self;
        let guesses: Vec<Vec<u32>> = running.iter().map(with_guess).collect();
        let mut batch = Vec::with_capacity(running.len());
        for ((sequence, guess), &n_tokens) in running.iter_mut().zip(&guesses).zip(fed) {
            let Sequence {
                state: Some(state),
                tokens,
                worn,
                ..
            } = sequence
            else {
                return Err(crate::error::internal("a running sequence has no state"));
            };
            if n_tokens == 0 {
                continue;
            }
            let from = state.len();
            let is_last = from + n_tokens >= tokens.len();
            batch.push(Advance {
                tokens: if guess.is_empty() {
                    &tokens[from..from + n_tokens]
                } else {
                    guess
                },
                state,
                adapter: worn.as_ref().map(|worn| &*worn.adapter),
                n_logits: if is_last { guess.len().max(1) } else { 0 },
            });
        }
        Threads::run_on(threads.as_ref(), || engine.forward(&mut batch, logits))
    }

    /// Ends sequences that want no token at all, without running them.
    fn finish_empty(&mut self, emit: &mut dyn FnMut(ServeEvent<'_>)) {
        let (empty, running) = self.running.drain(..).partition(Sequence::wants_nothing);
        self.running = running;
        for sequence in empty {
            self.end(sequence, DoneReason::Length, emit);
        }
    }

    /// Chooses tokens for each sequence whose logits came, and sorts out who goes on.
    fn take(&mut self, fed: &[usize], spent: Spent, emit: &mut dyn FnMut(ServeEvent<'_>)) {
        let mut running = std::mem::take(&mut self.running);
        for (sequence, &n_tokens) in running.iter_mut().zip(fed) {
            if !sequence.in_prompt() {
                sequence.generate_time += spent.whole;
                continue;
            }
            sequence.prompt_time += spent.whole;
            let n_pending = sequence.pending().len();
            if n_tokens > 1 {
                emit(ServeEvent::Progress {
                    sequence: sequence.number,
                    tokens_done: u32::try_from(sequence.tokens.len() - n_pending).unwrap_or(u32::MAX),
                });
            }
            if n_tokens > 0 && n_pending == 0 {
                // It is read: who begins like it need not wait for the answer.
                self.keep(sequence);
            }
        }
        let spoken = self.speak(&mut running, fed);
        for ((mut sequence, &n_tokens), spoken) in running.into_iter().zip(fed).zip(spoken) {
            for said in spoken.said.iter().filter(|said| said.is_answer) {
                emit(ServeEvent::Token {
                    sequence: sequence.number,
                    id: said.token,
                    text: &said.text,
                    logprob: said.logprob,
                    alternatives: &said.alternatives,
                });
            }
            if let Some(diagnostic) = spoken.failed {
                emit(ServeEvent::Error {
                    sequence: sequence.number,
                    diagnostic,
                });
                continue;
            }
            match spoken.said.last().and_then(|said| said.ended) {
                Some(reason) => self.end(sequence, reason, emit),
                None => {
                    if n_tokens == 1 + sequence.guess.len() {
                        sequence.observe(spent.pass, spoken.n_right);
                    }
                    self.running.push(sequence);
                }
            }
        }
    }

    /// Has all sequences of a step say what their logits call for, side by side: with many, looking through vocabularies one after the other is a tenth of a step.
    fn speak(&mut self, running: &mut [Sequence], fed: &[usize]) -> Vec<Spoken> {
        let Loaded {
            logits,
            tokenizer,
            threads,
            ..
        } = self;
        let (tokenizer, vocab_size) = (&*tokenizer, self.limits.vocab_size);
        let mut logits = logits.split().into_iter();
        let turns = running.iter_mut().zip(fed).map(|(sequence, &n_tokens)| {
            let logits = match n_tokens {
                0 => Default::default(),
                _ => logits.next().unwrap_or_default(),
            };
            (sequence, logits)
        });
        let turns: Vec<_> = turns.collect();
        let mut all: Vec<Spoken> = turns.iter().map(|_| Spoken::default()).collect();
        let turns = turns.into_iter().zip(&mut all);
        let speak = |((sequence, logits), spoken): ((&mut Sequence, &mut [f32]), &mut Spoken)| {
            *spoken = Spoken::of(sequence, logits.chunks_exact_mut(vocab_size), tokenizer);
        };
        match turns.len() {
            1 => turns.for_each(speak),
            _ => Threads::run_on(threads.as_ref(), || Pool::current().run_on_each(turns, speak)),
        }
        all
    }

    fn end(&mut self, mut sequence: Sequence, reason: DoneReason, emit: &mut dyn FnMut(ServeEvent<'_>)) {
        let (text, done) = sequence.finish(reason);
        emit(ServeEvent::Done {
            sequence: sequence.number,
            text: &text,
            done,
        });
        self.settle_draft(&sequence);
        self.keep(&sequence);
    }

    /// Looks over the account of pages while nobody runs: a page that nobody knows of would be lost until the model is unloaded.
    fn look_over(&self) {
        if self.running.is_empty()
            && self.waiting.is_empty()
            && let Some(fault) = self.account_fault()
        {
            log(
                Level::Error,
                &format!("the account of keys and values is wrong: {fault}"),
            );
        }
    }

    fn fail(&mut self, diagnostic: &Diagnostic, emit: &mut dyn FnMut(ServeEvent<'_>)) {
        for sequence in self.running.drain(..) {
            emit(ServeEvent::Error {
                sequence: sequence.number,
                diagnostic: diagnostic.clone(),
            });
        }
    }
}

impl Spoken {
    /// Says a token for each row of logits, until one was not guessed or the answer ends.
    fn of<'a>(sequence: &mut Sequence, rows: impl Iterator<Item = &'a mut [f32]>, tokenizer: &Tokenizer) -> Spoken {
        let begun = Instant::now();
        let mut spoken = Spoken::default();
        for (index, logits) in rows.enumerate() {
            let said = match sequence.choose(logits, tokenizer) {
                Ok(said) => said,
                Err(diagnostic) => {
                    spoken.failed = Some(diagnostic);
                    return spoken;
                }
            };
            let goes_on = said.ended.is_none() && sequence.guess.get(index) == Some(&said.token);
            spoken.said.push(said);
            if !goes_on {
                break;
            }
            spoken.n_right += 1;
        }
        // What was fed behind the last right guess never was.
        if let Some(State::Graph(cache)) = &mut sequence.state
            && !sequence.guess.is_empty()
        {
            cache.truncate(sequence.tokens.len() - 1);
        }
        if let Some(drafting) = &mut sequence.drafting {
            drafting.cut_back(sequence.tokens.len());
        }
        sequence.generate_time += begun.elapsed();
        spoken
    }
}

/// Returns the last token with the guess that follows it; nothing without a guess.
fn with_guess(sequence: &Sequence) -> Vec<u32> {
    match (&sequence.guess[..], sequence.tokens.last()) {
        ([], _) | (_, None) => Vec::new(),
        (guess, Some(last)) => std::iter::once(*last).chain(guess.iter().copied()).collect(),
    }
}
