//! The daemon with real workers: plugin discovery, processes, frames, signals. The plugin is the well-behaved side of the hostile one, and
//! at the end its other side.
//!
//! The test program is its own worker program (`worker` as first argument), hence a main of its own. One daemon serves all steps, in order,
//! because each builds on what the last one left: that is what is tested here and not with the engine that obeys.

#![expect(clippy::unwrap_used, reason = "a test, though one that brings its own main")]

use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use witness_daemon::{Bound, ServeOptions};
use witness_registry::Digest;
use witness_settings::{Overrides, resolve};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == "worker" => return witness_plugin_host::worker_main(arguments),
        // Asked for its list of tests, or for another test by name.
        Some(first) if first == "--list" => {
            println!("real_workers: test");
            return ExitCode::SUCCESS;
        }
        Some(first)
            if !first.to_string_lossy().starts_with('-') && !"real_workers".contains(&*first.to_string_lossy()) =>
        {
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(real_workers());
    println!("test real_workers ... ok");
    ExitCode::SUCCESS
}

/// Puts the plugin into a directory of its own: beside the test program lie plugins of all kinds.
fn plugins(home: &std::path::Path) -> Option<PathBuf> {
    let beside = std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .join("libwitness_plugin_hostile.so");
    let directory = home.join("only-this");
    std::fs::create_dir(&directory).unwrap();
    match std::fs::copy(&beside, directory.join("libwitness_plugin_hostile.so")) {
        Ok(_) => Some(directory),
        Err(error) => {
            eprintln!("skipped: needs {}: {error}", beside.display());
            None
        }
    }
}

async fn real_workers() {
    let home = tempfile::tempdir().unwrap();
    let Some(directory) = plugins(home.path()) else { return };
    let overrides = Overrides {
        home: Some(home.path().to_owned()),
        host: Some("127.0.0.1:0".into()),
        ..Overrides::default()
    };
    let settings = resolve(&overrides, &|_| None).unwrap();
    let (ready, bound) = tokio::sync::oneshot::channel();
    let options = ServeOptions {
        worker_program: std::env::current_exe().unwrap(),
        plugin_dirs: vec![directory],
        ready: Some(ready),
    };
    let daemon = tokio::spawn(witness_daemon::run_async(settings, options));
    let bound = bound.await.unwrap();

    let (_, plugins) = call(&bound, Method::GET, "/api/witness/plugins", &Value::Null).await;
    assert_eq!(plugins[0]["plugins"][0]["descriptor"]["name"], "hostile", "{plugins:?}");

    let model = b"HOSTILE1\nnum_ctx 64\n";
    let adapter = Digest::of(b"adapter");
    for bytes in [&model[..], b"adapter", b"not a model"] {
        let path = format!("/api/blobs/{}", Digest::of(bytes));
        assert_eq!(
            send(&bound, Method::POST, &path, bytes.to_vec()).await.0,
            StatusCode::CREATED
        );
    }
    let base = Digest::of(model);
    let create = json!({"model": "echo", "files": {"m.hostile": base.as_str()}, "adapters": {"tone/a.hostile": adapter.as_str()}, "stream": false});
    assert_eq!(
        call(&bound, Method::POST, "/api/create", &create).await,
        (StatusCode::OK, vec![json!({"status": "success"})])
    );
    let damaged = json!({"model": "bad", "files": {"m.hostile": Digest::of(b"not a model").as_str()}, "stream": false});
    let (status, answer) = call(&bound, Method::POST, "/api/create", &damaged).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{answer:?}");
    assert!(answer[0]["error"].as_str().unwrap().contains("HOSTILE1"), "{answer:?}");
    let strange = json!({"model": "bad", "files": {"m.unknown": base.as_str()}, "stream": false});
    let (status, answer) = call(&bound, Method::POST, "/api/create", &strange).await;
    assert!(
        !status.is_success() && answer[0]["hints"].is_array(),
        "no plugin reads it: {answer:?}"
    );

    let lines = chat(&bound, "so it goes", json!({})).await;
    let text: String = lines
        .iter()
        .map(|line| line["message"]["content"].as_str().unwrap())
        .collect();
    assert!(text.starts_with("[tone@") && text.ends_with("] so it goes"), "{text}");
    let lines = chat(
        &bound,
        "emit 500",
        json!({"adapter": "base", "options": {"num_predict": 500}}),
    )
    .await;
    let count = lines.last().unwrap()["eval_count"].as_u64();
    assert_eq!((count, lines.len()), (Some(500), 501));
    let (status, answer) = call(&bound, Method::POST, "/api/chat", &question(&"word ".repeat(70))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        answer[0]["error"]
            .as_str()
            .unwrap()
            .contains("70 tokens and the context 64"),
        "{answer:?}"
    );

    // The worker dies in the middle; the answer says how, and the next one comes from a new worker.
    let pid = worker(&bound).await;
    let (_, answer) = call(&bound, Method::POST, "/api/chat", &question("hostile! step:segfault")).await;
    let last = answer.last().unwrap();
    assert!(last["error"].as_str().unwrap().contains("SIGSEGV"), "{answer:?}");
    let lines = chat(&bound, "well again", json!({"adapter": "base"})).await;
    assert_eq!(lines.last().unwrap()["done_reason"], "stop");
    assert_ne!(worker(&bound).await, pid);

    let pid = worker(&bound).await;
    let (status, _) = call(&bound, Method::POST, "/api/witness/shutdown", &Value::Null).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "not over TCP");
    local_shutdown(&bound).await;
    daemon.await.unwrap().unwrap();
    assert!(
        !std::path::Path::new(&format!("/proc/{pid}")).exists(),
        "no worker outlives the daemon"
    );
    assert!(!bound.socket.exists());
}

fn question(content: &str) -> Value {
    json!({"model": "echo", "messages": [{"role": "user", "content": content}]})
}

async fn chat(bound: &Bound, content: &str, more: Value) -> Vec<Value> {
    let mut body = question(content);
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    let (status, lines) = call(bound, Method::POST, "/api/chat", &body).await;
    assert_eq!(status, StatusCode::OK, "{lines:?}");
    lines
}

async fn worker(bound: &Bound) -> u64 {
    let (_, ps) = call(bound, Method::GET, "/api/ps", &Value::Null).await;
    ps[0]["models"][0]["worker_pid"].as_u64().unwrap()
}

async fn call(bound: &Bound, method: Method, path: &str, body: &Value) -> (StatusCode, Vec<Value>) {
    let body = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    let (status, text) = send(bound, method, path, body).await;
    (
        status,
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
    )
}

async fn send(bound: &Bound, method: Method, path: &str, body: Vec<u8>) -> (StatusCode, String) {
    let stream = tokio::net::TcpStream::connect(bound.address).await.unwrap();
    exchange(TokioIo::new(stream), method, path, body).await
}

async fn local_shutdown(bound: &Bound) {
    let stream = tokio::net::UnixStream::connect(&bound.socket).await.unwrap();
    let (status, text) = exchange(TokioIo::new(stream), Method::POST, "/api/witness/shutdown", Vec::new()).await;
    assert_eq!(status, StatusCode::OK, "{text}");
}

async fn exchange<S>(io: TokioIo<S>, method: Method, path: &str, body: Vec<u8>) -> (StatusCode, String)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost");
    let response = sender
        .send_request(request.body(Full::<Bytes>::from(body)).unwrap())
        .await
        .unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}
