//! Stored models: listed, shown, copied, deleted; and a store that another program wrote.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use witness_registry::{Layer, Manifest, ModelName, OpenOptions, Registry, media};

use crate::support::TestDaemon;

#[tokio::test]
async fn root_and_version() {
    let daemon = TestDaemon::start(&[]).await;
    let root = daemon.get("/").await;
    assert_eq!(
        (root.status, root.text().as_str()),
        (StatusCode::OK, "witness is running")
    );
    assert_eq!(daemon.send(Method::HEAD, "/", vec![]).await.status, StatusCode::OK);
    let version = daemon.get("/api/version").await.json()["version"]
        .as_str()
        .unwrap()
        .to_owned();
    let numbers: Vec<u32> = version.split('.').map(|part| part.parse().unwrap()).collect();
    assert!(numbers >= vec![0, 6, 4], "clients ask for at least 0.6.4: {version}");
    assert_eq!(
        daemon.send(Method::HEAD, "/api/tags", vec![]).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn what_is_not_there_says_so() {
    let daemon = TestDaemon::start(&[]).await;
    let unknown = daemon.get("/api/tag").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert_eq!(unknown.error(), "there is no `/api/tag`");
    assert_eq!(unknown.json()["hints"], json!(["did you mean `/api/tags`?"]));
    assert!(!unknown.json()["request_id"].as_str().unwrap().is_empty());
    assert_eq!(
        unknown.json()["request_id"],
        unknown.headers["x-request-id"].to_str().unwrap()
    );
    let method = daemon.send(Method::PUT, "/api/chat", vec![]).await;
    assert_eq!(method.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(method.error(), "`/api/chat` does not take PUT");
    assert_eq!(
        daemon.post("/api/pull", &json!({})).await.status,
        StatusCode::NOT_IMPLEMENTED
    );
}

#[tokio::test]
async fn the_listing_follows_the_store() {
    let daemon = TestDaemon::start(&[]).await;
    assert_eq!(daemon.get("/api/tags").await.json(), json!({"models": []}));
    daemon.create("tiny", "weights 10").await;
    let tags = daemon.get("/api/tags").await.json();
    let model = &tags["models"][0];
    assert_eq!(model["name"], "tiny:latest");
    assert_eq!(model["model"], "tiny:latest");
    assert_eq!(model["digest"].as_str().unwrap().len(), 64);
    assert_eq!(
        model["details"],
        json!({"parent_model": "", "format": "fake", "family": "echo", "families": ["echo"], "parameter_size": "260K", "quantization_level": "F32"})
    );
    assert_eq!(
        daemon
            .post("/api/copy", &json!({"source": "tiny", "destination": "you/other:v1"}))
            .await
            .status,
        StatusCode::OK
    );
    let names = |tags: Value| -> Vec<String> {
        let mut names: Vec<String> = tags["models"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        names(daemon.get("/api/tags").await.json()),
        ["tiny:latest", "you/other:v1"]
    );
    let array = daemon
        .send(Method::DELETE, "/api/delete", br#" ["tiny"]"#.to_vec())
        .await;
    assert_eq!(array.status, StatusCode::BAD_REQUEST);
    assert_eq!(array.json()["code"], "witness::daemon::body_json");
    let deleted = daemon
        .send(Method::DELETE, "/api/delete", br#"{"name":"tiny"}"#.to_vec())
        .await;
    assert_eq!(deleted.status, StatusCode::OK);
    assert_eq!(names(daemon.get("/api/tags").await.json()), ["you/other:v1"]);
    let again = daemon
        .send(Method::DELETE, "/api/delete", br#"{"model":"tiny"}"#.to_vec())
        .await;
    assert_eq!(again.status, StatusCode::NOT_FOUND);
    assert_eq!(
        daemon
            .post(
                "/api/chat",
                &json!({"model": "you/other:v1", "messages": [{"role": "user", "content": "hi"}], "stream": false})
            )
            .await
            .status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_mistyped_name_is_answered_with_the_near_ones() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("witness-expert", "a").await;
    let reply = daemon.post("/api/show", &json!({"model": "wittness-expert"})).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert_eq!(reply.error(), "model `wittness-expert` is not here");
    assert_eq!(reply.json()["hints"][0], "did you mean `witness-expert`?");
    for (name, status) in [
        ("ünïcode", 400),
        ("a b", 400),
        ("", 400),
        ("../../etc", 400),
        ("a/b/c/d/e", 400),
        ("nope:v9", 404),
    ] {
        let reply = daemon.post("/api/show", &json!({"model": name})).await;
        assert_eq!(reply.status.as_u16(), status, "{name}: {}", reply.text());
    }
}

#[tokio::test]
async fn a_model_is_shown_whole() {
    let daemon = TestDaemon::start(&[]).await;
    let digest = daemon.upload(b"template {{ messages }}").await;
    let body = json!({
        "model": "mario", "files": {"model.fake": digest}, "system": "You are Mario", "license": ["MIT", "BSD"],
        "parameters": {"temperature": 1, "stop": ["<s>", "\n"]}, "messages": [{"role": "user", "content": "hi"}],
        "template": "{% for m in messages %}{{ m.content }}{% endfor %}", "stream": false, "requires": "0.7.0"
    });
    assert_eq!(daemon.post("/api/create", &body).await.status, StatusCode::OK);
    let shown = daemon.post("/api/show", &json!({"model": "mario"})).await.json();
    assert_eq!(shown["system"], "You are Mario");
    assert_eq!(shown["template"], "{% for m in messages %}{{ m.content }}{% endfor %}");
    assert_eq!(shown["license"], "MIT\nBSD");
    assert_eq!(shown["messages"], json!([{"role": "user", "content": "hi"}]));
    assert_eq!(shown["model_info"]["general.architecture"], "echo");
    assert_eq!(shown["capabilities"], json!(["completion"]));
    assert_eq!(shown["witness"]["requires"], "0.7.0");
    let modelfile = shown["modelfile"].as_str().unwrap();
    for line in [
        "FROM mario",
        "SYSTEM You are Mario",
        "PARAMETER temperature 1",
        "PARAMETER stop \"<s>\"",
        "MESSAGE user hi",
        "LICENSE MIT",
    ] {
        assert!(modelfile.lines().any(|known| known == line), "{line} in {modelfile}");
    }
    // Made again from its own Modelfile, it prints the same.
    let plan = witness_modelfile::parse("Modelfile", modelfile)
        .unwrap()
        .plan()
        .unwrap();
    assert_eq!(plan.system.as_deref(), Some("You are Mario"));
    assert_eq!(plan.license, ["MIT", "BSD"]);
    assert_eq!(plan.parameters_json()["stop"], json!(["<s>", "\n"]));
    assert_eq!(plan.requires.as_deref(), Some("0.7.0"));
    assert_eq!(plan.from[0].text, "mario");
    assert!(
        shown["parameters"]
            .as_str()
            .unwrap()
            .contains("stop                           \"<s>\"")
    );
}

/// A store as Ollama leaves it: a GGUF layer, a Go template, a config without our part.
#[tokio::test]
async fn a_store_that_ollama_wrote_is_used_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    {
        let registry = Registry::open(
            home.path().join("models"),
            &OpenOptions {
                create: true,
                ..OpenOptions::new("test")
            },
        )
        .unwrap();
        let put = |media_type: &str, bytes: &[u8]| Layer::of(media_type, &registry.put_bytes(bytes).unwrap());
        let config = put(
            media::CONFIG,
            br#"{"model_format":"gguf","model_family":"llama","model_families":["llama"],"model_type":"8.0B","file_type":"Q4_0","architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#,
        );
        let layers = vec![
            put(media::MODEL, b"GGUF\ntemplate own"),
            put(media::TEMPLATE, b"{{ if .System }}{{ .System }}{{ end }}{{ .Prompt }}"),
            put(media::PARAMS, br#"{"stop":["<|eot|>"],"num_keep":24}"#),
            put(media::LICENSE, b"LLAMA"),
            put("application/vnd.example.other", b"??"),
        ];
        registry
            .write_manifest(&ModelName::parse("llama3:8b").unwrap(), &Manifest::new(config, layers))
            .unwrap();
    }
    let daemon = TestDaemon::start_in(home, &[]).await;
    let tags = daemon.get("/api/tags").await.json();
    assert_eq!(tags["models"][0]["name"], "llama3:8b");
    assert_eq!(tags["models"][0]["details"]["parameter_size"], "8.0B");
    let shown = daemon.post("/api/show", &json!({"model": "llama3:8b"})).await.json();
    assert_eq!(shown["details"]["family"], "llama");
    assert!(
        shown["witness"]["notes"][0].as_str().unwrap().contains("Go template"),
        "{shown}"
    );
    assert!(shown["modelfile"].as_str().unwrap().contains("\nFROM /"), "{shown}");
    let reply = daemon
        .post(
            "/api/chat",
            &json!({"model": "llama3:8b", "messages": [{"role": "user", "content": "hi there"}], "stream": false}),
        )
        .await;
    assert_eq!(reply.json()["message"]["content"], "hi there");
    let requests = daemon.fake.requests.lock().unwrap();
    let witness_plugin_protocol::Prompt::Chat { template, .. } = &requests[0].prompt else {
        panic!("a chat prompt")
    };
    assert_eq!(*template, None, "the model's own template");
    assert_eq!(requests[0].sampling.stop, ["<|eot|>"]);
}

/// A damaged model is reported by name and nothing else suffers.
#[tokio::test]
async fn one_damaged_model_is_one_entry() {
    let daemon = TestDaemon::start(&[]).await;
    daemon.create("good", "a").await;
    daemon.create("bad", "b").await;
    let manifest = daemon.store().join("manifests/registry.ollama.ai/library/bad/latest");
    std::fs::write(&manifest, b"{").unwrap();
    // Its change is seen when the store's stamp is looked at again; a write of our own makes that now.
    daemon.create("third", "c").await;
    let tags = daemon.get("/api/tags").await.json();
    let bad = tags["models"]
        .as_array()
        .unwrap()
        .iter()
        .find(|m| m["name"] == "bad:latest")
        .unwrap();
    assert!(bad["damage"].as_str().unwrap().contains("manifest"), "{bad}");
    assert_eq!(tags["models"].as_array().unwrap().len(), 3);
    let reply = daemon.post("/api/show", &json!({"model": "bad"})).await;
    assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR, "{}", reply.text());
    assert_eq!(
        daemon.post("/api/show", &json!({"model": "good"})).await.status,
        StatusCode::OK
    );
    let deleted = daemon
        .send(Method::DELETE, "/api/delete", br#"{"model":"bad"}"#.to_vec())
        .await;
    assert_eq!(deleted.status, StatusCode::OK, "{}", deleted.text());
}
