//! What a good plugin gets: answers, several at once, cancelled when nobody listens.

use std::time::Duration;

use crate::stage::{LONG, SHORT, Stage, collect, entry, request, start, text_of, whole_life};
use crate::{Case, case};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use witness_plugin_host::{FileFacts, GenEvent, Limits};
use witness_plugin_protocol::{DoneReason, GenerateRequest, Role, SamplingOptions};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "basics::a_good_plugin_is_found_checked_loaded_and_answers",
            found_and_answers,
        ),
        case("basics::sequences_run_side_by_side", side_by_side),
        case("basics::log_probabilities_and_limits_arrive", logprobs),
        case("basics::a_dropped_answer_ends_at_the_next_step", dropped),
        case("basics::a_slow_reader_is_cut_off_and_blocks_nobody", slow_reader),
        case("basics::a_refusal_costs_nothing_but_its_request", refusal),
        case("basics::a_killed_worker_tells_everybody", killed),
        case("basics::a_frozen_worker_is_ended", frozen),
        case("basics::a_dropped_worker_ends_its_process", dropped_worker),
        case("basics::a_load_that_nobody_waits_for_is_undone", abandoned_load),
    ]
}

async fn found_and_answers() {
    let stage = Stage::new();
    let host = stage.host();
    let found = entry(&host).await;
    let descriptor = found.descriptor().unwrap();
    assert_eq!(
        (descriptor.name.as_str(), descriptor.roles.as_slice()),
        ("hostile", &[Role::Serve, Role::Train][..])
    );
    assert_eq!(found.abi, Some((1, 1)));
    assert!(found.sha256.as_ref().unwrap().starts_with("sha256:"));
    let json = serde_json::to_value(&*found).unwrap();
    assert_eq!(
        (&json["abi"], &json["descriptor"]["name"]),
        (&"1.1".into(), &"hostile".into()),
        "{json}"
    );
    // Not described again: the same entry comes back.
    assert!(std::sync::Arc::ptr_eq(&found, &entry(&host).await));
    assert!(host.check(&stage.plugin()).await.descriptor().is_some());
    let facts = [FileFacts {
        name: "x.hostile".into(),
        magic: b"HOSTILE1".to_vec(),
    }];
    assert_eq!(
        host.choose(Role::Serve, &facts, Some("hostile")).await.unwrap().name(),
        "hostile"
    );
    assert!(host.find("hostle").await.unwrap_err().hints[0].contains("did you mean `hostile`?"));
    whole_life(&stage, &host, LONG).await.unwrap();
}

async fn side_by_side() {
    let stage = Stage::new();
    let (worker, model) = stage.loaded(&stage.host()).await;
    let mut running = Vec::new();
    for number in 0..20 {
        let text = format!("answer number {number} has words");
        let generation = worker.generate(model, &request(&text)).await.unwrap();
        running.push((text, generation));
    }
    for (text, generation) in running {
        assert_eq!(collect(generation).await.unwrap(), text);
    }
}

async fn logprobs() {
    let stage = Stage::new();
    let (worker, model) = stage.loaded(&stage.host()).await;
    let sampling = SamplingOptions {
        num_predict: 2,
        ..SamplingOptions::default()
    };
    let asked = GenerateRequest {
        sampling,
        top_logprobs: Some(1),
        ..request("one two three")
    };
    let mut generation = worker.generate(model, &asked).await.unwrap();
    assert_eq!(generation.started.prompt_tokens, 3);
    let Some(GenEvent::Token {
        logprob, alternatives, ..
    }) = generation.recv().await
    else {
        panic!()
    };
    assert_eq!((logprob, alternatives.len()), (Some(-0.5), 1));
    let _ = generation.recv().await;
    let Some(GenEvent::Done(done, _)) = generation.recv().await else {
        panic!()
    };
    assert_eq!((done.reason, done.generated_tokens), (DoneReason::Length, 2));
    assert!(generation.recv().await.is_none());
}

/// The plugin tells when it is cancelled: it panics then. A dropped answer must reach it although steps go on for another one.
async fn dropped() {
    let stage = Stage::new();
    let host = stage.hostile("cancel:panic", |_| {});
    let (worker, model) = stage.loaded(&host).await;
    let mut endless = worker.generate(model, &request("emit 4000000")).await.unwrap();
    let _ = endless.recv().await;
    drop(endless);
    let death = worker.died().await;
    assert!(text_of(&death).contains("after the plugin panicked"), "{death:?}");
}

async fn slow_reader() {
    let stage = Stage::new();
    stage.write_model("num_ctx 1000000");
    let host = stage.hostile("none:none", |config| config.stream_events_max = 100);
    let (worker, model) = stage.loaded(&host).await;
    let unread = worker.generate(model, &request("emit 500000")).await.unwrap();
    // Another answer of the same worker comes through while nobody reads the first.
    let read = worker.generate(model, &request("still here")).await.unwrap();
    assert_eq!(collect(read).await.unwrap(), "still here");
    let error = collect(unread).await.unwrap_err();
    assert_eq!(error.code, "witness::plugin::slow_reader");
    assert!(worker.death().is_none());
}

async fn refusal() {
    let stage = Stage::new();
    stage.write_model("num_ctx 4");
    let (worker, model) = stage.loaded(&stage.host()).await;
    let error = worker.generate(model, &request("a b c d e f")).await.err().unwrap();
    assert_eq!(error.message, "the prompt has 6 tokens and the context 4");
    assert_eq!(
        collect(worker.generate(model, &request("a b")).await.unwrap())
            .await
            .unwrap(),
        "a b"
    );
    worker.unload(model).await.unwrap();
    let error = worker.generate(model, &request("a")).await.err().unwrap();
    assert_eq!(error.code, "witness::plugin::unknown_model");
}

async fn killed() {
    let stage = Stage::new();
    stage.write_model("delay_ms 20");
    let (worker, model) = stage.loaded(&stage.host()).await;
    let generation = worker.generate(model, &request("emit 4000")).await.unwrap();
    let pid = i32::try_from(worker.pid()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    let error = collect(generation).await.unwrap_err();
    assert!(
        error.message.contains("was ended by SIGTERM during `step`"),
        "{error:?}"
    );
    let error = worker.generate(model, &request("more")).await.err().unwrap();
    assert!(error.message.contains("SIGTERM"), "{error:?}");
}

async fn frozen() {
    let stage = Stage::new();
    let host = stage.hostile("none:none", |config| config.heartbeat_timeout = SHORT);
    let worker = start(&host).await.unwrap();
    let pid = i32::try_from(worker.pid()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::STOP).unwrap();
    let death = worker.died().await;
    assert!(death.message.contains("did not answer for"), "{death:?}");
}

async fn dropped_worker() {
    let stage = Stage::new();
    let worker = start(&stage.host()).await.unwrap();
    let pid = Pid::from_raw(i32::try_from(worker.pid()).unwrap()).unwrap();
    drop(worker);
    // Collected by its reaper soon after; the limit is for a test that would otherwise never end.
    for _ in 0..3000 {
        if test_kill_process(pid).is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("process {pid:?} lives on");
}

/// A load is dropped half-way; the worker lives on and serves the next.
async fn abandoned_load() {
    let stage = Stage::new();
    let host = stage.hostile("load:slow", |_| {});
    let worker = host
        .start(&*entry(&host).await, Limits::for_purpose("abandoned"))
        .await
        .unwrap();
    let load_request = stage.load_request();
    let load = worker.load(&load_request, LONG);
    assert!(tokio::time::timeout(Duration::from_millis(1), load).await.is_err());
    let (model, _) = worker.load(&load_request, LONG).await.unwrap();
    assert_eq!(
        collect(worker.generate(model, &request("ok")).await.unwrap())
            .await
            .unwrap(),
        "ok"
    );
}
