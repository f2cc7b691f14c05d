//! The client against a fake daemon: a listener that reads one request and writes bytes as it likes.

use std::path::Path;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use witness_diagnostics::{Diagnostic, Kind};
use witness_settings::{Overrides, Settings, resolve};

use crate::{Client, ClientError};

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n";

fn settings(home: &Path, host: &str) -> Settings {
    let home = home.as_os_str().to_owned();
    let host = host.to_owned();
    let env = move |name: &str| match name {
        "WITNESS_HOME" => Some(home.clone()),
        "WITNESS_HOST" => Some(host.clone().into()),
        _ => None,
    };
    resolve(&Overrides::default(), &env).unwrap()
}

/// Answers each connection with the next of these texts, written in two pieces; returns the requests once all are answered.
fn serve(listener: TcpListener, answers: Vec<String>) -> tokio::task::JoinHandle<Vec<String>> {
    tokio::spawn(async move {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 65536];
            let read = stream.read(&mut buffer).await.unwrap();
            requests.push(String::from_utf8_lossy(&buffer[..read]).into_owned());
            let (first, rest) = answer.as_bytes().split_at(answer.len() / 2);
            stream.write_all(first).await.unwrap();
            stream.flush().await.unwrap();
            stream.write_all(rest).await.unwrap();
        }
        requests
    })
}

/// Returns a client and the listener of its fake daemon. The socket in its home is not there, so TCP is used.
async fn fake(home: &Path) -> (Client, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    (Client::new(&settings(home, &host)), listener)
}

// The client first dials to see whether anybody is there, so each call is two connections; the first sends nothing.
async fn skip_probe(listener: &TcpListener) {
    drop(listener.accept().await.unwrap());
}

#[tokio::test]
async fn lines_arrive_one_by_one_and_an_error_line_ends_them() {
    let home = tempfile::tempdir().unwrap();
    let (client, listener) = fake(home.path()).await;
    let answer = format!(
        "{HEAD}{{\"n\":1}}\n{{\"n\":2}}\n{{\"error\":\"the worker died\",\"kind\":\"plugin\",\"code\":\"a::b\"}}\n"
    );
    let server = tokio::spawn(async move {
        skip_probe(&listener).await;
        serve(listener, vec![answer]).await.unwrap()
    });
    let mut lines = client
        .stream::<Value>("/api/generate", &json!({"model": "x"}))
        .await
        .unwrap();
    assert_eq!(lines.next().await.unwrap(), Some(json!({"n": 1})));
    assert_eq!(lines.next().await.unwrap(), Some(json!({"n": 2})));
    let error = Diagnostic::from(lines.next().await.unwrap_err());
    assert_eq!((error.code.as_str(), error.kind), ("a::b", Kind::Plugin));
    let request = server.await.unwrap().remove(0);
    assert!(request.starts_with("POST /api/generate HTTP/1.1\r\n"), "{request}");
    assert!(
        request.contains("content-type: application/json") && request.ends_with("{\"model\":\"x\"}"),
        "{request}"
    );
}

#[tokio::test]
async fn strangers_and_torn_answers_are_told_apart() {
    let home = tempfile::tempdir().unwrap();
    type Case = (&'static str, fn(&ClientError) -> bool);
    let cases: [Case; 4] = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", |error| {
            matches!(error, ClientError::Malformed { .. })
        }),
        ("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{\"a\":", |error| {
            matches!(error, ClientError::Broken { .. })
        }),
        ("SSH-2.0-OpenSSH_9.6\r\n", |error| {
            matches!(error, ClientError::Broken { .. })
        }),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}", |error| {
            matches!(error, ClientError::Answered(_))
        }),
    ];
    for (answer, expected) in cases {
        let (client, listener) = fake(home.path()).await;
        let server = tokio::spawn(async move {
            skip_probe(&listener).await;
            serve(listener, vec![answer.to_owned()]).await.unwrap();
        });
        let error = client.get::<Value>("/api/tags").await.unwrap_err();
        assert!(expected(&error), "{answer}: {error:?}");
        assert!(
            !Diagnostic::from(error).hints.is_empty() || answer.contains("404"),
            "{answer}"
        );
        server.await.unwrap();
    }
}

// Dropping an answer closes the connection: that is how Ctrl-C frees the slot in the daemon.
#[tokio::test]
async fn dropping_an_answer_hangs_up() {
    let home = tempfile::tempdir().unwrap();
    let (client, listener) = fake(home.path()).await;
    let server = tokio::spawn(async move {
        skip_probe(&listener).await;
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = vec![0; 65536];
        let _ = stream.read(&mut buffer).await.unwrap();
        stream
            .write_all(format!("{HEAD}{{\"n\":1}}\n").as_bytes())
            .await
            .unwrap();
        // Returns once the client has hung up.
        stream.read(&mut buffer).await.unwrap_or(0)
    });
    let mut lines = client.stream::<Value>("/api/chat", &json!({})).await.unwrap();
    lines.next().await.unwrap();
    drop(lines);
    assert_eq!(server.await.unwrap(), 0);
}

#[tokio::test]
async fn nobody_there_says_where_it_looked_and_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let (client, listener) = fake(home.path()).await;
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = client.get::<Value>("/api/tags").await.unwrap_err();
    assert!(error.is_not_running());
    let diagnostic = Diagnostic::from(error);
    assert!(
        diagnostic.message.contains(&host) && diagnostic.message.contains("witness.sock"),
        "{diagnostic}"
    );
    assert!(diagnostic.hints[0].contains("witness serve"), "{diagnostic:?}");
}

// A socket whose daemon listens on another host than the settings say is another daemon.
#[tokio::test]
async fn the_socket_is_used_only_for_its_own_host() {
    let home = tempfile::tempdir().unwrap();
    let (client, tcp) = fake(home.path()).await;
    let ours = tcp.local_addr().unwrap().to_string();
    let socket = UnixListener::bind(home.path().join("witness.sock")).unwrap();
    let hosts = ["10.0.0.1:1".to_owned(), ours];
    let server = tokio::spawn(async move {
        for host in hosts {
            let (mut stream, _) = socket.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let body = json!({"host": host}).to_string();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    assert_eq!(client.endpoint().await.unwrap(), client.tcp());
    assert_eq!(client.endpoint().await.unwrap(), client.socket());
    server.await.unwrap();
    drop(tcp);
}
