//! Models and adapters as files for other programs: which are copied, which are made, and what is told meanwhile.

use std::path::Path;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use witness_plugin_protocol::ModelForm;

use crate::support::{Reply, TestDaemon};

async fn export(daemon: &TestDaemon, body: Value) -> Reply {
    daemon.local(Method::POST, "/api/witness/export", &body).await
}

fn lines(reply: &Reply) -> Vec<Value> {
    let text = reply.text();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What lies in the store's private directory for files on their way.
fn left_over(daemon: &TestDaemon) -> usize {
    std::fs::read_dir(daemon.store().join(".witness/tmp")).unwrap().count()
}

#[tokio::test]
async fn a_form_that_is_not_stored_is_made_and_moved_out() {
    let daemon = TestDaemon::start(&[]).await;
    daemon
        .create_with_adapters("parent", "transform-warns it is small\nx", &["one", "two"])
        .await;
    let out = daemon.home.path().join("out/gguf");
    let body = json!({"model": "parent", "directory": out, "form": "gguf", "quantize": "q8_0", "merge": true, "adapter": "two", "stream": true});
    let reply = export(&daemon, body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let lines = lines(&reply);
    let told: Vec<(&str, u64, u64)> = lines
        .iter()
        .map(|line| {
            let number = |key: &str| line[key].as_u64().unwrap_or(0);
            (line["status"].as_str().unwrap(), number("completed"), number("total"))
        })
        .collect();
    assert_eq!(
        told,
        [
            ("warning: it is small", 0, 0),
            ("merging into F32 model as Q8_0", 0, 0),
            ("merging into F32 model as Q8_0", 50, 100),
            ("merging into F32 model as Q8_0", 100, 100),
            ("writing files", 0, 0),
            ("success", 0, 0),
        ]
    );
    assert_eq!(
        (&lines[5]["files"], &lines[5]["directory"]),
        (&json!(["model.fake"]), &json!(out))
    );
    let made = std::fs::read_to_string(out.join("model.fake")).unwrap();
    assert_eq!(made, "made Q8_0\nmerged two\ntransform-warns it is small\nx");
    assert_eq!((names(&out), left_over(&daemon)), (vec!["model.fake".to_owned()], 0));
    // The store is as it was.
    let models = daemon.get("/api/tags").await.json()["models"].as_array().unwrap().len();
    assert_eq!(models, 1);
    // Without lines: one object, and the base alone where nothing is merged.
    let out = daemon.home.path().join("out/plain");
    let reply = export(
        &daemon,
        json!({"model": "parent", "directory": out, "form": "safetensors"}),
    )
    .await;
    assert_eq!(reply.json(), json!({"directory": out, "files": ["model.fake"]}));
    let asked = daemon.fake.transforms.lock().unwrap().clone();
    assert_eq!(
        (asked[1].form, &asked[1].adapter, asked[1].model_name.as_str()),
        (ModelForm::Safetensors, &None, "parent:latest")
    );
    // An adapter by itself.
    let out = daemon.home.path().join("out/adapter");
    let reply = export(
        &daemon,
        json!({"model": "parent", "directory": out, "form": "gguf_adapter"}),
    )
    .await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let asked = daemon.fake.transforms.lock().unwrap()[2].clone();
    assert_eq!(
        (asked.form, asked.adapter.unwrap().name.as_str()),
        (ModelForm::GgufAdapter, "one")
    );
}

// What is stored in the form already needs no plugin; a template that stands beside it does.
#[tokio::test]
async fn a_form_that_is_stored_is_copied() {
    let daemon = TestDaemon::start(&[]).await;
    let digest = daemon.upload(b"GGUF file").await;
    let mut model = json!({"model": "packed", "files": {"model.gguf": digest}, "stream": false});
    assert_eq!(daemon.post("/api/create", &model).await.status, StatusCode::OK);
    let out = daemon.home.path().join("out");
    let reply = export(
        &daemon,
        json!({"model": "packed", "directory": out, "form": "gguf", "stream": true}),
    )
    .await;
    assert_eq!(lines(&reply)[1]["files"], json!(["model.gguf"]), "{}", reply.text());
    assert_eq!(std::fs::read(out.join("model.gguf")).unwrap(), b"GGUF file");
    assert!(daemon.fake.transforms.lock().unwrap().is_empty());
    model["template"] = json!("{% for message in messages %}{{ message.content }}{% endfor %}");
    assert_eq!(daemon.post("/api/create", &model).await.status, StatusCode::OK);
    let out = daemon.home.path().join("other");
    let reply = export(&daemon, json!({"model": "packed", "directory": out, "form": "gguf"})).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    assert_eq!(
        daemon.fake.transforms.lock().unwrap()[0].template.as_deref(),
        model["template"].as_str()
    );
}

#[tokio::test]
async fn what_does_not_go_together_is_refused_before_any_work() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create_with_adapters("parent", "x", &["one"]).await;
    daemon.create("bare", "y").await;
    let full = daemon.home.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("mine"), "mine").unwrap();
    let out = daemon.home.path().join("out");
    for (body, status, wanted) in [
        (
            json!({"model": "parent", "form": "safetensor"}),
            400,
            "did you mean `safetensors`?",
        ),
        (
            json!({"model": "parent", "form": "peft", "quantize": "q8_0"}),
            400,
            "only a whole model",
        ),
        (
            json!({"model": "parent", "form": "gguf_adapter", "quantize": "q8_0"}),
            400,
            "only a whole model",
        ),
        (
            json!({"model": "parent", "merge": true}),
            400,
            "merged into a whole model",
        ),
        (
            json!({"model": "parent", "form": "gguf", "adapter": "one"}),
            400,
            "only when that is merged",
        ),
        (
            json!({"model": "parent", "form": "gguf", "merge": true, "adapter": "two"}),
            400,
            "no adapter `two`",
        ),
        (
            json!({"model": "parent", "form": "gguf", "merge": true, "adapter": "base"}),
            400,
            "`base` is no adapter",
        ),
        (
            json!({"model": "bare", "form": "gguf", "merge": true}),
            400,
            "has no adapter",
        ),
        (
            json!({"model": "parent", "form": "gguf", "directory": full}),
            409,
            "is not empty",
        ),
        (json!({"model": "nobody", "form": "gguf"}), 404, "is not here"),
    ] {
        let mut asked = json!({"directory": out, "stream": true});
        asked.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let reply = export(&daemon, asked).await;
        assert_eq!(reply.status.as_u16(), status, "{body}: {}", reply.text());
        assert!(reply.text().contains(wanted), "{body}: {}", reply.text());
    }
    assert!(daemon.fake.transforms.lock().unwrap().is_empty() && !out.exists());
}

// Over lines a failure is the last of them; nothing is written, and what was made is gone.
#[tokio::test]
async fn what_fails_writes_nothing() {
    let daemon = TestDaemon::start(&[]).await;
    let out = daemon.home.path().join("out");
    for (content, wanted) in [
        ("transform-error tensor `t` holds a NaN", "tensor `t` holds a NaN"),
        ("transform-escapes ../../../config", "cannot be taken over"),
        ("transform-escapes not-there.gguf", "cannot be taken over"),
    ] {
        daemon.create("parent", content).await;
        let reply = export(
            &daemon,
            json!({"model": "parent", "directory": out, "form": "gguf", "stream": true}),
        )
        .await;
        let last = lines(&reply).pop().unwrap();
        assert!(last["error"].as_str().unwrap().contains(wanted), "{content}: {last}");
        assert_eq!((left_over(&daemon), out.exists()), (0, false), "{content}");
    }
}

// Ctrl-C: the worker goes with what it had written, and the user's directory is not even there.
#[tokio::test]
async fn a_reader_who_leaves_ends_it() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("parent", "transform-waits for ever").await;
    let out = daemon.home.path().join("out");
    let body = json!({"model": "parent", "directory": out, "form": "gguf", "stream": true});
    let mut workers = daemon.fake.transforming.subscribe();
    tokio::select! {
        reply = export(&daemon, body) => panic!("it ended: {}", reply.text()),
        seen = workers.wait_for(|count| *count == 1) => drop(seen.unwrap()),
    }
    workers.wait_for(|count| *count == 0).await.unwrap();
    for _ in 0..100 {
        if left_over(&daemon) == 0 {
            assert!(!out.exists());
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the working directory is still there");
}
