//! Making models: lines, inheritance, and everything that can be wrong with a request.

use http::StatusCode;
use serde_json::{Value, json};
use witness_registry::Digest;

use crate::support::TestDaemon;

#[tokio::test]
async fn progress_comes_as_lines() {
    let daemon = TestDaemon::start(&[]).await;
    let digest = daemon.upload(b"x").await;
    let begun = daemon
        .begin(
            "/api/create",
            &json!({"model": "m", "files": {"model.fake": digest}, "system": "s"}),
        )
        .await;
    assert_eq!(begun.status, StatusCode::OK);
    let lines: Vec<String> = begun
        .rest()
        .await
        .iter()
        .map(|line| line["status"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        lines[..3],
        [
            "gathering model components".to_owned(),
            "inspecting model".to_owned(),
            format!("using existing layer {digest}")
        ]
    );
    assert_eq!(lines[3], format!("creating new layer {}", Digest::of(b"s")));
    assert!(lines[4].starts_with("creating new layer sha256:"), "the config");
    assert_eq!(lines[5..], ["writing manifest", "success"]);
}

#[tokio::test]
async fn a_model_made_from_another_inherits_and_overrides() {
    let daemon = TestDaemon::start(&[]).await;
    let digest = daemon.upload(b"template T").await;
    let parent = json!({
        "model": "parent", "files": {"model.fake": digest}, "system": "old", "template": "{% old %}", "license": "MIT",
        "parameters": {"temperature": 0.5, "top_k": 7}, "messages": [{"role": "user", "content": "old"}], "stream": false
    });
    assert_eq!(daemon.post("/api/create", &parent).await.status, StatusCode::OK);
    let child = json!({
        "model": "child", "from": "parent", "system": "new", "license": ["MIT", "BSD"], "parameters": {"top_k": 9},
        "messages": [{"role": "user", "content": "new"}], "stream": false
    });
    assert_eq!(daemon.post("/api/create", &child).await.status, StatusCode::OK);
    assert_eq!(
        daemon.fake.inspections.load(std::sync::atomic::Ordering::SeqCst),
        1,
        "what the parent's config says is enough"
    );
    let shown = daemon.post("/api/show", &json!({"model": "child"})).await.json();
    assert_eq!(shown["system"], "new");
    assert_eq!(shown["template"], "{% old %}");
    assert_eq!(shown["license"], "MIT\nBSD");
    assert_eq!(shown["messages"], json!([{"role": "user", "content": "new"}]));
    assert_eq!(shown["details"]["parent_model"], "parent:latest");
    let parameters = shown["parameters"].as_str().unwrap();
    assert!(
        parameters.contains("temperature                    0.5")
            && parameters.contains("top_k                          9"),
        "{parameters}"
    );
}

/// A request that is wrong in itself has its own status, streaming or not, and changes nothing.
#[tokio::test]
async fn what_is_wrong_with_a_request() {
    let daemon = TestDaemon::start(&[]).await;
    let good = daemon.upload(b"x").await;
    let absent = Digest::of(b"not here").as_str().to_owned();
    daemon.create("here", "x").await;
    let cases: Vec<(Value, u16, &str)> = vec![
        (json!({"files": {"a": good}}), 400, "the request names no `model`"),
        (
            json!({"model": "m"}),
            400,
            "neither `from` nor `files` says what the model is made of",
        ),
        (
            json!({"model": "m", "modelfile": "FROM x"}),
            400,
            "the text of a Modelfile is not read by the server",
        ),
        (json!({"model": "m", "from": "nope"}), 404, "model `nope` is not here"),
        (
            json!({"model": "m", "from": "here", "files": {"a": good}}),
            400,
            "both `from`",
        ),
        (json!({"model": "ü", "files": {"a": good}}), 400, "ü"),
        (
            json!({"model": "m", "files": {"a": absent}}),
            400,
            "of the file `a` is not here",
        ),
        (
            json!({"model": "m", "files": {"a": "md5:1"}}),
            400,
            "(for the file `a`)",
        ),
        (
            json!({"model": "m", "files": {"../a": good}}),
            400,
            "leaves its directory",
        ),
        (
            json!({"model": "m", "files": {"/a": good}}),
            400,
            "leaves its directory",
        ),
        (
            json!({"model": "m", "from": "here", "adapters": {"base/a": good}}),
            400,
            "no adapter can be called `base`",
        ),
        (
            json!({"model": "m", "from": "here", "adapters": {"a b/a": good}}),
            400,
            "is no name for an adapter",
        ),
        (
            json!({"model": "m", "from": "here", "parameters": {"temprature": 1}}),
            400,
            "there is no parameter `temprature`",
        ),
        (
            json!({"model": "m", "from": "here", "parameters": {"temperature": "hot"}}),
            400,
            "must be a number",
        ),
        (
            json!({"model": "m", "from": "here", "merge": ""}),
            404,
            "no adapter to merge",
        ),
        (json!({"model": "m", "files": ["a"]}), 400, "does not parse"),
    ];
    for (body, status, message) in cases {
        let reply = daemon.post("/api/create", &body).await;
        assert_eq!(reply.status.as_u16(), status, "{body}: {}", reply.text());
        assert!(reply.error().contains(message), "{body}: {}", reply.text());
    }
    assert_eq!(
        daemon.get("/api/tags").await.json()["models"].as_array().unwrap().len(),
        1
    );
    let unparsed = daemon.send(http::Method::POST, "/api/create", b"{".to_vec()).await;
    assert_eq!(unparsed.status, StatusCode::BAD_REQUEST);
    let missing = daemon.send(http::Method::POST, "/api/create", vec![]).await;
    assert_eq!(missing.error(), "missing request body");
}

/// What a plugin says against a file is the answer: a status when nothing was sent yet, a last line when streaming.
#[tokio::test]
async fn a_file_that_the_plugin_refuses() {
    let daemon = TestDaemon::start(&[]).await;
    let digest = daemon
        .upload(b"inspect-error tensor `x` lies outside of the file")
        .await;
    let body = json!({"model": "m", "files": {"model.fake": digest}, "stream": false});
    let reply = daemon.post("/api/create", &body).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(reply.error(), "tensor `x` lies outside of the file");
    let lines = daemon
        .begin("/api/create", &json!({"model": "m", "files": {"model.fake": digest}}))
        .await
        .rest()
        .await;
    let last = lines.last().unwrap();
    assert_eq!(last["error"], "tensor `x` lies outside of the file");
    assert_eq!(last["code"], "fake::refused");
    assert_eq!(daemon.get("/api/tags").await.json(), json!({"models": []}));
}
