//! Answers: streamed and whole, in both shapes, and what makes them fail.

use http::StatusCode;
use serde_json::{Value, json};
use witness_plugin_protocol::Prompt;

use crate::support::TestDaemon;

fn chat(content: &str) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": content}]})
}

fn with(mut body: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

#[tokio::test]
async fn generate_streams_lines() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("m", "x").await;
    let begun = daemon
        .begin("/api/generate", &json!({"model": "m", "prompt": "why is ünïcode"}))
        .await;
    assert_eq!(begun.status, StatusCode::OK);
    let lines = begun.rest().await;
    let texts: Vec<&str> = lines.iter().map(|line| line["response"].as_str().unwrap()).collect();
    assert_eq!(texts, ["why ", "is ", "ünïcode", ""]);
    for line in &lines[..3] {
        assert_eq!(line["model"], "m");
        assert_eq!(line["done"], false);
        assert!(line["created_at"].as_str().unwrap().ends_with('Z'));
        assert_eq!(
            line.as_object().unwrap().len(),
            4,
            "nothing else on a token's line: {line}"
        );
    }
    let last = &lines[3];
    assert_eq!(last["done"], true);
    assert_eq!(last["done_reason"], "stop");
    assert_eq!(last["context"], json!([100, 101, 102, 1, 2, 3]));
    assert_eq!(
        (&last["prompt_eval_count"], &last["eval_count"]),
        (&json!(3), &json!(3))
    );
    assert_eq!(
        (&last["prompt_eval_duration"], &last["eval_duration"]),
        (&json!(11), &json!(22))
    );
    assert!(last["total_duration"].as_u64().unwrap() >= last["load_duration"].as_u64().unwrap());
}

#[tokio::test]
async fn whole_answers() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("m", "x").await;
    let reply = daemon
        .post(
            "/api/generate",
            &json!({"model": "m", "prompt": "a b c d", "stream": false, "options": {"num_predict": 2}}),
        )
        .await;
    let value = reply.json();
    assert_eq!(reply.headers["content-type"], "application/json; charset=utf-8");
    assert_eq!(
        (&value["response"], &value["done_reason"], &value["eval_count"]),
        (&json!("a b "), &json!("length"), &json!(2))
    );
    let value = daemon
        .post("/api/chat", &with(chat("hi you"), &json!({"stream": false})))
        .await
        .json();
    assert_eq!(value["message"], json!({"role": "assistant", "content": "hi you"}));
    assert!(value.get("context").is_none());
}

#[tokio::test]
async fn chat_streams_lines() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("m", "x").await;
    let lines = daemon.begin("/api/chat", &chat("hi you")).await.rest().await;
    let texts: Vec<&str> = lines
        .iter()
        .map(|line| line["message"]["content"].as_str().unwrap())
        .collect();
    assert_eq!(texts, ["hi ", "you", ""]);
    assert!(lines.iter().all(|line| line["message"]["role"] == "assistant"));
    assert_eq!(lines[2]["done_reason"], "stop");
}

#[tokio::test]
async fn log_probabilities_when_asked() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("m", "x").await;
    let body = with(
        chat("a b"),
        &json!({"stream": false, "logprobs": true, "top_logprobs": 2}),
    );
    let value = daemon.post("/api/chat", &body).await.json();
    assert_eq!(value["logprobs"].as_array().unwrap().len(), 2);
    assert_eq!(
        value["logprobs"][0],
        json!({"token": "a ", "logprob": -0.25, "bytes": [97, 32], "top_logprobs": [
            {"token": "alt0", "logprob": -1.0, "bytes": [97, 108, 116, 48]}, {"token": "alt1", "logprob": -2.0, "bytes": [97, 108, 116, 49]}]})
    );
    assert_eq!(
        daemon
            .post(
                "/api/chat",
                &with(chat("a"), &json!({"logprobs": true, "top_logprobs": 21}))
            )
            .await
            .status,
        StatusCode::BAD_REQUEST
    );
}

/// Layers of options: the request's, the model's, and warnings for what is not understood.
#[tokio::test]
async fn options_are_merged_and_strange_ones_named() {
    let daemon = TestDaemon::start(&[]).await;
    let digest = daemon.upload(b"x").await;
    let create = json!({"model": "m", "files": {"f.fake": digest}, "parameters": {"temperature": 0.1, "top_k": 5, "stop": ["S"]}, "stream": false});
    assert_eq!(daemon.post("/api/create", &create).await.status, StatusCode::OK);
    let body = with(
        chat("a"),
        &json!({"stream": false, "options": {"temperature": 0, "seed": 42, "temprature": 1, "num_gpu": 1}}),
    );
    let value = daemon.post("/api/chat", &body).await.json();
    assert_eq!(
        value["ignored_options"],
        json!([
            "option `num_gpu` has no effect here",
            "option `temprature` is unknown and ignored; did you mean `temperature`?"
        ])
    );
    assert_eq!(value["seed"], 42);
    {
        let requests = daemon.fake.requests.lock().unwrap();
        let sampling = &requests[0].sampling;
        assert_eq!(
            (sampling.temperature, sampling.top_k, sampling.seed),
            (0.0, 5, Some(42))
        );
        assert_eq!(sampling.stop, ["S"]);
        assert_eq!(sampling.top_p, 0.9);
    }
    let wrong = daemon
        .post("/api/chat", &with(chat("a"), &json!({"options": {"top_k": "many"}})))
        .await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert_eq!(wrong.error(), "option `top_k` must be a whole number, not `\"many\"`");
}

#[tokio::test]
async fn a_prompt_beyond_the_context_is_refused_or_cut_as_asked() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("m", "num_ctx 3").await;
    let reply = daemon.post("/api/chat", &chat("one two three four five")).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(reply.error(), "the prompt has 5 tokens and the context 3");
    let value = daemon
        .post(
            "/api/chat",
            &with(
                chat("one two three four five"),
                &json!({"truncate": true, "stream": false}),
            ),
        )
        .await
        .json();
    assert_eq!(value["truncated_tokens"], 2);
}

#[tokio::test]
async fn prompts_are_laid_out_by_the_template_or_joined() {
    let daemon = TestDaemon::start(&[]).await;
    let files = |digest: &str| json!({"f.fake": digest});
    let plain = daemon.upload(b"plain").await;
    let templated = daemon
        .upload(b"template T\ncapability tools\ncapability thinking")
        .await;
    for (name, digest) in [("plain", &plain), ("templated", &templated)] {
        let body = json!({"model": name, "files": files(digest), "system": "S", "messages": [{"role": "user", "content": "M"}], "stream": false});
        assert_eq!(daemon.post("/api/create", &body).await.status, StatusCode::OK);
    }
    let user = json!([{"role": "user", "content": "hi"}]);
    daemon
        .post(
            "/api/chat",
            &json!({"model": "plain", "messages": user, "stream": false}),
        )
        .await;
    daemon
        .post(
            "/api/generate",
            &json!({"model": "plain", "prompt": "hi", "stream": false}),
        )
        .await;
    daemon
        .post(
            "/api/generate",
            &json!({"model": "plain", "prompt": "hi", "raw": true, "stream": false}),
        )
        .await;
    daemon
        .post(
            "/api/generate",
            &json!({"model": "plain", "prompt": "hi", "context": [1, 2], "stream": false}),
        )
        .await;
    daemon.post("/api/chat", &json!({"model": "templated", "messages": user, "stream": false, "think": true, "tools": [{"type": "function"}]})).await;
    daemon.post("/api/chat", &json!({"model": "templated", "messages": [{"role": "system", "content": "mine"}, user[0]], "stream": false})).await;
    daemon
        .post(
            "/api/generate",
            &json!({"model": "templated", "prompt": "hi", "system": "mine", "template": "{% x %}", "stream": false}),
        )
        .await;
    daemon
        .post(
            "/api/generate",
            &json!({"model": "templated", "prompt_ids": [7, 8], "stream": false}),
        )
        .await;
    let prompts: Vec<Value> = daemon
        .fake
        .requests
        .lock()
        .unwrap()
        .iter()
        .map(|request| serde_json::to_value(&request.prompt).unwrap())
        .collect();
    let text = |text: &str| json!({"type": "text", "text": text, "add_special": true});
    assert_eq!(prompts[0], text("S\n\nM\n\nhi"));
    assert_eq!(prompts[1], text("S\n\nhi"));
    assert_eq!(prompts[2], text("hi"));
    assert_eq!(
        prompts[3],
        json!({"type": "text", "text": "hi", "context": [1, 2], "add_special": false})
    );
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    assert_eq!(
        prompts[4]["messages"],
        json!([message("system", "S"), message("user", "M"), message("user", "hi")])
    );
    assert_eq!(prompts[4]["variables"]["enable_thinking"], true);
    assert_eq!(prompts[4]["tools"], json!([{"type": "function"}]));
    assert_eq!(
        prompts[5]["messages"],
        json!([message("user", "M"), message("system", "mine"), message("user", "hi")])
    );
    assert_eq!(prompts[7], json!({"type": "tokens", "ids": [7, 8]}));
    assert_eq!(prompts[6]["template"], "{% x %}");
    assert_eq!(prompts[6]["messages"][0], message("system", "mine"));
    assert!(matches!(
        serde_json::from_value::<Prompt>(prompts[6].clone()).unwrap(),
        Prompt::Chat { .. }
    ));
}

#[tokio::test]
async fn what_a_model_cannot_do_is_refused() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("m", "template T").await;
    let cases: Vec<(&str, Value, u16, &str)> = vec![
        (
            "/api/generate",
            json!({"model": "m", "prompt": "a", "suffix": "b"}),
            400,
            "does not support insert",
        ),
        (
            "/api/generate",
            json!({"model": "m", "prompt": "a", "images": ["aGk="]}),
            400,
            "does not take images",
        ),
        (
            "/api/generate",
            json!({"model": "m", "prompt": "a", "raw": true, "system": "s"}),
            400,
            "raw mode",
        ),
        (
            "/api/generate",
            json!({"model": "m", "prompt": "a", "prompt_ids": [1]}),
            400,
            "stands in place of",
        ),
        (
            "/api/generate",
            json!({"model": "m", "prompt": "a", "context": [1]}),
            400,
            "not one that this daemon handed out",
        ),
        (
            "/api/generate",
            json!({"model": "m", "prompt": "a", "format": "yaml"}),
            400,
            "neither `\"json\"` nor",
        ),
        (
            "/api/generate",
            json!({"model": "m", "prompt": "a", "think": true}),
            400,
            "does not support thinking",
        ),
        (
            "/api/generate",
            json!({"model": "nope", "prompt": "a"}),
            404,
            "is not here",
        ),
        ("/api/generate", json!({"prompt": "a"}), 400, "names no `model`"),
        (
            "/api/generate",
            json!({"model": "m", "prompt": 5}),
            400,
            "does not parse",
        ),
        (
            "/api/chat",
            with(chat("a"), &json!({"tools": [{}]})),
            400,
            "does not support tools",
        ),
        (
            "/api/chat",
            json!({"model": "m", "messages": [{"role": "usr", "content": "a"}]}),
            400,
            "role `usr`",
        ),
        (
            "/api/chat",
            json!({"model": "m", "messages": [{"role": "user", "content": "a", "images": ["x"]}]}),
            400,
            "does not take images",
        ),
        (
            "/api/chat",
            with(chat("a"), &json!({"keep_alive": "soon"})),
            400,
            "`soon` is not a duration",
        ),
    ];
    for (path, body, status, message) in cases {
        let reply = daemon.post(path, &body).await;
        assert_eq!(reply.status.as_u16(), status, "{body}: {}", reply.text());
        assert!(reply.error().contains(message), "{body}: {}", reply.text());
    }
}

#[tokio::test]
async fn a_worker_that_dies_costs_its_requests_and_no_more() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("m", "x").await;
    let before = daemon
        .post("/api/chat", &with(chat("die-now"), &json!({"stream": false})))
        .await;
    assert_eq!(before.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(before.error().contains("SIGSEGV"), "{}", before.text());
    let whole = daemon
        .post("/api/chat", &with(chat("die word"), &json!({"stream": false})))
        .await;
    assert_eq!(whole.status, StatusCode::INTERNAL_SERVER_ERROR);
    let begun = daemon.begin("/api/chat", &chat("die word")).await;
    assert_eq!(begun.status, StatusCode::OK, "the answer had begun");
    let lines = begun.rest().await;
    assert_eq!(lines[0]["message"]["content"], "die ");
    assert!(lines.last().unwrap()["error"].as_str().unwrap().contains("SIGSEGV"));
    let after = daemon
        .post("/api/chat", &with(chat("well"), &json!({"stream": false})))
        .await;
    assert_eq!(after.json()["message"]["content"], "well");
    assert_eq!(daemon.fake.loads(), 4, "each death was followed by a load");
}

/// With a chat template, `context` is continued by the messages behind it.
#[tokio::test]
async fn a_context_that_was_handed_out_is_continued() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("m", "template T").await;
    let first = daemon
        .post(
            "/api/generate",
            &json!({"model": "m", "prompt": "one", "system": "S", "stream": false}),
        )
        .await
        .json();
    let begun = daemon
        .begin(
            "/api/generate",
            &json!({"model": "m", "prompt": "two", "context": first["context"]}),
        )
        .await;
    let last = begun.rest().await.pop().unwrap();
    let third = daemon
        .post(
            "/api/generate",
            &json!({"model": "m", "prompt": "three", "context": last["context"]}),
        )
        .await;
    assert_eq!(third.status, StatusCode::OK);
    drop(third);
    let requests = daemon.fake.requests.lock().unwrap();
    let prompt = serde_json::to_value(&requests.last().unwrap().prompt).unwrap();
    let said: Vec<&str> = prompt["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["content"].as_str().unwrap())
        .collect();
    assert_eq!(said, ["S", "one", "one", "two", "two", "three"]);
}
