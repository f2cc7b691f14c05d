//! A home with a plugin, a daemon on it that can be killed and started again, and a few lines of HTTP.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use witness_daemon::ServeOptions;
use witness_registry::Digest;
use witness_settings::{Overrides, Settings, resolve};

/// The argument that makes this program a daemon.
pub(crate) const DAEMON: &str = "daemon";

/// The base of all runs.
pub(crate) const BASE: &[u8] = b"HOSTILE1\nnum_ctx 64\n";

fn settings(home: &Path) -> Settings {
    let overrides = Overrides {
        home: Some(home.to_owned()),
        host: Some("127.0.0.1:0".into()),
        ..Overrides::default()
    };
    resolve(&overrides, &|_| None).unwrap()
}

/// Runs a daemon on a home until it is told to end or killed; prints its address.
pub(crate) fn daemon(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let home = PathBuf::from(arguments.next().unwrap());
    let (ready, bound) = tokio::sync::oneshot::channel::<witness_daemon::Bound>();
    std::thread::spawn(move || {
        if let Ok(bound) = bound.blocking_recv() {
            println!("{}", bound.address);
        }
    });
    let options = ServeOptions {
        worker_program: std::env::current_exe().unwrap(),
        plugin_dirs: vec![home.join("plugins-here")],
        ready: Some(ready),
    };
    match witness_daemon::run(settings(&home), options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A home with a daemon. Dropping it kills the daemon.
pub(crate) struct Desk {
    pub(crate) home: tempfile::TempDir,
    process: Child,
    address: String,
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Desk {
    /// A daemon with the model `base`.
    pub(crate) async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let plugins = home.path().join("plugins-here");
        std::fs::create_dir(&plugins).unwrap();
        let library = "libwitness_plugin_hostile.so";
        let beside = std::env::current_exe().unwrap().with_file_name(library);
        std::fs::copy(&beside, plugins.join(library)).unwrap();
        let (process, address) = start(home.path());
        let desk = Self { home, process, address };
        desk.create_base("base", BASE).await;
        desk
    }

    pub(crate) async fn create_base(&self, name: &str, content: &[u8]) {
        let digest = self.upload(content).await;
        let body = json!({"model": name, "files": {"m.hostile": digest}, "stream": false});
        assert_eq!(self.post("/api/create", &body).await.0, StatusCode::OK);
    }

    /// As by `kill -9`.
    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    pub(crate) fn restart(&mut self) {
        (self.process, self.address) = start(self.home.path());
    }

    /// As by Ctrl-C.
    pub(crate) fn end(&mut self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.process.wait().unwrap().success());
    }

    pub(crate) fn run_directory(&self, id: &str) -> PathBuf {
        self.home.path().join("runs").join(id)
    }

    pub(crate) async fn upload(&self, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes).as_str().to_owned();
        let (status, _) = self
            .send(Method::POST, &format!("/api/blobs/{digest}"), bytes.to_vec(), &[])
            .await;
        assert!(status.is_success());
        digest
    }

    /// Returns a request for a run over rows and directives of the trainer.
    pub(crate) async fn order(&self, model: &str, rows: &str, settings: Value) -> Value {
        let digest = self.upload(rows.as_bytes()).await;
        json!({"model": model, "from": "base", "data": [{"name": "dir/rows.jsonl", "digest": digest}], "settings": settings})
    }

    /// Starts a run and returns its id.
    pub(crate) async fn start(&self, order: &Value) -> String {
        let mut order = order.clone();
        order["stream"] = json!(false);
        let (status, job) = self.post("/api/train", &order).await;
        assert_eq!(status, StatusCode::OK, "{job}");
        job["job"]["id"].as_str().unwrap().to_owned()
    }

    /// Starts a run and reads its lines to the end.
    pub(crate) async fn train(&self, order: &Value) -> Vec<Value> {
        let (status, text) = self
            .send(Method::POST, "/api/train", order.to_string().into_bytes(), &[])
            .await;
        assert_eq!(status, StatusCode::OK, "{text}");
        lines(&text)
    }

    /// Reads the lines of a run from one on, until it ends.
    pub(crate) async fn follow(&self, id: &str, from: usize) -> Vec<Value> {
        let path = format!("/api/train/{id}/events?from={from}&follow=true");
        let (status, text) = self.send(Method::GET, &path, Vec::new(), &[]).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        lines(&text)
    }

    /// Reads the lines of a run until one of a kind comes; returns those up to it.
    pub(crate) async fn until(&self, id: &str, from: usize, is_it: impl Fn(&Value) -> bool) -> Vec<Value> {
        let path = format!("/api/train/{id}/events?from={from}&follow=true");
        let mut body = self.begin(Method::GET, &path, Vec::new(), &[]).await.1;
        let mut text = String::new();
        while let Some(frame) = body.frame().await {
            text.push_str(std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap());
            let seen = lines(&text);
            if let Some(at) = seen.iter().position(&is_it) {
                return seen[..=at].to_vec();
            }
        }
        panic!("it did not come: {text}");
    }

    pub(crate) async fn job(&self, id: &str) -> Value {
        self.get(&format!("/api/train/{id}")).await.1["job"].clone()
    }

    /// Asks a model and returns its answer.
    pub(crate) async fn chat(&self, model: &str, adapter: Option<&str>, content: &str) -> Result<String, String> {
        let mut body = json!({"model": model, "messages": [{"role": "user", "content": content}], "stream": false});
        if let Some(adapter) = adapter {
            body["adapter"] = json!(adapter);
        }
        let (status, answer) = self.post("/api/chat", &body).await;
        match status {
            StatusCode::OK => Ok(answer["message"]["content"].as_str().unwrap().to_owned()),
            _ => Err(answer.to_string()),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        let (status, text) = self.send(Method::GET, path, Vec::new(), &[]).await;
        (status, parse(&text))
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let (status, text) = self.send(Method::POST, path, body.to_string().into_bytes(), &[]).await;
        (status, parse(&text))
    }

    pub(crate) async fn delete(&self, path: &str) -> (StatusCode, Value) {
        let (status, text) = self.send(Method::DELETE, path, Vec::new(), &[]).await;
        (status, parse(&text))
    }

    /// Over the unix socket.
    pub(crate) async fn local(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let stream = tokio::net::UnixStream::connect(settings(self.home.path()).socket)
            .await
            .unwrap();
        let body = body.to_string().into_bytes();
        let response = exchange(TokioIo::new(stream), Method::POST, path, body, &[]).await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, parse(std::str::from_utf8(&body).unwrap()))
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        headers: &[(&str, &str)],
    ) -> (StatusCode, String) {
        let (status, body) = self.begin(method, path, body, headers).await;
        let bytes = body.collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    async fn begin(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        headers: &[(&str, &str)],
    ) -> (StatusCode, hyper::body::Incoming) {
        let stream = tokio::net::TcpStream::connect(&self.address).await.unwrap();
        let response = exchange(TokioIo::new(stream), method, path, body, headers).await;
        (response.status(), response.into_body())
    }
}

fn start(home: &Path) -> (Child, String) {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(home.join("daemon.log"))
        .unwrap();
    let mut process = Command::new(std::env::current_exe().unwrap())
        .arg(DAEMON)
        .arg(home)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut address = String::new();
    BufReader::new(process.stdout.take().unwrap())
        .read_line(&mut address)
        .unwrap();
    let log = || std::fs::read_to_string(home.join("daemon.log")).unwrap_or_default();
    assert!(!address.is_empty(), "the daemon did not start: {}", log());
    (process, address.trim().to_owned())
}

async fn exchange<S>(
    io: TokioIo<S>,
    method: Method,
    path: &str,
    body: Vec<u8>,
    headers: &[(&str, &str)],
) -> http::Response<hyper::body::Incoming>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    sender
        .send_request(request.body(Full::<Bytes>::from(body)).unwrap())
        .await
        .unwrap()
}

/// Reads whole lines; one that is still coming is left out.
pub(crate) fn lines(text: &str) -> Vec<Value> {
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    text[..whole]
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// Returns the types of lines, with the states of those that tell one, without the steps.
pub(crate) fn outline(lines: &[Value]) -> Vec<String> {
    lines
        .iter()
        .filter(|line| line["type"] != "step")
        .map(|line| match (&line["type"], &line["state"]) {
            (kind, Value::Null) => kind.as_str().unwrap().to_owned(),
            (kind, state) => format!("{}:{}", kind.as_str().unwrap(), state.as_str().unwrap()),
        })
        .collect()
}

pub(crate) fn steps(lines: &[Value]) -> Vec<u64> {
    let steps = lines.iter().filter(|line| line["type"] == "step");
    steps.map(|line| line["step"].as_u64().unwrap()).collect()
}

/// Every line has its number, from one on and without a gap.
pub(crate) fn assert_numbered(lines: &[Value], from: u64) {
    for (number, line) in (from..).zip(lines) {
        assert_eq!(line["seq"], number, "{line}");
        assert!(line["at"].as_str().unwrap().ends_with('Z'), "{line}");
    }
}

pub(crate) fn is_step(number: u64) -> impl Fn(&Value) -> bool {
    move |line| line["type"] == "step" && line["step"].as_u64() >= Some(number)
}
