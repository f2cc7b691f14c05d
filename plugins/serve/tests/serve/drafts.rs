//! Drafts: whatever they guess, the text is that of one token at a time; and what they may not be.

use std::path::Path;

use tempfile::TempDir;
use witness_plugin_protocol::{
    DraftOptions, GenerateRequest, InspectRequest, Kind, LoadOptions, ModelSpec, Prompt, SamplingOptions,
    UnloadAdapterRequest,
};
use witness_plugin_sdk::Serve;

use crate::batching::{PAGE_BYTES, Random};
use crate::support::{Answer, Session, file, files, greedy, load};
use crate::tiny;

/// A base with two adapters and two drafts: `same` is always right about the base alone and sometimes with an adapter, `other` never but by chance.
fn session(options: LoadOptions) -> Session {
    let of_drafts = DraftOptions {
        kv_bytes: options.kv_bytes,
    };
    let mut session = load(files(tiny::model().path()), options).unwrap();
    for (name, seed) in [("one", 1), ("two", 2)] {
        session.adapter(name, files(tiny::adapter(seed, true).path())).unwrap();
    }
    for (name, draft) in [("same", tiny::model()), ("other", tiny::model_of(9))] {
        session.draft(name, files(draft.path()), of_drafts).unwrap();
    }
    session
}

fn of(ids: Vec<u32>, num_predict: i64, draft: Option<&str>) -> GenerateRequest {
    GenerateRequest {
        draft: draft.map(str::to_owned),
        ..greedy(Prompt::Tokens { ids }, num_predict)
    }
}

fn drawn(mut request: GenerateRequest, seed: u64) -> GenerateRequest {
    request.sampling = SamplingOptions {
        temperature: 0.8,
        seed: Some(seed),
        num_predict: request.sampling.num_predict,
        ..SamplingOptions::default()
    };
    request
}

/// Runs one request and counts its steps.
fn steps(session: &mut Session, request: GenerateRequest) -> (Answer, usize) {
    let (number, _) = session.start(request).unwrap();
    let mut answers = vec![(number, Answer::default())];
    let mut n_steps = 1;
    while session.step(&mut answers) > 0 {
        n_steps += 1;
    }
    (answers.remove(0).1, n_steps)
}

/// Asserts that a draft which is right gives the text that there is without it, in fewer steps.
fn assert_saves_steps(session: &mut Session, prompt: Vec<u32>) {
    let plain = steps(session, of(prompt.clone(), 60, None));
    let (answer, n_steps) = steps(session, of(prompt, 60, Some("same")));
    assert_eq!(answer.ids, plain.0.ids);
    assert!(
        n_steps + 15 <= answer.ids.len(),
        "{n_steps} steps for {}",
        answer.ids.len()
    );
}

/// Right always, sometimes and never; greedy and drawn; with an adapter and without; after prompts shorter and longer than what a draft reads at once.
#[test]
fn the_text_is_that_without_a_draft() {
    let mut random = Random(3);
    let mut session = session(LoadOptions::default());
    for n_prompt in [1, 30, 300] {
        let prompt = random.tokens(n_prompt);
        for adapter in [None, Some("one")] {
            for seed in [None, Some(1), Some(2)] {
                let ask = |draft| {
                    let mut request = of(prompt.clone(), 80, draft);
                    request.adapter = adapter.map(str::to_owned);
                    match seed {
                        Some(seed) => drawn(request, seed),
                        None => request,
                    }
                };
                let expected = session.run(ask(None));
                for draft in ["same", "other"] {
                    let found = session.run(ask(Some(draft)));
                    assert_eq!(found.ids, expected.ids, "{n_prompt} {adapter:?} {seed:?} {draft}");
                    assert_eq!(found.text(), expected.text());
                    let (found, expected) = (found.done.unwrap(), expected.done.as_ref().unwrap());
                    assert_eq!(found.reason, expected.reason);
                    assert_eq!(found.generated_tokens, expected.generated_tokens);
                }
            }
        }
    }
    assert_eq!(session.model.account_fault(), None);
}

/// A draft that is right gives several tokens a step. Whether it goes on depends on what it costs here; the first guesses are made in any case: 2, 4, 7 and 7.
#[test]
fn right_guesses_save_steps() {
    let mut random = Random(4);
    let mut session = session(LoadOptions::default());
    let prompt = random.tokens(20);
    assert_saves_steps(&mut session, prompt);
}

/// What a draft has read is cut back to what was said, and found again by a text that begins the same: after an answer that was drawn, and so guessed wrong now and
/// then, it is right about what follows.
#[test]
fn wrong_guesses_leave_nothing_behind() {
    let mut random = Random(5);
    let mut session = session(LoadOptions::default());
    let mut prompt = random.tokens(20);
    let mut request = drawn(of(prompt.clone(), 40, Some("same")), 7);
    request.sampling.temperature = 1.5;
    prompt.extend(session.run(request).ids);
    assert_saves_steps(&mut session, prompt);
}

/// A draft that is never right reads long texts for nothing. The first few show it, and from then on most are left unread, whatever a single step took here.
#[test]
fn texts_are_not_read_for_guesses_that_do_not_pay() {
    let mut random = Random(8);
    let mut session = session(LoadOptions::default());
    const N_PROMPT: usize = 300;
    for index in 0..40 {
        let prompt = random.tokens(N_PROMPT);
        let expected = session.run(of(prompt.clone(), 16, None));
        let answer = session.run(of(prompt, 16, Some("other")));
        assert_eq!(answer.ids, expected.ids, "{index}");
    }
    let n_read = session.model.draft_tokens_read("other").unwrap();
    assert!((N_PROMPT..30 * N_PROMPT).contains(&n_read), "{n_read}");
    assert_eq!(session.model.draft_tokens_read("same"), Some(0));
    assert_eq!(session.model.account_fault(), None);
}

/// Many on few pages, of the base and of the drafts, some cancelled in the middle: what survives says what it says alone, and every page is accounted for.
#[test]
fn a_crowd_with_drafts() {
    let mut random = Random(12);
    let mut alone = session(LoadOptions::default());
    let mut crowd = session(LoadOptions {
        num_parallel: Some(4),
        kv_bytes: Some(8 * PAGE_BYTES),
        ..LoadOptions::default()
    });
    let beginning = random.tokens(150);
    for round in 0..3 {
        let requests: Vec<GenerateRequest> = (0..16)
            .map(|_| {
                let mut ids = beginning[..random.below(150) as usize].to_vec();
                ids.extend(random.tokens(40));
                let draft = [None, Some("same"), Some("same"), Some("other")][random.below(4) as usize];
                let mut request = of(ids, 1 + random.below(60) as i64, draft);
                request.adapter = [None, Some("one"), Some("two")][random.below(3) as usize].map(str::to_owned);
                match random.below(2) {
                    0 => drawn(request, random.below(100)),
                    _ => request,
                }
            })
            .collect();
        let mut answers: Vec<(u64, Answer)> = Vec::new();
        for request in &requests {
            let (number, _) = crowd.start(request.clone()).unwrap();
            answers.push((number, Answer::default()));
        }
        let mut cancelled = vec![false; requests.len()];
        while crowd.step(&mut answers) > 0 {
            let index = random.below(64) as usize;
            if index < requests.len() && answers[index].1.done.is_none() {
                cancelled[index] = true;
                crowd.serve.cancel(&mut crowd.model, answers[index].0);
            }
        }
        assert!(cancelled.iter().any(|cancelled| *cancelled));
        for (index, (request, (_, answer))) in requests.into_iter().zip(answers).enumerate() {
            if cancelled[index] {
                continue;
            }
            assert_eq!(answer.error, None);
            let expected = alone.run(GenerateRequest { draft: None, ..request });
            assert_eq!(answer.ids, expected.ids, "round {round}, request {index}");
        }
        assert_eq!(crowd.model.account_fault(), None);
    }
}

/// Cancelled right after a guess, all pages go back; detached while a sequence runs, the sequence goes on.
#[test]
fn cancelled_and_detached() {
    let mut random = Random(6);
    let mut session = session(LoadOptions::default());
    let request = of(random.tokens(300), 100, Some("same"));
    let expected = session.run(GenerateRequest {
        draft: None,
        ..request.clone()
    });
    for n_steps in [1, 3, 5, 8] {
        let (number, _) = session.start(request.clone()).unwrap();
        let mut answers = vec![(number, Answer::default())];
        for _ in 0..n_steps {
            session.step(&mut answers);
        }
        session.serve.cancel(&mut session.model, number);
        session.step(&mut answers);
        assert_eq!(session.model.account_fault(), None, "{n_steps} steps");
    }
    let (number, _) = session.start(request.clone()).unwrap();
    let mut answers = vec![(number, Answer::default())];
    for _ in 0..6 {
        session.step(&mut answers);
    }
    let name = UnloadAdapterRequest {
        name: "same".to_owned(),
    };
    session.serve.unload_adapter(&mut session.model, name).unwrap();
    while session.step(&mut answers) > 0 {}
    assert_eq!(answers[0].1.ids, expected.ids);
    let error = session.start(request).unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.kind),
        ("witness::serve::unknown_draft", Kind::NotFound)
    );
    assert_eq!(session.model.account_fault(), None);
}

/// Copies the tiny model with another text in one of its files.
fn changed(name: &str, from: &str, to: &str) -> TempDir {
    let directory = tiny::model();
    let path = directory.path().join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from));
    std::fs::write(&path, text.replace(from, to)).unwrap();
    directory
}

/// A draft of a shorter context guesses as far as that reaches.
#[test]
fn a_draft_may_have_a_shorter_context() {
    let mut random = Random(7);
    let mut session = session(LoadOptions::default());
    let short = changed(
        "config.json",
        "\"max_position_embeddings\":512",
        "\"max_position_embeddings\":64",
    );
    session
        .draft("short", files(short.path()), DraftOptions::default())
        .unwrap();
    for n_prompt in [30, 100] {
        let prompt = random.tokens(n_prompt);
        let expected = session.run(of(prompt.clone(), 80, None));
        assert_eq!(session.run(of(prompt, 80, Some("short"))).ids, expected.ids);
    }
    assert_eq!(session.model.account_fault(), None);
}

/// Another vocabulary is refused when it is looked at and when it is attached, with the first token that differs; so is what is no model.
#[test]
fn other_vocabularies_are_refused() {
    let mut session = load(files(tiny::model().path()), LoadOptions::default()).unwrap();
    let other = changed("tokenizer.json", "<|user|>", "<|human|>");
    let spec = |path: &Path| ModelSpec { files: files(path) };
    let base = tiny::model();
    let inspected = |serve: &mut witness_plugin_serve::CpuServe, draft: &Path| {
        serve.inspect(InspectRequest {
            model: spec(base.path()),
            adapters: Vec::new(),
            template: None,
            draft: Some(spec(draft)),
        })
    };
    for error in [
        inspected(&mut session.serve, other.path()).unwrap_err(),
        session
            .draft("other", files(other.path()), DraftOptions::default())
            .unwrap_err(),
    ] {
        assert_eq!(
            (error.code.as_str(), error.kind),
            ("witness::serve::draft_vocabulary", Kind::Invalid)
        );
        assert!(
            error.causes[0].contains("token 258 is `<|user|>` in the base and `<|human|>`"),
            "{error:?}"
        );
        assert!(error.hints[0].contains("DRAFT"), "{error:?}");
    }
    for none in [
        files(tiny::adapter(1, true).path()),
        file(&base.path().join("config.json")),
    ] {
        assert!(session.draft("none", none, DraftOptions::default()).is_err());
    }
    let found = inspected(&mut session.serve, base.path()).unwrap().draft.unwrap();
    assert_eq!(found.vocab_size, tiny::VOCAB as u64);
    let reply = session
        .draft("same", files(base.path()), DraftOptions::default())
        .unwrap();
    assert_eq!(reply.info.format, "draft");
    // Weights in f32, and one context of 512 positions with a page to spare.
    assert_eq!(reply.info.bytes, session.model.base_bytes() + 9 * PAGE_BYTES);
}
