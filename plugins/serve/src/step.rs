//! One step of a model: every running sequence advances by a token or by a chunk of its prompt, in one batch.

use std::time::{Duration, Instant};

use witness_diagnostics::Diagnostic;
use witness_plugin_protocol::DoneReason;
use witness_plugin_sdk::ServeEvent;

use crate::engine::{Advance, Rows};
use crate::model::Loaded;
use crate::sequence::Sequence;

/// Tokens of a prompt that are read in one step. Enough for matrix products to pay, few enough that a cancel is heard and that running
/// sequences wait no longer than about twenty of their own steps.
pub(crate) const CHUNK_TOKENS: usize = 256;

impl Loaded {
    /// Advances all running sequences and returns how many run or wait.
    pub(crate) fn step(&mut self, emit: &mut dyn FnMut(ServeEvent<'_>)) -> usize {
        self.admit();
        self.finish_empty(emit);
        if !self.running.is_empty() {
            let fed: Vec<usize> = self
                .running
                .iter()
                .map(|sequence| sequence.pending().len().min(CHUNK_TOKENS))
                .collect();
            let begun = Instant::now();
            match self.forward(&fed) {
                Ok(rows) => self.take(&fed, rows, begun.elapsed(), emit),
                Err(diagnostic) => self.fail(&diagnostic, emit),
            }
        }
        self.trim_kept();
        self.running.len() + self.waiting.len()
    }

    fn forward(&mut self, fed: &[usize]) -> Result<Vec<Rows>, Diagnostic> {
        let Loaded {
            engine,
            running,
            threads,
            ..
        } = self;
        let mut batch = Vec::with_capacity(running.len());
        for (sequence, &n_tokens) in running.iter_mut().zip(fed) {
            let Sequence {
                state: Some(state),
                tokens,
                adapter,
                ..
            } = sequence
            else {
                return Err(crate::error::internal("a running sequence has no state"));
            };
            let from = state.len();
            let is_last = from + n_tokens == tokens.len();
            batch.push(Advance {
                tokens: &tokens[from..from + n_tokens],
                state,
                adapter: adapter.as_deref(),
                n_logits: usize::from(is_last),
            });
        }
        match threads {
            Some(threads) => threads.install(|| engine.forward(&mut batch)),
            None => engine.forward(&mut batch),
        }
    }

    /// Ends sequences that want no token at all, without running them.
    fn finish_empty(&mut self, emit: &mut dyn FnMut(ServeEvent<'_>)) {
        let (empty, running) = self.running.drain(..).partition(Sequence::wants_nothing);
        self.running = running;
        for sequence in empty {
            self.end(sequence, DoneReason::Length, emit);
        }
    }

    /// Chooses a token for each sequence whose logits came, and sorts out who goes on.
    fn take(&mut self, fed: &[usize], rows: Vec<Rows>, elapsed: Duration, emit: &mut dyn FnMut(ServeEvent<'_>)) {
        let running = std::mem::take(&mut self.running);
        for ((mut sequence, &n_tokens), mut rows) in running.into_iter().zip(fed).zip(rows) {
            let number = sequence.number;
            let in_prompt = sequence.in_prompt();
            if in_prompt {
                sequence.prompt_time += elapsed;
                let tokens_done = u32::try_from(sequence.tokens.len() - sequence.pending().len()).unwrap_or(u32::MAX);
                if n_tokens > 1 {
                    emit(ServeEvent::Progress {
                        sequence: number,
                        tokens_done,
                    });
                }
            } else {
                sequence.generate_time += elapsed;
            }
            let Some(logits) = rows.first_mut() else {
                self.running.push(sequence);
                continue;
            };
            let begun = Instant::now();
            let said = match sequence.choose(logits, &self.tokenizer) {
                Ok(said) => said,
                Err(diagnostic) => {
                    emit(ServeEvent::Error {
                        sequence: number,
                        diagnostic,
                    });
                    continue;
                }
            };
            sequence.generate_time += begun.elapsed();
            if said.is_answer {
                emit(ServeEvent::Token {
                    sequence: number,
                    id: said.token,
                    text: &said.text,
                    logprob: said.logprob,
                    alternatives: &said.alternatives,
                });
            }
            match said.ended {
                Some(reason) => self.end(sequence, reason, emit),
                None => self.running.push(sequence),
            }
        }
    }

    fn end(&mut self, mut sequence: Sequence, reason: DoneReason, emit: &mut dyn FnMut(ServeEvent<'_>)) {
        let (text, done) = sequence.finish(reason);
        emit(ServeEvent::Done {
            sequence: sequence.number,
            text: &text,
            done,
        });
        self.keep(sequence);
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
