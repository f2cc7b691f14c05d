//! The chain itself: which candidates remain after each stage, then one draw. The order is that of the [crate] page.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::math::{exp_nonpositive, ln, sum_of_exp};
use crate::penalty;
use crate::select::{self, Candidate, Descending};
use crate::{SamplerConfig, SamplingError};

/// With a mask and no `top_k`, candidates are sought until those not yet seen cannot hold more than this share of the probability.
/// A draw has 53 bits, so one in 2^40 is never noticed, and the whole vocabulary is asked only when the distribution is nearly flat.
const UNSEEN_SHARE_MAX: f64 = 1.0 / (1u64 << 40) as f64;

/// Candidates that are sorted to find the drawn one among them.
const SORTED_MAX: usize = 256;

/// How many candidates are sought first when `top_k` does not say.
const FIRST_BATCH: usize = 64;

/// The chosen token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Its id, an index into the logits.
    pub token: u32,
}

/// One sequence's sampler: options and the state of its random numbers.
///
/// A clone continues with the same random numbers as the original.
#[derive(Clone, Debug)]
pub struct Sampler {
    config: SamplerConfig,
    random: ChaCha8Rng,
}

impl Sampler {
    /// Checks the options and seeds the random numbers.
    ///
    /// # Errors
    /// [`SamplingError::Option`] names the option that no stage can work with.
    pub fn new(config: SamplerConfig, seed: u64) -> Result<Self, SamplingError> {
        config.check()?;
        Ok(Self {
            config,
            random: ChaCha8Rng::seed_from_u64(seed),
        })
    }

    /// Returns the options in force.
    pub fn config(&self) -> &SamplerConfig {
        &self.config
    }

    /// Chooses a token.
    ///
    /// `logits` is `[n_vocab]`, changed while this runs and as before when it returns. `history` is the sequence so far, oldest first.
    /// `mask` says whether a token may come; it is asked in order of probability, each token at most once. Greedy consumes no randomness;
    /// any other call consumes one draw.
    ///
    /// # Errors
    /// [`SamplingError::NotFinite`] for NaN or positive infinity, [`SamplingError::NoCandidate`] when every logit is negative infinity,
    /// [`SamplingError::NothingAllowed`] when the mask refuses everything.
    pub fn sample(
        &mut self,
        logits: &mut [f32],
        history: &[u32],
        mask: Option<&mut dyn FnMut(u32) -> bool>,
    ) -> Result<Choice, SamplingError> {
        let undo = penalty::apply(&self.config, logits, history);
        let choice = self.choose(logits, mask);
        penalty::take_back(logits, &undo);
        choice.map(|candidate| Choice { token: candidate.token })
    }

    fn choose(
        &mut self,
        logits: &[f32],
        mask: Option<&mut dyn FnMut(u32) -> bool>,
    ) -> Result<Candidate, SamplingError> {
        // Here and not before the penalties: what is not finite stays so, and a huge penalty can overflow a logit.
        select::check(logits)?;
        let no_candidate = SamplingError::NoCandidate { n_logits: logits.len() };
        if self.config.temperature <= 0.0 {
            return match mask {
                None => select::best(logits).ok_or(no_candidate),
                Some(mask) => first_allowed(logits, mask),
            };
        }
        let SamplerConfig {
            top_k: k,
            top_p,
            typical_p,
            min_p,
            ..
        } = self.config;
        let is_whole = mask.is_none() && k == 0 && typical_p >= 1.0;
        if is_whole && top_p >= 1.0 {
            let mut kept = at_least(logits, min_p);
            return self.draw_unsorted(&mut kept).ok_or(no_candidate);
        }
        let mut kept = match mask {
            None if is_whole => nucleus(logits, top_p),
            None => top_k(logits, k),
            Some(mask) => top_k_allowed(logits, &self.config, mask)?,
        };
        if kept.is_empty() {
            return Err(no_candidate);
        }
        keep_typical(&mut kept, typical_p);
        // A nucleus is cut already; cutting it again by its own sum would cut too much.
        if !is_whole {
            keep_top_p(&mut kept, top_p);
        }
        keep_min_p(&mut kept, min_p);
        Ok(self.draw(&kept))
    }

    /// Returns a number from 0 to below 1.
    fn uniform(&mut self) -> f64 {
        // 53 random bits: steps that f64 holds exactly.
        (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// As [`Sampler::draw`], of candidates in any order, which is changed: those that cannot be meant are left unsorted, by halves or so.
    fn draw_unsorted(&mut self, kept: &mut [Candidate]) -> Option<Candidate> {
        let temperature = f64::from(self.config.temperature);
        let largest = kept.iter().max()?.logit;
        let sum = |part: &[Candidate]| weights_below(part, largest, temperature).iter().sum::<f64>();
        let mut rest = self.uniform() * sum(kept);
        let mut left = kept;
        while left.len() > SORTED_MAX {
            let half = left.len() / 2;
            let (before, _, _) = left.select_nth_unstable_by(half, |a, b| b.cmp(a));
            let before = sum(before);
            if rest < before {
                left = &mut left[..half];
            } else {
                rest -= before;
                left = &mut left[half..];
            }
        }
        left.sort_unstable_by(|a, b| b.cmp(a));
        Some(walk(left, &weights_below(left, largest, temperature), rest))
    }

    /// Draws from the softmax of the candidates at the configured temperature; `kept` is sorted and not empty.
    fn draw(&mut self, kept: &[Candidate]) -> Candidate {
        let weights = weights(kept, f64::from(self.config.temperature));
        let total: f64 = weights.iter().sum();
        walk(kept, &weights, self.uniform() * total)
    }
}

/// Returns the candidate at which the sum of weights passes `rest`; there is one.
fn walk(kept: &[Candidate], weights: &[f64], mut rest: f64) -> Candidate {
    for (candidate, weight) in kept.iter().zip(weights) {
        if rest < *weight {
            return *candidate;
        }
        rest -= weight;
    }
    // Rounding can leave a sliver beyond the last weight.
    kept[kept.len() - 1]
}

/// Returns `exp((logit - largest) / temperature)` of each candidate: the softmax before its division by the sum.
fn weights(kept: &[Candidate], temperature: f64) -> Vec<f64> {
    let largest = kept
        .iter()
        .map(|candidate| candidate.logit)
        .fold(f32::NEG_INFINITY, f32::max);
    weights_below(kept, largest, temperature)
}

/// The same, of some of the candidates.
fn weights_below(kept: &[Candidate], largest: f32, temperature: f64) -> Vec<f64> {
    kept.iter()
        .map(|candidate| exp_nonpositive((f64::from(candidate.logit) - f64::from(largest)) / temperature))
        .collect()
}

/// Returns the candidates at least `p` times as likely as the most likely, all that are possible for 0, by id.
fn at_least(logits: &[f32], p: f32) -> Vec<Candidate> {
    let Some(best) = select::best(logits) else {
        return Vec::new();
    };
    let least = least(best, p);
    let possible = select::candidates(0, logits).filter(|candidate| candidate.logit > f32::NEG_INFINITY);
    possible
        .filter(|candidate| f64::from(candidate.logit) >= least)
        .collect()
}

/// Returns the most likely token that the mask allows.
fn first_allowed(logits: &[f32], mask: &mut dyn FnMut(u32) -> bool) -> Result<Candidate, SamplingError> {
    let mut n_tested = 0;
    Descending::new(logits, FIRST_BATCH)
        .inspect(|_| n_tested += 1)
        .find(|candidate| mask(candidate.token))
        .ok_or_else(|| none_of(n_tested, logits))
}

/// Returns why nothing was found: the mask refused all that were tested, or there was nothing to test.
fn none_of(n_tested: usize, logits: &[f32]) -> SamplingError {
    match n_tested {
        0 => SamplingError::NoCandidate { n_logits: logits.len() },
        _ => SamplingError::NothingAllowed { n_tested },
    }
}

/// Returns the `k` most likely candidates in order; all of them for 0.
fn top_k(logits: &[f32], k: u32) -> Vec<Candidate> {
    let k = if k == 0 { logits.len() } else { k as usize };
    Descending::new(logits, k).take(k).collect()
}

/// Returns what `top_p` keeps of the whole vocabulary, in order, without sorting the rest of it.
fn nucleus(logits: &[f32], p: f32) -> Vec<Candidate> {
    let Some(best) = select::best(logits) else {
        return Vec::new();
    };
    let weight = |logit: f32| exp_nonpositive(f64::from(logit) - f64::from(best.logit));
    let wanted = f64::from(p) * sum_of_exp(logits, best.logit, 1.0);
    let mut kept = Vec::new();
    let mut sum = 0.0;
    for candidate in Descending::new(logits, FIRST_BATCH) {
        kept.push(candidate);
        sum += weight(candidate.logit);
        if sum >= wanted {
            break;
        }
    }
    kept
}

/// Returns the `top_k` most likely candidates that the mask allows, in order.
fn top_k_allowed(
    logits: &[f32],
    config: &SamplerConfig,
    mask: &mut dyn FnMut(u32) -> bool,
) -> Result<Vec<Candidate>, SamplingError> {
    let k = if config.top_k == 0 {
        usize::MAX
    } else {
        config.top_k as usize
    };
    // A temperature above 1 makes unlikely tokens likelier, so the share of the unseen is judged at the flatter of the two.
    let temperature = f64::from(config.temperature).max(1.0);
    let mut allowed: Vec<Candidate> = Vec::new();
    let mut allowed_weight = 0.0;
    let mut n_tested = 0;
    for candidate in Descending::new(logits, FIRST_BATCH.max(k.min(logits.len() / 8))) {
        if let Some(first) = allowed.first() {
            let weight = exp_nonpositive((f64::from(candidate.logit) - f64::from(first.logit)) / temperature);
            if weight * (logits.len() - n_tested) as f64 <= UNSEEN_SHARE_MAX * allowed_weight {
                break;
            }
            if mask(candidate.token) {
                allowed.push(candidate);
                allowed_weight += weight;
            }
        } else if mask(candidate.token) {
            allowed.push(candidate);
            allowed_weight = 1.0;
        }
        n_tested += 1;
        if allowed.len() == k {
            break;
        }
    }
    if allowed.is_empty() {
        return Err(none_of(n_tested, logits));
    }
    Ok(allowed)
}

/// Keeps the candidates whose surprise is closest to the entropy until their probability exceeds `p`, then restores the order.
fn keep_typical(kept: &mut Vec<Candidate>, p: f32) {
    if p >= 1.0 || kept.len() < 2 {
        return;
    }
    let weights = weights(kept, 1.0);
    let total: f64 = weights.iter().sum();
    let log_total = ln(total);
    let largest = f64::from(kept[0].logit);
    let surprise = |candidate: &Candidate| log_total - (f64::from(candidate.logit) - largest);
    let entropy: f64 = kept
        .iter()
        .zip(&weights)
        .map(|(candidate, weight)| weight / total * surprise(candidate))
        .sum();
    let mut by_distance: Vec<(f64, Candidate, f64)> = kept
        .iter()
        .zip(&weights)
        .map(|(candidate, weight)| ((surprise(candidate) - entropy).abs(), *candidate, weight / total))
        .collect();
    by_distance.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
    let mut sum = 0.0;
    let n_kept = by_distance
        .iter()
        .position(|(_, _, probability)| {
            sum += probability;
            sum > f64::from(p)
        })
        .map_or(by_distance.len(), |last| last + 1);
    kept.clear();
    kept.extend(by_distance[..n_kept].iter().map(|(_, candidate, _)| *candidate));
    kept.sort_unstable_by(|a, b| b.cmp(a));
}

/// Keeps the most likely candidates until their probability reaches `p`; at least one.
fn keep_top_p(kept: &mut Vec<Candidate>, p: f32) {
    if p >= 1.0 || kept.len() < 2 {
        return;
    }
    let weights = weights(kept, 1.0);
    let wanted = f64::from(p) * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    let n_kept = weights
        .iter()
        .position(|weight| {
            sum += weight;
            sum >= wanted
        })
        .map_or(kept.len(), |last| last + 1);
    kept.truncate(n_kept);
}

/// Returns the least logit that is at least `p` times as likely as the best; below all for 0.
fn least(best: Candidate, p: f32) -> f64 {
    match p > 0.0 {
        true => f64::from(best.logit) + ln(f64::from(p.min(1.0))),
        false => f64::NEG_INFINITY,
    }
}

/// Keeps the candidates at least `p` times as likely as the most likely; at least that one.
fn keep_min_p(kept: &mut Vec<Candidate>, p: f32) {
    if p <= 0.0 || kept.len() < 2 {
        return;
    }
    let least = least(kept[0], p);
    let n_kept = kept.partition_point(|candidate| f64::from(candidate.logit) >= least);
    kept.truncate(n_kept.max(1));
}
