//! Several sequences at once: each must get what it would get alone.

use witness_model::{ModelError, SequenceStep};

use crate::support::{Random, Spec, run};

/// Three sequences of different lengths, advanced together in uneven pieces, against each by itself.
#[test]
fn a_batch_of_three_equals_one_by_one() {
    let tiny = Spec {
        windows: Some(vec![Some(7), None]),
        ..Spec::default()
    }
    .build();
    let model = tiny.load();
    let prompts: Vec<Vec<u32>> = [30, 11, 21]
        .iter()
        .map(|&n| Random::new(n).tokens(n as usize, 50))
        .collect();
    let alone: Vec<Vec<Vec<f32>>> = prompts
        .iter()
        .map(|prompt| run(&model, prompt, &mut model.new_cache(64), None))
        .collect();
    let mut caches: Vec<_> = prompts.iter().map(|_| model.new_cache(64)).collect();
    let mut together: Vec<Vec<Vec<f32>>> = vec![Vec::new(); 3];
    for (round, piece) in [4, 1, 9, 16].into_iter().enumerate() {
        let mut steps: Vec<SequenceStep<'_>> = Vec::new();
        let mut who = Vec::new();
        for (index, cache) in caches.iter_mut().enumerate() {
            let from = cache.len();
            let tokens = &prompts[index][from..(from + piece + index).min(prompts[index].len())];
            if !tokens.is_empty() {
                who.push(index);
                steps.push(SequenceStep {
                    tokens,
                    cache,
                    adapter: None,
                    n_logits: tokens.len(),
                });
            }
        }
        for (index, logits) in who.into_iter().zip(model.forward(&mut steps).unwrap()) {
            together[index].extend(logits.unwrap().to_vec2::<f32>().unwrap());
        }
        assert!(round < 4);
    }
    for (index, (alone, together)) in alone.iter().zip(&together).enumerate() {
        assert_eq!(alone.len(), together.len(), "sequence {index}");
        let worst = alone
            .iter()
            .flatten()
            .zip(together.iter().flatten())
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(worst < 2e-5, "sequence {index}: {worst}");
    }
}

/// Logits come for the last positions only when fewer are asked for, and not at all when none are.
#[test]
fn as_many_logits_as_asked_for() {
    let tiny = Spec::default().build();
    let model = tiny.load();
    let tokens = Random::new(3).tokens(20, 50);
    let all = run(&model, &tokens, &mut model.new_cache(20), None);
    let (mut first, mut second) = (model.new_cache(20), model.new_cache(20));
    let mut batch = [
        SequenceStep {
            tokens: &tokens,
            cache: &mut first,
            adapter: None,
            n_logits: 3,
        },
        SequenceStep {
            tokens: &tokens,
            cache: &mut second,
            adapter: None,
            n_logits: 0,
        },
    ];
    let logits = model.forward(&mut batch).unwrap();
    let three = logits[0].as_ref().unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(three.len(), 3);
    let worst = three
        .iter()
        .flatten()
        .zip(all[17..].iter().flatten())
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(worst < 2e-5, "{worst}");
    assert!(logits[1].is_none());
}

/// A cache cut back to a common prefix continues as a fresh one would.
#[test]
fn a_cut_cache_continues() {
    let tiny = Spec::default().build();
    let model = tiny.load();
    let tokens = Random::new(3).tokens(80, 50);
    let mut cache = model.new_cache(200);
    run(&model, &tokens, &mut cache, None);
    cache.truncate(70);
    let again = run(&model, &tokens[70..], &mut cache, None);
    let fresh = run(&model, &tokens, &mut model.new_cache(80), None);
    let worst = again
        .iter()
        .flatten()
        .zip(fresh[70..].iter().flatten())
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(worst < 2e-5, "{worst}");
    assert_eq!(
        cache.resident_bytes(),
        2 * 64 * model.config().kv_shape().bytes_per_token()
    );
}

/// A refused batch changes no cache.
#[test]
fn refusals_leave_caches_alone() {
    let model = Spec::default().build().load();
    let mut cache = model.new_cache(10);
    run(&model, &[1, 2, 3], &mut cache, None);
    let mut other = model.new_cache(10);
    let mut refused = |tokens: &[u32], n_logits: usize| {
        let mut batch = [
            SequenceStep {
                tokens: &[5],
                cache: &mut other,
                adapter: None,
                n_logits: 1,
            },
            SequenceStep {
                tokens,
                cache: &mut cache,
                adapter: None,
                n_logits,
            },
        ];
        let error = model.forward(&mut batch).unwrap_err();
        assert_eq!((cache.len(), other.len()), (3, 0));
        error
    };
    assert!(matches!(
        refused(&[50], 1),
        ModelError::Token {
            token: 50,
            vocab_size: 50
        }
    ));
    assert!(matches!(
        refused(&[1; 8], 1),
        ModelError::ContextFull {
            wanted: 11,
            capacity: 10
        }
    ));
    assert!(matches!(refused(&[], 0), ModelError::Batch(_)));
    assert!(matches!(refused(&[1], 2), ModelError::Batch(_)));
}
