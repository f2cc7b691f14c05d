//! How a draft reads and goes on.

use std::time::Instant;

use witness_batching::{GUESS_LEN_MAX, Pending, shares};
use witness_diagnostics::Diagnostic;
use witness_model::{KvCache, SequenceStep};

use super::{Draft, Drafting};
use crate::sequence::Sequence;
use crate::step::CHUNK_TOKENS;

/// Tokens that a draft may lag behind and still read with its guess: what two steps without it say at most.
const LAG_MAX: usize = 2 * (GUESS_LEN_MAX + 1);

/// A sequence that wants a guess.
pub(super) struct Wish<'a> {
    tokens: &'a [u32],
    guess: &'a mut Vec<u32>,
    drafting: &'a mut Drafting,
    /// Taken out of `drafting`, and put back at the end.
    cache: KvCache,
    /// Tokens to be guessed.
    len: usize,
}

impl Wish<'_> {
    fn lag(&self) -> usize {
        self.tokens.len() - self.cache.len()
    }
}

impl Draft {
    /// Makes a sequence's wish for `len` tokens of guess, from what is known of its text. Nothing when this draft cannot follow it, or reading it would not pay.
    pub(super) fn begin<'a>(&mut self, sequence: &'a mut Sequence, len: usize) -> Option<Wish<'a>> {
        let Sequence {
            tokens,
            guess,
            drafting: Some(drafting),
            ..
        } = sequence
        else {
            return None;
        };
        let capacity_tokens = self.capacity_tokens;
        let cache = drafting.cache.take();
        let cache = cache.unwrap_or_else(|| self.pages.begin(0, tokens, capacity_tokens));
        let vocab_size = self.model.config().vocab_size;
        let is_strange = tokens[cache.len()..].iter().any(|&token| token as usize >= vocab_size);
        let lag = tokens.len() - cache.len();
        if is_strange || tokens.len() + len > capacity_tokens || !self.is_worth_reading(drafting, lag) {
            drafting.give_up();
            return None;
        }
        Some(Wish {
            tokens,
            guess,
            drafting,
            cache,
            len,
        })
    }

    /// Judges once for each stretch that is too long to be read with a guess.
    fn is_worth_reading(&mut self, drafting: &mut Drafting, lag: usize) -> bool {
        let is_long = lag > LAG_MAX;
        let is_worth = !is_long || drafting.is_reading || self.outlay.is_worth(lag);
        drafting.is_reading = is_long && is_worth;
        is_worth
    }

    /// Guesses for those that this draft has caught up with. The others are read on, a chunk of all of them together.
    pub(super) fn guess(
        &mut self,
        mut wishes: Vec<Wish<'_>>,
        vocab_size: usize,
        ends: impl Fn(u32) -> bool,
    ) -> Result<(), Diagnostic> {
        self.catch_up(&mut wishes)?;
        let begun = Instant::now();
        let is_going = |wish: &Wish<'_>| !wish.drafting.is_over && wish.lag() <= LAG_MAX;
        let mut going: Vec<usize> = (0..wishes.len()).filter(|&index| is_going(&wishes[index])).collect();
        while !going.is_empty() {
            let fed: Vec<usize> = wishes
                .iter()
                .enumerate()
                .map(|(index, wish)| match going.contains(&index) {
                    true => (wish.tokens.len() + wish.guess.len()).saturating_sub(wish.cache.len()),
                    false => 0,
                })
                .collect();
            let fed = self.make_room(&mut wishes, fed);
            let chosen = self.forward(&mut wishes, &fed, 1)?;
            going.retain(|&index| {
                let Some(token) = chosen[index].filter(|&token| (token as usize) < vocab_size) else {
                    return false;
                };
                wishes[index].guess.push(token);
                wishes[index].guess.len() < wishes[index].len && !ends(token)
            });
        }
        let spent = begun.elapsed();
        for wish in wishes {
            // One that gave up has let go of its pages.
            if !wish.drafting.is_over {
                wish.drafting.cache = Some(wish.cache);
            }
            wish.drafting.spent = (!wish.guess.is_empty()).then_some(spent);
        }
        Ok(())
    }

    /// Reads a chunk of what is too long to be read with a guess.
    fn catch_up(&mut self, wishes: &mut [Wish<'_>]) -> Result<(), Diagnostic> {
        let behind: Vec<Pending> = wishes
            .iter()
            .map(|wish| Pending {
                // The last token is read with the guess.
                n_tokens: if wish.lag() > LAG_MAX { wish.lag() - 1 } else { 0 },
                is_prompt: true,
            })
            .collect();
        let fed = shares(&behind, CHUNK_TOKENS);
        if fed.iter().any(|&n_tokens| n_tokens > 0) {
            let fed = self.make_room(wishes, fed);
            let n_fed: usize = fed.iter().sum();
            let begun = Instant::now();
            self.forward(wishes, &fed, 0)?;
            let elapsed = begun.elapsed();
            self.n_read += n_fed;
            self.outlay.observe_reading(elapsed, n_fed);
            for (wish, &n_tokens) in wishes.iter_mut().zip(&fed).filter(|(_, n_tokens)| **n_tokens > 0) {
                wish.drafting.read += elapsed.mul_f64(n_tokens as f64 / n_fed as f64);
            }
        }
        Ok(())
    }

    /// Makes sure that there are pages for what is to be fed; where there are not, sequences give up, the last one first. Returns what can be fed.
    fn make_room(&mut self, wishes: &mut [Wish<'_>], mut fed: Vec<usize>) -> Vec<usize> {
        loop {
            let wanted = wishes
                .iter()
                .zip(&fed)
                .map(|(wish, &n_tokens)| wish.cache.pages_wanted(n_tokens));
            if self.pages.make_room(wanted.sum()) {
                return fed;
            }
            let Some(last) = fed.iter().rposition(|&n_tokens| n_tokens > 0) else {
                return fed;
            };
            fed[last] = 0;
            let wish = &mut wishes[last];
            wish.cache.truncate(0);
            wish.drafting.give_up();
        }
    }

    /// Feeds so many tokens of each text and its guess. Returns the most likely token behind each, where logits are wanted.
    fn forward(&self, wishes: &mut [Wish<'_>], fed: &[usize], n_logits: usize) -> Result<Vec<Option<u32>>, Diagnostic> {
        let tokens: Vec<Vec<u32>> = wishes
            .iter()
            .zip(fed)
            .map(|(wish, &n_tokens)| {
                let text = wish.tokens.iter().chain(wish.guess.iter());
                text.skip(wish.cache.len()).take(n_tokens).copied().collect()
            })
            .collect();
        let steps = wishes.iter_mut().zip(&tokens).filter(|(_, tokens)| !tokens.is_empty());
        let mut steps: Vec<SequenceStep<'_>> = steps
            .map(|(wish, tokens)| SequenceStep {
                tokens,
                cache: &mut wish.cache,
                adapter: None,
                n_logits,
            })
            .collect();
        if steps.is_empty() {
            return Ok(vec![None; fed.len()]);
        }
        let logits = self.model.forward(&mut steps)?;
        let mut at = 0;
        let chosen = tokens.iter().map(|tokens| {
            if tokens.is_empty() {
                return None;
            }
            at += 1;
            logits.rows(at - 1).next().and_then(most_likely)
        });
        Ok(chosen.collect())
    }
}

/// Returns the place of the largest number, the first of equals; nothing where none is a number.
fn most_likely(logits: &[f32]) -> Option<u32> {
    let numbers = logits.iter().enumerate().filter(|(_, logit)| !logit.is_nan());
    let best = numbers.reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map(|(token, _)| token as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_likely_is_a_number() {
        for (logits, expected) in [
            (&[0.0, 2.0, 2.0, 1.0][..], Some(1)),
            (&[f32::NAN, -1.0, f32::NAN], Some(1)),
            (&[f32::NEG_INFINITY; 2], Some(0)),
            (&[f32::NAN], None),
            (&[], None),
        ] {
            assert_eq!(most_likely(logits), expected, "{logits:?}");
        }
    }
}
