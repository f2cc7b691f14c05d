//! A model in one file: written by one daemon, read by another, and refused wherever it is not what `create` would have made.

use std::path::{Path, PathBuf};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use witness_plugin_protocol::ModelInfo;
use witness_registry::bundle::{Bundle, PackOptions, Watch};
use witness_registry::{Layer, Manifest, ModelName, OpenOptions, Registry, media};

use crate::support::{Reply, TestDaemon};

async fn export(daemon: &TestDaemon, body: Value) -> Reply {
    let mut asked = json!({"form": "bundle"});
    asked.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    daemon.local(Method::POST, "/api/witness/export", &asked).await
}

async fn unbundle(daemon: &TestDaemon, body: Value) -> Reply {
    daemon.local(Method::POST, "/api/witness/unbundle", &body).await
}

async fn digest_of(daemon: &TestDaemon, model: &str) -> Option<String> {
    let tags = daemon.get("/api/tags").await.json();
    let models = tags["models"].as_array().unwrap();
    let found = models.iter().find(|found| found["name"] == format!("{model}:latest"))?;
    Some(found["digest"].as_str().unwrap().to_owned())
}

async fn show(daemon: &TestDaemon, model: &str) -> Value {
    let mut shown = daemon.post("/api/show", &json!({"model": model})).await.json();
    // When it was written is no part of what it is.
    shown.as_object_mut().unwrap().remove("modified_at");
    shown
}

/// A daemon with a model of two adapters and texts, and its bundle.
async fn bundled(more: Value) -> (TestDaemon, PathBuf) {
    let daemon = TestDaemon::start(&[]).await;
    daemon
        .create_with_adapters("parent", "weights 5000\nx", &["one", "two"])
        .await;
    let made = daemon
        .post(
            "/api/create",
            &json!({"model": "child", "from": "parent", "system": "Be kind.", "license": "MIT", "stream": false,
                "parameters": {"temperature": 0}, "messages": [{"role": "user", "content": "hi"}],
                "template": "{% for message in messages %}{{ message.content }}{% endfor %}"}),
        )
        .await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text());
    let file = daemon.home.path().join("child.witness.tar");
    let mut body = json!({"model": "child", "file": file});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let reply = export(&daemon, body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    (daemon, file)
}

fn left_over(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).unwrap();
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".part") || name.starts_with("incoming-"))
        .collect()
}

#[tokio::test]
async fn a_model_goes_from_one_store_to_another() {
    let (daemon, file) = bundled(json!({"stream": true})).await;
    let other = TestDaemon::start(&[]).await;
    let reply = unbundle(&other, json!({"path": file, "stream": true})).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let lines = reply.lines();
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["status"], &last["model"]),
        (&json!("success"), &json!("child:latest")),
        "{lines:?}"
    );
    let of_bytes = lines.iter().find(|line| line["status"] == "reading bundle").unwrap();
    assert!(of_bytes["total"].as_u64().unwrap() > 0);
    assert!(
        lines
            .iter()
            .all(|line| !line["status"].as_str().unwrap().starts_with("warning"))
    );
    let digest = digest_of(&daemon, "child").await;
    assert!(digest.is_some());
    assert_eq!(digest_of(&other, "child").await, digest);
    assert_eq!(last["digest"], format!("sha256:{}", digest.unwrap()));
    assert_eq!(show(&other, "child").await, show(&daemon, "child").await);
    assert_eq!(other.fake.inspections.load(std::sync::atomic::Ordering::SeqCst), 1);
    let answer = other
        .post(
            "/api/generate",
            &json!({"model": "child", "prompt": "a b", "stream": false}),
        )
        .await;
    assert_eq!(answer.json()["response"], "[one] a b", "{}", answer.text());
    // The same again is the same; another name is another name.
    assert_eq!(unbundle(&other, json!({"path": file})).await.status, StatusCode::OK);
    let reply = unbundle(&other, json!({"path": file, "model": "other:v1"})).await;
    assert_eq!(reply.json()["model"], "other:v1", "{}", reply.text());
    assert!(left_over(daemon.home.path()).is_empty() && left_over(&other.store().join(".witness/tmp")).is_empty());
}

#[tokio::test]
async fn a_name_that_is_taken_is_given_away_by_force_alone() {
    let (_daemon, file) = bundled(json!({})).await;
    let other = TestDaemon::start(&[]).await;
    other.create("child", "mine").await;
    let mine = digest_of(&other, "child").await;
    let refused = unbundle(&other, json!({"path": file, "stream": true})).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.text().contains("--force"), "{}", refused.text());
    assert_eq!(digest_of(&other, "child").await, mine);
    let forced = unbundle(&other, json!({"path": file, "force": true})).await;
    assert_eq!(forced.status, StatusCode::OK, "{}", forced.text());
    assert_ne!(digest_of(&other, "child").await, mine);
}

#[tokio::test]
async fn one_adapter_leaves_alone() {
    for (adapter, left) in [("two", json!(["two"])), ("base", Value::Null)] {
        let (daemon, file) = bundled(json!({"adapter": adapter})).await;
        let other = TestDaemon::start(&[]).await;
        let reply = unbundle(&other, json!({"path": file, "stream": true})).await;
        let lines = reply.lines();
        assert_eq!(lines.last().unwrap()["status"], "success", "{lines:?}");
        assert!(
            lines
                .iter()
                .all(|line| !line["status"].as_str().unwrap().starts_with("warning")),
            "{lines:?}"
        );
        let tags = other.get("/api/tags").await.json();
        assert_eq!(tags["models"][0]["adapters"], left, "{tags}");
        assert_ne!(digest_of(&other, "child").await, digest_of(&daemon, "child").await);
    }
}

#[tokio::test]
async fn without_its_base_a_bundle_needs_it_here() {
    let (_daemon, file) = bundled(json!({"without_base": true})).await;
    let other = TestDaemon::start(&[]).await;
    let refused = unbundle(&other, json!({"path": file, "stream": true}))
        .await
        .lines()
        .pop()
        .unwrap();
    let told = refused.to_string();
    assert!(told.contains("without its base `parent:latest`"), "{told}");
    assert!(told.contains("model.fake") && told.contains("sha256:"), "{told}");
    assert!(digest_of(&other, "child").await.is_none());
    other.create("anything", "weights 5000\nx").await;
    let reply = unbundle(&other, json!({"path": file})).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
}

#[tokio::test]
async fn what_does_not_go_together_is_refused() {
    let (daemon, file) = bundled(json!({})).await;
    let new = daemon.home.path().join("new.tar");
    for (body, status, wanted) in [
        (json!({"file": new, "merge": true}), 400, "as it is stored"),
        (json!({"file": new, "quantize": "q8_0"}), 400, "as it is stored"),
        (json!({"file": new, "adapter": "three"}), 400, "no adapter `three`"),
        (json!({"directory": new}), 400, "names no `file`"),
        (json!({"file": "/"}), 400, "names no `file`"),
        (json!({"file": "relative"}), 400, "not absolute"),
        (json!({"file": file}), 409, "there already"),
        (json!({"file": daemon.home.path()}), 400, "not a plain file"),
        (json!({"file": daemon.home.path().join("no/where.tar")}), 404, "no/"),
        (
            json!({"form": "gguf", "directory": new, "without_base": true}),
            400,
            "only a bundle",
        ),
        (
            json!({"form": "gguf", "directory": new, "file": new}),
            400,
            "only a bundle",
        ),
        (json!({"form": "gguf", "file": new}), 400, "only a bundle"),
        (
            json!({"form": "bundl", "directory": new}),
            400,
            "did you mean `bundle`?",
        ),
    ] {
        let mut asked = json!({"model": "child"});
        asked.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let reply = export(&daemon, asked).await;
        assert_eq!(reply.status.as_u16(), status, "{body}: {}", reply.text());
        assert!(reply.text().contains(wanted), "{body}: {}", reply.text());
    }
    assert!(!new.exists());
    for path in ["/api/witness/export", "/api/witness/unbundle"] {
        let over_tcp = daemon
            .post(path, &json!({"path": file, "file": new, "model": "child"}))
            .await;
        assert_eq!(over_tcp.status, StatusCode::FORBIDDEN, "{path}");
    }
    let missing = unbundle(&daemon, json!({"path": new})).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND, "{}", missing.text());
    let name = unbundle(&daemon, json!({"path": file, "model": "a b"})).await;
    assert_eq!(name.status, StatusCode::BAD_REQUEST, "{}", name.text());
}

/// A layer: its media type, its content, its annotations.
type ForgedLayer<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

/// Packs a model as no daemon would: `config` is its configuration, `title` the name of its one file, which holds `content`.
fn forge(path: &Path, config: &Value, title: &str, content: &str, more: Vec<ForgedLayer<'_>>) {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::open(home.path(), &OpenOptions::new("test")).unwrap();
    let config = registry.put_bytes(config.to_string().as_bytes()).unwrap();
    let weights = registry.put_bytes(content.as_bytes()).unwrap();
    let mut layers = vec![Layer::of(media::WITNESS_MODEL_FILE, &weights).with(media::TITLE, title)];
    for (media_type, text, annotations) in more {
        let layer = Layer::of(media_type, &registry.put_bytes(text.as_bytes()).unwrap());
        let annotations = annotations.iter();
        layers.push(annotations.fold(layer, |layer, (key, value)| layer.with(key, *value)));
    }
    let name = ModelName::parse("forged").unwrap();
    registry
        .write_manifest(&name, &Manifest::new(Layer::of(media::CONFIG, &config), layers))
        .unwrap();
    let options = PackOptions {
        name: &name,
        program: "forger 1",
        without_base: None,
        made: &[],
        replace: true,
    };
    let manifest = registry.manifest_bytes(&name).unwrap();
    registry.pack(&manifest, path, &options, Watch::default()).unwrap();
    assert_eq!(Bundle::open(path).unwrap().program(), "forger 1");
}

// What memory is reckoned by is what a plugin found here, whatever the bundle says.
#[tokio::test]
async fn claims_about_the_model_are_not_believed() {
    let daemon = TestDaemon::start(&[]).await;
    let file = daemon.home.path().join("forged.tar");
    let info = ModelInfo {
        architecture: "tiny".into(),
        ..ModelInfo::default()
    };
    let claims = json!({"model_format": "fake", "witness": {"plugin": "x", "info": info, "parent": "p"}});
    forge(&file, &claims, "model.fake", "weights 7000\n", Vec::new());
    let packed = Bundle::open(&file).unwrap().manifest_digest().hex().to_owned();
    let lines = unbundle(&daemon, json!({"path": file, "stream": true})).await.lines();
    let warning = lines
        .iter()
        .find(|line| line["status"].as_str().unwrap().starts_with("warning: "));
    assert!(warning.is_some(), "{lines:?}");
    assert_ne!(digest_of(&daemon, "forged").await, Some(packed));
    let estimate = daemon
        .post("/api/witness/estimate", &json!({"model": "forged"}))
        .await
        .json();
    assert_eq!(estimate["weights_bytes"], 7000, "{estimate}");
    assert_eq!(show(&daemon, "forged").await["details"]["parent_model"], "p");
}

// Each is refused before it has a name, and by the reason that `create` gives.
#[tokio::test]
async fn what_create_refuses_is_refused() {
    let daemon = TestDaemon::start(&[]).await;
    let file = daemon.home.path().join("forged.tar");
    let none = json!({"model_format": "fake"});
    let adapter = |name: &'static str| {
        (
            media::WITNESS_ADAPTER_FILE,
            "a",
            vec![(media::TITLE, "a.fake"), (media::ADAPTER_NAME, name)],
        )
    };
    let (dotted, based) = (adapter(".x"), adapter("base"));
    type More<'a> = Vec<(&'a str, &'a str, &'a [(&'a str, &'a str)])>;
    let cases: Vec<(&str, &str, More<'_>, &str)> = vec![
        ("model.fake", "inspect-error not a model", Vec::new(), "not a model"),
        ("../../outside", "x", Vec::new(), "leaves its directory"),
        ("a\u{1b}[2J", "x", Vec::new(), "control character"),
        (
            "model.fake",
            "x",
            vec![(dotted.0, dotted.1, &dotted.2)],
            "no name for an adapter",
        ),
        ("model.fake", "x", vec![(based.0, based.1, &based.2)], "`base`"),
        (
            "model.fake",
            "x",
            vec![(media::PARAMS, r#"{"temperature": "hot"}"#, &[])],
            "temperature",
        ),
        (
            "model.fake",
            "x",
            vec![(media::PARAMS, "no JSON", &[])],
            "does not parse",
        ),
    ];
    for (title, content, more, wanted) in cases {
        forge(&file, &none, title, content, more);
        let reply = unbundle(&daemon, json!({"path": file})).await;
        assert!(reply.status.as_u16() >= 400, "{title:?} {content}: {}", reply.text());
        assert!(reply.text().contains(wanted), "{title:?} {content}: {}", reply.text());
        assert!(digest_of(&daemon, "forged").await.is_none(), "{title:?} {content}");
    }
    // A model that another program made says nothing that could be believed or not.
    forge(&file, &none, "model.fake", "weights 10\n", Vec::new());
    let packed = Bundle::open(&file).unwrap().manifest_digest().hex().to_owned();
    assert_eq!(unbundle(&daemon, json!({"path": file})).await.status, StatusCode::OK);
    assert_eq!(digest_of(&daemon, "forged").await, Some(packed));
}

#[tokio::test]
async fn a_damaged_bundle_names_the_place() {
    let (_daemon, file) = bundled(json!({})).await;
    let other = TestDaemon::start(&[]).await;
    let mut bytes = std::fs::read(&file).unwrap();
    let place = bytes.windows(9).position(|window| window == b"Be kind.\0").unwrap();
    bytes[place] = b'b';
    std::fs::write(&file, &bytes).unwrap();
    let reply = unbundle(&other, json!({"path": file})).await;
    let told = reply.json();
    assert_eq!(told["code"], "witness::registry::bundle_damaged", "{told}");
    assert!(
        told["causes"][0]
            .as_str()
            .unwrap()
            .contains(&format!("at byte {place}: ")),
        "{told}"
    );
    assert!(digest_of(&other, "child").await.is_none());
    assert!(left_over(&other.store().join(".witness/tmp")).is_empty());
}
