//! What is asked of a server, ours or the peer's, and what is kept of when the answers came.
//!
//! A chat is a request with a prompt of its own; all of one size begin at once. Prompts are random tokens, the same ones for both servers in a round and others in
//! each, so that nothing is found again that was not meant to be.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use witness_client::{ClientError, Question, Timed, TimedClient};
use witness_diagnostics::{Diagnostic, Kind};

use crate::cli::Bench;
use crate::context::Outcome;
use crate::render::speed::{LONGEST, Test};

/// Contexts are asked for in such steps: `llama-server` rounds to them.
const CONTEXT_STEP: u64 = 256;
/// How long a server is left alone behind its first answer, as whoever types the next question leaves it: what it still does for its model then is not what is timed.
const REST: Duration = Duration::from_secs(3);
/// Tokens that are read and answered before anything is timed: the model is loaded, pages are touched, clocks are up.
const WARM_UP: (usize, u64) = (32, 4);

/// What is asked.
pub(super) struct Load {
    /// How many chats at once.
    chats: Vec<u64>,
    /// Tokens of each chat's prompt.
    n_prompt: u64,
    /// Tokens of each answer.
    n_answer: u64,
    /// Tokens of the prompt whose first token is waited for.
    n_first: u64,
    /// How many of them were read before.
    seen: Vec<u64>,
    /// How long a set of answers may take.
    limit: Duration,
}

impl Load {
    /// Reads what the flags say. Chats begin with as many tokens as the first depth, first tokens are those of the first prompt.
    pub(super) fn of(arguments: &Bench) -> Outcome<Load> {
        let n_first = arguments.prompt.first().copied().unwrap_or_default();
        if let Some(seen) = arguments.seen.iter().find(|&&seen| seen > n_first) {
            let message = format!("{seen} tokens of a prompt of {n_first} cannot have been read before");
            return Err(Diagnostic::new("witness::cli::bench_seen", Kind::Invalid, message)
                .hint("name as many tokens as the first of the prompts (`-p`) has, or fewer"));
        }
        Ok(Load {
            chats: arguments.chats.clone(),
            n_prompt: arguments.depth.first().copied().unwrap_or_default(),
            n_answer: arguments.generate,
            n_first,
            seen: arguments.seen.clone(),
            limit: Duration::from_secs(arguments.limit),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chats.is_empty() && self.seen.is_empty()
    }

    /// Returns the tokens that a context must hold.
    pub(super) fn n_context(&self) -> u64 {
        let of_chat = if self.chats.is_empty() {
            0
        } else {
            self.n_prompt + self.n_answer
        };
        let of_first = if self.seen.is_empty() { 0 } else { self.n_first + 1 };
        // One more: an answer's last token is not read, but servers differ in whether they want room for it.
        (of_chat.max(of_first) + 1).next_multiple_of(CONTEXT_STEP)
    }

    /// Returns how many answers must find a place at once.
    pub(super) fn n_places(&self) -> u64 {
        self.chats.iter().copied().max().unwrap_or(1)
    }

    /// Has a server load its model and answer once, and lets it rest.
    pub(super) async fn warm_up(&self, server: &TimedClient, prompts: &mut Prompts) -> Outcome {
        let prompt = prompts.take(WARM_UP.0);
        self.within(server.ask(Question {
            prompt: &prompt,
            n_answer: WARM_UP.1,
            reuses: false,
        }))
        .await?;
        tokio::time::sleep(REST).await;
        Ok(())
    }

    /// Asks everything once, and tells what was found.
    pub(super) async fn run(
        &self,
        server: &TimedClient,
        prompts: &mut Prompts,
        tell: &mut dyn FnMut(Test, f64),
    ) -> Outcome {
        for &n_seen in &self.seen {
            let first = self.first_token(server, prompts, n_seen).await?;
            let test = Test::FirstToken {
                prompt: self.n_first,
                seen: n_seen,
            };
            tell(test, milliseconds(first));
        }
        for &n_chats in &self.chats {
            self.chats(server, prompts, n_chats, tell).await?;
        }
        Ok(())
    }

    /// Returns the time to the first token of a prompt, after another that began with the same `n_seen` tokens.
    async fn first_token(&self, server: &TimedClient, prompts: &mut Prompts, n_seen: u64) -> Outcome<Duration> {
        let n_first = usize::try_from(self.n_first).unwrap_or(usize::MAX);
        let n_seen = usize::try_from(n_seen).unwrap_or(usize::MAX).min(n_first);
        let (prompt, mut before) = (prompts.take(n_first), prompts.take(n_first));
        before[..n_seen].copy_from_slice(&prompt[..n_seen]);
        let mut first = Duration::ZERO;
        for prompt in [&before, &prompt] {
            let question = Question {
                prompt,
                n_answer: 1,
                reuses: true,
            };
            first = self.within(server.ask(question)).await?.first;
        }
        Ok(first)
    }

    /// Asks so many questions at once.
    async fn chats(
        &self,
        server: &TimedClient,
        prompts: &mut Prompts,
        n_chats: u64,
        tell: &mut dyn FnMut(Test, f64),
    ) -> Outcome {
        let n_prompt = usize::try_from(self.n_prompt).unwrap_or(usize::MAX);
        let texts: Vec<Vec<u32>> = (0..n_chats).map(|_| prompts.take(n_prompt)).collect();
        let begun = Instant::now();
        let answers = texts.iter().map(|prompt| {
            server.ask(Question {
                prompt,
                n_answer: self.n_answer,
                reuses: false,
            })
        });
        let answers = self.within(try_join_all(answers)).await?;
        let taken = begun.elapsed();
        let n_tokens: u64 = answers.iter().map(|answer| answer.n_tokens).sum();
        tell(
            Test::Chats {
                chats: n_chats,
                prompt: self.n_prompt,
                generate: self.n_answer,
            },
            n_tokens as f64 / taken.as_secs_f64(),
        );
        let gaps = sorted_gaps(&answers);
        for percentile in [50, 99, LONGEST] {
            if let Some(gap) = at_percentile(&gaps, percentile) {
                let test = Test::BetweenTokens {
                    chats: n_chats,
                    percentile,
                };
                tell(test, milliseconds(gap));
            }
        }
        Ok(())
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T, ClientError>>) -> Outcome<T> {
        match tokio::time::timeout(self.limit, work).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(timed_out("no answer came to its end", self.limit)),
        }
    }
}

/// What took too long.
pub(super) fn timed_out(what: &str, limit: Duration) -> Diagnostic {
    let message = format!("{what} within {} seconds", limit.as_secs());
    Diagnostic::new("witness::cli::bench_timeout", Kind::Environment, message)
        .hint("ask for less, or allow more with `--limit SECONDS`")
}

/// Prompts of random tokens.
pub(super) struct Prompts {
    state: u64,
    vocab_size: u64,
}

impl Prompts {
    /// Begins with those of a round.
    pub(super) fn new(round: u64, vocab_size: u64) -> Prompts {
        Prompts {
            state: round,
            vocab_size: vocab_size.max(1),
        }
    }

    fn take(&mut self, n_tokens: usize) -> Vec<u32> {
        let vocab_size = self.vocab_size;
        (0..n_tokens).map(|_| (self.next() % vocab_size) as u32).collect()
    }

    /// The next of SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

fn sorted_gaps(answers: &[Timed]) -> Vec<Duration> {
    let mut gaps: Vec<Duration> = answers.iter().flat_map(|answer| &answer.gaps).copied().collect();
    gaps.sort();
    gaps
}

/// Returns the least of sorted times that so many of a hundred do not exceed.
fn at_percentile(sorted: &[Duration], percentile: u64) -> Option<Duration> {
    let rank = (sorted.len() as u64 * percentile).div_ceil(100).max(1);
    sorted.get(usize::try_from(rank - 1).ok()?).copied()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        let at = |percentile| at_percentile(&times, percentile).unwrap().as_millis();
        assert_eq!((at(0), at(50), at(99), at(100)), (1, 100, 198, 200));
        assert_eq!(at_percentile(&times[..1], 99), Some(times[0]));
        assert_eq!(at_percentile(&[], 50), None);
    }

    #[test]
    fn a_round_has_prompts_of_its_own_and_both_servers_get_them() {
        let take = |round| Prompts::new(round, 1000).take(64);
        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
        assert!(take(3).iter().all(|&id| id < 1000));
        let mut prompts = Prompts::new(1, 1000);
        let (one, other) = (prompts.take(64), prompts.take(64));
        assert_ne!(one[..2], other[..2]);
    }
}
