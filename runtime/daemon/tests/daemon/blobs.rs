//! Uploads: verified, refused, broken off.

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use witness_registry::Digest;

use crate::support::TestDaemon;

#[tokio::test]
async fn here_or_not() {
    let daemon = TestDaemon::start(&[]).await;
    let digest = Digest::of(b"hello");
    let path = format!("/api/blobs/{digest}");
    assert_eq!(
        daemon.send(Method::HEAD, &path, vec![]).await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        daemon.send(Method::POST, &path, b"hello".to_vec()).await.status,
        StatusCode::CREATED
    );
    assert_eq!(daemon.send(Method::HEAD, &path, vec![]).await.status, StatusCode::OK);
    assert_eq!(
        daemon.send(Method::POST, &path, b"hello".to_vec()).await.status,
        StatusCode::OK
    );
    let wrong = daemon
        .send(Method::POST, "/api/blobs/sha256:..%2f..%2fetc", vec![])
        .await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    let empty = Digest::of(b"");
    assert_eq!(
        daemon
            .send(Method::POST, &format!("/api/blobs/{empty}"), vec![])
            .await
            .status,
        StatusCode::CREATED
    );
}

#[tokio::test]
async fn a_wrong_digest_is_refused_with_both() {
    let daemon = TestDaemon::start(&[]).await;
    let said = Digest::of(b"this");
    let reply = daemon
        .send(Method::POST, &format!("/api/blobs/{said}"), b"that".to_vec())
        .await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    let error = reply.text();
    assert!(
        error.contains(said.as_str()) && error.contains(Digest::of(b"that").as_str()),
        "{error}"
    );
    assert_eq!(
        daemon
            .send(Method::HEAD, &format!("/api/blobs/{said}"), vec![])
            .await
            .status,
        StatusCode::NOT_FOUND
    );
}

/// The client leaves in the middle: no blob, no stray file, and the same upload works afterwards.
#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let daemon = TestDaemon::start(&[]).await;
    let bytes = vec![7u8; 3 << 20];
    let digest = Digest::of(&bytes);
    let mut stream = tokio::net::TcpStream::connect(daemon.bound.address).await.unwrap();
    let head = format!(
        "POST /api/blobs/{digest} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
        bytes.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&bytes[..1 << 20]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    // The daemon may answer or just close; either way it is done with us when this returns.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 2"));
    assert_eq!(
        daemon
            .send(Method::HEAD, &format!("/api/blobs/{digest}"), vec![])
            .await
            .status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        daemon
            .send(Method::POST, &format!("/api/blobs/{digest}"), bytes)
            .await
            .status,
        StatusCode::CREATED
    );
}
