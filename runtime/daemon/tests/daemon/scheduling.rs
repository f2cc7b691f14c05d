//! Loading, keeping, making room, waiting, leaving, ending.

use http::{StatusCode, header};
use serde_json::{Value, json};

use crate::support::TestDaemon;

fn ask(model: &str, prompt: &str) -> Value {
    json!({"model": model, "prompt": prompt, "stream": false})
}

#[tokio::test]
async fn an_empty_prompt_loads_and_a_keep_alive_of_zero_unloads() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("m", "weights 77").await;
    let loaded = daemon.post("/api/generate", &json!({"model": "m"})).await.json();
    assert_eq!(
        (&loaded["done"], &loaded["done_reason"], &loaded["response"]),
        (&json!(true), &json!("load"), &json!(""))
    );
    let ps = daemon.get("/api/ps").await.json();
    let model = &ps["models"][0];
    assert_eq!(
        (&model["name"], &model["size"], &model["size_vram"]),
        (&json!("m:latest"), &json!(77), &json!(0))
    );
    assert_eq!(model["context_length"], 2048);
    assert_eq!(model["details"]["family"], "echo");
    assert_eq!(
        model["digest"],
        daemon.get("/api/tags").await.json()["models"][0]["digest"]
    );
    let unloaded = daemon
        .post("/api/chat", &json!({"model": "m", "messages": [], "keep_alive": 0}))
        .await
        .json();
    assert_eq!(unloaded["done_reason"], "unload");
    assert_eq!(daemon.get("/api/ps").await.json(), json!({"models": []}));
    assert_eq!(daemon.fake.loads(), 1);
}

#[tokio::test]
async fn other_load_options_load_anew() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("m", "x").await;
    for (options, num_ctx) in [
        (json!({"num_ctx": 64}), 64),
        (json!({}), 64),
        (json!({"num_ctx": 128}), 128),
        (json!({"num_ctx": 128, "num_parallel": 9}), 128),
        (json!({"num_ctx": 128, "num_parallel": 9, "chat_cache": false}), 128),
    ] {
        let mut body = ask("m", "hi");
        body["options"] = options;
        assert_eq!(daemon.post("/api/generate", &body).await.status, StatusCode::OK);
        assert_eq!(
            daemon.get("/api/ps").await.json()["models"][0]["context_length"],
            num_ctx
        );
    }
    assert_eq!(daemon.fake.loads(), 4);
    let loads = daemon.fake.load_requests.lock().unwrap();
    assert_eq!(loads[1].options.num_ctx, Some(128));
    assert_eq!(loads[2].options.num_parallel, Some(9));
    assert_eq!((loads[2].chats.is_some(), loads[3].chats.is_some()), (true, false));
}

#[tokio::test]
async fn a_context_beyond_what_the_model_was_made_for_is_cut_and_said() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("m", "num_ctx 256").await;
    let mut body = ask("m", "hi");
    body["options"] = json!({"num_ctx": 1_000_000});
    let reply = daemon.post("/api/generate", &body).await.json();
    assert_eq!(
        reply["ignored_options"],
        json!(["option `num_ctx` 1000000 is cut to the 256 positions that the model was made for"])
    );
    body["options"] = json!({"num_ctx": 2_000_000});
    daemon.post("/api/generate", &body).await;
    assert_eq!(daemon.fake.loads(), 1, "both mean the same");
}

#[tokio::test]
async fn an_idle_model_makes_room_and_one_that_cannot_fit_is_refused_with_numbers() {
    let daemon = TestDaemon::start(&[("memory_budget", "1000")]).await;
    daemon.create("one", "weights 600").await;
    daemon.create("two", "weights 700").await;
    daemon.create("huge", "weights 1001").await;
    for name in ["one", "two", "one"] {
        assert_eq!(
            daemon.post("/api/generate", &ask(name, "hi")).await.status,
            StatusCode::OK
        );
        let ps = daemon.get("/api/ps").await.json();
        assert_eq!(ps["models"].as_array().unwrap().len(), 1, "{ps}");
        assert_eq!(ps["models"][0]["name"], format!("{name}:latest"));
    }
    assert_eq!(daemon.fake.loads(), 3);
    let reply = daemon.post("/api/generate", &ask("huge", "hi")).await;
    assert_eq!(reply.status, StatusCode::INSUFFICIENT_STORAGE);
    assert!(
        reply
            .error()
            .contains("1001 bytes are more than the budget of 1000 bytes"),
        "{}",
        reply.text()
    );
    assert_eq!(daemon.fake.loads(), 3, "it was not even tried");
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let daemon = TestDaemon::start(&[("max_queue", "1"), ("num_parallel", "1")]).await;
    daemon.create("m", "x").await;
    let mut running = daemon
        .begin("/api/generate", &json!({"model": "m", "prompt": "wait here"}))
        .await;
    assert!(running.chunk().await.unwrap().contains("wait"));
    // This one waits; the daemon's status tells when it does.
    let mut waiting = daemon.connect().await;
    let body = http_body_util::Full::from(bytes::Bytes::from(ask("m", "second").to_string()));
    let request = http::Request::post("/api/generate")
        .header(header::HOST, "localhost")
        .body(body)
        .unwrap();
    let waiting = tokio::spawn(async move { waiting.send_request(request).await.unwrap().status() });
    while daemon.get("/api/witness/status").await.json()["queued"] != 1 {
        tokio::task::yield_now().await;
    }
    let refused = daemon.post("/api/generate", &ask("m", "third")).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        refused.headers[header::RETRY_AFTER]
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            >= 1
    );
    assert_eq!(refused.error(), "the queue is full: 1 requests wait, 1 may");
    drop(running);
    assert_eq!(waiting.await.unwrap(), StatusCode::OK, "the place was freed by leaving");
}

/// A client who leaves in the middle of an answer ends it; one who leaves while waiting is forgotten.
#[tokio::test]
async fn leaving_cancels() {
    let daemon = TestDaemon::start(&[("num_parallel", "1")]).await;
    daemon.create("m", "x").await;
    let mut running = daemon
        .begin("/api/generate", &json!({"model": "m", "prompt": "wait here"}))
        .await;
    assert!(running.chunk().await.unwrap().contains("wait"));
    daemon.fake.until_running(1).await;
    drop(running);
    daemon.fake.until_running(0).await;
    let after = daemon.post("/api/generate", &ask("m", "well")).await;
    assert_eq!(after.json()["response"], "well");
    assert_eq!(daemon.fake.loads(), 1, "the model stayed");
}

#[tokio::test]
async fn a_load_that_fails_is_the_answer_of_who_waited() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("m", "load-error no such tensor").await;
    for loads in 1..=2 {
        let reply = daemon.post("/api/generate", &ask("m", "hi")).await;
        assert_eq!(reply.error(), "no such tensor");
        assert_eq!(
            daemon.fake.loads(),
            loads,
            "tried once for each request, not on its own"
        );
    }
}

#[tokio::test]
async fn at_the_end_answers_are_told_workers_stop_and_the_store_is_free() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("m", "x").await;
    let mut running = daemon
        .begin("/api/generate", &json!({"model": "m", "prompt": "wait here"}))
        .await;
    assert!(running.chunk().await.unwrap().contains("wait"));
    let socket = daemon.bound.socket.clone();
    assert!(socket.exists());
    let fake = std::sync::Arc::clone(&daemon.fake);
    daemon.shutdown();
    let lines = running.rest().await;
    assert!(
        !lines.last().unwrap()["error"].as_str().unwrap().is_empty(),
        "{lines:?}"
    );
    let home = daemon.end().await;
    assert_eq!(fake.stopped(), 1);
    assert!(!socket.exists(), "the socket's file is gone");
    let again = TestDaemon::start_in(home, &[]).await;
    assert_eq!(
        again.get("/api/tags").await.json()["models"][0]["name"],
        "m:latest",
        "the lock was let go"
    );
}

#[tokio::test]
async fn deleting_a_loaded_model_unloads_it_and_frees_its_blobs() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("m", "weights 5").await;
    daemon.post("/api/generate", &ask("m", "hi")).await;
    let deleted = daemon
        .send(http::Method::DELETE, "/api/delete", br#"{"model":"m"}"#.to_vec())
        .await;
    assert_eq!(deleted.status, StatusCode::OK);
    assert_eq!(daemon.get("/api/ps").await.json(), json!({"models": []}));
}

#[tokio::test]
async fn an_idle_model_goes_when_its_time_is_over() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("m", "x").await;
    let mut body = ask("m", "hi");
    body["keep_alive"] = json!("1ms");
    assert_eq!(daemon.post("/api/generate", &body).await.status, StatusCode::OK);
    while daemon.fake.stopped() == 0 {
        tokio::task::yield_now().await;
    }
    body["keep_alive"] = json!(-1);
    assert_eq!(daemon.post("/api/generate", &body).await.status, StatusCode::OK);
    let expires = daemon.get("/api/ps").await.json()["models"][0]["expires_at"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(expires.as_str() > "2100", "kept for ever: {expires}");
}
