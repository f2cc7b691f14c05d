//! Answers: JSON, errors, streams of lines. And the name of the request, which every answer and every log line carries.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use witness_api::{ErrorBody, NDJSON};
use witness_diagnostics::{Diagnostic, Kind};

tokio::task_local! {
    /// Name of the request that the current task answers.
    pub(crate) static REQUEST: std::sync::Arc<str>;
}

/// Returns the name of the current request; empty outside of one.
pub(crate) fn request_name() -> String {
    REQUEST.try_with(|name| name.to_string()).unwrap_or_default()
}

/// An error on its way to the client.
#[derive(Debug)]
pub(crate) struct Failure(Box<Inner>);

/// Boxed, because results are returned far more often than failures.
#[derive(Debug)]
struct Inner {
    diagnostic: Diagnostic,
    status: Option<StatusCode>,
    retry_after_ms: Option<u64>,
}

/// What every handler returns.
pub(crate) type Reply = Result<Response, Failure>;

impl Failure {
    /// Makes an error with a status that its kind does not imply.
    pub(crate) fn with_status(diagnostic: Diagnostic, status: StatusCode) -> Self {
        Self(Box::new(Inner {
            diagnostic,
            status: Some(status),
            retry_after_ms: None,
        }))
    }

    /// Adds when to try again.
    pub(crate) fn retry_after_ms(mut self, retry_after_ms: Option<u64>) -> Self {
        self.0.retry_after_ms = retry_after_ms;
        self
    }
}

impl<E: Into<Diagnostic>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(Box::new(Inner {
            diagnostic: error.into(),
            status: None,
            retry_after_ms: None,
        }))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Inner {
            diagnostic,
            status,
            retry_after_ms,
        } = *self.0;
        let kind = diagnostic.kind;
        let status = status
            .or_else(|| StatusCode::from_u16(kind.http_status()).ok())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::warn!(code = %diagnostic.code, status = status.as_u16(), "{}", diagnostic);
        } else {
            tracing::debug!(code = %diagnostic.code, status = status.as_u16(), "{}", diagnostic);
        }
        let mut response = json_with(status, &error_body(&diagnostic));
        if kind == Kind::Busy {
            let seconds = retry_after_ms.unwrap_or(1_000).div_ceil(1_000).max(1);
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// Returns the body of an error, with the name of the current request.
pub(crate) fn error_body(diagnostic: &Diagnostic) -> ErrorBody {
    ErrorBody {
        request_id: request_name(),
        ..ErrorBody::from(diagnostic)
    }
}

/// Answers 200 with JSON.
pub(crate) fn json(value: &impl Serialize) -> Response {
    json_with(StatusCode::OK, value)
}

/// Answers with JSON.
pub(crate) fn json_with(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => json_bytes(status, bytes.into()),
        // Our types serialize; a map with odd keys could not, and there is none.
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Answers with JSON that is already bytes.
pub(crate) fn json_bytes(status: StatusCode, bytes: Bytes) -> Response {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    response
}

/// Answers with a stream of NDJSON lines.
pub(crate) fn lines<S>(stream: S) -> Response
where
    S: futures_util::Stream<Item = Result<Bytes, std::convert::Infallible>> + Send + 'static,
{
    let mut response = Response::new(Body::from_stream(stream));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    response
}

/// Writes one line.
pub(crate) fn push_line(out: &mut Vec<u8>, value: &impl Serialize) {
    // Writing to memory cannot fail and our types serialize.
    if serde_json::to_writer(&mut *out, value).is_ok() {
        out.push(b'\n');
    }
}

/// Answers 200 without a body.
pub(crate) fn empty() -> Response {
    Response::new(Body::empty())
}

/// Makes the error for a request that is wrong in itself.
pub(crate) fn invalid(code: &str, message: impl Into<String>) -> Diagnostic {
    Diagnostic::new(format!("witness::daemon::{code}"), Kind::Invalid, message)
}
