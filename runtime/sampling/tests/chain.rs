//! The chain against its slow, obvious twin: sort the whole vocabulary, use the standard library's exponential, cut stage by stage.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use witness_sampling::{LogProbs, Sampler, SamplerConfig, SamplingError, log_softmax_of, top_logprobs};

/// Random numbers for the cases; the draws themselves have their own.
struct Cases(ChaCha8Rng);

impl Cases {
    fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }

    fn unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1u32 << 24) as f32
    }

    fn logits(&mut self, n: usize) -> Vec<f32> {
        // Sometimes coarse, so that ties are common; sometimes with impossible tokens.
        let step = [0.0, 0.5, 2.0][self.below(3)];
        let n_impossible = self.below(3);
        (0..n)
            .map(|_| {
                let logit = (self.unit() - 0.5) * 20.0;
                if self.below(10) < n_impossible {
                    f32::NEG_INFINITY
                } else if step > 0.0 {
                    (logit / step).round() * step
                } else {
                    logit
                }
            })
            .collect()
    }

    fn config(&mut self) -> SamplerConfig {
        let pick = |cases: &mut Self, values: &[f32]| values[cases.below(values.len())];
        SamplerConfig {
            temperature: pick(self, &[0.0, 0.3, 0.8, 1.0, 1.7]),
            top_k: pick(self, &[0.0, 1.0, 5.0, 40.0, 1000.0]) as u32,
            top_p: pick(self, &[0.0, 0.3, 0.9, 0.99, 1.0, 1.5]),
            min_p: pick(self, &[0.0, 0.05, 0.5, 1.0]),
            typical_p: pick(self, &[0.2, 0.7, 1.0, 1.0]),
            repeat_last_n: pick(self, &[-1.0, 0.0, 3.0, 64.0]) as i64,
            repeat_penalty: pick(self, &[0.8, 1.0, 1.1, 2.0]),
            presence_penalty: pick(self, &[0.0, 0.0, 0.7, -0.5]),
            frequency_penalty: pick(self, &[0.0, 0.0, 0.3]),
        }
    }
}

fn naive_softmax(kept: &[(u32, f32)], temperature: f64) -> Vec<f64> {
    let largest = kept.iter().map(|(_, logit)| f64::from(*logit)).fold(f64::MIN, f64::max);
    let weights: Vec<f64> = kept
        .iter()
        .map(|(_, logit)| ((f64::from(*logit) - largest) / temperature).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

fn by_logit(kept: &mut [(u32, f32)]) {
    kept.sort_by(|a, b| b.1.partial_cmp(&a.1).expect("no NaN").then(a.0.cmp(&b.0)));
}

/// Returns what the specification of the chain returns.
fn naive(
    config: &SamplerConfig,
    logits: &[f32],
    history: &[u32],
    allowed: &dyn Fn(u32) -> bool,
    random: &mut ChaCha8Rng,
) -> Option<u32> {
    let n_seen = if config.repeat_last_n < 0 {
        history.len()
    } else {
        history.len().min(config.repeat_last_n as usize)
    };
    let seen = &history[history.len() - n_seen..];
    let mut kept: Vec<(u32, f32)> = logits
        .iter()
        .enumerate()
        .map(|(token, &logit)| {
            let token = token as u32;
            let count = seen.iter().filter(|other| **other == token).count();
            let mut penalised = logit;
            if count > 0 {
                penalised = if logit > 0.0 {
                    logit / config.repeat_penalty
                } else {
                    logit * config.repeat_penalty
                };
                penalised -= count as f32 * config.frequency_penalty + config.presence_penalty;
            }
            (token, penalised)
        })
        .filter(|(token, logit)| *logit > f32::NEG_INFINITY && allowed(*token))
        .collect();
    by_logit(&mut kept);
    if kept.is_empty() {
        return None;
    }
    if config.temperature <= 0.0 {
        return Some(kept[0].0);
    }
    if config.top_k > 0 {
        kept.truncate(config.top_k as usize);
    }
    if config.typical_p < 1.0 && kept.len() > 1 {
        let probabilities = naive_softmax(&kept, 1.0);
        let entropy: f64 = probabilities.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
        let mut order: Vec<usize> = (0..kept.len()).collect();
        let distance = |i: usize| (-probabilities[i].ln() - entropy).abs();
        order.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)).then(a.cmp(&b)));
        let mut sum = 0.0;
        let n = order.iter().position(|&i| {
            sum += probabilities[i];
            sum > f64::from(config.typical_p)
        });
        order.truncate(n.map_or(order.len(), |last| last + 1));
        kept = order.into_iter().map(|i| kept[i]).collect();
        by_logit(&mut kept);
    }
    if config.top_p < 1.0 {
        let probabilities = naive_softmax(&kept, 1.0);
        let mut sum = 0.0;
        let n = probabilities.iter().position(|p| {
            sum += p;
            sum >= f64::from(config.top_p)
        });
        kept.truncate(n.map_or(kept.len(), |last| last + 1));
    }
    if config.min_p > 0.0 {
        let probabilities = naive_softmax(&kept, 1.0);
        let n = probabilities
            .iter()
            .filter(|p| **p >= f64::from(config.min_p) * probabilities[0] * (1.0 - 1e-12))
            .count();
        kept.truncate(n.max(1));
    }
    let probabilities = naive_softmax(&kept, f64::from(config.temperature));
    let mut rest = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    for ((token, _), probability) in kept.iter().zip(&probabilities) {
        if rest < *probability {
            return Some(*token);
        }
        rest -= probability;
    }
    kept.last().map(|(token, _)| *token)
}

/// With `typical_p`, candidates of equal distance are cut in an order that one bit of rounding decides; ties are kept apart there.
fn without_ties(logits: &mut [f32]) {
    for (i, logit) in logits.iter_mut().enumerate() {
        *logit += i as f32 * 1e-4;
    }
}

#[test]
fn every_stage_keeps_what_the_obvious_one_keeps() {
    let mut cases = Cases::new(1);
    for round in 0..4000 {
        let n = [1, 2, 7, 50, 700][cases.below(5)];
        let config = cases.config();
        let mut logits = cases.logits(n);
        if config.typical_p < 1.0 {
            without_ties(&mut logits);
        }
        let history: Vec<u32> = (0..cases.below(9)).map(|_| cases.below(n + 3) as u32).collect();
        // No mask, one that allows most, and one that allows few.
        let modulus = [1, 3, 40][cases.below(3)];
        let allowed =
            |token: u32| modulus == 1 || (modulus == 3 && token % 3 != 1) || (modulus == 40 && token % 40 == 7);
        let seed = cases.0.next_u64();
        let mut sampler = Sampler::new(config, seed).expect("options");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..3 {
            let before = logits.clone();
            let mut mask = |token: u32| allowed(token);
            let result = sampler.sample(&mut logits, &history, (modulus > 1).then_some(&mut mask));
            assert_eq!(logits, before, "the logits are given back");
            let expected = naive(&config, &logits, &history, &allowed, &mut random);
            assert_eq!(
                result.as_ref().ok().map(|choice| choice.token),
                expected,
                "round {round}: {config:?}: {result:?}"
            );
        }
    }
}

/// Real vocabularies are large; this one takes the paths that small ones do not.
#[test]
fn a_large_vocabulary_gives_the_same_tokens() {
    let mut cases = Cases::new(2);
    for (top_k, top_p, temperature) in [(40, 0.9, 0.8), (0, 0.95, 1.0), (0, 1.0, 1.3), (5000, 1.0, 2.0)] {
        let config = SamplerConfig {
            top_k,
            top_p,
            temperature,
            ..SamplerConfig::default()
        };
        let mut logits: Vec<f32> = (0..150_000).map(|_| cases.unit() * 12.0).collect();
        for masked in [false, true] {
            let mut sampler = Sampler::new(config, 9).expect("options");
            let mut random = ChaCha8Rng::seed_from_u64(9);
            for _ in 0..2 {
                let mut mask = |token: u32| token.is_multiple_of(2);
                let choice = sampler
                    .sample(&mut logits, &[1, 2, 3], masked.then_some(&mut mask))
                    .expect("a token");
                let expected = naive(
                    &config,
                    &logits,
                    &[1, 2, 3],
                    &|token: u32| !masked || token.is_multiple_of(2),
                    &mut random,
                );
                assert_eq!(Some(choice.token), expected, "{config:?}, masked: {masked}");
            }
        }
    }
}

/// A mask is asked about likely tokens only: this is what makes constrained output cheap.
#[test]
fn a_mask_is_asked_lazily_and_never_twice() {
    let mut cases = Cases::new(3);
    let mut logits: Vec<f32> = (0..100_000).map(|_| cases.unit() * 30.0).collect();
    for temperature in [0.0, 0.8] {
        let mut asked = Vec::new();
        let mut mask = |token: u32| {
            asked.push(token);
            token.is_multiple_of(10)
        };
        let config = SamplerConfig {
            temperature,
            ..SamplerConfig::default()
        };
        Sampler::new(config, 1)
            .expect("options")
            .sample(&mut logits, &[], Some(&mut mask))
            .expect("a token");
        assert!(asked.len() < 1000, "asked {} times", asked.len());
        assert!(
            asked
                .windows(2)
                .all(|pair| logits[pair[0] as usize] >= logits[pair[1] as usize]),
            "in order of probability"
        );
        let n_asked = asked.len();
        asked.sort_unstable();
        asked.dedup();
        assert_eq!(asked.len(), n_asked);
    }
}

/// 200,000 draws from five tokens: the counts must lie within five standard deviations of what the softmax says.
#[test]
fn draws_follow_the_distribution() {
    let config = SamplerConfig {
        temperature: 0.7,
        top_k: 0,
        top_p: 1.0,
        repeat_penalty: 1.0,
        ..SamplerConfig::default()
    };
    let mut logits = [1.0f32, 0.0, -1.0, 2.0, 0.5];
    let kept: Vec<(u32, f32)> = logits
        .iter()
        .enumerate()
        .map(|(token, logit)| (token as u32, *logit))
        .collect();
    let expected = naive_softmax(&kept, 0.7);
    let mut sampler = Sampler::new(config, 123).expect("options");
    let mut counts = [0u32; 5];
    let n_draws = 200_000;
    for _ in 0..n_draws {
        counts[sampler.sample(&mut logits, &[], None).expect("a token").token as usize] += 1;
    }
    for (count, p) in counts.iter().zip(&expected) {
        let deviation = (f64::from(n_draws) * p * (1.0 - p)).sqrt();
        let difference = f64::from(*count) - f64::from(n_draws) * p;
        assert!(difference.abs() < 5.0 * deviation, "{counts:?} for {expected:?}");
    }
}

/// The recorded tokens pin the generator, the order of the stages and the arithmetic: they may not change between platforms or versions.
#[test]
fn a_seed_means_the_same_tokens_for_ever() {
    let mut cases = Cases::new(4);
    let mut logits: Vec<f32> = (0..1000).map(|_| cases.unit() * 8.0).collect();
    let draw = |seed: u64, logits: &mut [f32]| -> Vec<u32> {
        let mut sampler = Sampler::new(SamplerConfig::default(), seed).expect("options");
        let mut history = Vec::new();
        for _ in 0..8 {
            history.push(sampler.sample(logits, &history.clone(), None).expect("a token").token);
        }
        history
    };
    assert_eq!(draw(42, &mut logits), [902, 223, 189, 111, 621, 82, 144, 286]);
    assert_eq!(draw(42, &mut logits), draw(42, &mut logits));
    assert_ne!(draw(42, &mut logits), draw(43, &mut logits));
}

#[test]
fn greedy_takes_the_lowest_id_of_the_best() {
    let mut sampler = Sampler::new(SamplerConfig::greedy(), 0).expect("options");
    assert_eq!(
        sampler
            .sample(&mut [1.0, 3.0, 3.0, -0.0], &[1], None)
            .expect("a token")
            .token,
        1
    );
    assert_eq!(sampler.sample(&mut [-0.0, 0.0], &[], None).expect("a token").token, 0);
    let mut mask = |token| token == 2;
    assert_eq!(
        sampler
            .sample(&mut [1.0, 3.0, 3.0], &[], Some(&mut mask))
            .expect("a token")
            .token,
        2
    );
}

#[test]
fn what_cannot_be_sampled_is_a_typed_error() {
    let sample = |logits: &[f32]| {
        Sampler::new(SamplerConfig::default(), 0)
            .expect("options")
            .sample(&mut logits.to_vec(), &[], None)
    };
    assert!(matches!(
        sample(&[0.0, f32::NAN]),
        Err(SamplingError::NotFinite { token: 1, .. })
    ));
    assert!(matches!(
        sample(&[f32::INFINITY, 0.0]),
        Err(SamplingError::NotFinite { token: 0, .. })
    ));
    assert_eq!(sample(&[]), Err(SamplingError::NoCandidate { n_logits: 0 }));
    assert_eq!(
        sample(&[f32::NEG_INFINITY; 3]),
        Err(SamplingError::NoCandidate { n_logits: 3 })
    );
    assert_eq!(sample(&[f32::NEG_INFINITY, 1.0]).expect("a token").token, 1);
    let mut nothing = |_| false;
    let refused =
        Sampler::new(SamplerConfig::default(), 0)
            .expect("options")
            .sample(&mut [0.0; 5], &[], Some(&mut nothing));
    assert_eq!(refused, Err(SamplingError::NothingAllowed { n_tested: 5 }));
    let huge = SamplerConfig {
        repeat_penalty: f32::MIN_POSITIVE,
        ..SamplerConfig::default()
    };
    let overflown = Sampler::new(huge, 0)
        .expect("options")
        .sample(&mut [1e30, 0.0], &[0], None);
    assert!(matches!(overflown, Err(SamplingError::NotFinite { token: 0, .. })));
    for config in [
        SamplerConfig {
            temperature: f32::NAN,
            ..SamplerConfig::default()
        },
        SamplerConfig {
            top_p: f32::INFINITY,
            ..SamplerConfig::default()
        },
        SamplerConfig {
            repeat_penalty: 0.0,
            ..SamplerConfig::default()
        },
    ] {
        assert!(matches!(Sampler::new(config, 0), Err(SamplingError::Option { .. })));
    }
}

#[test]
fn log_probabilities_are_those_of_the_raw_logits() {
    let mut cases = Cases::new(5);
    for _ in 0..200 {
        let n = 1 + cases.below(300);
        let mut logits = cases.logits(n);
        logits[0] = 0.0;
        let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        let log_probs = LogProbs::of(&logits).expect("finite");
        for (token, logit) in logits.iter().enumerate() {
            let expected = (f64::from(*logit) - total.ln()) as f32;
            let found = log_probs.token(token as u32).expect("in range");
            assert!(
                found == expected || (found - expected).abs() < 1e-5,
                "{found} {expected}"
            );
        }
        let top = top_logprobs(&logits, 5).expect("finite");
        let mut sorted: Vec<(u32, f32)> = logits
            .iter()
            .enumerate()
            .map(|(i, l)| (i as u32, *l))
            .filter(|(_, l)| *l > f32::NEG_INFINITY)
            .collect();
        by_logit(&mut sorted);
        assert_eq!(
            top.iter().map(|(token, _)| *token).collect::<Vec<_>>(),
            sorted.iter().take(5).map(|(token, _)| *token).collect::<Vec<_>>()
        );
        assert_eq!(top[0].1, log_softmax_of(&logits, top[0].0).expect("in range"));
    }
    assert_eq!(
        log_softmax_of(&[0.0], 1),
        Err(SamplingError::UnknownToken { token: 1, n_logits: 1 })
    );
    assert_eq!(log_softmax_of(&[0.0, f32::NEG_INFINITY], 1), Ok(f32::NEG_INFINITY));
}
