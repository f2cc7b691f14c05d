//! A daemon that only plays: it answers the routes of training and of other forms of models from a script and remembers what it was asked. It shows what the
//! program says and sends without a model, a plugin or the time that a run takes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use serde_json::{Value, json};

/// Line that is noted when a client leaves a making that hangs.
pub(crate) const LEFT: &str = "left";

const LINES_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n";

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) body: String,
}

/// What is answered.
#[derive(Default)]
pub(crate) struct Script {
    /// Names of the models that are here.
    pub(crate) models: Vec<&'static str>,
    /// Facts about every model.
    pub(crate) show: Value,
    /// The plan of any run.
    pub(crate) plan: Value,
    /// Lines of a run until it is asked to stop.
    pub(crate) lines: Vec<Value>,
    /// Lines after it was asked to stop; without any, it ends by itself.
    pub(crate) lines_stopped: Vec<Value>,
    /// The runs.
    pub(crate) jobs: Vec<Value>,
    /// What a model would become.
    pub(crate) transform_plan: Value,
    /// Lines of the making of a model, and of an export.
    pub(crate) making: Vec<Value>,
    /// Whether the making never ends by itself.
    pub(crate) making_hangs: bool,
}

struct State {
    script: Script,
    host: String,
    asked: Mutex<Vec<Asked>>,
    is_stopped: Mutex<bool>,
    stopped: Condvar,
}

/// The daemon. Its thread ends with the process of the test.
pub(crate) struct FakeDaemon {
    pub(crate) host: String,
    state: Arc<State>,
}

impl FakeDaemon {
    pub(crate) fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            script,
            host: host.clone(),
            asked: Mutex::default(),
            is_stopped: Mutex::default(),
            stopped: Condvar::new(),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || state.answer(stream));
            }
        });
        Self { host, state }
    }

    /// Listens on a unix socket too, as what writes files must be asked there.
    pub(crate) fn also_at(&self, socket: &Path) {
        let listener = UnixListener::bind(socket).unwrap();
        let shared = Arc::clone(&self.state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || state.answer(stream));
            }
        });
    }

    /// Returns the bodies of the requests whose first line begins so.
    pub(crate) fn asked(&self, line: &str) -> Vec<Value> {
        let asked = self.state.asked.lock().unwrap();
        let bodies = asked.iter().filter(|asked| asked.line.starts_with(line));
        bodies
            .map(|asked| serde_json::from_str(&asked.body).unwrap_or(Value::Null))
            .collect()
    }

    /// Waits until something was asked.
    pub(crate) fn wait_for(&self, line: &str) {
        while self.asked(line).is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl State {
    fn answer(&self, mut stream: impl Read + Write) {
        // A client looks whether anybody is there before it asks: such a connection says nothing.
        let Some(asked) = read(&mut stream) else {
            return;
        };
        self.asked.lock().unwrap().push(asked.clone());
        let mut parts = asked.line.split(' ');
        let (method, path) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let route = path.split('?').next().unwrap_or("");
        let body: Value = serde_json::from_str(&asked.body).unwrap_or(Value::Null);
        let script = &self.script;
        let _ = match (method, route) {
            ("GET", "/api/tags") => {
                let models: Vec<Value> = script.models.iter().map(|name| json!({ "name": name })).collect();
                reply(&mut stream, 200, &json!({ "models": models }))
            }
            ("GET", "/api/witness/status") => {
                let status = json!({ "host": self.host, "memory_budget_bytes": 4_000_000_000_u64 });
                reply(&mut stream, 200, &status)
            }
            ("POST", "/api/show") => reply(&mut stream, 200, &script.show),
            ("HEAD", route) if route.starts_with("/api/blobs/") => reply(&mut stream, 404, &Value::Null),
            ("POST", route) if route.starts_with("/api/blobs/") => reply(&mut stream, 201, &Value::Null),
            ("POST", "/api/create" | "/api/witness/export" | "/api/witness/unbundle") => self.making(&mut stream),
            ("POST", "/api/witness/plan") => reply(&mut stream, 200, &script.transform_plan),
            ("POST", "/api/train") if body["plan"] == true => reply(&mut stream, 200, &json!({ "plan": script.plan })),
            ("POST", "/api/train") if body["stream"] == false => {
                reply(&mut stream, 200, &json!({ "job": script.jobs[0] }))
            }
            ("POST", "/api/train") => self.lines(&mut stream),
            ("GET", "/api/train") => reply(&mut stream, 200, &json!({ "jobs": script.jobs })),
            ("GET", route) if route.ends_with("/events") => self.lines(&mut stream),
            ("POST", route) if route.ends_with("/stop") => {
                *self.is_stopped.lock().unwrap() = true;
                self.stopped.notify_all();
                reply(&mut stream, 200, &json!({ "job": { "id": "r1", "state": "stopping" } }))
            }
            ("POST", route) if route.ends_with("/resume") => reply(&mut stream, 200, &json!({ "job": script.jobs[0] })),
            ("DELETE", _) => reply(&mut stream, 200, &json!({})),
            ("GET", route) if route.starts_with("/api/train/") => {
                let id = route.trim_start_matches("/api/train/");
                match script.jobs.iter().find(|job| job["id"] == id || job["model"] == id) {
                    Some(job) => reply(&mut stream, 200, &json!({ "job": job })),
                    None => reply(
                        &mut stream,
                        404,
                        &json!({ "error": format!("there is no run `{id}`"), "code": "witness::daemon::no_run", "kind": "not_found" }),
                    ),
                }
            }
            _ => reply(
                &mut stream,
                500,
                &json!({ "error": format!("the fake does not play `{}`", asked.line) }),
            ),
        };
    }

    fn making(&self, stream: &mut (impl Read + Write)) -> std::io::Result<()> {
        stream.write_all(LINES_HEAD)?;
        for line in &self.script.making {
            stream.write_all(format!("{line}\n").as_bytes())?;
        }
        if self.script.making_hangs {
            // A client that leaves closes its end.
            let _ = stream.read(&mut [0]);
            self.asked.lock().unwrap().push(Asked {
                line: LEFT.to_owned(),
                body: String::new(),
            });
        }
        Ok(())
    }

    fn lines(&self, stream: &mut impl Write) -> std::io::Result<()> {
        stream.write_all(LINES_HEAD)?;
        let mut seq = 0;
        let mut write = |stream: &mut dyn Write, event: &Value| {
            let mut line = event.clone();
            line["seq"] = seq.into();
            line["at"] = "2026-11-26T10:00:00Z".into();
            seq += 1;
            stream.write_all(format!("{line}\n").as_bytes())
        };
        for event in &self.script.lines {
            write(stream, event)?;
        }
        if !self.script.lines_stopped.is_empty() {
            let mut is_stopped = self.is_stopped.lock().unwrap();
            while !*is_stopped {
                is_stopped = self.stopped.wait(is_stopped).unwrap();
            }
            for event in &self.script.lines_stopped {
                write(stream, event)?;
            }
        }
        Ok(())
    }
}

fn read(stream: &mut impl Read) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    if first.trim().is_empty() {
        return None;
    }
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked {
        line: first.trim().to_owned(),
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

fn reply(stream: &mut impl Write, status: u16, body: &Value) -> std::io::Result<()> {
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}
