//! A temporary home and the real daemon in it, reached over plain HTTP/1.1 written by hand, so that nothing of ours measures itself.
//! Shared by the whole-program tests and the figures; each uses a part of it.
#![expect(dead_code, reason = "each test program uses a part of the harness")]

pub(crate) mod gguf;
pub(crate) mod tmpfs;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// The checkout that the tests run from.
pub(crate) fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns a port that nobody listens at and that no other home of this process has. It lies below those that the system gives to connections and to whoever asks for
/// any: between here and the start of a daemon, or while it is down, one of those could become a stranger's, who would be taken for the daemon.
fn free_port() -> u16 {
    static N_GIVEN: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    loop {
        // Processes that run at the same time begin far from each other.
        let place = std::process::id()
            .wrapping_mul(997)
            .wrapping_add(N_GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = (FIRST + place % COUNT) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A directory that goes away with the value, and a free port.
pub(crate) struct Home {
    directory: tempfile::TempDir,
    port: u16,
}

impl Home {
    pub(crate) fn new() -> Self {
        let port = free_port();
        Self {
            directory: tempfile::tempdir().expect("a temporary directory can be made"),
            port,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The program, aimed at this home.
    pub(crate) fn witness(&self) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_witness"));
        let mut command = Command::new(program);
        let plugins = program.parent().expect("a program lies in a directory").join("deps");
        command
            .env("WITNESS_HOME", self.path())
            .env("WITNESS_HOST", format!("127.0.0.1:{}", self.port))
            .env("WITNESS_PLUGIN_PATH", plugins)
            .env_remove("WITNESS_MODELS");
        command
    }
}

/// A running daemon. Stopped when dropped.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) port: u16,
    pub(crate) ready_after: Duration,
}

impl Daemon {
    /// Starts the daemon and waits for its first answer.
    pub(crate) fn start(home: &Home) -> Self {
        Self::start_telling(home, Stdio::null())
    }

    /// As [`Self::start`], with a place for what it logs.
    pub(crate) fn start_telling(home: &Home, log: Stdio) -> Self {
        let start = Instant::now();
        let child = home
            .witness()
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program can be started");
        let mut daemon = Self {
            child,
            port: home.port,
            ready_after: Duration::ZERO,
        };
        while daemon.try_request("GET", "/api/version", "").is_none() {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "the daemon did not answer within 20 s"
            );
            std::thread::sleep(Duration::from_micros(200));
        }
        daemon.ready_after = start.elapsed();
        daemon
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the daemon with SIGTERM and waits for it.
    pub(crate) fn stop(self) {}

    /// Sends SIGKILL while requests run on other threads.
    pub(crate) fn kill_now(&self) {
        self.signal(rustix::process::Signal::KILL);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Ends the daemon with SIGKILL: it gets no chance to tidy up.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("the daemon can be killed");
        self.child.wait().expect("the daemon was ours");
    }

    /// Sends a request that must succeed and returns the body of its answer.
    pub(crate) fn get(&self, path: &str) -> String {
        let (status, answer) = self.try_request("GET", path, "").expect("the daemon answers");
        assert!(status < 300, "GET {path}: {status} {answer}");
        answer
    }

    /// As [`Self::get`].
    pub(crate) fn post(&self, path: &str, body: &str) -> String {
        let (status, answer) = self.try_request("POST", path, body).expect("the daemon answers");
        assert!(status < 300, "POST {path}: {status} {answer}");
        answer
    }

    pub(crate) fn delete(&self, path: &str, body: &str) {
        let (status, answer) = self.try_request("DELETE", path, body).expect("the daemon answers");
        assert!(status < 300, "DELETE {path}: {status} {answer}");
    }

    /// Uploads a file as a blob and returns its digest.
    pub(crate) fn upload(&self, content: &[u8]) -> Option<String> {
        let digest = format!("sha256:{}", hex(&Sha256::digest(content)));
        let (status, answer) = self.try_request_bytes("POST", &format!("/api/blobs/{digest}"), content)?;
        assert!(status < 300 || status == 507, "upload: {status} {answer}");
        (status < 300).then_some(digest)
    }

    /// Makes a model of the test plugin's own format: an engine that costs nothing.
    pub(crate) fn make_echo_model(&self, name: &str) {
        let digest = self
            .upload(b"HOSTILE1\nnum_ctx 100000\n")
            .expect("there is room for a line");
        self.post(
            "/api/create",
            &format!(r#"{{"model":"{name}","files":{{"echo.hostile":"{digest}"}},"stream":false}}"#),
        );
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("this figure needs /proc");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("Linux reports VmRSS");
        line.split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse::<u64>().ok())
            .expect("VmRSS is a number of KiB")
            * 1024
    }

    /// Sends a request and returns status and body, or nothing when the connection failed.
    pub(crate) fn try_request(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        self.try_request_bytes(method, path, body.as_bytes())
    }

    fn try_request_bytes(&self, method: &str, path: &str, body: &[u8]) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.port,
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body).ok()?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let status = line.split_whitespace().nth(1)?.parse().ok()?;
        let mut rest = String::new();
        reader.read_to_string(&mut rest).ok()?;
        Some((status, rest.split_once("\r\n\r\n")?.1.to_owned()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.signal(rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
