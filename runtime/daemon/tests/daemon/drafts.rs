//! Drafts: named when a model is made, kept with it, attached beside the base when it answers and there is room.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Reply, TestDaemon};

async fn create(daemon: &TestDaemon, body: Value) -> Reply {
    daemon.post("/api/create", &body).await
}

/// A base of 500 bytes, a draft of 40, and a model of both.
async fn with_draft(settings: &[(&str, &str)]) -> TestDaemon {
    let daemon = TestDaemon::start(settings).await;
    daemon.create("plain", "weights 500").await;
    daemon.create("small", "weights 40").await;
    let made = create(
        &daemon,
        json!({"model": "m", "from": "plain", "draft": "small", "stream": false}),
    )
    .await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text());
    daemon
}

async fn ask(daemon: &TestDaemon, model: &str) {
    let reply = daemon
        .post(
            "/api/generate",
            &json!({"model": model, "prompt": "hi", "stream": false}),
        )
        .await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    assert_eq!(reply.json()["response"], "hi");
}

/// Returns the drafts that workers were asked to guess with, request by request.
fn used(daemon: &TestDaemon) -> Vec<Option<String>> {
    let requests = daemon.fake.requests.lock().unwrap();
    requests.iter().map(|request| request.draft.clone()).collect()
}

#[tokio::test]
async fn models_with_and_without_a_draft_share_their_base() {
    let daemon = with_draft(&[]).await;
    ask(&daemon, "plain").await;
    let ps = daemon.get("/api/ps").await.json();
    assert_eq!(
        (&ps["models"][0]["size"], &ps["models"][0]["drafts"]),
        (&json!(500), &Value::Null)
    );
    ask(&daemon, "m").await;
    ask(&daemon, "plain").await;
    ask(&daemon, "m").await;
    let used = used(&daemon);
    assert!(used[1].as_ref().unwrap().starts_with("small:latest@"), "{used:?}");
    assert_eq!((&used[0], &used[2], &used[3]), (&None, &None, &used[1]));
    assert_eq!(daemon.fake.loads(), 1);
    let ps = daemon.get("/api/ps").await.json();
    assert_eq!(ps["models"][0]["size"], 540, "the base once, and its draft");
    assert_eq!(ps["models"][0]["drafts"], json!(["small:latest"]));
    assert_eq!(ps["models"][0]["adapters"], Value::Null);
    let estimate = daemon
        .post("/api/witness/estimate", &json!({"model": "m"}))
        .await
        .json();
    assert_eq!(
        (&estimate["draft_bytes"], &estimate["total_bytes"]),
        (&json!(40), &json!(540))
    );
}

#[tokio::test]
async fn a_draft_stays_with_its_model() {
    let daemon = with_draft(&[]).await;
    let body = json!({"model": "small"}).to_string().into_bytes();
    assert_eq!(
        daemon.send(Method::DELETE, "/api/delete", body).await.status,
        StatusCode::OK
    );
    let copy = json!({"source": "m", "destination": "copy"});
    assert_eq!(daemon.post("/api/copy", &copy).await.status, StatusCode::OK);
    let child = json!({"model": "child", "from": "copy", "parameters": {"temperature": 0}, "stream": false});
    assert_eq!(create(&daemon, child).await.status, StatusCode::OK);
    for name in ["m", "copy", "child"] {
        ask(&daemon, name).await;
        let shown = daemon.post("/api/show", &json!({"model": name})).await.json();
        assert_eq!(shown["witness"]["draft"], "small:latest");
        assert_eq!(shown["witness"]["draft_info"]["bytes"], 40);
        let modelfile = shown["modelfile"].as_str().unwrap();
        assert!(modelfile.contains("# draft: small:latest\n"), "{modelfile}");
    }
    assert!(used(&daemon).iter().all(Option::is_some));
}

/// Files in place of a name; and another draft takes the place of the inherited one.
#[tokio::test]
async fn files_make_a_draft() {
    let daemon = with_draft(&[]).await;
    let digest = daemon.upload(b"weights 30").await;
    let body = json!({"model": "n", "from": "m", "draft_files": {"tiny.gguf": digest}, "stream": false});
    let made = create(&daemon, body).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text());
    let shown = daemon.post("/api/show", &json!({"model": "n"})).await.json();
    assert_eq!(shown["witness"]["draft"], "tiny");
    ask(&daemon, "n").await;
    assert!(used(&daemon)[0].as_ref().unwrap().starts_with("tiny@"));
}

#[tokio::test]
async fn what_cannot_be_a_draft_is_refused() {
    let daemon = with_draft(&[]).await;
    daemon.create_with_adapters("worn", "weights 40", &["tone"]).await;
    daemon.create("older", "no-drafts x").await;
    let digest = daemon.upload(b"weights 30").await;
    for (body, status, code, message) in [
        (
            json!({"from": "plain", "draft": "smal"}),
            StatusCode::NOT_FOUND,
            "witness::registry::not_found",
            "model `smal` is not here, and `DRAFT` names it",
        ),
        (
            json!({"from": "plain", "draft": "worn"}),
            StatusCode::NOT_IMPLEMENTED,
            "witness::daemon::draft_adapters",
            "has adapters",
        ),
        (
            json!({"from": "older", "draft": "small"}),
            StatusCode::NOT_IMPLEMENTED,
            "witness::daemon::no_drafts",
            "plugin `fake`, which runs the base, takes no drafts",
        ),
        (
            json!({"from": "plain", "draft": "small", "draft_files": {"a": digest}}),
            StatusCode::BAD_REQUEST,
            "witness::daemon::create_draft",
            "both",
        ),
    ] {
        let mut body = body;
        body["model"] = json!("bad");
        body["stream"] = json!(false);
        let reply = create(&daemon, body).await;
        assert!(reply.error().contains(message), "{}", reply.text());
        assert_eq!((reply.status, &reply.json()["code"]), (status, &json!(code)));
        assert!(
            !reply.json()["hints"].as_array().unwrap().is_empty(),
            "{}",
            reply.text()
        );
    }
}

/// Returns what `ps` and `show` note about a model's draft, nothing where they do not.
async fn notes(daemon: &TestDaemon, model: &str) -> [Option<String>; 2] {
    let ps = daemon.get("/api/ps").await.json();
    let shown = daemon.post("/api/show", &json!({"model": model})).await.json();
    [&ps["models"][0]["notes"], &shown["witness"]["notes"]].map(|notes| {
        let mut texts = notes.as_array().into_iter().flatten().filter_map(Value::as_str);
        texts.find(|text| text.starts_with("draft ")).map(str::to_owned)
    })
}

/// Without room the base answers alone, and whoever asks is told.
#[tokio::test]
async fn a_draft_without_room_is_left_out() {
    let daemon = with_draft(&[("memory_budget", "530")]).await;
    for _ in 0..2 {
        ask(&daemon, "m").await;
    }
    assert_eq!(used(&daemon), [None, None]);
    assert_eq!(daemon.get("/api/ps").await.json()["models"][0]["size"], 500);
    for note in notes(&daemon, "m").await {
        let note = note.unwrap();
        assert!(
            note.contains("draft `small:latest` is not used: there is no room"),
            "{note}"
        );
        assert!(note.contains("memory_budget"), "{note}");
    }
}

/// One that its worker refuses is tried once in that worker's life, and whoever asks is told why.
#[tokio::test]
async fn a_draft_that_is_refused_is_not_tried_again() {
    let daemon = with_draft(&[]).await;
    daemon.create("broken", "weights 40\ndraft-error out of luck").await;
    let body = json!({"model": "n", "from": "plain", "draft": "broken", "stream": false});
    assert_eq!(create(&daemon, body).await.status, StatusCode::OK);
    assert_eq!(notes(&daemon, "n").await, [None, None]);
    for _ in 0..3 {
        ask(&daemon, "n").await;
    }
    assert_eq!(used(&daemon), [None, None, None]);
    assert_eq!(daemon.fake.drafts_tried(), 1);
    assert_eq!(daemon.get("/api/ps").await.json()["models"][0]["size"], 500);
    for note in notes(&daemon, "n").await {
        let note = note.unwrap();
        assert!(
            note.contains("draft `broken:latest` is not used until the model is loaded again"),
            "{note}"
        );
        assert!(note.contains("out of luck"), "{note}");
    }
    // It hinders no other draft of the same base, and a new worker tries again.
    ask(&daemon, "m").await;
    assert!(used(&daemon)[3].as_ref().unwrap().starts_with("small:latest@"));
    assert_eq!(notes(&daemon, "m").await[1], None);
    let unloaded = daemon.post("/api/witness/unload", &json!({"model": "n"})).await;
    assert_eq!(unloaded.json()["unloaded"], true, "{}", unloaded.text());
    assert_eq!(notes(&daemon, "n").await, [None, None]);
    ask(&daemon, "n").await;
    assert_eq!(daemon.fake.drafts_tried(), 3);
}
