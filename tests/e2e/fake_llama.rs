//! Programs that only play llama.cpp's: a `llama-bench` that is a script, and beside it a `llama-server` that is this test program, started again by a script.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::desk::Desk;

/// Names the directory of the play, in the environment of the player.
const PLAYS: &str = "PLAYS_LLAMA_SERVER";
/// What `llama-bench` answers.
const SPEED: &str = "echo '[{\"n_prompt\": 40, \"avg_ts\": 0.5}]'";

/// How the server behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Server {
    /// There is none.
    Missing,
    /// It cannot load the model.
    Refuses,
    /// It never gets ready.
    NeverReady,
    /// It answers.
    Answers,
    /// It answers with an error.
    Fails,
    /// It ends in the middle of an answer.
    Dies,
}

/// A directory with the programs.
pub(crate) struct FakeLlama {
    directory: PathBuf,
}

impl FakeLlama {
    pub(crate) fn new(desk: &Desk, server: Server) -> FakeLlama {
        let llama = FakeLlama {
            directory: desk.path().join("llama"),
        };
        std::fs::create_dir_all(&llama.directory).unwrap();
        llama.script("llama-bench", SPEED);
        let here = llama.directory.display();
        let begin = format!("echo \"$*\" > {here}/arguments; echo $$ > {here}/pid.new; mv {here}/pid.new {here}/pid");
        let end = match server {
            Server::Missing => return llama,
            Server::Refuses => "echo 'error: failed to load model' >&2; exit 1".to_owned(),
            Server::NeverReady => "exec sleep 600".to_owned(),
            Server::Answers | Server::Fails | Server::Dies => {
                std::fs::write(llama.directory.join("mode"), format!("{server:?}")).unwrap();
                let player = std::env::current_exe().unwrap();
                format!(
                    "{PLAYS}={here} exec {} --exact fake_llama::plays_llama_server --nocapture",
                    player.display()
                )
            }
        };
        llama.script("llama-server", &format!("{begin}; {end}"));
        llama
    }

    fn script(&self, name: &str, text: &str) {
        let path = self.directory.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The argument of `--vs`.
    pub(crate) fn bench(&self) -> String {
        self.directory.join("llama-bench").to_str().unwrap().to_owned()
    }

    /// Arguments of the server.
    pub(crate) fn arguments(&self) -> String {
        self.read("arguments").unwrap_or_default()
    }

    /// Bodies of the completions that were asked for.
    pub(crate) fn asked(&self) -> Vec<Value> {
        let lines = self.read("asked").unwrap_or_default();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until the server was started.
    pub(crate) fn wait_for_start(&self) {
        let begun = Instant::now();
        while self.read("pid").is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60), "no server was started");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Fails if the server runs still. One that waits to be asked for has ended.
    #[track_caller]
    pub(crate) fn assert_ended(&self) {
        let pid = self.read("pid").unwrap();
        let begun = Instant::now();
        loop {
            let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap_or_default();
            if status.is_empty() || status.contains("State:\tZ") {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "the server runs still");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.directory.join(name)).ok()
    }
}

// Not a test of anything: with the variable set, this program is the server.
#[test]
fn plays_llama_server() {
    let Some(directory) = std::env::var_os(PLAYS).map(PathBuf::from) else {
        return;
    };
    let arguments = std::fs::read_to_string(directory.join("arguments")).unwrap();
    let mut words = arguments.split_whitespace().skip_while(|word| *word != "--port");
    let port: u16 = words.nth(1).unwrap().parse().unwrap();
    let mode = std::fs::read_to_string(directory.join("mode")).unwrap();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    // Loading takes a while: the first question for its health is answered with "not yet".
    for (index, stream) in listener.incoming().flatten().enumerate() {
        let (directory, mode) = (directory.clone(), mode.clone());
        std::thread::spawn(move || answer(stream, &directory, &mode, index > 0));
    }
}

fn answer(mut stream: TcpStream, directory: &Path, mode: &str, is_loaded: bool) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut head = String::new();
    let mut n_body = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(length) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            n_body = length.trim().parse().ok()?;
        }
        head.push_str(&line);
    }
    if head.starts_with("GET /health") {
        let status = if is_loaded { "200 OK" } else { "503 Service Unavailable" };
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        return stream.write_all(head.as_bytes()).ok();
    }
    let mut body = vec![0; n_body];
    reader.read_exact(&mut body).ok()?;
    let asked: Value = serde_json::from_slice(&body).ok()?;
    let mut log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join("asked"))
        .ok()?;
    log.write_all(format!("{asked}\n").as_bytes()).ok()?;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        .ok()?;
    let mut tell = |event: Value| stream.write_all(format!("data: {event}\n\n").as_bytes()).ok();
    tell(json!({ "content": "", "tokens": [], "stop": false }))?;
    let n_predict = asked["n_predict"].as_u64()?;
    for index in 0..n_predict {
        match mode {
            "Fails" => return tell(json!({ "error": { "code": 500, "message": "no slot is free" } })),
            "Dies" if index == 1 => {
                eprintln!("GGML_ASSERT failed");
                std::process::exit(3);
            }
            _ => tell(json!({ "content": " a", "tokens": [5], "stop": false }))?,
        }
    }
    tell(json!({ "content": "", "stop": true, "tokens_predicted": n_predict }))
}
