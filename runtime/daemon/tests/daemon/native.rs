//! Our own routes: status, plugins, estimate, unload, import, fsck, shutdown.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use witness_registry::Digest;

use crate::support::TestDaemon;

#[tokio::test]
async fn status_and_plugins() {
    let daemon = TestDaemon::start(&[("memory_budget", "4096")]).await;
    daemon.create("m", "weights 5").await;
    daemon.post("/api/generate", &json!({"model": "m"})).await;
    let status = daemon.get("/api/witness/status").await.json();
    assert_eq!(status["pid"], std::process::id());
    assert_eq!(status["host"], daemon.bound.address.to_string());
    assert_eq!(status["memory_budget_bytes"], 4096);
    assert_eq!(status["loaded"][0]["model"], "m:latest");
    assert_eq!(status["loaded"][0]["plugin"], "fake");
    assert!(status["resident_bytes"].as_u64().unwrap() > 0);
    let plugins = daemon.get("/api/witness/plugins").await.json();
    assert_eq!(plugins["plugins"][0]["path"], "/fake/libfake.so");
    let checked = daemon
        .local(Method::POST, "/api/witness/plugins/check", &json!({"path": "/x.so"}))
        .await
        .json();
    assert_eq!(checked["refused"]["message"], "not a plugin");
}

#[tokio::test]
async fn estimates_and_unloads() {
    let daemon = TestDaemon::start(&[("memory_budget", "4096"), ("num_parallel", "2")]).await;
    daemon.create_with_adapters("m", "weights 5", &["tone"]).await;
    let estimate = daemon
        .post("/api/witness/estimate", &json!({"model": "m", "num_ctx": 64}))
        .await
        .json();
    assert_eq!(estimate["weights_bytes"], 5);
    assert_eq!(estimate["adapter_bytes"], 10);
    assert_eq!(estimate["total_bytes"], 15);
    assert_eq!(
        (&estimate["num_ctx"], &estimate["num_parallel"]),
        (&json!(64), &json!(2))
    );
    assert_eq!(
        (&estimate["fits"], &estimate["is_loaded"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(
        daemon.post("/api/witness/unload", &json!({"model": "m"})).await.json(),
        json!({"unloaded": true})
    );
    assert_eq!(
        daemon.post("/api/witness/unload", &json!({"model": "m"})).await.json(),
        json!({"unloaded": false})
    );
}

#[tokio::test]
async fn a_file_is_imported_by_its_path() {
    let daemon = TestDaemon::start(&[]).await;
    let file = daemon.home.path().join("some file.bin");
    std::fs::write(&file, b"content").unwrap();
    let reply = daemon
        .local(
            Method::POST,
            "/api/witness/import",
            &json!({"path": file, "link": false}),
        )
        .await;
    let last = reply.lines().pop().unwrap();
    assert_eq!(last["digest"], Digest::of(b"content").as_str());
    assert_eq!(last["size"], 7);
    let missing = daemon
        .local(Method::POST, "/api/witness/import", &json!({"path": "/nonexistent/x"}))
        .await;
    assert!(!missing.lines().pop().unwrap()["error"].as_str().unwrap().is_empty());
    let relative = daemon
        .local(Method::POST, "/api/witness/import", &json!({"path": "x"}))
        .await;
    assert_eq!(relative.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn fsck_finds_a_corrupt_blob_by_model() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("m", "weights 5").await;
    let sound = daemon
        .post("/api/witness/fsck", &json!({}))
        .await
        .lines()
        .pop()
        .unwrap();
    assert_eq!(
        (&sound["done"], &sound["status"], &sound["models"]),
        (&json!(true), &json!("sound"), &json!(1))
    );
    let blob = daemon.store().join("blobs").join(Digest::of(b"weights 5").file_name());
    let mut permissions = std::fs::metadata(&blob).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    std::fs::set_permissions(&blob, permissions).unwrap();
    std::fs::write(&blob, "weights 6").unwrap();
    let report = daemon
        .post("/api/witness/fsck", &json!({"repair": null}))
        .await
        .lines()
        .pop()
        .unwrap();
    assert_eq!(report["status"], "damaged");
    let problem = &report["problems"][0];
    assert_eq!(
        (&problem["problem"], &problem["models"]),
        (&json!("blob_corrupt"), &json!(["m:latest"]))
    );
    assert_eq!(problem["is_damage"], true);
}

#[tokio::test]
async fn shutdown_by_request() {
    let daemon = TestDaemon::start(&[]).await;
    assert_eq!(
        daemon
            .local(Method::POST, "/api/witness/shutdown", &Value::Null)
            .await
            .status,
        StatusCode::OK
    );
    daemon.end().await;
}
