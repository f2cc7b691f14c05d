//! A load generator: many kept-alive connections on one thread, so that the daemon keeps the other processors.

use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What one run saw.
pub(crate) struct Outcome {
    pub(crate) requests: usize,
    pub(crate) elapsed: Duration,
    pub(crate) p99: Duration,
    pub(crate) body_bytes: usize,
}

/// Sends GET requests for `path` over `connections` connections, one outstanding on each, until `length` has passed.
pub(crate) fn get(port: u16, path: &str, connections: usize, length: Duration) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n").into_bytes();
    let start = Instant::now();
    let tasks = runtime.block_on(async {
        let tasks: Vec<_> = (0..connections)
            .map(|_| tokio::spawn(one_connection(port, request.clone(), start + length)))
            .collect();
        let mut outcomes = Vec::with_capacity(connections);
        for task in tasks {
            outcomes.push(task.await.expect("a connection runs to its end"));
        }
        outcomes
    });
    let elapsed = start.elapsed();
    let body_bytes = tasks[0].1;
    let mut latencies: Vec<Duration> = tasks.into_iter().flat_map(|(latencies, _)| latencies).collect();
    latencies.sort();
    Outcome {
        requests: latencies.len(),
        elapsed,
        p99: latencies[latencies.len() * 99 / 100],
        body_bytes,
    }
}

async fn one_connection(port: u16, request: Vec<u8>, until: Instant) -> (Vec<Duration>, usize) {
    let mut stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("the daemon listens");
    let mut buffer = vec![0; 256 * 1024];
    let (mut latencies, mut body_bytes) = (Vec::new(), 0);
    while Instant::now() < until {
        let start = Instant::now();
        stream.write_all(&request).await.expect("the daemon reads");
        let mut filled = 0;
        let (head_end, length) = loop {
            let read = stream.read(&mut buffer[filled..]).await.expect("the daemon answers");
            assert!(read > 0, "the daemon closed a kept-alive connection");
            filled += read;
            if let Some(end) = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n") {
                let head = std::str::from_utf8(&buffer[..end])
                    .expect("a head is ASCII")
                    .to_ascii_lowercase();
                assert!(head.starts_with("http/1.1 200"), "{head}");
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .expect("a length is sent");
                break (end + 4, length.trim().parse::<usize>().expect("a length is a number"));
            }
        };
        while filled < head_end + length {
            let read = stream.read(&mut buffer[filled..]).await.expect("the daemon answers");
            assert!(read > 0, "the daemon closed in the middle of a body");
            filled += read;
        }
        body_bytes = length;
        latencies.push(start.elapsed());
    }
    (latencies, body_bytes)
}
