//! A model that becomes another form of itself while it is made: quantized, merged, and everything that can go wrong on the way.

use http::StatusCode;
use serde_json::{Value, json};
use witness_plugin_protocol::ModelForm;

use crate::support::TestDaemon;

/// The text of a model's file.
fn file_of(daemon: &TestDaemon, name: &str) -> String {
    let manifest = daemon
        .store()
        .join(format!("manifests/registry.ollama.ai/library/{name}/latest"));
    let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    let digest = manifest["layers"][0]["digest"].as_str().unwrap().replace(':', "-");
    std::fs::read_to_string(daemon.store().join("blobs").join(digest)).unwrap()
}

/// What lies in the store's private directory for files on their way.
fn left_over(daemon: &TestDaemon) -> usize {
    std::fs::read_dir(daemon.store().join(".witness/tmp")).unwrap().count()
}

#[tokio::test]
async fn a_base_is_quantized_before_the_model_is_made_of_it() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create_with_adapters("parent", "x", &["one"]).await;
    let body = json!({
        "model": "small", "from": "parent", "quantize": "q4_K_M",
        "quantize_options": {"tensor_types": {"attn_v": "q8_0"}, "pure": true},
    });
    let begun = daemon.begin("/api/create", &body).await;
    assert_eq!(begun.status, StatusCode::OK);
    let lines = begun.rest().await;
    assert_eq!(lines.last().unwrap()["status"], "success", "{lines:?}");
    let told: Vec<&Value> = lines
        .iter()
        .filter(|line| line["status"] == "quantizing F32 model to Q4_K_M")
        .collect();
    assert_eq!(
        (told.len(), &told[1]["completed"], &told[2]["completed"]),
        (3, &json!(50), &json!(100))
    );
    assert_eq!(told[1]["total"], 100);
    assert_eq!(file_of(&daemon, "small"), "made Q4_K_M\nx");
    assert_eq!(file_of(&daemon, "parent"), "x");
    assert_eq!(left_over(&daemon), 0);
    let asked = daemon.fake.transforms.lock().unwrap()[0].clone();
    assert_eq!(
        (asked.form, asked.model_name.as_str(), asked.options.pure),
        (ModelForm::Gguf, "parent:latest", true)
    );
    assert_eq!(asked.options.tensor_types[0].pattern, "attn_v");
    // The adapters of the base stand on the new one, and the manifest says how it was made.
    let shown = daemon.post("/api/show", &json!({"model": "small"})).await.json();
    assert_eq!(shown["details"]["quantization_level"], "Q4_K_M");
    let chat = json!({"model": "small", "prompt": "hello", "stream": false});
    let answer = daemon.post("/api/generate", &chat).await.json();
    assert_eq!(answer["response"], "[one] hello");
}

#[tokio::test]
async fn an_adapter_is_merged_and_gone() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create_with_adapters("parent", "x", &["one", "two"]).await;
    let body = json!({"model": "whole", "from": "parent", "merge": "two", "stream": false});
    let reply = daemon.post("/api/create", &body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    assert_eq!(file_of(&daemon, "whole"), "made F32\nmerged two\nx");
    let asked = daemon.fake.transforms.lock().unwrap()[0].clone();
    assert_eq!((asked.form, asked.quantization), (ModelForm::Safetensors, None));
    let chat = json!({"model": "whole", "prompt": "hello", "stream": false});
    assert_eq!(daemon.post("/api/generate", &chat).await.json()["response"], "hello");
    // The first, where none is named; and none that is not there.
    let body = json!({"model": "first", "from": "parent", "merge": "", "quantize": "q8_0", "stream": false});
    assert_eq!(daemon.post("/api/create", &body).await.status, StatusCode::OK);
    assert_eq!(file_of(&daemon, "first"), "made Q8_0\nmerged one\nx");
    let body = json!({"model": "none", "from": "parent", "merge": "three", "stream": false});
    let reply = daemon.post("/api/create", &body).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert!(
        reply.error().contains("no adapter `three` to merge"),
        "{}",
        reply.text()
    );
}

#[tokio::test]
async fn what_fails_leaves_nothing() {
    let daemon = TestDaemon::start(&[]).await;
    for (content, wanted) in [
        ("transform-error tensor `t` holds a NaN", "tensor `t` holds a NaN"),
        ("transform-escapes ../../../config", "cannot be taken over"),
        ("transform-escapes not-there.gguf", "cannot be taken over"),
    ] {
        daemon.create("parent", content).await;
        let body = json!({"model": "made", "from": "parent", "quantize": "q8_0", "stream": false});
        let reply = daemon.post("/api/create", &body).await;
        assert!(reply.error().contains(wanted), "{content}: {}", reply.text());
        let reply = daemon.post("/api/show", &json!({"model": "made"})).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND);
        assert_eq!(left_over(&daemon), 0, "{content}");
    }
    let body = json!({"model": "made", "from": "parent", "quantize_options": {"pure": true}, "stream": false});
    assert_eq!(daemon.post("/api/create", &body).await.status, StatusCode::BAD_REQUEST);
}

// A plan is what the plugin says, field for field in the types that clients read it with, and nothing is made.
#[tokio::test]
async fn a_plan_is_told_and_nothing_is_made() {
    let daemon = TestDaemon::start(&[]).await;
    daemon
        .create_with_adapters("parent", "transform-warns it is small\nx", &["one"])
        .await;
    let body = json!({"model": "small", "from": "parent", "quantize": "q4_K_M", "quantize_options": {"pure": true}});
    let reply = daemon.post("/api/witness/plan", &body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let plan: witness_api::TransformPlan = serde_json::from_value(reply.json()).unwrap();
    assert_eq!(
        (plan.to.as_str(), plan.target_bytes, plan.tensors[0].name.as_str()),
        ("Q4_K_M", 10, "t")
    );
    assert_eq!(plan.warnings, ["it is small"]);
    let of_plugin: witness_plugin_protocol::TransformPlan = serde_json::from_value(reply.json()).unwrap();
    assert_eq!(
        serde_json::to_value(&plan).unwrap(),
        serde_json::to_value(&of_plugin).unwrap()
    );
    assert_eq!(serde_json::to_value(&plan).unwrap(), reply.json());
    assert!(daemon.fake.transforms.lock().unwrap().is_empty());
    let merge = json!({"model": "small", "from": "parent", "merge": ""});
    assert_eq!(daemon.post("/api/witness/plan", &merge).await.json()["to"], "F32");
    for (body, status, wanted) in [
        (
            json!({"model": "small", "from": "parent"}),
            400,
            "neither `quantize` nor `merge`",
        ),
        (
            json!({"model": "small", "from": "nobody", "quantize": "q8_0"}),
            404,
            "is not here",
        ),
        (
            json!({"model": "small", "from": "parent", "merge": "two"}),
            404,
            "no adapter `two` to merge",
        ),
        (
            json!({"model": "small", "from": "parent", "quantize": "q8_0", "quantize_options": {"imatrix": "sha256:12"}}),
            400,
            "imatrix",
        ),
    ] {
        let reply = daemon.post("/api/witness/plan", &body).await;
        assert_eq!(reply.status.as_u16(), status, "{body}: {}", reply.text());
        assert!(reply.error().contains(wanted), "{body}: {}", reply.text());
    }
    assert_eq!(
        daemon.get("/api/tags").await.json()["models"].as_array().unwrap().len(),
        1
    );
}

// Ctrl-C: the worker goes, and what it had written with it.
#[tokio::test]
async fn a_reader_who_leaves_ends_it() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("parent", "transform-waits for ever").await;
    let body = json!({"model": "made", "from": "parent", "quantize": "q8_0"});
    let mut begun = daemon.begin("/api/create", &body).await;
    let mut workers = daemon.fake.transforming.subscribe();
    workers.wait_for(|count| *count == 1).await.unwrap();
    assert!(begun.chunk().await.is_some());
    drop(begun);
    workers.wait_for(|count| *count == 0).await.unwrap();
    for _ in 0..100 {
        if left_over(&daemon) == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the working directory is still there");
}
