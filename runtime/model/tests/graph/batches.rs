//! Several sequences at once: each must get what it would get alone.

use witness_model::{KvType, ModelError, SequenceStep};

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
        let logits = model.forward(&mut steps).unwrap();
        for (at, index) in who.into_iter().enumerate() {
            together[index].extend(logits.rows(at).map(<[f32]>::to_vec));
        }
        assert!(round < 4);
    }
    for (index, (alone, together)) in alone.iter().zip(&together).enumerate() {
        assert!(alone == together, "sequence {index}");
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
    assert!(logits.of(0) == all[17..].concat());
    assert!(logits.of(1).is_empty());
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
    assert!(again == fresh[70..]);
    assert_eq!(
        cache.resident_bytes(),
        2 * 64 * model.config().kv_shape().bytes_per_token(KvType::F32)
    );
}

/// Sequences that begin alike hold the same pages until one of them writes; each then goes on as it would have alone, bit for bit.
#[test]
fn shared_pages_are_copied_by_who_writes() {
    let model = Spec::default().build().load();
    let tokens = Random::new(5).tokens(150, 50);
    for kind in KvType::ALL {
        let pool = model.new_pool(kind, 8);
        let mut first = pool.cache(200);
        run(&model, &tokens[..100], &mut first, None);
        assert_eq!(pool.n_lent(), 2);
        let mut second = pool.resume(first.pages().to_vec(), 90, 200);
        assert_eq!((second.len(), pool.n_lent()), (90, 2));
        assert_eq!(second.pages_wanted(10), 1, "a copy of the page that both hold");
        let alone = {
            let mut cache = pool.cache(200);
            run(&model, &tokens[..90], &mut cache, None);
            run(&model, &tokens[110..150], &mut cache, None)
        };
        assert_eq!(run(&model, &tokens[110..150], &mut second, None), alone);
        assert_eq!(pool.n_lent(), 2 + 2);
        assert!(first.pages()[0].is_same(&second.pages()[0]) && !first.pages()[1].is_same(&second.pages()[1]));
        // The first was not touched by what the second wrote.
        let mut fresh = pool.cache(200);
        run(&model, &tokens[..100], &mut fresh, None);
        let expected = run(&model, &tokens[100..110], &mut fresh, None);
        assert_eq!(run(&model, &tokens[100..110], &mut first, None), expected);
        drop((first, second, fresh));
        assert_eq!(pool.n_lent(), 0);
    }
}

/// A pool that is used up refuses, changes nothing, and goes on when somebody lets go.
#[test]
fn a_pool_that_is_used_up_refuses() {
    let model = Spec::default().build().load();
    let tokens = Random::new(6).tokens(130, 50);
    let pool = model.new_pool(KvType::F16, 2);
    let (mut first, mut second) = (pool.cache(1000), pool.cache(1000));
    run(&model, &tokens[..64], &mut first, None);
    run(&model, &tokens[..60], &mut second, None);
    let mut step = [SequenceStep {
        tokens: &tokens[60..70],
        cache: &mut second,
        adapter: None,
        n_logits: 1,
    }];
    let refused = model.forward(&mut step).unwrap_err();
    assert!(matches!(refused, ModelError::NoPages { max: 2 }), "{refused:?}");
    assert_eq!((second.len(), pool.n_free()), (60, 0));
    drop(first);
    run(&model, &tokens[60..70], &mut second, None);
    assert_eq!((second.len(), pool.n_lent()), (70, 2));
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
