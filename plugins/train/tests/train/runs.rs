//! What a run does and leaves: events, checkpoints, stops, plans.

use serde_json::json;
use witness_plugin_protocol::{ExcessLength, TrainEvent, TrainMethod, TrainOutcome, TrainProduct, TrainSettings, When};

use crate::support::{Home, Host, adapter, assert_equal, file, files, read_json, run, settings};

fn steps(events: &[TrainEvent]) -> Vec<u64> {
    let steps = events.iter().filter_map(|event| match event {
        TrainEvent::Step { step, .. } => Some(*step),
        _ => None,
    });
    steps.collect()
}

#[test]
fn a_run_tells_of_everything_and_leaves_an_adapter() {
    let home = Home::new(40);
    let request = home.request("run", settings());
    let (reply, events) = run(&request);
    let Some(TrainEvent::Started { plan, resumed_from: 0 }) =
        events.iter().find(|event| matches!(event, TrainEvent::Started { .. }))
    else {
        panic!("{events:?}")
    };
    assert_eq!(reply.outcome, TrainOutcome::Finished);
    assert_eq!(steps(&events), (1..=plan.n_steps).collect::<Vec<_>>());
    assert_eq!((plan.train.n_rows, plan.validation.n_rows), (36, 4));
    assert_eq!(plan.n_modules, 14);
    let tokens: u64 = events
        .iter()
        .map(|event| {
            if let TrainEvent::Step { n_tokens, .. } = event {
                *n_tokens
            } else {
                0
            }
        })
        .sum();
    assert_eq!(tokens, plan.n_tokens);
    let losses: Vec<f64> = events
        .iter()
        .filter_map(|event| {
            if let TrainEvent::Eval { loss, .. } = event {
                Some(*loss)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(losses.len() as u64, plan.n_steps / 4);
    assert!(losses.last() < losses.first(), "it learns: {losses:?}");
    // The newest two and the best.
    assert!((2..=3).contains(&reply.checkpoints.len()), "{:?}", reply.checkpoints);
    assert_eq!(
        (reply.product, reply.directory.as_str()),
        (TrainProduct::Adapter, "final")
    );
    assert_eq!(reply.files, ["adapter_config.json", "adapter_model.safetensors"]);
    let config = read_json(&request.directory.join("final/adapter_config.json"));
    assert_eq!(
        (&config["r"], &config["base_model_name_or_path"]),
        (&json!(4), &json!("tiny"))
    );
    assert_eq!(reply.provenance["data"]["digest"], json!(plan.data_digest));
    assert!(reply.provenance["settings"].get("threads").is_none());
}

// Five equal runs give one product, with any number of threads.
#[test]
fn equal_runs_leave_equal_bytes() {
    let home = Home::new(30);
    let first = home.request("first", settings());
    let (reply, _) = run(&first);
    for threads in 1..=4 {
        let again = home.request(
            &format!("again{threads}"),
            TrainSettings {
                threads: Some(threads),
                ..settings()
            },
        );
        let (again_reply, _) = run(&again);
        assert_eq!(reply, again_reply);
        assert_equal(&first.directory, &again.directory);
    }
}

// A stop at any point, in a step, an evaluation or between, then a resume: nothing differs from the run that was not stopped.
#[test]
fn stopped_runs_go_on_to_the_bit() {
    let home = Home::new(30);
    let whole = home.request("whole", settings());
    let (reply, _) = run(&whole);
    type Stops = fn(&TrainEvent) -> bool;
    let stops: [(&str, Stops); 4] = [
        ("step", |event| matches!(event, TrainEvent::Step { step: 5 | 8, .. })),
        // Between the batches of an evaluation.
        ("evaluation", |event| {
            matches!(event, TrainEvent::Evaluating { done: 1, .. })
        }),
        ("checkpoint", |event| matches!(event, TrainEvent::Checkpoint { .. })),
        ("every step", |event| matches!(event, TrainEvent::Step { .. })),
    ];
    for (name, stop) in stops {
        let mut request = home.request(name, settings());
        let mut n_stops = 0;
        let last = loop {
            let mut seen = 0;
            let mut host = Host::stopping(move |event| {
                // Each start gets a little farther than the one before.
                seen += u32::from(stop(event));
                seen > 1 || (seen == 1 && n_stops % 2 == 0 && stop(event))
            });
            let reply = witness_plugin_train::run(&request, &mut host).unwrap();
            if reply.outcome != TrainOutcome::Stopped {
                break reply;
            }
            assert_eq!(reply.directory, format!("checkpoint-{}", reply.steps), "{name}");
            assert!(
                request
                    .directory
                    .join(&reply.directory)
                    .join("adapter_model.safetensors")
                    .exists()
            );
            request.resume = true;
            n_stops += 1;
            assert!(n_stops < 100, "{name}: no end");
        };
        assert!(n_stops > 0, "{name}");
        assert_eq!(
            (last.steps, last.train_loss, last.eval_loss, last.best_step),
            (reply.steps, reply.train_loss, reply.eval_loss, reply.best_step),
            "{name}"
        );
        assert_equal(&whole.directory, &request.directory);
    }
}

// Told to stop before the first step, and again when there is something.
#[test]
fn a_run_that_is_stopped_before_it_begins_says_what_there_is() {
    let home = Home::new(30);
    let mut request = home.request("run", settings());
    let stopped = |request: &_| {
        let mut host = Host::stopping(|event| matches!(event, TrainEvent::Status { .. }));
        witness_plugin_train::run(request, &mut host).unwrap()
    };
    let reply = stopped(&request);
    assert_eq!(
        (reply.outcome, reply.steps, reply.directory.as_str()),
        (TrainOutcome::Stopped, 0, "")
    );
    assert!(reply.files.is_empty() && reply.checkpoints.is_empty());
    let mut host = Host::stopping(|event| matches!(event, TrainEvent::Step { step: 4, .. }));
    witness_plugin_train::run(&request, &mut host).unwrap();
    request.resume = true;
    let reply = stopped(&request);
    assert_eq!(
        (reply.steps, reply.directory.as_str(), reply.files.len()),
        (4, "checkpoint-4", 2)
    );
    assert_eq!(reply.checkpoints, [3, 4]);
}

#[test]
fn patience_ends_a_run_and_the_end_is_remembered() {
    let home = Home::new(30);
    let request = home.request(
        "run",
        TrainSettings {
            num_epochs: 30.0,
            early_stopping_patience: Some(2),
            early_stopping_threshold: 0.5,
            ..settings()
        },
    );
    let (reply, events) = run(&request);
    assert_eq!(reply.outcome, TrainOutcome::EarlyStopped);
    let n_evaluations = events
        .iter()
        .filter(|event| matches!(event, TrainEvent::Eval { .. }))
        .count();
    assert!((3..20).contains(&n_evaluations), "{n_evaluations}");
    assert!(reply.checkpoints.contains(&reply.best_step.unwrap_or(reply.steps)));
    let mut again = request.clone();
    again.resume = true;
    let (second, events) = run(&again);
    // It goes on from the last checkpoint, at or before the end, and ends at the same place.
    assert_eq!(
        (second.outcome, second.steps),
        (TrainOutcome::EarlyStopped, reply.steps)
    );
    assert!(steps(&events).len() < 5);
}

#[test]
fn epochs_and_shares_of_steps_say_when() {
    let home = Home::new(30);
    for (change, evaluations, saves) in [
        (json!({"eval_strategy": "epoch", "save_strategy": "epoch"}), 4, 4),
        (
            json!({"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": false}),
            0,
            0,
        ),
        (
            json!({"eval_steps": 0.25, "save_steps": 0.5, "load_best_model_at_end": false}),
            4,
            2,
        ),
    ] {
        let mut fields = serde_json::to_value(settings()).unwrap();
        fields
            .as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let mut settings: TrainSettings = serde_json::from_value(fields).unwrap();
        (
            settings.sample_packing,
            settings.gradient_accumulation_steps,
            settings.micro_batch_size,
        ) = (false, 1, 9);
        settings.save_total_limit = None;
        let request = home.request(&format!("run{evaluations}{saves}{}", settings.save_steps), settings);
        let (_, events) = run(&request);
        assert_eq!(steps(&events).len(), 12);
        let count = |matches: fn(&&TrainEvent) -> bool| events.iter().filter(matches).count();
        assert_eq!(
            count(|event| matches!(event, TrainEvent::Eval { .. })),
            evaluations,
            "{change}"
        );
        let n_saves = count(|event| matches!(event, TrainEvent::Checkpoint { .. }));
        assert_eq!(n_saves, saves, "{change}");
    }
}

#[test]
fn a_run_is_resumed_only_as_it_was_begun() {
    let home = Home::new(30);
    let mut request = home.request("run", settings());
    let mut host = Host::stopping(|event| matches!(event, TrainEvent::Step { step: 4, .. }));
    witness_plugin_train::run(&request, &mut host).unwrap();
    let refused = |request: &_| witness_plugin_train::run(request, &mut Host::default()).unwrap_err();
    assert_eq!(refused(&request).code, "witness::train::not_empty");
    request.resume = true;
    request.settings.threads = Some(2);
    request.settings.learning_rate = Some(1e-3);
    let error = refused(&request);
    assert_eq!(error.code, "witness::train::another_run");
    assert!(
        error.message.contains("learning_rate") && error.message.contains("0.01"),
        "{error}"
    );
    request.settings.learning_rate = Some(1e-2);
    request.base_digest = "sha256:11".to_owned();
    assert!(refused(&request).message.contains("another base"));
    request.base_digest = "sha256:00".to_owned();
    assert_eq!(run(&request).0.outcome, TrainOutcome::Finished);
}

// One that is damaged, such as by a disk, is told and passed over.
#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let home = Home::new(30);
    let whole = home.request("whole", settings());
    run(&whole);
    for (name, damage) in [
        ("state.json", &b"{"[..]),
        ("trainer_state.safetensors", &b"garbage"[..]),
    ] {
        let mut request = home.request(name, settings());
        let mut host = Host::stopping(|event| matches!(event, TrainEvent::Checkpoint { step: 6, .. }));
        let reply = witness_plugin_train::run(&request, &mut host).unwrap();
        assert!(reply.checkpoints.len() > 1, "{:?}", reply.checkpoints);
        std::fs::write(request.directory.join("checkpoint-6").join(name), damage).unwrap();
        request.resume = true;
        let (_, events) = run(&request);
        assert!(
            events
                .iter()
                .any(|event| matches!(event, TrainEvent::Warning { message } if message.contains("checkpoint-6")))
        );
        assert!(matches!(
            events.iter().find(|event| matches!(event, TrainEvent::Started { .. })),
            Some(TrainEvent::Started {
                resumed_from: 3..=5,
                ..
            })
        ));
        assert_equal(&whole.directory, &request.directory);
    }
}

#[test]
fn a_whole_model_is_left_with_what_it_needs_to_load() {
    let home = Home::new(30);
    let request = home.request(
        "run",
        TrainSettings {
            method: TrainMethod::Full,
            num_epochs: 1.0,
            ..settings()
        },
    );
    let (reply, events) = run(&request);
    assert_eq!(reply.product, TrainProduct::Model);
    // A checkpoint of it is no adapter.
    let saved = |event: &TrainEvent| matches!(event, TrainEvent::Checkpoint { files, .. } if files.is_empty());
    assert!(events.iter().any(saved));
    assert_eq!(
        reply.files,
        [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
    // What was made is itself a base.
    let product = request.directory.join("final");
    let next = crate::support::request(&product, &[&home.rows()], &home.run("next"), settings());
    assert_eq!(run(&next).0.outcome, TrainOutcome::Finished);
}

#[test]
fn an_adapter_is_gone_on_from() {
    let home = Home::new(30);
    let first = home.request("first", settings());
    run(&first);
    let mut next = home.request(
        "next",
        TrainSettings {
            lora: serde_json::Map::new(),
            num_epochs: 1.0,
            learning_rate: Some(0.0),
            ..settings()
        },
    );
    next.adapter = Some(adapter(&first.directory.join("final")));
    let (reply, events) = run(&next);
    let Some(TrainEvent::Started { plan, .. }) =
        events.iter().find(|event| matches!(event, TrainEvent::Started { .. }))
    else {
        panic!()
    };
    assert_eq!(
        (&plan.settings.lora["r"], &plan.settings.lora["lora_alpha"]),
        (&json!(4), &json!(8))
    );
    // With a rate of 0 nothing moves: it is the adapter that was given.
    let weights = |directory: &std::path::Path| std::fs::read(directory.join("adapter_model.safetensors")).unwrap();
    assert!(weights(&next.directory.join(&reply.directory)) == weights(&first.directory.join("final")));
}

#[test]
fn plans_count_warn_and_show() {
    let home = Home::new(20);
    let text = std::fs::read_to_string(home.rows()).unwrap();
    let first = text.lines().next().unwrap();
    let long =
        json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y".repeat(300)}]});
    let silent =
        json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "z", "train": false}]});
    std::fs::write(home.rows(), format!("{text}{first}\n{long}\n{silent}\nnot json\n")).unwrap();
    let mut request = home.request("run", settings());
    let error = witness_plugin_train::plan(&request).unwrap_err();
    assert!(error.causes[0].starts_with("rows.jsonl:24:"), "{error:?}");
    request.settings.skip_bad = true;
    request.settings.val_set_size = 0.0;
    request.validation = vec![file("validation.jsonl", &home.rows())];
    request.settings.warmup_steps = Some(1_000);
    request.preview = vec![0, 21];
    request.trial = true;
    let plan = witness_plugin_train::plan(&request).unwrap();
    let counts = &plan.train;
    assert_eq!(
        (counts.n_rows, counts.n_bad, counts.n_dropped, counts.n_without_target),
        (21, 1, 1, 1)
    );
    assert_eq!(counts.histogram.iter().map(|bar| bar[1]).sum::<u64>(), 21);
    assert!(counts.n_targets < counts.n_tokens && counts.tokens_max <= 128);
    for told in [
        "1 rows of the data cannot be used",
        "1 rows of the data say exactly what an earlier one does",
        "1 rows are longer than `sequence_len` = 128",
        "1 rows hold nothing that is to be learned",
        "23 validation rows are also learned, to the letter",
        "warm-up of 1000 steps",
    ] {
        assert!(
            plan.warnings.iter().any(|warning| warning.contains(told)),
            "{told}: {:#?}",
            plan.warnings
        );
    }
    assert!(plan.memory_bytes > 0 && plan.seconds.is_some_and(|seconds| seconds > 0.0));
    assert!(
        plan.alternatives
            .iter()
            .all(|alternative| alternative.memory_bytes < plan.memory_bytes)
    );
    assert!(
        plan.alternatives
            .iter()
            .any(|alternative| alternative.change == "gradient_checkpointing: true")
    );
    let cheapest = plan.alternatives.last().unwrap();
    assert!(cheapest.change.contains("gradient_checkpointing: true"), "{cheapest:?}");
    assert!(
        cheapest.change.starts_with("base_storage: bf16") || cheapest.change.starts_with("method: qlora"),
        "{cheapest:?}"
    );
    assert_eq!(plan.preview[0].place, "rows.jsonl:1");
    let marks: Vec<bool> = plan.preview[0].pieces.iter().map(|piece| piece.is_target).collect();
    assert_eq!(marks, [false, true, false]);
    assert!(plan.preview[0].pieces[1].text.ends_with("<|im_end|>"));
    assert!(
        plan.preview[1]
            .left_out
            .as_ref()
            .is_some_and(|why| why.contains("a sequence has 128"))
    );
    assert_eq!(plan.settings.eval_batch_size, Some(1));
    // Nothing was written by planning.
    assert!(!request.directory.exists());
    request.settings.excess_length = ExcessLength::Truncate;
    let cut = witness_plugin_train::plan(&request).unwrap();
    assert_eq!((cut.train.n_truncated, cut.train.n_rows), (1, 22));
}

#[test]
fn what_is_asked_wrongly_is_refused_before_anything_is_read() {
    let home = Home::new(20);
    type Change = fn(&mut TrainSettings);
    let changes: [(Change, &str); 12] = [
        (|settings| settings.optimizer = "adamm".to_owned(), "optimizer"),
        (|settings| settings.lr_scheduler = "cosinus".to_owned(), "lr_scheduler"),
        (|settings| settings.micro_batch_size = 0, "micro_batch_size"),
        (|settings| settings.num_epochs = -1.0, "num_epochs"),
        (|settings| settings.max_steps = Some(0), "max_steps"),
        (|settings| settings.eval_steps = Some(1.5), "eval_steps"),
        (|settings| settings.save_steps = f64::NAN, "save_steps"),
        (|settings| settings.val_set_size = -0.5, "val_set_size"),
        (
            |settings| settings.roles_to_train = vec!["robot".to_owned()],
            "roles_to_train",
        ),
        (|settings| settings.save_total_limit = Some(0), "save_total_limit"),
        (|settings| settings.eval_strategy = When::Best, "eval_strategy"),
        (|settings| settings.threads = Some(0), "threads"),
    ];
    for (change, name) in changes {
        let mut settings = settings();
        change(&mut settings);
        let error = witness_plugin_train::plan(&home.request("run", settings)).unwrap_err();
        assert!(
            error.message.contains(name) && !error.hints.is_empty(),
            "{name}: {error:?}"
        );
    }
    let nowhere = Home::new(1);
    std::fs::remove_file(nowhere.base().join("config.json")).unwrap();
    let mut request = nowhere.request("run", settings());
    request.model.files = files(&nowhere.base());
    assert_eq!(
        witness_plugin_train::plan(&request).unwrap_err().code,
        "witness::train::no_model"
    );
}
