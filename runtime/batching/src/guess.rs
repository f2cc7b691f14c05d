//! Guessing the next tokens, so that one pass over the weights may give several.
//!
//! A guess is fed with the last token, and the engine's own choice at each place decides: as long as the choice is the guess, the next place is valid too (Leviathan
//! et al. 2023, for a proposal that is certain of itself, where accepting with probability `p(guess)` and drawing the rest otherwise is just drawing). So the text is
//! that of one token at a time, whatever is guessed: only the time differs.
//!
//! Where guesses come from: the text's own past ([`look_up`]), which costs nothing, or a small model of the caller's, whose time is counted with the step that its guess
//! was fed in. Each has a [`Speculation`] of its own, since one may pay where the other does not. A small model reads the text before it guesses: whether that pays is the
//! [`Outlay`]'s to say.

use std::time::Duration;

/// Longest run of tokens whose last occurrence is looked for.
const MATCH_MAX: usize = 4;
/// Shortest. A single token recurs everywhere and says little.
const MATCH_MIN: usize = 2;
/// Tokens looked back over.
const LOOK_BACK: usize = 1 << 14;

/// Returns a guess of at most `max` tokens at what follows `tokens`: what followed the last time that they ended like this (prompt lookup; Saxena 2023). Nothing when
/// they never did.
///
/// Cost: a comparison for each token looked back over, some microseconds for a long chat.
pub fn look_up(tokens: &[u32], max: usize) -> &[u32] {
    let tokens = &tokens[tokens.len().saturating_sub(LOOK_BACK)..];
    for n in (MATCH_MIN..=MATCH_MAX).rev() {
        let Some(end) = tokens.len().checked_sub(n) else {
            continue;
        };
        let pattern = &tokens[end..];
        let found = (0..end).rev().find(|&start| tokens[start..start + n] == *pattern);
        if let Some(start) = found {
            let follow = &tokens[start + n..];
            return &follow[..max.min(follow.len())];
        }
    }
    &[]
}

/// Fewest tokens that are guessed at once.
const LEN_MIN: usize = 2;
/// Most tokens that are guessed at once. Up to 8 rows a step cost little more than one as long as memory is the limit.
pub const GUESS_LEN_MAX: usize = 7;
/// Weight of the newest observation in an average.
const NEW: f64 = 0.2;
/// Steps without a guess after guessing did not pay, at first and at most.
const PAUSE_MIN: u32 = 16;
const PAUSE_MAX: u32 = 1024;
/// Guesses that are tried before they are judged.
const TRIALS: u32 = 4;

/// Whether guessing pays for one sequence: more tokens a step against longer steps, both as observed.
#[derive(Clone, Debug)]
pub struct Speculation {
    len: usize,
    /// Seconds of a step without guesses; nothing = not seen yet.
    plain: Option<f64>,
    /// Seconds of a step with guesses, and tokens that it gave.
    guessed: Option<(f64, f64)>,
    trials: u32,
    pause: u32,
    next_pause: u32,
    /// Seconds.
    saved: f64,
}

impl Default for Speculation {
    fn default() -> Speculation {
        Speculation {
            len: LEN_MIN,
            plain: None,
            guessed: None,
            trials: 0,
            pause: 0,
            next_pause: PAUSE_MIN,
            saved: 0.0,
        }
    }
}

impl Speculation {
    /// Returns how many tokens to guess now; 0 while it does not pay, and before a step without guesses was seen.
    pub fn len_wanted(&self) -> usize {
        if self.pause > 0 || self.plain.is_none() {
            0
        } else {
            self.len
        }
    }

    /// Returns the seconds that guesses have saved so far, against one token a step; less than 0 when they lost. Exactly 0 before any was made.
    pub fn saved(&self) -> f64 {
        self.saved
    }

    /// Notes a step: how long it took, how many tokens were guessed in it, and how many of those were right.
    pub fn observe(&mut self, elapsed: Duration, n_guessed: usize, n_right: usize) {
        let seconds = elapsed.as_secs_f64();
        if n_guessed == 0 {
            self.plain = Some(average(self.plain, seconds));
            self.pause = self.pause.saturating_sub(1);
            return;
        }
        let gained = 1.0 + n_right as f64;
        self.saved += self.plain.map_or(0.0, |plain| plain * gained - seconds);
        self.guessed = Some(match self.guessed {
            Some((time, tokens)) => (average(Some(time), seconds), average(Some(tokens), gained)),
            None => (seconds, gained),
        });
        self.len = if n_right == n_guessed {
            (2 * self.len).min(GUESS_LEN_MAX)
        } else {
            n_right.clamp(LEN_MIN, GUESS_LEN_MAX)
        };
        self.trials += 1;
        if self.trials < TRIALS {
            return;
        }
        if let (Some(plain), Some((time, tokens))) = (self.plain, self.guessed) {
            if time > plain * tokens {
                self.pause = self.next_pause;
                self.next_pause = (2 * self.next_pause).min(PAUSE_MAX);
                (self.trials, self.guessed, self.len) = (0, None, LEN_MIN);
            } else {
                self.next_pause = PAUSE_MIN;
            }
        }
    }
}

/// Answers for which texts are read before that is judged.
const ANSWERS_TRIED: u32 = 3;
/// Texts that are passed over after reading one did not pay, at first and at most.
const PASSED_MIN: u32 = 4;
const PASSED_MAX: u32 = 64;

/// Whether it pays that a small model reads a text, which it must before it can guess: what reading takes, against what guesses saved in the answers before.
///
/// It is judged before the reading and not with the guesses behind it: what was read once is paid for whether or not they go on, so that a [`Speculation`] which
/// counted it would end guesses that pay. What an answer will save nobody knows; what they have saved so far is the best word on it.
#[derive(Clone, Debug)]
pub struct Outlay {
    /// Seconds that a token took to read; nothing = not seen yet.
    per_token: Option<f64>,
    /// Seconds that the guesses of an answer saved.
    saved: Option<f64>,
    n_answers: u32,
    passed: u32,
    /// Texts to be passed over before one is tried again.
    pause: u32,
}

impl Default for Outlay {
    fn default() -> Outlay {
        Outlay {
            per_token: None,
            saved: None,
            n_answers: 0,
            passed: 0,
            pause: PASSED_MIN,
        }
    }
}

impl Outlay {
    /// Returns whether to read so many tokens. Of texts that do not seem to pay one is tried now and then: the answers may have changed.
    pub fn is_worth(&mut self, n_tokens: usize) -> bool {
        let (Some(per_token), Some(saved)) = (self.per_token, self.saved) else {
            return true;
        };
        if self.n_answers < ANSWERS_TRIED || per_token * n_tokens as f64 <= saved {
            return true;
        }
        self.passed += 1;
        if self.passed <= self.pause {
            return false;
        }
        self.passed = 0;
        self.pause = (2 * self.pause).min(PASSED_MAX);
        true
    }

    /// Notes how long so many tokens took to read, of all texts that were read together.
    pub fn observe_reading(&mut self, elapsed: Duration, n_tokens: usize) {
        if n_tokens > 0 {
            let per_token = elapsed.as_secs_f64() / n_tokens as f64;
            self.per_token = Some(average(self.per_token, per_token));
        }
    }

    /// Notes a whole answer: how long reading for it took, and the seconds that its guesses saved.
    pub fn observe_answer(&mut self, read: Duration, saved: f64) {
        self.saved = Some(average(self.saved, saved));
        self.n_answers = self.n_answers.saturating_add(1);
        if saved > read.as_secs_f64() {
            self.pause = PASSED_MIN;
        }
    }
}

/// Returns the average so far with one more observation.
fn average(so_far: Option<f64>, new: f64) -> f64 {
    so_far.map_or(new, |old| old + NEW * (new - old))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guess_is_what_followed_last_time() {
        assert_eq!(look_up(&[1, 2, 3, 4, 5, 1, 2], 3), [3, 4, 5]);
        assert_eq!(look_up(&[1, 2, 3, 4, 5, 1, 2], 1), [3]);
        // The longest match wins over a later, shorter one; of equals the latest.
        assert_eq!(look_up(&[7, 1, 2, 3, 9, 2, 3, 8, 7, 1, 2, 3], 2), [9, 2]);
        assert_eq!(look_up(&[2, 3, 4, 2, 3, 5, 2, 3], 1), [5]);
        // A run continues itself.
        assert_eq!(look_up(&[6, 6, 6, 6], 5), [6]);
        for none in [&[][..], &[1], &[1, 1], &[1, 2, 3, 1]] {
            assert!(look_up(none, 5).is_empty(), "{none:?}");
        }
    }

    fn run(speculation: &mut Speculation, steps: usize, costs: f64, right: impl Fn(usize) -> usize) -> (usize, usize) {
        let (mut n_guessing, mut n_tokens) = (0, 0);
        for _ in 0..steps {
            let len = speculation.len_wanted();
            let n_right = right(len).min(len);
            let seconds = if len > 0 { costs } else { 1.0 };
            speculation.observe(Duration::from_secs_f64(seconds), len, n_right);
            n_guessing += usize::from(len > 0);
            n_tokens += 1 + n_right;
        }
        (n_guessing, n_tokens)
    }

    #[test]
    fn good_guesses_grow_and_go_on() {
        let mut speculation = Speculation::default();
        assert_eq!(speculation.len_wanted(), 0, "nothing is known yet");
        let (n_guessing, n_tokens) = run(&mut speculation, 100, 1.3, |len| len);
        assert_eq!(n_guessing, 99);
        assert!(n_tokens > 700, "{n_tokens}");
    }

    #[test]
    fn bad_guesses_stop() {
        let mut speculation = Speculation::default();
        let (n_guessing, _) = run(&mut speculation, 2_000, 1.3, |_| 0);
        assert!((TRIALS as usize..50).contains(&n_guessing), "{n_guessing}");
        // Dear ones too, be they right ever so often.
        let mut speculation = Speculation::default();
        let (n_guessing, _) = run(&mut speculation, 2_000, 9.0, |len| len);
        assert!(n_guessing < 50, "{n_guessing}");
    }

    #[test]
    fn what_is_saved_is_counted_against_plain_steps() {
        let mut speculation = Speculation::default();
        assert_eq!(speculation.saved(), 0.0);
        for (seconds, n_guessed, n_right) in [(1.0, 0, 0), (1.5, 2, 2), (2.0, 4, 0)] {
            speculation.observe(Duration::from_secs_f64(seconds), n_guessed, n_right);
        }
        // 3 tokens in 1.5 seconds, then one in 2.
        assert_eq!(speculation.saved(), 0.5);
    }

    /// Has answers of which each saves some seconds when its text, of so many tokens at a second each, is read. Returns how many were read.
    fn read(outlay: &mut Outlay, n_answers: usize, n_tokens: usize, saved: f64) -> usize {
        let mut n_read = 0;
        for _ in 0..n_answers {
            if outlay.is_worth(n_tokens) {
                n_read += 1;
                let elapsed = Duration::from_secs(n_tokens as u64);
                outlay.observe_reading(elapsed, n_tokens);
                outlay.observe_answer(elapsed, saved);
            }
        }
        n_read
    }

    #[test]
    fn a_text_is_read_when_answers_save_more_than_that_takes() {
        let mut outlay = Outlay::default();
        assert_eq!(read(&mut outlay, 50, 100, 150.0), 50);
        // What is read already costs nothing, and neither does a short text cost what a long one does.
        for (n_tokens, is_worth) in [(0, true), (150, true), (1000, false)] {
            assert_eq!(outlay.is_worth(n_tokens), is_worth, "{n_tokens}");
        }
    }

    #[test]
    fn reading_that_never_pays_becomes_rare() {
        let mut outlay = Outlay::default();
        // The first three, and one behind 4, 8, 16 and 32 that were passed over.
        assert_eq!(read(&mut outlay, 3 + 4 + 1 + 8 + 1 + 16 + 1 + 32 + 1, 100, 50.0), 7);
        assert_eq!(read(&mut outlay, 650, 100, 50.0), 10);
        // Answers that begin to save are found out, and from then on all are read.
        read(&mut outlay, 1000, 100, 1000.0);
        assert_eq!(read(&mut outlay, 50, 100, 1000.0), 50);
    }
}
