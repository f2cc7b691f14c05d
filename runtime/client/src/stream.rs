//! An answer that comes line by line. Dropping it closes the connection, which cancels the request in the daemon.

use std::collections::VecDeque;
use std::marker::PhantomData;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::Value;
use witness_api::ErrorBody;

use crate::error::ClientError;
use crate::http::Connection;
use crate::lines::{LINE_BYTES_MAX, LineDecoder};

/// The lines of a streamed answer, each read as a `T`. A line with an `error` field ends the stream as that error.
pub struct Lines<T> {
    request: String,
    body: Option<Incoming>,
    decoder: LineDecoder,
    ready: VecDeque<Vec<u8>>,
    _connection: Connection,
    line: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Lines<T> {
    pub(crate) fn new(request: String, body: Incoming, connection: Connection) -> Self {
        Self {
            request,
            body: Some(body),
            decoder: LineDecoder::default(),
            ready: VecDeque::new(),
            _connection: connection,
            line: PhantomData,
        }
    }

    /// Returns the next line, or nothing once the answer is complete. Safe to drop and call again between lines.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        let line = self.next_raw().await?;
        line.map(|line| self.read(&line)).transpose()
    }

    /// As [`Lines::next`], of the line as it came.
    pub(crate) async fn next_raw(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            let Some(body) = self.body.as_mut() else {
                return Ok(None);
            };
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(chunk) = frame.data_ref() {
                        self.decoder.push(chunk);
                    }
                    while let Some(line) = self.decoder.next_line().map_err(|_| self.too_long())? {
                        self.ready.push_back(line);
                    }
                }
                Some(Err(source)) => {
                    self.body = None;
                    return Err(ClientError::Broken { source: source.into() });
                }
                None => {
                    self.body = None;
                    self.ready.extend(self.decoder.finish());
                }
            }
        }
    }

    fn read(&self, line: &[u8]) -> Result<T, ClientError> {
        let malformed = |source: serde_json::Error| ClientError::Malformed {
            request: self.request.clone(),
            detail: format!("{source} in the line `{}`", excerpt(line)),
        };
        let value: Value = serde_json::from_slice(line).map_err(malformed)?;
        if value.get("error").is_some_and(Value::is_string) {
            let body: ErrorBody = serde_json::from_value(value).map_err(malformed)?;
            return Err(ClientError::Answered(Box::new(body.into())));
        }
        serde_json::from_value(value).map_err(malformed)
    }

    fn too_long(&self) -> ClientError {
        ClientError::TooLong {
            request: self.request.clone(),
            limit_bytes: LINE_BYTES_MAX,
        }
    }
}

/// Returns the start of a line, short enough for a message.
fn excerpt(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().take(120).collect()
}
