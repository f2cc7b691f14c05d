//! `/api/blobs/:digest`: is it here, and take it in.
//!
//! An upload goes chunk by chunk to a thread that writes and hashes; the network waits when the disk is slow. Nothing is visible before the
//! digest matched; whatever breaks off leaves nothing behind.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use tokio::sync::mpsc;
use witness_diagnostics::{Diagnostic, Kind};
use witness_registry::{Digest, Registry, RegistryError, StoredBlob};

use crate::app::App;
use crate::body::{content_length, next_chunk};
use crate::limits::{BODY_PAUSE_MAX, UPLOAD_CHUNKS_MAX};
use crate::models::library::blocking;
use crate::reply::{Failure, Reply};

pub(super) async fn head(State(app): State<Arc<App>>, Path(digest): Path<String>) -> Reply {
    let digest = Digest::parse(&digest)?;
    let library = Arc::clone(&app.library);
    let is_here = blocking(move || Ok::<_, Diagnostic>(library.registry.has_blob(&digest).is_some())).await?;
    if !is_here {
        return Err(Diagnostic::new(
            "witness::daemon::no_blob",
            Kind::NotFound,
            format!("blob `{digest}` is not here"),
        )
        .into());
    }
    // Whoever asks is about to make a model of it and will not send it again.
    app.library.expect(Instant::now(), digest);
    Ok(status(StatusCode::OK))
}

pub(super) async fn upload(State(app): State<Arc<App>>, Path(digest): Path<String>, request: Request) -> Reply {
    let digest = Digest::parse(&digest)?;
    let registry = app.library.registry.clone();
    let probe = registry.clone();
    if blocking(move || Ok::<_, Diagnostic>(probe.has_blob(&digest).is_some())).await? {
        app.library.expect(Instant::now(), digest);
        return Ok(status(StatusCode::OK));
    }
    let size_hint = content_length(&request);
    let (sender, receiver) = mpsc::channel(UPLOAD_CHUNKS_MAX);
    let writing = tokio::task::spawn_blocking(move || write(&registry, digest, size_hint, receiver));
    let sent = send(request.into_body(), sender).await;
    let written = match writing.await {
        Ok(written) => written,
        Err(error) => {
            return Err(Diagnostic::new(
                "witness::daemon::task",
                Kind::Internal,
                "an upload ended before it was done",
            )
            .cause(error.to_string())
            .into());
        }
    };
    match (sent, written) {
        // The network's trouble is the reason for the writer's.
        (Err(failure), _) => Err(failure),
        (Ok(()), Err(error)) => Err(Diagnostic::from(error).into()),
        (Ok(()), Ok(blob)) => {
            app.library.expect(Instant::now(), blob.digest);
            Ok(status(StatusCode::CREATED))
        }
    }
}

/// What travels to the writing thread. An upload that is not ended so was broken off.
enum Part {
    Chunk(Bytes),
    End,
}

async fn send(mut body: Body, sender: mpsc::Sender<Part>) -> Result<(), Failure> {
    while let Some(chunk) = next_chunk(&mut body, BODY_PAUSE_MAX).await? {
        if sender.send(Part::Chunk(chunk)).await.is_err() {
            // The writer has given up and says why itself.
            return Ok(());
        }
    }
    let _ = sender.send(Part::End).await;
    Ok(())
}

fn write(
    registry: &Registry,
    digest: Digest,
    size_hint: Option<u64>,
    mut receiver: mpsc::Receiver<Part>,
) -> Result<StoredBlob, RegistryError> {
    let mut writer = registry.begin_blob(Some(digest), size_hint)?;
    loop {
        match receiver.blocking_recv() {
            Some(Part::Chunk(chunk)) => writer.append(&chunk)?,
            Some(Part::End) => return writer.commit(),
            None => return Err(RegistryError::Cancelled),
        }
    }
}

fn status(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
