//! Penalties for repeating: applied to the few logits concerned and taken back afterwards, so that the logits stay the model's own.

use crate::SamplerConfig;

/// Logits as they were before [`apply`], by token.
pub(crate) type Undo = Vec<(u32, f32)>;

/// Applies the penalties for the last `repeat_last_n` tokens of `history` and returns how to take them back.
///
/// The repeat penalty divides a positive logit and multiplies the others; then `count * frequency + presence` is subtracted.
/// Ids beyond the vocabulary are ignored. Cost: sorting the tokens looked at.
pub(crate) fn apply(config: &SamplerConfig, logits: &mut [f32], history: &[u32]) -> Undo {
    let has_effect = config.repeat_penalty != 1.0 || config.presence_penalty != 0.0 || config.frequency_penalty != 0.0;
    if !has_effect {
        return Undo::new();
    }
    let n_seen = usize::try_from(config.repeat_last_n)
        .unwrap_or(usize::MAX)
        .min(history.len());
    let mut seen = history[history.len() - n_seen..].to_vec();
    seen.sort_unstable();
    let mut undo = Undo::new();
    for run in seen.chunk_by(|a, b| a == b) {
        let Some(logit) = logits.get_mut(run[0] as usize) else {
            continue;
        };
        undo.push((run[0], *logit));
        if *logit > 0.0 {
            *logit /= config.repeat_penalty;
        } else {
            *logit *= config.repeat_penalty;
        }
        *logit -= run.len() as f32 * config.frequency_penalty + config.presence_penalty;
    }
    undo
}

/// Puts the original logits back.
pub(crate) fn take_back(logits: &mut [f32], undo: &Undo) {
    for &(token, logit) in undo {
        logits[token as usize] = logit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_penalty_does_what_its_name_says_and_is_taken_back() {
        let config = SamplerConfig {
            repeat_last_n: 4,
            repeat_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            ..SamplerConfig::default()
        };
        let original = [4.0, -4.0, 1.0, 3.0];
        let mut logits = original;
        // Token 3 is beyond the last four; 99 is beyond the vocabulary.
        let undo = apply(&config, &mut logits, &[3, 0, 0, 1, 99]);
        assert_eq!(logits, [4.0 / 2.0 - 0.5 - 0.5, -8.0 - 0.25 - 0.5, 1.0, 3.0]);
        take_back(&mut logits, &undo);
        assert_eq!(logits, original);
    }

    #[test]
    fn a_look_back_of_none_or_all() {
        let count = |repeat_last_n| {
            let config = SamplerConfig {
                repeat_last_n,
                ..SamplerConfig::default()
            };
            apply(&config, &mut [1.0; 8], &[1, 2, 3]).len()
        };
        assert_eq!([count(0), count(2), count(-1), count(i64::MAX)], [0, 2, 3, 3]);
    }
}
