//! Several sequences at once: each must get what it would get alone.

use witness_formats::gguf::GgmlType;
use witness_formats::gguf::rows::RowOrder;
use witness_model::weight::PlainType;
use witness_model::{Adapter, KvType, Logits, Model, ModelError, SequenceStep, Threads};

use crate::peft::{LINEARS, config, linears, pairs, peft};
use crate::support::{Random, Spec, Tiny, quantized, run};

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

/// Makes an adapter of rank 3 for every linear layer, or for two of them.
fn adapter(tiny: &Tiny, model: &Model, names: &[&str], seed: u64) -> Adapter {
    let targets: Vec<&str> = names.iter().filter_map(|name| name.rsplit('.').next()).collect();
    let (entries, _) = pairs(tiny, &linears(names), seed);
    model.adapter(peft(&config(&targets, &[]), &entries).unwrap()).unwrap()
}

/// Goal: what a sequence gets is the same bits alone and in one piece on one thread, and beside others with other adapters, in pieces, on several threads. Lengths
/// go over every size of a group of tokens; weights are plain and quantized.
#[test]
fn a_sequence_depends_on_nothing_but_itself() {
    let plain = |dtype| {
        Spec {
            dtype,
            ..Spec::default()
        }
        .build()
    };
    let models = [
        plain(PlainType::F32),
        plain(PlainType::BF16),
        quantized(GgmlType::Q4_K, 2, false, RowOrder::Halves),
        quantized(GgmlType::Q6_K, 2, true, RowOrder::Halves),
    ];
    for tiny in &models {
        let one = Threads::new(1).unwrap();
        let model = one.install(|| tiny.load());
        let first = adapter(tiny, &model, &LINEARS, 1);
        let second = adapter(tiny, &model, &["self_attn.v_proj", "mlp.up_proj"], 2);
        let adapters = [Some(&first), None, Some(&second), Some(&first), None, Some(&second)];
        let lengths = [1, 5, 23, 38, 70, 90];
        let prompts = lengths.map(|n| Random::new(n as u64).tokens(n, 50));
        let alone: Vec<Vec<f32>> = one.install(|| {
            let each = prompts.iter().zip(adapters);
            each.map(|(prompt, adapter)| run(&model, prompt, &mut model.new_cache(100), adapter).concat())
                .collect()
        });
        assert!(alone[3] != run(&model, &prompts[3], &mut model.new_cache(100), None).concat());
        for (n_threads, pieces) in [(1, [100; 6]), (3, [1, 2, 3, 17, 33, 40]), (2, [64, 1, 16, 38, 7, 90])] {
            let threads = Threads::new(n_threads).unwrap();
            let mut caches = prompts.each_ref().map(|_| model.new_cache(100));
            let mut together = vec![Vec::new(); prompts.len()];
            let mut logits = Logits::default();
            while together.iter().zip(&alone).any(|(some, all)| some.len() < all.len()) {
                let (mut steps, mut who) = (Vec::new(), Vec::new());
                for (index, cache) in caches.iter_mut().enumerate() {
                    let (done, prompt) = (cache.len(), &prompts[index]);
                    if done < prompt.len() {
                        let tokens = &prompt[done..(done + pieces[index]).min(prompt.len())];
                        who.push(index);
                        steps.push(SequenceStep {
                            tokens,
                            cache,
                            adapter: adapters[index],
                            n_logits: tokens.len(),
                        });
                    }
                }
                threads
                    .install(|| model.forward_into(&mut steps, None, &mut logits))
                    .unwrap();
                for (at, index) in who.into_iter().enumerate() {
                    together[index].extend_from_slice(logits.of(at));
                }
            }
            for (index, (together, alone)) in together.iter().zip(&alone).enumerate() {
                assert!(together == alone, "sequence {index}, {n_threads} threads");
            }
        }
    }
}

/// Rows that no logits are asked for change nothing: neither those that are, nor what is generated behind them.
#[test]
fn rows_without_logits_leave_the_others_as_they_are() {
    let tiny = quantized(GgmlType::Q4_K, 2, false, RowOrder::Halves);
    let model = tiny.load();
    let first = adapter(&tiny, &model, &LINEARS, 1);
    let prompts = [20, 30, 40].map(|n| Random::new(n as u64).tokens(n, 50));
    let adapters = [Some(&first), None, Some(&first)];
    let all: Vec<Vec<Vec<f32>>> = prompts
        .iter()
        .zip(adapters)
        .map(|(prompt, adapter)| run(&model, prompt, &mut model.new_cache(50), adapter))
        .collect();
    let mut caches = prompts.each_ref().map(|_| model.new_cache(50));
    for (range, n_logits) in [(0..10, [0, 0, 0]), (10..19, [0, 2, 9]), (19..20, [1, 0, 1])] {
        let mut steps: Vec<SequenceStep<'_>> = Vec::new();
        for (index, cache) in caches.iter_mut().enumerate() {
            steps.push(SequenceStep {
                tokens: &prompts[index][range.clone()],
                cache,
                adapter: adapters[index],
                n_logits: n_logits[index],
            });
        }
        let logits = model.forward(&mut steps).unwrap();
        for (index, n_logits) in n_logits.into_iter().enumerate() {
            assert!(
                logits.of(index) == all[index][range.end - n_logits..range.end].concat(),
                "{range:?} {index}"
            );
        }
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
        assert_eq!(first.pages()[0].id(), second.pages()[0].id());
        assert_ne!(first.pages()[1].id(), second.pages()[1].id());
        // The first was not touched by what the second wrote.
        let mut fresh = pool.cache(200);
        run(&model, &tokens[..100], &mut fresh, None);
        let expected = run(&model, &tokens[100..110], &mut fresh, None);
        assert_eq!(run(&model, &tokens[100..110], &mut first, None), expected);
        drop((first, second, fresh));
        assert_eq!(pool.n_lent(), 0);
    }
}

/// Pages that were written out and read again hold what they held.
#[test]
fn pages_come_back_from_bytes() {
    let model = Spec::default().build().load();
    let tokens = Random::new(9).tokens(120, 50);
    for kind in KvType::ALL {
        let pool = model.new_pool(kind, 8);
        let mut first = pool.cache(200);
        run(&model, &tokens[..100], &mut first, None);
        let bytes: Vec<Vec<u8>> = first.pages().iter().map(|page| page.to_bytes()).collect();
        assert!(bytes.iter().all(|bytes| bytes.len() == pool.page_bytes()));
        let expected = run(&model, &tokens[100..], &mut first, None);
        let pages = bytes.iter().map(|bytes| pool.read(bytes).unwrap()).collect();
        let mut second = pool.resume(pages, 100, 200);
        assert_eq!(run(&model, &tokens[100..], &mut second, None), expected);
        assert!(pool.read(&bytes[0][1..]).is_err() && pool.read(&[&bytes[0][..], &[0]].concat()).is_err());
        drop((first, second));
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
