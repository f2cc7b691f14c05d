//! Adapters by name: in one batch, unknown, silent, unloaded, foreign.

use witness_plugin_protocol::{GenerateRequest, InspectRequest, Kind, LoadOptions, ModelSpec, UnloadAdapterRequest};
use witness_plugin_sdk::Serve;

use crate::support::{files, greedy, load, shared, text};
use crate::tiny;

fn with(adapter: Option<&str>, prompt: &str) -> GenerateRequest {
    GenerateRequest {
        adapter: adapter.map(str::to_owned),
        ..greedy(text(prompt), 12)
    }
}

#[test]
fn adapters_mix_in_a_batch() {
    let (model, one, other) = (tiny::model(), tiny::adapter(1, true), tiny::adapter(2, true));
    let mut session = load(
        files(model.path()),
        LoadOptions {
            num_parallel: Some(4),
            ..LoadOptions::default()
        },
    )
    .unwrap();
    session.adapter("one", files(one.path())).unwrap();
    session.adapter("other", files(other.path())).unwrap();
    let names = [Some("other"), None, Some("one"), None, Some("other")];
    let alone: Vec<Vec<u32>> = names
        .iter()
        .map(|name| session.run(with(*name, "prompt")).ids)
        .collect();
    let together = session.run_all(names.iter().map(|name| with(*name, "prompt")).collect());
    let together: Vec<Vec<u32>> = together.into_iter().map(|answer| answer.ids).collect();
    assert_eq!(alone, together);
    assert!(
        alone[0] != alone[1] && alone[1] != alone[2] && alone[0] != alone[2],
        "{alone:?}"
    );
    assert_eq!(session.serve.loads(), 1);
}

/// A cache belongs to the adapter that it was computed with.
#[test]
fn kept_caches_do_not_cross_adapters() {
    let (model, one) = (tiny::model(), tiny::adapter(1, true));
    let mut session = load(files(model.path()), LoadOptions::default()).unwrap();
    session.adapter("one", files(one.path())).unwrap();
    let base = session.run(with(None, "a shared beginning"));
    let adapted = session.run(with(Some("one"), "a shared beginning"));
    assert_eq!(adapted.started.cached_tokens, 0);
    let again = session.run(with(Some("one"), "a shared beginning"));
    assert!(again.started.cached_tokens > 0);
    assert_eq!(again.ids, adapted.ids);
    assert_eq!(session.run(with(None, "a shared beginning")).ids, base.ids);
}

#[test]
fn an_adapter_that_does_nothing_is_refused() {
    let (model, silent) = (tiny::model(), tiny::adapter(1, false));
    let mut session = load(files(model.path()), LoadOptions::default()).unwrap();
    let error = session.adapter("silent", files(silent.path())).unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.kind),
        ("witness::serve::adapter_changes_nothing", Kind::Invalid)
    );
    assert!(!error.hints.is_empty());
    assert_eq!(
        session.start(with(Some("silent"), "x")).unwrap_err().code,
        "witness::serve::unknown_adapter"
    );
}

#[test]
fn unknown_names_have_near_misses() {
    let (model, one) = (tiny::model(), tiny::adapter(1, true));
    let mut session = load(files(model.path()), LoadOptions::default()).unwrap();
    session.adapter("expert", files(one.path())).unwrap();
    let error = session.start(with(Some("exprt"), "x")).unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.kind),
        ("witness::serve::unknown_adapter", Kind::NotFound)
    );
    assert!(error.hints[0].contains("expert"), "{error:?}");
}

/// Detaching takes the name away at once and leaves a running sequence alone.
#[test]
fn detached_while_running() {
    let (model, one) = (tiny::model(), tiny::adapter(1, true));
    let mut session = load(files(model.path()), LoadOptions::default()).unwrap();
    session.adapter("one", files(one.path())).unwrap();
    let expected = session.run(with(Some("one"), "going on")).ids;
    let (number, _) = session.start(with(Some("one"), "going on")).unwrap();
    let mut answers = vec![(number, Default::default())];
    session.step(&mut answers);
    let request = || UnloadAdapterRequest { name: "one".to_owned() };
    session.serve.unload_adapter(&mut session.model, request()).unwrap();
    let error = session.serve.unload_adapter(&mut session.model, request()).unwrap_err();
    assert_eq!(error.code, "witness::serve::unknown_adapter");
    while session.step(&mut answers) > 0 {}
    assert_eq!(answers[0].1.ids, expected);
}

/// Inspection names what does not fit before anything is loaded.
#[test]
fn foreign_adapters_are_refused_on_inspection() {
    let (Some(oracle), Some(foreign)) = (shared("oracle/llama"), shared("models/adapters")) else {
        return;
    };
    let mut session = load(files(&oracle.join("base")), LoadOptions::default()).unwrap();
    for (path, word) in [
        (foreign.join("opt125m-lora-r16"), "q_proj"),
        (foreign.join("distilbert-lora-seqcls"), "seq_cls"),
        (oracle.join("../qwen2/lora_50/final_adapter"), "proj"),
    ] {
        let error = session.adapter("foreign", files(&path)).unwrap_err();
        assert!(
            error.to_string().to_lowercase().contains(word),
            "{}: {error}",
            path.display()
        );
        assert!(!error.hints.is_empty(), "{error:?}");
        let adapter = witness_plugin_protocol::AdapterSpec {
            name: "foreign".to_owned(),
            files: files(&path),
        };
        let model = ModelSpec {
            files: files(&oracle.join("base")),
        };
        let again = session
            .serve
            .inspect(InspectRequest {
                model,
                adapters: vec![adapter],
                template: None,
                draft: None,
            })
            .unwrap_err();
        assert_eq!(again.code, error.code);
    }
}
