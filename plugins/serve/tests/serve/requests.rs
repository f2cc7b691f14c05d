//! What a request may ask for, on the tiny model: its tokens are bytes, so that every border falls everywhere.

use serde_json::{Value, json};
use witness_plugin_protocol::{DoneReason, GenerateRequest, Kind, LoadOptions, Prompt, SamplingOptions};

use crate::support::{Answer, Session, chat, files, greedy, load, text};
use crate::tiny;

fn session(options: LoadOptions) -> Session {
    load(files(tiny::model().path()), options).unwrap()
}

fn parallel(n: u64) -> LoadOptions {
    LoadOptions {
        num_parallel: Some(n),
        ..LoadOptions::default()
    }
}

fn sampled(prompt: Prompt, seed: u64, num_predict: i64) -> GenerateRequest {
    let sampling = SamplingOptions {
        temperature: 1.5,
        seed: Some(seed),
        num_predict,
        ..SamplingOptions::default()
    };
    GenerateRequest {
        sampling,
        ..greedy(prompt, num_predict)
    }
}

fn reason(answer: &Answer) -> DoneReason {
    answer.done.as_ref().expect("it ended").reason
}

#[test]
fn facts_about_the_model() {
    let session = session(LoadOptions::default());
    let reply = &session.reply;
    assert_eq!(
        (reply.num_ctx, reply.info.context_length, reply.info.vocab_size),
        (512, 512, 260)
    );
    assert_eq!(
        (reply.info.architecture.as_str(), reply.info.quantization.as_str()),
        ("llama", "F32")
    );
    assert_eq!(reply.info.metadata["llama.attention.head_count_kv"], 2);
    assert_eq!(reply.info.memory.kv_bytes_per_token, 2 * 2 * 2 * 8 * 4);
    assert_eq!(reply.resident_bytes, session.model.base_bytes());
    assert_eq!(reply.info.capabilities, ["completion"]);
}

/// Random bytes are mostly no UTF-8; what comes out is whole characters in every piece, and their sum is the lossy reading of all bytes.
#[test]
fn text_is_never_cut_inside_a_character() {
    let mut session = session(LoadOptions::default());
    for seed in 0..6 {
        let answer = session.run(sampled(text("hello"), seed, 80));
        let bytes: Vec<u8> = answer.ids.iter().filter(|id| **id < 256).map(|id| *id as u8).collect();
        assert_eq!(answer.text(), String::from_utf8_lossy(&bytes));
        assert_eq!(
            answer.done.unwrap().generated_tokens as usize,
            answer.ids.len() + usize::from(answer.ids.len() < 80)
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_tokens() {
    let mut session = session(LoadOptions::default());
    let one = session.run(sampled(text("a"), 7, 40));
    let other = session.run(sampled(text("a"), 7, 40));
    let third = session.run(sampled(text("a"), 8, 40));
    assert_eq!(one.ids, other.ids);
    assert_ne!(one.ids, third.ids);
    assert_eq!(one.started.seed, 7);
    // Without a seed there is a fresh one, and it can be given back.
    let mut request = sampled(text("a"), 0, 20);
    request.sampling.seed = None;
    let fresh = session.run(request);
    assert_eq!(session.run(sampled(text("a"), fresh.started.seed, 20)).ids, fresh.ids);
}

/// A stop text spans several of these tokens. Nothing of it comes out, and what is before it does.
#[test]
fn stop_texts_across_tokens() {
    let mut session = session(LoadOptions::default());
    let free = session.run(greedy(text("stop here"), 60)).text();
    let stop: String = free.chars().skip(7).take(3).collect();
    let mut request = greedy(text("stop here"), 60);
    request.sampling.stop = vec!["never said".to_owned(), stop.clone()];
    let answer = session.run(request);
    assert_eq!(answer.text(), free[..free.find(&stop).unwrap()]);
    assert_eq!(reason(&answer), DoneReason::Stop);
}

#[test]
fn length_is_bounded_by_num_predict_and_by_the_context() {
    let mut session = session(LoadOptions {
        num_ctx: Some(24),
        ..LoadOptions::default()
    });
    let answer = session.run(greedy(text("12345"), 4));
    assert_eq!((answer.ids.len(), reason(&answer)), (4, DoneReason::Length));
    let answer = session.run(greedy(text("12345"), -1));
    // Six tokens with BOS leave 18 places; the last token said needs none.
    assert_eq!((answer.ids.len(), reason(&answer)), (19, DoneReason::Length));
    let answer = session.run(greedy(text("12345"), 0));
    assert_eq!((answer.ids.len(), reason(&answer)), (0, DoneReason::Length));
}

#[test]
fn a_prompt_beyond_the_context() {
    let mut session = session(LoadOptions {
        num_ctx: Some(16),
        ..LoadOptions::default()
    });
    let long = text("a prompt of thirty-one characters");
    let error = session.start(greedy(long.clone(), 2)).unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.kind),
        ("witness::serve::prompt_too_long", Kind::Invalid)
    );
    let answer = session.run(GenerateRequest {
        truncate: true,
        ..greedy(long, 2)
    });
    assert_eq!(
        (answer.started.prompt_tokens, answer.started.truncated_tokens),
        (14, 20)
    );
    assert_eq!(answer.started.prompt_ids[0], tiny::BOS);
    assert_eq!(answer.ids.len(), 2);
}

/// The template writes BOS and the tokenizer would add one: there is one. Without a template's BOS it is added.
#[test]
fn one_beginning() {
    let mut session = session(LoadOptions::default());
    let ids = session.run(greedy(chat(&[("user", "x")]), 1)).started.prompt_ids;
    assert_eq!(ids, [tiny::BOS, 258, u32::from(b'x'), 259]);
    let Prompt::Chat {
        messages,
        tools,
        variables,
        ..
    } = chat(&[("user", "x")])
    else {
        panic!("a chat")
    };
    let template = Some("{% for m in messages %}[{{ m.content }}]{% endfor %}".to_owned());
    let ids = session
        .run(greedy(
            Prompt::Chat {
                messages,
                tools,
                template,
                variables,
            },
            1,
        ))
        .started
        .prompt_ids;
    assert_eq!(ids, [tiny::BOS, u32::from(b'['), u32::from(b'x'), u32::from(b']')]);
    let continued = Prompt::Text {
        text: "y".to_owned(),
        context: vec![tiny::BOS, 120],
        add_special: true,
    };
    assert_eq!(
        session.run(greedy(continued, 1)).started.prompt_ids,
        [tiny::BOS, 120, 121]
    );
    let tokens = Prompt::Tokens { ids: vec![1, 2] };
    assert_eq!(session.run(greedy(tokens, 1)).started.prompt_ids, [1, 2]);
}

#[test]
fn log_probabilities_are_the_models_own() {
    let mut session = session(LoadOptions::default());
    let request = GenerateRequest {
        top_logprobs: Some(3),
        ..greedy(text("p"), 5)
    };
    let answer = session.run(request);
    assert_eq!(answer.logprobs.len(), 5);
    for (id, (logprob, alternatives)) in answer.ids.iter().zip(&answer.logprobs) {
        assert_eq!(alternatives.len(), 3);
        assert_eq!(
            (alternatives[0].id, alternatives[0].logprob),
            (*id, *logprob),
            "greedy takes the likeliest"
        );
        assert!(*logprob < 0.0 && alternatives[1].logprob <= *logprob);
    }
    let none = session.run(GenerateRequest {
        top_logprobs: Some(0),
        ..greedy(text("p"), 1)
    });
    assert!(none.logprobs[0].1.is_empty());
}

/// Random weights, hot sampling, and yet each answer that ends by itself is a JSON object; one cut by length is the beginning of one.
#[test]
fn json_is_json() {
    let mut session = session(LoadOptions::default());
    let mut ended = 0;
    for seed in 0..12 {
        let request = GenerateRequest {
            format: Some(json!("json")),
            ..sampled(text("{"), seed, 300)
        };
        let answer = session.run(request);
        assert_eq!(answer.error, None);
        let text = answer.text();
        if reason(&answer) == DoneReason::Stop {
            ended += 1;
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert!(value.is_object(), "{text}");
        } else {
            assert!(text.starts_with('{'), "{text}");
        }
    }
    assert!(ended > 0, "some of the answers end by themselves");
    let schema = GenerateRequest {
        format: Some(json!({"type": "object"})),
        ..greedy(text("x"), 5)
    };
    let error = session.start(schema).unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.kind),
        ("witness::serve::schema_not_yet", Kind::Unsupported)
    );
}

/// Together or alone, in a queue or not: each request gets the same answer.
#[test]
fn several_at_once_and_in_a_queue() {
    let requests = || {
        (0..5)
            .map(|n| greedy(text(&"abcdefgh".repeat(n * 15 + 1)), 6 + n as i64))
            .collect::<Vec<GenerateRequest>>()
    };
    let mut alone = session(LoadOptions::default());
    let expected: Vec<Vec<u32>> = requests().into_iter().map(|request| alone.run(request).ids).collect();
    for n in [1, 2, 5] {
        let answers = session(parallel(n)).run_all(requests());
        let found: Vec<Vec<u32>> = answers.iter().map(|answer| answer.ids.clone()).collect();
        assert_eq!(found, expected, "{n} at once");
    }
}

/// With one place, the second waits until the first has ended; cancelling the first lets it in.
#[test]
fn a_cancelled_sequence_gives_its_place_up() {
    let mut session = session(parallel(1));
    let (first, _) = session.start(greedy(text("first"), -1)).unwrap();
    let (second, _) = session.start(greedy(text("second"), 3)).unwrap();
    let mut answers = vec![(first, Answer::default()), (second, Answer::default())];
    for _ in 0..4 {
        assert_eq!(session.step(&mut answers), 2);
    }
    assert_eq!((answers[0].1.ids.len(), answers[1].1.ids.len()), (4, 0));
    let Session { serve, model, .. } = &mut session;
    witness_plugin_sdk::Serve::cancel(serve, model, first);
    while session.step(&mut answers) > 0 {}
    assert_eq!((answers[0].1.ids.len(), answers[1].1.ids.len()), (4, 3));
    assert!(answers[0].1.done.is_none(), "a cancelled sequence says nothing more");
}

/// A conversation's next turn begins with the last one: its keys and values are still there, and the answer is what it would be without.
#[test]
fn a_common_beginning_is_not_computed_again() {
    let mut session = session(LoadOptions::default());
    let first = session.run(greedy(text("a conversation that goes on"), 10));
    assert_eq!(first.started.cached_tokens, 0);
    let mut ids = first.started.prompt_ids.clone();
    ids.extend(&first.ids);
    let n_run = ids.len() - 1;
    ids.extend([65, 66, 67]);
    let second = session.run(greedy(Prompt::Tokens { ids: ids.clone() }, 8));
    assert_eq!(second.started.cached_tokens as usize, n_run);
    let fresh = self::session(LoadOptions::default()).run(greedy(Prompt::Tokens { ids }, 8));
    assert_eq!(second.ids, fresh.ids);
    // The same prompt again: all but its last token.
    let again = session.run(greedy(text("a conversation that goes on"), 10));
    assert_eq!(again.started.cached_tokens, again.started.prompt_tokens - 1);
    assert_eq!(again.ids, first.ids);
}

#[test]
fn options_out_of_range_are_named() {
    let mut session = session(LoadOptions::default());
    let mut request = greedy(text("x"), 1);
    request.sampling.repeat_penalty = -1.0;
    let error = session.start(request).unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.kind),
        ("witness::serve::bad_option", Kind::Invalid)
    );
    assert!(error.message.contains("repeat_penalty"), "{error}");
    let error = session
        .start(greedy(Prompt::Tokens { ids: Vec::new() }, 1))
        .unwrap_err();
    assert_eq!(error.code, "witness::serve::empty_prompt");
    for options in [
        LoadOptions {
            num_ctx: Some(0),
            ..LoadOptions::default()
        },
        parallel(0),
        parallel(1 << 40),
        LoadOptions {
            num_thread: Some(0),
            ..LoadOptions::default()
        },
    ] {
        let Err(error) = load(files(tiny::model().path()), options) else {
            panic!("{options:?} is out of range")
        };
        assert_eq!(error.code, "witness::serve::bad_option");
    }
}

#[test]
fn threads_are_as_asked() {
    let mut one = session(LoadOptions {
        num_thread: Some(1),
        ..LoadOptions::default()
    });
    assert_eq!(
        one.run(greedy(text("threads"), 8)).ids,
        session(LoadOptions::default()).run(greedy(text("threads"), 8)).ids
    );
}

/// Goal: an answer can be made as long as it was asked for, so that what is timed does not depend on what is said.
#[test]
fn the_end_of_an_answer_can_be_ignored() {
    let mut session = session(LoadOptions::default());
    let mut n_ended = 0;
    for seed in 0..12 {
        let mut request = sampled(text("hello"), seed, 400);
        n_ended += usize::from(reason(&session.run(request.clone())) == DoneReason::Stop);
        request.sampling.ignore_eos = true;
        let whole = session.run(request);
        assert_eq!(reason(&whole), DoneReason::Length);
        assert_eq!(whole.done.unwrap().generated_tokens, 400);
    }
    assert!(n_ended > 0, "none of the answers ended by itself");
}
