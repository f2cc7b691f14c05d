//! One step of a model: every running sequence advances by a token or by a chunk of its prompt, in one batch.

use std::time::{Duration, Instant};

use witness_batching::{Pending, shares};
use witness_diagnostics::Diagnostic;
use witness_model::Threads;
use witness_plugin_protocol::DoneReason;
use witness_plugin_sdk::{Level, ServeEvent, log};

use crate::engine::{Advance, Rows, State};
use crate::model::Loaded;
use crate::sequence::Sequence;

/// Tokens of prompts that are read in one step while nobody answers. Enough for matrix products to pay, few enough that a cancel is heard.
pub(crate) const CHUNK_TOKENS: usize = 256;
/// The same while somebody answers: a panel of the kernels', so that products are as quick, and answers wait some five of their own steps rather than twenty.
const CHUNK_TOKENS_BESIDE: usize = 64;

/// What a step took.
#[derive(Clone, Copy)]
struct Spent {
    /// All of it, guesses included.
    whole: Duration,
    /// The pass over the weights alone.
    pass: Duration,
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
                Ok(rows) => {
                    let spent = Spent {
                        whole: begun.elapsed(),
                        pass: guessed.elapsed(),
                    };
                    self.take(&fed, rows, spent, emit);
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

    /// Runs a batch of `fed[i]` tokens of sequence `i`, guesses included. Returns its rows of logits, none for a sequence that has more to feed.
    fn forward(&mut self, fed: &[usize]) -> Result<Vec<Rows>, Diagnostic> {
        let Loaded {
            engine,
            running,
            threads,
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
        let mut rows = Threads::run_on(threads.as_ref(), || engine.forward(&mut batch))?.into_iter();
        let rows_of = fed.iter().map(|&n_tokens| match n_tokens {
            0 => Rows::new(),
            _ => rows.next().unwrap_or_default(),
        });
        Ok(rows_of.collect())
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
    fn take(&mut self, fed: &[usize], rows: Vec<Rows>, spent: Spent, emit: &mut dyn FnMut(ServeEvent<'_>)) {
        let running = std::mem::take(&mut self.running);
        for ((mut sequence, &n_tokens), rows) in running.into_iter().zip(fed).zip(rows) {
            let number = sequence.number;
            if sequence.in_prompt() {
                sequence.prompt_time += spent.whole;
                let tokens_done = u32::try_from(sequence.tokens.len() - sequence.pending().len()).unwrap_or(u32::MAX);
                if n_tokens > 1 {
                    emit(ServeEvent::Progress {
                        sequence: number,
                        tokens_done,
                    });
                }
            } else {
                sequence.generate_time += spent.whole;
            }
            if sequence.in_prompt() && !rows.is_empty() {
                // It is read: who begins like it need not wait for the answer.
                self.keep(&sequence);
            }
            let is_answering = n_tokens == 1 + sequence.guess.len();
            let begun = Instant::now();
            let spoken = self.speak(&mut sequence, rows, emit);
            sequence.generate_time += begun.elapsed();
            match spoken {
                Err(diagnostic) => emit(ServeEvent::Error {
                    sequence: number,
                    diagnostic,
                }),
                Ok((_, Some(reason))) => self.end(sequence, reason, emit),
                Ok((n_right, None)) => {
                    if is_answering {
                        sequence.observe(spent.pass, n_right);
                    }
                    self.running.push(sequence);
                }
            }
        }
    }

    /// Says a token for each row of logits, until one was not guessed or the answer ends. Returns how many guesses were right, and why the answer ended.
    fn speak(
        &self,
        sequence: &mut Sequence,
        rows: Rows,
        emit: &mut dyn FnMut(ServeEvent<'_>),
    ) -> Result<(usize, Option<DoneReason>), Diagnostic> {
        let mut n_right = 0;
        let mut ended = None;
        for (index, mut logits) in rows.into_iter().enumerate() {
            let said = sequence.choose(&mut logits, &self.tokenizer)?;
            if said.is_answer {
                emit(ServeEvent::Token {
                    sequence: sequence.number,
                    id: said.token,
                    text: &said.text,
                    logprob: said.logprob,
                    alternatives: &said.alternatives,
                });
            }
            ended = said.ended;
            if ended.is_some() || sequence.guess.get(index) != Some(&said.token) {
                break;
            }
            n_right += 1;
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
        Ok((n_right, ended))
    }

    fn end(&mut self, mut sequence: Sequence, reason: DoneReason, emit: &mut dyn FnMut(ServeEvent<'_>)) {
        let (text, done) = sequence.finish(reason);
        emit(ServeEvent::Done {
            sequence: sequence.number,
            text: &text,
            done,
        });
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

/// Returns the last token with the guess that follows it; nothing without a guess.
fn with_guess(sequence: &Sequence) -> Vec<u32> {
    match (&sequence.guess[..], sequence.tokens.last()) {
        ([], _) | (_, None) => Vec::new(),
        (guess, Some(last)) => std::iter::once(*last).chain(guess.iter().copied()).collect(),
    }
}
