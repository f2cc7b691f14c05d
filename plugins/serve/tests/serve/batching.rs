//! Many sequences on few pages: who begins with what others computed, who steps back, who guesses; and that none of it can be read off an answer.

use witness_plugin_protocol::{ChatsFile, FileRef, GenerateRequest, KvCacheType, LoadOptions, Prompt, SamplingOptions};
use witness_plugin_sdk::Serve;

use crate::support::{Answer, Session, files, greedy, load, load_keeping};
use crate::tiny;

/// Bytes of a page of the tiny model in f32: 64 positions of 2 layers, 2 heads, 8 numbers, keys and values.
pub(crate) const PAGE_BYTES: u64 = 64 * 2 * 2 * 8 * 2 * 4;

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    pub(crate) fn tokens(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| 97 + self.below(26) as u32).collect()
    }
}

fn session(options: LoadOptions) -> Session {
    let mut session = load(files(tiny::model().path()), options).unwrap();
    for (name, seed) in [("one", 1), ("other", 2)] {
        session.adapter(name, files(tiny::adapter(seed, true).path())).unwrap();
    }
    session
}

fn of(ids: Vec<u32>, num_predict: i64) -> GenerateRequest {
    greedy(Prompt::Tokens { ids }, num_predict)
}

/// Returns a request of any kind: short and long, with common beginnings, greedy and drawn, with and without an adapter.
fn any(random: &mut Random, beginnings: &[Vec<u32>]) -> GenerateRequest {
    let mut ids = beginnings[random.below(beginnings.len() as u64) as usize].clone();
    ids.truncate(random.below(ids.len() as u64) as usize);
    let n_own = 1 + random.below(60) as usize;
    ids.extend(random.tokens(n_own));
    let mut request = of(ids, 1 + random.below(40) as i64);
    if random.below(3) == 0 {
        request.sampling = SamplingOptions {
            temperature: 1.0,
            seed: Some(random.below(1000)),
            num_predict: request.sampling.num_predict,
            ..SamplingOptions::default()
        };
    }
    request.adapter = [None, None, Some("one"), Some("other")][random.below(4) as usize].map(str::to_owned);
    request
}

/// 64 requests of mixed lengths at once, on pages for three of them, half cancelled at random: what survives says what it says alone, and every page is accounted for.
#[test]
fn survivors_of_a_crowd_say_what_they_say_alone() {
    let mut random = Random(11);
    let beginnings: Vec<Vec<u32>> = (0..3).map(|_| random.tokens(200)).collect();
    let mut alone = session(LoadOptions::default());
    let mut crowd = session(LoadOptions {
        num_parallel: Some(16),
        kv_bytes: Some(3 * 8 * PAGE_BYTES),
        ..LoadOptions::default()
    });
    for round in 0..3 {
        let requests: Vec<GenerateRequest> = (0..64).map(|_| any(&mut random, &beginnings)).collect();
        let mut answers: Vec<(u64, Answer)> = Vec::new();
        for request in &requests {
            let (number, started) = crowd.start(request.clone()).unwrap();
            let answer = Answer {
                started,
                ..Answer::default()
            };
            answers.push((number, answer));
        }
        let mut cancelled = vec![false; requests.len()];
        let mut n_left = crowd.step(&mut answers);
        while n_left > 0 {
            for _ in 0..2 {
                let index = 2 * random.below(32) as usize;
                if !cancelled[index] && answers[index].1.done.is_none() {
                    cancelled[index] = true;
                    crowd.serve.cancel(&mut crowd.model, answers[index].0);
                }
            }
            n_left = crowd.step(&mut answers);
        }
        let n_cancelled = cancelled.iter().filter(|cancelled| **cancelled).count();
        assert!(n_cancelled > 15, "{n_cancelled}");
        for (index, (request, (_, answer))) in requests.into_iter().zip(&answers).enumerate() {
            if cancelled[index] {
                continue;
            }
            assert!(answer.error.is_none(), "{:?}", answer.error);
            let expected = alone.run(request.clone());
            assert_eq!(answer.ids, expected.ids, "round {round}, request {index}: {request:?}");
            let (found, expected) = (answer.done.as_ref().unwrap(), expected.done.unwrap());
            assert_eq!(found.reason, expected.reason);
            assert_eq!(found.generated_tokens, expected.generated_tokens);
        }
        assert_eq!(crowd.model.account_fault(), None);
    }
}

/// Two that begin alike and come together: the second waits for the first and then reads only what is its own.
#[test]
fn a_common_beginning_is_read_once_by_those_that_come_together() {
    let mut random = Random(5);
    let beginning = random.tokens(300);
    let mut session = session(LoadOptions {
        num_parallel: Some(4),
        ..LoadOptions::default()
    });
    let request = |own: &[u32]| {
        let mut ids = beginning.clone();
        ids.extend(own);
        of(ids, 5)
    };
    let requests: Vec<GenerateRequest> = (0..4).map(|n| request(&[97 + n, 98, 99])).collect();
    let alone: Vec<Vec<u32>> = requests
        .iter()
        .map(|request| self::session(LoadOptions::default()).run(request.clone()).ids)
        .collect();
    let mut answers = Vec::new();
    for request in requests {
        let (number, _) = session.start(request).unwrap();
        answers.push((number, Answer::default()));
    }
    // Two chunks hold the beginning; then all others go on together. Side by side, four times 303 tokens would take five chunks before anybody answers.
    let mut n_steps = 0;
    while answers.iter().any(|(_, answer)| answer.ids.is_empty()) {
        session.step(&mut answers);
        n_steps += 1;
    }
    assert_eq!(n_steps, 3);
    while session.step(&mut answers) > 0 {}
    let together: Vec<Vec<u32>> = answers.into_iter().map(|(_, answer)| answer.ids).collect();
    assert_eq!(together, alone);
    assert_eq!(session.model.account_fault(), None);
}

/// An answer that repeats itself is guessed and comes in fewer steps than it has tokens, each of them the one that it would have been.
#[test]
fn repetition_is_guessed() {
    let prompt = || {
        let mut request = of(vec![97, 98, 99, 97, 98, 99], 300);
        // A penalty below 1 is a reward.
        request.sampling.repeat_penalty = 0.2;
        request
    };
    let mut session = session(LoadOptions::default());
    let (number, _) = session.start(prompt()).unwrap();
    let mut answers = vec![(number, Answer::default())];
    let mut n_steps = 0;
    while session.step(&mut answers) > 0 {
        n_steps += 1;
    }
    let guessed = &answers[0].1;
    assert_eq!(guessed.ids.len(), 300);
    // Five together are too many to guess.
    let mut crowd = self::session(LoadOptions {
        num_parallel: Some(8),
        ..LoadOptions::default()
    });
    for answer in crowd.run_all((0..5).map(|_| prompt()).collect()) {
        assert_eq!(guessed.ids, answer.ids);
    }
    // Whether guessing goes on depends on what it costs here; the first guesses are made in any case.
    assert!(n_steps < 297, "{n_steps} steps");
}

/// Keys and values in 16 and 8 bits: found again as in 32, and with an answer of their own that does not depend on neighbours.
#[test]
fn smaller_keys_and_values() {
    let mut random = Random(8);
    let prompts: Vec<Vec<u32>> = (0..4).map(|n| random.tokens(70 + 30 * n)).collect();
    for kind in KvCacheType::ALL {
        let options = |n| LoadOptions {
            num_parallel: Some(n),
            kv_cache_type: Some(kind),
            ..LoadOptions::default()
        };
        let mut alone = session(options(1));
        let requests: Vec<GenerateRequest> = prompts.iter().map(|ids| of(ids.clone(), 20)).collect();
        let expected: Vec<Vec<u32>> = requests.iter().map(|request| alone.run(request.clone()).ids).collect();
        let found = session(options(4)).run_all(requests.clone());
        let found: Vec<Vec<u32>> = found.into_iter().map(|answer| answer.ids).collect();
        assert_eq!(found, expected, "{}", kind.name());
        let again = alone.run(requests[3].clone());
        assert_eq!(again.started.cached_tokens, again.started.prompt_tokens - 1);
        assert_eq!(again.ids, expected[3]);
    }
}

/// A chat goes on where it was when its model is loaded again, with the base and with an adapter; another model's chats, and damaged ones, are as if they were not there.
#[test]
fn chats_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let place = ChatsFile {
        path: directory.path().join("chats"),
        bytes_max: 1 << 20,
    };
    let named = |mut files: Vec<FileRef>, digest: &str| {
        files.iter_mut().for_each(|file| file.digest = digest.to_owned());
        files
    };
    let (model, adapter) = (tiny::model(), tiny::adapter(1, true));
    let session = |digest: &str| {
        let options = LoadOptions {
            kv_cache_type: Some(KvCacheType::F16),
            ..LoadOptions::default()
        };
        let mut session = load_keeping(named(files(model.path()), digest), options, Some(place.clone())).unwrap();
        session.adapter("one", named(files(adapter.path()), "adapter")).unwrap();
        session
    };
    let unload = |Session { mut serve, model, .. }: Session| serve.unload(model);
    let mut random = Random(4);
    let prompt = random.tokens(150);
    let ask = |session: &mut Session, adapter: Option<&str>| {
        let mut request = of(prompt.clone(), 20);
        request.adapter = adapter.map(str::to_owned);
        session.run(request)
    };
    let mut first = session("one");
    let (base, adapted) = (ask(&mut first, None), ask(&mut first, Some("one")));
    unload(first);
    let mut second = session("one");
    for (adapter, before) in [(Some("one"), &adapted), (None, &base)] {
        let found = ask(&mut second, adapter);
        assert_eq!(found.started.cached_tokens, 149);
        assert_eq!(found.ids, before.ids);
    }
    assert_eq!(second.model.account_fault(), None);
    unload(second);
    let mut other = session("another");
    assert_eq!(ask(&mut other, None).started.cached_tokens, 0);
    drop(other);
    // The last page of the file.
    let mut bytes = std::fs::read(&place.path).unwrap();
    let n_bytes = bytes.len();
    bytes[n_bytes - 100] ^= 1;
    std::fs::write(&place.path, bytes).unwrap();
    let mut damaged = session("one");
    for (adapter, before) in [(Some("one"), &adapted), (None, &base)] {
        assert_eq!(ask(&mut damaged, adapter).ids, before.ids);
    }
    assert_eq!(damaged.model.account_fault(), None);
}
