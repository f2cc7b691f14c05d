//! Files into the daemon's store, each read once where that is possible.
//!
//! Over the unix socket the daemon reads the file by its path (and may link it). Over TCP the file is hashed, asked for, and sent only
//! if the store lacks it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::Method;
use hyper::body::Frame;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use witness_api::{ImportProgress, ImportRequest};

use crate::connect::Endpoint;
use crate::error::ClientError;
use crate::http::{Body, Call, Client};

/// Bytes read at a time. Large enough that a system call costs nothing beside hashing.
const CHUNK_BYTES: usize = 1 << 20;
/// Progress reports that may wait; the hashing thread goes on without a report rather than wait for the terminal.
const REPORTS_MAX: usize = 4;

/// How far the storing of one file has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileProgress {
    /// What is being done: `hashing`, `sending`, `importing`.
    pub phase: &'static str,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// A file that the store now has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    /// `sha256:<hex>`.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

impl Client {
    /// Stores a local file in the daemon's store and returns its digest. With `link` it is linked rather than copied where the
    /// file systems allow it.
    pub async fn store_file(
        &self,
        path: &Path,
        link: bool,
        progress: &mut dyn FnMut(FileProgress),
    ) -> Result<StoredFile, ClientError> {
        match self.endpoint().await? {
            Endpoint::Unix(_) => self.import(path, link, progress).await,
            Endpoint::Tcp(_) => self.upload(path, progress).await,
        }
    }

    async fn import(
        &self,
        path: &Path,
        link: bool,
        progress: &mut dyn FnMut(FileProgress),
    ) -> Result<StoredFile, ClientError> {
        let failed = |source| ClientError::File {
            path: path.to_owned(),
            source,
        };
        let request = ImportRequest {
            path: std::path::absolute(path).map_err(failed)?,
            link,
        };
        let mut lines = self
            .stream_at_socket::<ImportProgress>("/api/witness/import", &request)
            .await?;
        let mut stored = None;
        while let Some(line) = lines.next().await? {
            if line.total > 0 {
                progress(FileProgress {
                    phase: "importing",
                    done_bytes: line.completed,
                    total_bytes: line.total,
                });
            }
            if !line.digest.is_empty() {
                stored = Some(StoredFile {
                    digest: line.digest,
                    size: line.size,
                });
            }
        }
        stored.ok_or_else(|| ClientError::Malformed {
            request: "POST /api/witness/import".to_owned(),
            detail: "it ended without a digest".to_owned(),
        })
    }

    async fn upload(&self, path: &Path, progress: &mut dyn FnMut(FileProgress)) -> Result<StoredFile, ClientError> {
        let stored = hash(path, progress).await?;
        let blob = format!("/api/blobs/{}", stored.digest);
        match self.call(Call::empty(Method::HEAD, &blob)).await {
            Ok(_) => return Ok(stored),
            Err(ClientError::Answered(refusal)) if refusal.kind == witness_diagnostics::Kind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (body, mut sent) = file_body(path, stored.size).await?;
        let call = self.call(Call::upload(&blob, body, stored.size));
        tokio::pin!(call);
        loop {
            tokio::select! {
                answer = &mut call => {
                    answer?.collect().await?;
                    return Ok(stored);
                }
                Some(done_bytes) = sent.recv() => progress(FileProgress {
                    phase: "sending",
                    done_bytes,
                    total_bytes: stored.size,
                }),
            }
        }
    }
}

/// Hashes a file on a thread of its own.
async fn hash(path: &Path, progress: &mut dyn FnMut(FileProgress)) -> Result<StoredFile, ClientError> {
    let failed = |source| ClientError::File {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let total_bytes = file.metadata().map_err(failed)?.len();
    let (report, mut reports) = mpsc::channel(REPORTS_MAX);
    let task = tokio::task::spawn_blocking(move || hash_file(file, &report));
    while let Some(done_bytes) = reports.recv().await {
        progress(FileProgress {
            phase: "hashing",
            done_bytes,
            total_bytes,
        });
    }
    task.await
        .map_err(|source| ClientError::Broken { source: source.into() })?
        .map_err(failed)
}

fn hash_file(mut file: File, report: &mpsc::Sender<u64>) -> std::io::Result<StoredFile> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut size = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
        if let Err(mpsc::error::TrySendError::Closed(_)) = report.try_send(size) {
            // Nobody waits for the digest any more.
            return Err(std::io::Error::from(std::io::ErrorKind::Interrupted));
        }
    }
    let hex: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(StoredFile {
        digest: format!("sha256:{hex}"),
        size,
    })
}

/// Returns a body that reads the file while it is sent, and the count of bytes handed out so far.
async fn file_body(path: &Path, size: u64) -> Result<(Body, mpsc::Receiver<u64>), ClientError> {
    let file = tokio::fs::File::open(path).await.map_err(|source| ClientError::File {
        path: path.to_owned(),
        source,
    })?;
    let (report, reports) = mpsc::channel(REPORTS_MAX);
    // A file that grows meanwhile must not make the body longer than announced.
    let chunks = stream::unfold((file.take(size), 0u64, report), |(mut file, sent, report)| async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        match file.read(&mut chunk).await {
            Ok(0) => None,
            Ok(read) => {
                chunk.truncate(read);
                let sent = sent + read as u64;
                // A full channel only means that the terminal is behind; the next report carries the count.
                let _ = report.try_send(sent);
                Some((Ok(Frame::data(Bytes::from(chunk))), (file, sent, report)))
            }
            Err(error) => Some((Err(error), (file, sent, report))),
        }
    });
    Ok((StreamBody::new(Box::pin(chunks)).boxed_unsync(), reports))
}
