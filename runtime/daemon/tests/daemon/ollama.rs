//! A store for Ollama: which layers it gets, which of them are made, and what is left alone.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use witness_plugin_protocol::ModelForm;
use witness_registry::{Digest, Manifest, ModelName, OpenOptions, Registry, media};

use crate::support::{Reply, TestDaemon};

async fn export(daemon: &TestDaemon, body: Value) -> Reply {
    let mut asked = json!({"form": "ollama"});
    asked.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    daemon.local(Method::POST, "/api/witness/export", &asked).await
}

/// What Ollama reads of a model: the manifest by its path, each blob by its digest.
fn read(directory: &Path, model: &str) -> (Manifest, Vec<Vec<u8>>, Value) {
    let path = directory.join("manifests/registry.ollama.ai/library").join(model);
    let manifest: Manifest = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let blob = |digest: &Digest| {
        let bytes = std::fs::read(directory.join("blobs").join(digest.file_name())).unwrap();
        assert_eq!(Digest::of(&bytes), *digest);
        bytes
    };
    let blobs = manifest.layers.iter().map(|layer| blob(&layer.digest)).collect();
    let config = serde_json::from_slice(&blob(&manifest.config.digest)).unwrap();
    (manifest, blobs, config)
}

fn types(manifest: &Manifest) -> Vec<&str> {
    manifest
        .layers
        .iter()
        .map(|layer| layer.media_type.rsplit('.').next().unwrap())
        .collect()
}

#[tokio::test]
async fn a_gguf_model_is_copied_with_its_texts() {
    let daemon = TestDaemon::start(&[]).await;
    let (base, adapter) = (daemon.upload(b"GGUF base").await, daemon.upload(b"GGUF adapter").await);
    let made = daemon
        .post(
            "/api/create",
            &json!({"model": "packed:v1", "files": {"model.gguf": base}, "adapters": {"one/adapter.gguf": adapter}, "stream": false,
                "template": "{{ .System }} {{ .Prompt }}", "system": "Be kind.", "license": ["MIT", "more"],
                "parameters": {"temperature": 0}, "messages": [{"role": "user", "content": "hi"}]}),
        )
        .await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text());
    let out = daemon.home.path().join("ollama/models");
    let reply = export(&daemon, json!({"model": "packed:v1", "directory": out, "stream": true})).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let lines = reply.lines();
    assert_eq!(lines.last().unwrap()["files"], json!(["packed:v1"]), "{lines:?}");
    assert!(
        lines
            .iter()
            .all(|line| !line["status"].as_str().unwrap().starts_with("warning")),
        "{lines:?}"
    );
    assert!(daemon.fake.transforms.lock().unwrap().is_empty());
    let (manifest, blobs, config) = read(&out, "packed/v1");
    assert_eq!(
        types(&manifest),
        [
            "model", "adapter", "template", "system", "license", "license", "params", "messages"
        ]
    );
    let all: Vec<_> = manifest.all_layers().collect();
    assert!(
        all.iter()
            .skip(1)
            .all(|layer| layer.media_type.starts_with("application/vnd.ollama.image."))
    );
    assert!(all.iter().all(|layer| layer.annotations.is_empty()));
    assert_eq!(manifest.config.media_type, media::CONFIG);
    assert_eq!(
        (blobs[0].as_slice(), blobs[1].as_slice()),
        (&b"GGUF base"[..], &b"GGUF adapter"[..])
    );
    assert_eq!(blobs[2], b"{{ .System }} {{ .Prompt }}");
    assert_eq!(
        config,
        json!({"model_format": "gguf", "model_family": "echo", "model_families": ["echo"], "model_type": "260K", "file_type": "F32",
            "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": config["rootfs"]["diff_ids"]}})
    );
    assert_eq!(
        config["rootfs"]["diff_ids"].as_array().unwrap().len(),
        manifest.layers.len()
    );
}

#[tokio::test]
async fn what_is_no_gguf_is_made_one() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create_with_adapters("parent", "x", &["one"]).await;
    let out = daemon.home.path().join("out");
    let reply = export(
        &daemon,
        json!({"model": "parent", "directory": out, "stream": true, "quantize": "q8_0"}),
    )
    .await;
    let lines = reply.lines();
    assert_eq!(lines.last().unwrap()["status"], "success", "{lines:?}");
    let told = format!("{lines:?}");
    assert!(
        told.contains("writing layers") && told.contains("no Go template"),
        "{told}"
    );
    {
        let asked = daemon.fake.transforms.lock().unwrap();
        assert_eq!(asked.len(), 2);
        assert_eq!(
            (asked[0].form, asked[0].quantization.as_deref()),
            (ModelForm::Gguf, Some("q8_0"))
        );
        assert!(asked[0].adapter.is_none());
        assert_eq!(
            (asked[1].form, asked[1].quantization.as_deref()),
            (ModelForm::GgufAdapter, None)
        );
        assert_eq!(asked[1].adapter.as_ref().unwrap().name, "one");
    }
    let (manifest, blobs, config) = read(&out, "parent/latest");
    assert_eq!(types(&manifest), ["model", "adapter"]);
    assert_eq!(blobs[0], b"made Q8_0\nx");
    // The facts are those of what was made.
    assert_eq!(
        (&config["file_type"], &config["model_format"]),
        (&json!("Q8_0"), &json!("gguf"))
    );
    // Merged, there is no adapter; a Jinja template goes into the file.
    daemon
        .post(
            "/api/create",
            &json!({"model": "child", "from": "parent", "stream": false, "template": "{% for m in messages %}{{ m.content }}{% endfor %}"}),
        )
        .await;
    let reply = export(&daemon, json!({"model": "child", "directory": out, "merge": true})).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let (manifest, blobs, _) = read(&out, "child/latest");
    assert_eq!(types(&manifest), ["model"]);
    assert_eq!(blobs[0], b"made F32\nmerged one\nx");
    assert!(daemon.fake.transforms.lock().unwrap()[2].template.is_some());
    // Nothing of it stayed in our own store.
    assert_eq!(
        std::fs::read_dir(daemon.store().join(".witness/tmp")).unwrap().count(),
        0
    );
}

#[tokio::test]
async fn a_store_that_is_there_is_added_to() {
    let daemon = TestDaemon::start(&[]).await;
    let base = daemon.upload(b"GGUF base").await;
    for name in ["a", "b"] {
        let body = json!({"model": name, "files": {"model.gguf": base}, "system": name, "stream": false});
        assert_eq!(daemon.post("/api/create", &body).await.status, StatusCode::OK);
    }
    let out = daemon.home.path().join("out");
    assert_eq!(
        export(&daemon, json!({"model": "a", "directory": out})).await.status,
        StatusCode::OK
    );
    let weights = out.join("blobs").join(Digest::parse(&base).unwrap().file_name());
    let before = std::fs::metadata(&weights).unwrap().ino();
    assert_eq!(
        export(&daemon, json!({"model": "b", "directory": out})).await.status,
        StatusCode::OK
    );
    assert_eq!(std::fs::metadata(&weights).unwrap().ino(), before, "the weights stayed");
    let registry = Registry::open(&out, &OpenOptions::new("test")).unwrap();
    assert_eq!(registry.list().unwrap().len(), 2);
    assert!(registry.manifest(&ModelName::parse("a").unwrap()).is_ok());
    // Somebody else has it open.
    let refused = export(&daemon, json!({"model": "a", "directory": out, "force": true})).await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.text());
    drop(registry);
    let refused = export(&daemon, json!({"model": "a", "directory": out})).await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.text());
    assert!(refused.text().contains("--force"), "{}", refused.text());
    let forced = export(&daemon, json!({"model": "a", "directory": out, "force": true})).await;
    assert_eq!(forced.status, StatusCode::OK, "{}", forced.text());
}

#[tokio::test]
async fn what_ollama_cannot_take_is_refused_before_any_work() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create_with_adapters("parent", "x", &["one", "two"]).await;
    daemon.create("bare", "y").await;
    let full = daemon.home.path().join("full");
    std::fs::create_dir_all(full.join("models/manifests")).unwrap();
    let own = daemon.store();
    let out = daemon.home.path().join("out");
    for (body, status, wanted) in [
        (json!({"model": "parent"}), 400, "one, two"),
        (
            json!({"model": "parent", "adapter": "three"}),
            400,
            "no adapter `three`",
        ),
        (json!({"model": "parent", "merge": true}), 400, "takes one adapter"),
        (
            json!({"model": "parent", "adapter": "base", "merge": true}),
            400,
            "no adapter to merge",
        ),
        (json!({"model": "bare", "merge": true}), 400, "no adapter to merge"),
        (json!({"model": "bare", "without_base": true}), 400, "only a bundle"),
        (json!({"model": "bare", "directory": full}), 409, "full/models"),
        (json!({"model": "bare", "directory": own}), 409, "in use"),
        (json!({"model": "bare", "directory": "relative"}), 400, "not absolute"),
        (json!({"model": "nobody"}), 404, "is not here"),
    ] {
        let mut asked = json!({"directory": out, "stream": true});
        asked.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let reply = export(&daemon, asked).await;
        assert_eq!(reply.status.as_u16(), status, "{body}: {}", reply.text());
        assert!(reply.text().contains(wanted), "{body}: {}", reply.text());
    }
    assert!(daemon.fake.transforms.lock().unwrap().is_empty() && !out.exists());
    let reply = export(&daemon, json!({"model": "parent", "directory": out, "adapter": "base"})).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    assert_eq!(types(&read(&out, "parent/latest").0), ["model"]);
    // What fails on the way leaves no name.
    daemon
        .create("broken", "transform-error tensor `t` has no GGUF form")
        .await;
    let reply = export(&daemon, json!({"model": "broken", "directory": out, "stream": true})).await;
    assert!(reply.text().contains("has no GGUF form"), "{}", reply.text());
    assert!(!out.join("manifests/registry.ollama.ai/library/broken").exists());
}
