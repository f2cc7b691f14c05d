//! A daemon in this process on a temporary home, an HTTP client of a few lines, and an engine that does as it is told.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use witness_daemon::{Bound, Daemon, Engine};
use witness_registry::Digest;
use witness_settings::{Overrides, Settings, resolve};

use crate::fake::FakeEngine;

/// A running daemon. Dropping it cancels it; [`TestDaemon::end`] waits for its orderly end.
pub(crate) struct TestDaemon {
    pub(crate) home: tempfile::TempDir,
    pub(crate) bound: Bound,
    pub(crate) fake: Arc<FakeEngine>,
    shutdown: CancellationToken,
    task: Option<JoinHandle<()>>,
}

/// Settings of a test: a home of its own, a port that the system chooses, no environment.
pub(crate) fn settings(home: &std::path::Path, others: &[(&str, &str)]) -> Settings {
    let overrides = Overrides {
        home: Some(home.to_owned()),
        host: Some("127.0.0.1:0".into()),
        others: others
            .iter()
            .map(|(key, text)| ((*key).to_owned(), (*text).to_owned()))
            .collect(),
        ..Overrides::default()
    };
    resolve(&overrides, &|_| None).unwrap()
}

impl TestDaemon {
    pub(crate) async fn start(others: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), others).await
    }

    pub(crate) async fn start_in(home: tempfile::TempDir, others: &[(&str, &str)]) -> Self {
        let fake = Arc::new(FakeEngine::default());
        let daemon = Daemon::bind(settings(home.path(), others), Arc::clone(&fake) as Arc<dyn Engine>)
            .await
            .unwrap();
        let (bound, shutdown) = (daemon.bound(), daemon.shutdown_token());
        Self {
            home,
            bound,
            fake,
            shutdown,
            task: Some(tokio::spawn(daemon.serve())),
        }
    }

    /// Ends it in order and returns its home.
    pub(crate) async fn end(mut self) -> tempfile::TempDir {
        self.shutdown.cancel();
        self.task.take().unwrap().await.unwrap();
        std::mem::replace(&mut self.home, tempfile::tempdir().unwrap())
    }

    pub(crate) fn shutdown(&self) {
        self.shutdown.cancel();
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.home.path().join("models")
    }

    /// Stores bytes as a blob and returns the digest.
    pub(crate) async fn upload(&self, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes).as_str().to_owned();
        let reply = self
            .send(Method::POST, &format!("/api/blobs/{digest}"), bytes.to_vec())
            .await;
        assert!(reply.status.is_success(), "{}", reply.text());
        digest
    }

    /// Makes a model of one file.
    pub(crate) async fn create(&self, name: &str, content: &str) {
        let digest = self.upload(content.as_bytes()).await;
        let body = json!({"model": name, "files": {"model.fake": digest}, "stream": false});
        let reply = self.post("/api/create", &body).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        assert_eq!(reply.json(), json!({"status": "success"}));
    }

    /// Makes a model with adapters: the file of each holds its name.
    pub(crate) async fn create_with_adapters(&self, name: &str, content: &str, adapters: &[&str]) {
        let digest = self.upload(content.as_bytes()).await;
        let mut map = serde_json::Map::new();
        for adapter in adapters {
            map.insert(
                format!("{adapter}/adapter.fake"),
                json!(self.upload(adapter.as_bytes()).await),
            );
        }
        let body = json!({"model": name, "files": {"model.fake": digest}, "adapters": map, "stream": false});
        let reply = self.post("/api/create", &body).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, Vec::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::POST, path, body.to_string().into_bytes()).await
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Reply {
        self.request(
            Request::builder()
                .method(method)
                .uri(path)
                .header(header::HOST, "localhost"),
            body,
        )
        .await
    }

    pub(crate) async fn request(&self, request: http::request::Builder, body: Vec<u8>) -> Reply {
        let mut sender = self.connect().await;
        let response = sender
            .send_request(request.body(Full::from(Bytes::from(body))).unwrap())
            .await
            .unwrap();
        Reply::read(response).await
    }

    /// Over the unix socket.
    pub(crate) async fn local(&self, method: Method, path: &str, body: &Value) -> Reply {
        let stream = UnixStream::connect(&self.bound.socket).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "witness");
        let body = if body.is_null() {
            Bytes::new()
        } else {
            Bytes::from(body.to_string())
        };
        let response = sender
            .send_request(request.body(Full::<Bytes>::from(body)).unwrap())
            .await
            .unwrap();
        Reply::read(response).await
    }

    pub(crate) async fn connect(&self) -> SendRequest<Full<Bytes>> {
        let stream = TcpStream::connect(self.bound.address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        sender
    }

    /// Sends a request and returns when its answer has begun.
    pub(crate) async fn begin(&self, path: &str, body: &Value) -> Begun {
        let mut sender = self.connect().await;
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, "localhost");
        let response = sender
            .send_request(request.body(Full::from(Bytes::from(body.to_string()))).unwrap())
            .await
            .unwrap();
        Begun {
            _sender: sender,
            status: response.status(),
            body: response.into_body(),
        }
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// An answer that has begun. Dropping it leaves.
pub(crate) struct Begun {
    _sender: SendRequest<Full<Bytes>>,
    pub(crate) status: StatusCode,
    body: hyper::body::Incoming,
}

impl Begun {
    /// Returns the next chunk as text; nothing at the end.
    pub(crate) async fn chunk(&mut self) -> Option<String> {
        let frame = self.body.frame().await?.ok()?;
        Some(String::from_utf8(frame.into_data().ok()?.to_vec()).unwrap())
    }

    /// Returns everything that is left, as lines of JSON.
    pub(crate) async fn rest(mut self) -> Vec<Value> {
        let mut text = String::new();
        while let Some(chunk) = self.chunk().await {
            text.push_str(&chunk);
        }
        parse_lines(&text)
    }
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    async fn read(response: http::Response<hyper::body::Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("the body ends in order").to_bytes();
        Self {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn lines(&self) -> Vec<Value> {
        parse_lines(&self.text())
    }

    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }
}

fn parse_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}
