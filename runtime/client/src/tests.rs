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

/// Answers one call with a body of JSON and returns the request's first line and its body.
async fn one_call(
    listener: TcpListener,
    body: String,
    call: impl Future<Output = Result<(), ClientError>>,
) -> (String, Value) {
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let server = tokio::spawn(async move {
        skip_probe(&listener).await;
        serve(listener, vec![answer]).await.unwrap()
    });
    call.await.unwrap();
    let request = server.await.unwrap().remove(0);
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let first = head.lines().next().unwrap().to_owned();
    (first, serde_json::from_str(body).unwrap_or(Value::Null))
}

// The end of a run that failed is a line of its own and no error of the stream: whoever watches sees it last, with everything before it.
#[tokio::test]
async fn the_lines_of_a_run_come_to_its_end() {
    let home = tempfile::tempdir().unwrap();
    let (client, listener) = fake(home.path()).await;
    let answer = format!(
        "{HEAD}{}\n{}\n{}\n",
        json!({"seq": 0, "at": "t", "type": "job", "id": "20261126-7f3a", "model": "new", "state": "queued"}),
        json!({"seq": 1, "at": "t", "type": "step", "step": 1, "loss": 2.5}),
        json!({"seq": 2, "at": "t", "type": "end", "state": "failed", "error": {"error": "it broke", "code": "a::b"}}),
    );
    let server = tokio::spawn(async move {
        skip_probe(&listener).await;
        serve(listener, vec![answer]).await.unwrap()
    });
    let request = witness_api::TrainRequest {
        model: "new".into(),
        plan: Some(true),
        ..Default::default()
    };
    let mut lines = client.train(&request).await.unwrap();
    let first = lines.next().await.unwrap().unwrap();
    assert!(
        matches!(first.of_daemon(), Some(witness_api::TrainJobLine::Job { id, .. }) if id == "20261126-7f3a"),
        "{first:?}"
    );
    assert_eq!(lines.next().await.unwrap().unwrap().event["loss"], 2.5);
    let last = lines.next().await.unwrap().unwrap();
    let Some(witness_api::TrainJobLine::End { error: Some(error), .. }) = last.of_daemon() else {
        panic!("{last:?}")
    };
    assert_eq!(error.error, "it broke");
    assert_eq!(lines.next().await.unwrap(), None);
    let sent = server.await.unwrap().remove(0);
    assert!(
        sent.starts_with("POST /api/train HTTP/1.1\r\n") && sent.contains("\"stream\":true"),
        "{sent}"
    );
    assert!(!sent.contains("\"plan\""), "a start is never a plan: {sent}");
}

#[tokio::test]
async fn the_routes_of_runs_are_called_by_their_names() {
    let home = tempfile::tempdir().unwrap();
    let job = || json!({"job": {"id": "20261126-7f3a", "state": "stopped"}}).to_string();
    let (client, listener) = fake(home.path()).await;
    let (line, _) = one_call(listener, job(), async {
        let job = client.train_stop("me/new:v1").await?;
        assert_eq!(job.state, witness_api::TrainState::Stopped);
        Ok(())
    })
    .await;
    assert_eq!(line, "POST /api/train/me%2Fnew%3Av1/stop HTTP/1.1");
    let (client, listener) = fake(home.path()).await;
    let (line, _) = one_call(listener, String::new(), async {
        let mut lines = client.train_events("20261126-7f3a", 7, true).await?;
        assert_eq!(lines.next().await?, None);
        Ok(())
    })
    .await;
    assert_eq!(line, "GET /api/train/20261126-7f3a/events?from=7&follow=true HTTP/1.1");
    let (client, listener) = fake(home.path()).await;
    let (line, _) = one_call(listener, String::new(), client.train_remove("20261126-7f3a")).await;
    assert_eq!(line, "DELETE /api/train/20261126-7f3a HTTP/1.1");
    let (client, listener) = fake(home.path()).await;
    let (line, body) = one_call(listener, json!({"plan": {"n_steps": 3}}).to_string(), async {
        let plan: Value = client.train_plan(&witness_api::TrainRequest::default()).await?;
        assert_eq!(plan["n_steps"], 3);
        Ok(())
    })
    .await;
    assert_eq!(
        (line.as_str(), &body["plan"]),
        ("POST /api/train HTTP/1.1", &json!(true))
    );
    // What is planned is asked with the body that makes it.
    let (client, listener) = fake(home.path()).await;
    let (line, body) = one_call(listener, json!({"to": "Q4_K_M", "tensors": []}).to_string(), async {
        let request = witness_api::CreateRequest {
            model: "small".into(),
            quantize: Some("q4_K_M".into()),
            ..witness_api::CreateRequest::default()
        };
        assert_eq!(client.plan(&request).await?.to, "Q4_K_M");
        Ok(())
    })
    .await;
    assert_eq!(line, "POST /api/witness/plan HTTP/1.1");
    assert_eq!(body, json!({"model": "small", "quantize": "q4_K_M"}));
    // An export writes files of the daemon's own machine: never over TCP.
    let (client, _listener) = fake(home.path()).await;
    let refused = client.export(&witness_api::ExportRequest::default()).await.unwrap_err();
    assert!(refused.is_not_running(), "{refused}");
    let refused = client
        .export_lines(&witness_api::ExportRequest::default())
        .await
        .err()
        .unwrap();
    assert!(refused.is_not_running(), "{refused}");
    let refused = client
        .unbundle(&witness_api::UnbundleRequest::default())
        .await
        .err()
        .unwrap();
    assert!(refused.is_not_running(), "{refused}");
}
