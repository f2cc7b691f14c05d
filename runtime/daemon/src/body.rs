//! Reading bodies: JSON up to a limit, with a limit on pauses. The content type is not asked for, as Ollama does not.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::{Bytes, BytesMut};
use http::{StatusCode, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use witness_diagnostics::{Diagnostic, Kind};

use crate::limits::{BODY_PAUSE_MAX, JSON_BYTES_MAX};
use crate::reply::{Failure, invalid};

/// A JSON body, read and parsed.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let declared = content_length(&request);
        if declared.is_some_and(|bytes| bytes > JSON_BYTES_MAX as u64) {
            return Err(too_large());
        }
        let bytes = read_all(request.into_body(), JSON_BYTES_MAX).await?;
        if bytes.is_empty() {
            return Err(invalid("body_missing", "missing request body").into());
        }
        // Derived readers would take an array as the fields in their order: `["x"]` would delete `x`.
        if bytes.trim_ascii_start().starts_with(b"[") {
            return Err(body_json(&"it is an array").into());
        }
        let value = serde_json::from_slice(&bytes).map_err(|error| body_json(&error))?;
        Ok(Json(value))
    }
}

fn body_json(why: &dyn std::fmt::Display) -> Diagnostic {
    invalid("body_json", format!("the request body does not parse: {why}"))
        .hint("send a JSON object; see the API section of the README")
}

/// Returns what the request says its body's length is.
pub(crate) fn content_length<B>(request: &http::Request<B>) -> Option<u64> {
    request
        .headers()
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

async fn read_all(mut body: Body, bytes_max: usize) -> Result<Bytes, Failure> {
    let mut all = BytesMut::new();
    while let Some(chunk) = next_chunk(&mut body, BODY_PAUSE_MAX).await? {
        if all.len() + chunk.len() > bytes_max {
            return Err(too_large());
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

/// Returns the next bytes of a body; nothing at its end.
pub(crate) async fn next_chunk(body: &mut Body, pause_max: Duration) -> Result<Option<Bytes>, Failure> {
    loop {
        let frame = match tokio::time::timeout(pause_max, body.frame()).await {
            Err(_) => {
                let message = format!("the request body paused for more than {} s", pause_max.as_secs());
                let diagnostic = Diagnostic::new("witness::daemon::body_pause", Kind::Cancelled, message);
                return Err(Failure::with_status(diagnostic, StatusCode::REQUEST_TIMEOUT));
            }
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => {
                let diagnostic = Diagnostic::new(
                    "witness::daemon::body_broken",
                    Kind::Cancelled,
                    "the request body broke off",
                )
                .cause(error.to_string());
                return Err(Failure::with_status(diagnostic, StatusCode::BAD_REQUEST));
            }
            Ok(Some(Ok(frame))) => frame,
        };
        // Trailers carry nothing for us.
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            return Ok(Some(data));
        }
    }
}

fn too_large() -> Failure {
    let diagnostic = invalid(
        "body_too_large",
        format!("the request body is larger than {} MiB", JSON_BYTES_MAX >> 20),
    )
    .hint("files travel as blobs: POST /api/blobs/:digest");
    Failure::with_status(diagnostic, StatusCode::PAYLOAD_TOO_LARGE)
}
