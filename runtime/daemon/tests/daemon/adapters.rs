//! Adapters: proven when they come in, chosen by a request, switched without a reload.

use std::sync::atomic::Ordering;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::TestDaemon;

async fn ask(daemon: &TestDaemon, adapter: Value) -> Value {
    let mut body = json!({"model": "m", "prompt": "hi", "stream": false});
    if !adapter.is_null() {
        body["adapter"] = adapter;
    }
    daemon.post("/api/generate", &body).await.json()
}

#[tokio::test]
async fn adapters_of_one_base_answer_in_turn_without_a_reload() {
    let daemon = TestDaemon::start(&[]).await;
    daemon
        .create_with_adapters("m", "weights 500", &["tone", "style"])
        .await;
    let loads = daemon.fake.loads();
    assert_eq!(loads, 1, "the proof loaded the base");
    let attached = daemon.fake.attached.load(Ordering::SeqCst);
    for (adapter, answer) in [
        (Value::Null, "[tone] hi"),
        (json!("style"), "[style] hi"),
        (json!("tone"), "[tone] hi"),
        (json!("base"), "hi"),
        (json!("style"), "[style] hi"),
    ] {
        assert_eq!(ask(&daemon, adapter).await["response"], answer);
    }
    assert_eq!(daemon.fake.loads(), loads, "nothing was loaded again");
    assert_eq!(
        daemon.fake.attached.load(Ordering::SeqCst),
        attached + 2,
        "each adapter was attached once"
    );
    assert_eq!(
        ask(&daemon, json!("style")).await["adapter"],
        "style",
        "the answer says who answered"
    );
    let ps = daemon.get("/api/ps").await.json();
    assert_eq!(ps["models"].as_array().unwrap().len(), 1);
    assert_eq!(ps["models"][0]["size"], 520, "the base once, and two adapters");
    assert_eq!(ps["models"][0]["adapters"], json!(["style", "tone"]));
}

/// The proof loads a base before its model has a digest; and a second name that goes leaves the base to the first.
#[tokio::test]
async fn a_base_is_shown_as_its_model_and_outlives_a_second_name() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create_with_adapters("m", "weights 500", &["tone"]).await;
    let shown = daemon.get("/api/ps").await.json()["models"][0].clone();
    let tags = daemon.get("/api/tags").await.json()["models"][0].clone();
    assert_eq!(shown["digest"], tags["digest"]);
    assert_eq!(shown["details"], tags["details"]);

    let copy = json!({"source": "m", "destination": "second"});
    assert_eq!(daemon.post("/api/copy", &copy).await.status, StatusCode::OK);
    for (name, left) in [("second", 1), ("m", 0)] {
        let body = json!({ "model": name }).to_string().into_bytes();
        let deleted = daemon.send(Method::DELETE, "/api/delete", body).await;
        assert_eq!(deleted.status, StatusCode::OK);
        let ps = daemon.get("/api/ps").await.json();
        assert_eq!(ps["models"].as_array().unwrap().len(), left, "after {name} went");
    }
}

/// Two models on one base, each with an adapter of the same name but other files.
#[tokio::test]
async fn models_on_one_base_share_it() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("plain", "weights 500").await;
    for (name, content) in [("one", "aaa"), ("two", "bbb")] {
        let digest = daemon.upload(content.as_bytes()).await;
        let body = json!({"model": name, "from": "plain", "adapters": {"adapter.fake": digest}, "stream": false});
        let reply = daemon.post("/api/create", &body).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    }
    for name in ["one", "two", "plain"] {
        let reply = daemon
            .post(
                "/api/generate",
                &json!({"model": name, "prompt": "hi", "stream": false}),
            )
            .await;
        assert_eq!(reply.status, StatusCode::OK);
    }
    assert_eq!(daemon.fake.loads(), 1);
    let used: Vec<Option<String>> = daemon
        .fake
        .requests
        .lock()
        .unwrap()
        .iter()
        .map(|r| r.adapter.clone())
        .collect();
    assert!(used[0].as_ref().unwrap().starts_with("default@") && used[1].as_ref().unwrap().starts_with("default@"));
    assert_ne!(used[0], used[1], "same name, other files, other adapter");
    assert_eq!(used[2], None);
}

#[tokio::test]
async fn an_adapter_that_does_nothing_is_refused() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("plain", "x").await;
    for (content, message) in [("zero", "changes nothing"), ("nan", "makes logits that are no numbers")] {
        let digest = daemon.upload(content.as_bytes()).await;
        let mut body = json!({"model": "m", "from": "plain", "adapters": {"tone/a": digest}, "stream": false});
        let reply = daemon.post("/api/create", &body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert!(reply.error().contains(message), "{}", reply.text());
        body["check"] = json!(false);
        assert_eq!(daemon.post("/api/create", &body).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn an_unknown_adapter_is_answered_with_the_near_one() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create_with_adapters("m", "x", &["tone", "style"]).await;
    let reply = daemon
        .post(
            "/api/generate",
            &json!({"model": "m", "prompt": "hi", "adapter": "tonne"}),
        )
        .await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(reply.error(), "model `m:latest` has no adapter `tonne`");
    assert_eq!(
        reply.json()["hints"],
        json!(["did you mean `tone`?", "it has: tone, style, base"])
    );
    let clash = daemon.upload(b"other").await;
    let reply = daemon
        .post(
            "/api/create",
            &json!({"model": "n", "from": "m", "adapters": {"tone/a": clash}}),
        )
        .await;
    assert_eq!(reply.status, StatusCode::CONFLICT);
    assert_eq!(
        daemon.get("/api/tags").await.json()["models"][0]["adapters"],
        json!(["tone", "style"])
    );
}
