//! Who may come in, and with how much.

use http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::TestDaemon;

/// Sends raw bytes and returns the status line.
async fn raw(daemon: &TestDaemon, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(daemon.bound.address).await.unwrap();
    // The daemon may close before it has read everything; its answer is what counts.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn web_pages_stay_outside() {
    let daemon = TestDaemon::start(&[("origins", "https://chat.example")]).await;
    let get = |host: &'static str, origin: Option<&'static str>| {
        let mut request = Request::builder().uri("/api/tags").header(header::HOST, host);
        if let Some(origin) = origin {
            request = request.header(header::ORIGIN, origin);
        }
        request
    };
    for (host, origin, status) in [
        ("localhost:11535", None, 200),
        ("127.0.0.1", None, 200),
        ("evil.example", None, 403),
        ("localhost", Some("http://localhost:3000"), 200),
        ("localhost", Some("https://chat.example"), 200),
        ("localhost", Some("https://evil.example"), 403),
        ("localhost", Some("null"), 403),
    ] {
        let reply = daemon.request(get(host, origin), vec![]).await;
        assert_eq!(reply.status.as_u16(), status, "{host} {origin:?}");
        let allowed = reply
            .headers
            .get(header::ACCESS_CONTROL_ALLOW_ORIGIN)
            .map(|value| value.to_str().unwrap());
        assert_eq!(allowed, origin.filter(|_| status == 200));
    }
    let refused = daemon
        .request(get("localhost", Some("https://evil.example")), vec![])
        .await;
    assert_eq!(
        refused.error(),
        "the origin `https://evil.example` may not use this server"
    );
    let preflight = Request::builder()
        .method(Method::OPTIONS)
        .uri("/api/chat")
        .header(header::HOST, "localhost")
        .header(header::ORIGIN, "https://chat.example")
        .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "content-type,x-stainless-os");
    let reply = daemon.request(preflight, vec![]).await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT);
    assert_eq!(
        reply.headers[header::ACCESS_CONTROL_ALLOW_HEADERS],
        "content-type,x-stainless-os"
    );
}

#[tokio::test]
async fn some_routes_are_for_the_socket_alone() {
    let daemon = TestDaemon::start(&[]).await;
    for (path, body) in [
        ("/api/witness/shutdown", json!({})),
        ("/api/witness/import", json!({"path": "/etc/hostname"})),
        ("/api/witness/plugins/check", json!({"path": "/x.so"})),
    ] {
        let reply = daemon.post(path, &body).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(
            reply.error().split(':').next().unwrap(),
            "this route is open on the unix socket alone"
        );
    }
    assert_eq!(
        daemon.local(Method::GET, "/api/version", &Value::Null).await.status,
        StatusCode::OK
    );
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        std::fs::metadata(&daemon.bound.socket).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[tokio::test]
async fn heads_that_are_too_big() {
    let daemon = TestDaemon::start(&[]).await;
    let many: String = (0..101).map(|n| format!("x-{n}: 1\r\n")).collect();
    let status = raw(
        &daemon,
        format!("GET / HTTP/1.1\r\nhost: localhost\r\n{many}\r\n").as_bytes(),
    )
    .await;
    assert!(status.contains("431"), "{status}");
    let long = "a".repeat(100_000);
    let status = raw(
        &daemon,
        format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {long}\r\n\r\n").as_bytes(),
    )
    .await;
    assert!(status.contains("431") || status.is_empty(), "{status}");
    let status = raw(
        &daemon,
        format!("GET /{long} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes(),
    )
    .await;
    assert!(status.contains("414") || status.contains("431"), "{status}");
    for garbage in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ] {
        let status = raw(&daemon, garbage).await;
        assert!(!status.contains("200"), "{status}");
    }
    assert_eq!(
        raw(&daemon, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await,
        "HTTP/1.1 200 OK"
    );
    assert!(
        raw(&daemon, b"GET / HTTP/1.1\r\n\r\n").await.contains("403"),
        "no host, no entry"
    );
}

#[tokio::test]
async fn bodies_that_are_too_big() {
    let daemon = TestDaemon::start(&[]).await;
    let declared = raw(
        &daemon,
        b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: 33554433\r\n\r\n",
    )
    .await;
    assert!(declared.contains("413"), "{declared}");
    let huge = vec![b' '; (32 << 20) + 1];
    let mut chunked =
        b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n2000001\r\n".to_vec();
    chunked.extend_from_slice(&huge);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    let status = raw(&daemon, &chunked).await;
    assert!(status.contains("413") || status.is_empty(), "{status}");
    let lying = raw(
        &daemon,
        b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999\r\n\r\n",
    )
    .await;
    assert!(lying.contains("400"), "{lying}");
    assert_eq!(daemon.get("/").await.status, StatusCode::OK);
}
