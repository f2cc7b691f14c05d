//! Guessing the next tokens, so that one pass over the weights may give several.
//!
//! A guess is fed with the last token, and the engine's own choice at each place decides: as long as the choice is the guess, the next place is valid too (Leviathan
//! et al. 2023, for a proposal that is certain of itself, where accepting with probability `p(guess)` and drawing the rest otherwise is just drawing). So the text is
//! that of one token at a time, whatever is guessed: only the time differs.
//!
//! Where guesses come from: the text's own past ([`look_up`]), which costs nothing, or a small model of the caller's, whose time is counted with the step that its guess
//! was fed in. Each has a [`Speculation`] of its own, since one may pay where the other does not.

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

    /// Notes a step: how long it took, how many tokens were guessed in it, and how many of those were right.
    pub fn observe(&mut self, elapsed: Duration, n_guessed: usize, n_right: usize) {
        let seconds = elapsed.as_secs_f64();
        let average = |old: f64, new: f64| old + NEW * (new - old);
        if n_guessed == 0 {
            self.plain = Some(self.plain.map_or(seconds, |plain| average(plain, seconds)));
            self.pause = self.pause.saturating_sub(1);
            return;
        }
        let gained = 1.0 + n_right as f64;
        self.guessed = Some(match self.guessed {
            Some((time, tokens)) => (average(time, seconds), average(tokens, gained)),
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
}
