//! One request, one connection, one answer: a small HTTP/1.1 client over hyper.
//!
//! A connection per request costs about 50 us on a unix socket and makes cancellation trivial: dropping the answer closes the
//! connection, and the daemon frees the slot at its next step.
//!
//! **Invariant:** no answer is collected beyond [`BODY_BYTES_MAX`]; streams hold one line at a time.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use witness_api::{ErrorBody, StatusResponse};
use witness_diagnostics::{Diagnostic, Kind};
use witness_settings::{HostAddr, Settings};

use crate::connect::{Endpoint, Stream};
use crate::error::ClientError;
use crate::stream::Lines;

/// Largest answer that is collected whole. A store of 10,000 models lists in about 4 MiB.
pub(crate) const BODY_BYTES_MAX: usize = 64 << 20;

/// How long one address may take to accept. A local daemon takes microseconds; a host that is switched off would take minutes.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a question without work behind it may take. A listing takes milliseconds; the first one after a start may look at plugins.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the daemon behind a socket may take to say which host it listens on.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a request sends.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Speaks to one daemon. Cheap to clone; holds no connection.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    host: HostAddr,
}

/// The task that moves a connection's bytes; aborting it closes the connection.
pub(crate) struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// Returns a client of the daemon that these settings describe.
    pub fn new(settings: &Settings) -> Self {
        Self {
            socket: settings.socket.clone(),
            host: settings.host.clone(),
        }
    }

    /// Returns a client of whatever serves HTTP at an address.
    pub(crate) fn at(host: HostAddr) -> Self {
        Self {
            socket: PathBuf::new(),
            host,
        }
    }

    /// Returns the daemon's unix socket.
    pub fn socket(&self) -> Endpoint {
        Endpoint::Unix(self.socket.clone())
    }

    /// Returns the address that the daemon listens on for TCP.
    pub fn tcp(&self) -> Endpoint {
        Endpoint::Tcp(self.host.for_client().to_string())
    }

    /// Returns the address at which the daemon answers: the unix socket when it is this daemon's, else TCP.
    pub async fn endpoint(&self) -> Result<Endpoint, ClientError> {
        if self.socket_is_ours().await {
            return Ok(self.socket());
        }
        let tcp = self.tcp();
        match dial(&tcp).await {
            Ok(_) => Ok(tcp),
            Err(source) => Err(self.not_running(source)),
        }
    }

    /// Returns true when the socket answers and the daemon behind it is the one that the settings name.
    async fn socket_is_ours(&self) -> bool {
        let socket = self.socket();
        if self.host == HostAddr::default() {
            return dial(&socket).await.is_ok();
        }
        let status = async {
            let answer = self.call_at(&socket, Call::get("/api/witness/status")).await?;
            answer.json::<StatusResponse>().await
        };
        let status = tokio::time::timeout(PROBE_TIMEOUT, status).await;
        matches!(status, Ok(Ok(status)) if status.host == self.host.to_string())
    }

    fn not_running(&self, source: std::io::Error) -> ClientError {
        ClientError::NotRunning {
            tried: format!("{} or {}", self.socket(), self.tcp()),
            source,
        }
    }

    /// Sends a GET and reads the JSON answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.get_within(path, ANSWER_TIMEOUT).await
    }

    /// As [`Client::get`], but waits no longer than this.
    pub async fn get_within<T: DeserializeOwned>(&self, path: &str, limit: Duration) -> Result<T, ClientError> {
        let answer = async { self.call(Call::get(path)).await?.json().await };
        tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
            Err(ClientError::Silent {
                request: format!("GET {path}"),
                waited_s: limit.as_secs(),
            })
        })
    }

    /// Sends a JSON body and reads the JSON answer.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.call(Call::json(Method::POST, path, body)?).await?.json().await
    }

    /// Sends a JSON body and waits for an answer without content.
    pub async fn send(&self, method: Method, path: &str, body: &impl Serialize) -> Result<(), ClientError> {
        self.call(Call::json(method, path, body)?).await?.collect().await?;
        Ok(())
    }

    /// Sends a JSON body and reads one JSON value per line as they come. Dropping the lines cancels the request.
    pub async fn stream<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Lines<T>, ClientError> {
        Ok(self.call(Call::json(Method::POST, path, body)?).await?.lines())
    }

    /// As [`Client::stream`], but only over the unix socket: for what the daemon does not allow over TCP.
    pub async fn stream_at_socket<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Lines<T>, ClientError> {
        let call = Call::json(Method::POST, path, body)?;
        Ok(self.call_at(&self.socket(), call).await?.lines())
    }

    /// Asks the daemon to stop. Only its unix socket accepts this.
    pub async fn shutdown(&self) -> Result<(), ClientError> {
        let call = Call::json(Method::POST, "/api/witness/shutdown", &serde_json::json!({}))?;
        match self.call_at(&self.socket(), call).await {
            Ok(answer) => answer.collect().await.map(drop),
            Err(ClientError::NotRunning { source, .. }) => match dial(&self.tcp()).await {
                Ok(_) => Err(ClientError::SocketOnly {
                    socket: self.socket.clone(),
                }),
                Err(_) => Err(self.not_running(source)),
            },
            Err(error) => Err(error),
        }
    }

    /// Returns true once a daemon that was told to end has done so: nothing listens on its addresses, and the socket's file, which it
    /// removes last, is not there any more.
    pub async fn is_gone(&self) -> bool {
        !self.socket.exists() && dial(&self.tcp()).await.is_err()
    }

    pub(crate) async fn call(&self, call: Call) -> Result<Answer, ClientError> {
        let endpoint = self.endpoint().await?;
        self.call_at(&endpoint, call).await
    }

    pub(crate) async fn call_at(&self, endpoint: &Endpoint, call: Call) -> Result<Answer, ClientError> {
        let stream = dial(endpoint).await.map_err(|source| ClientError::NotRunning {
            tried: endpoint.to_string(),
            source,
        })?;
        let broken = |source: hyper::Error| ClientError::Broken { source: source.into() };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // The task ends by itself when the exchange is over; an error it meets also reaches the request below.
        let connection = Connection(tokio::spawn(async move { drop(connection.await) }));
        let name = call.name();
        let request = call.into_request(&self.host)?;
        let response = sender.send_request(request).await.map_err(broken)?;
        Answer {
            name,
            response,
            connection,
        }
        .checked()
        .await
    }
}

async fn dial(endpoint: &Endpoint) -> std::io::Result<Stream> {
    tokio::time::timeout(DIAL_TIMEOUT, endpoint.dial())
        .await
        .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut)))
}

/// A request before it is sent.
pub(crate) struct Call {
    method: Method,
    path: String,
    content: Option<(&'static str, Body)>,
    length: Option<u64>,
}

impl Call {
    pub(crate) fn get(path: &str) -> Self {
        Self::empty(Method::GET, path)
    }

    pub(crate) fn empty(method: Method, path: &str) -> Self {
        Self {
            method,
            path: path.to_owned(),
            content: None,
            length: None,
        }
    }

    pub(crate) fn json(method: Method, path: &str, body: &impl Serialize) -> Result<Self, ClientError> {
        let bytes = serde_json::to_vec(body).map_err(|source| ClientError::Broken { source: source.into() })?;
        let body = Full::new(Bytes::from(bytes))
            .map_err(|never| match never {})
            .boxed_unsync();
        Ok(Self {
            content: Some(("application/json", body)),
            ..Self::empty(method, path)
        })
    }

    /// A body of known length that is produced while it is sent.
    pub(crate) fn upload(path: &str, body: Body, length: u64) -> Self {
        Self {
            content: Some(("application/octet-stream", body)),
            length: Some(length),
            ..Self::empty(Method::POST, path)
        }
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn into_request(self, host: &HostAddr) -> Result<Request<Body>, ClientError> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.path)
            .header("host", host.for_client().to_string())
            .header("user-agent", concat!("witness/", env!("CARGO_PKG_VERSION")));
        if let Some(length) = self.length {
            request = request.header("content-length", length);
        }
        let body = match self.content {
            None => Full::default().map_err(|never| match never {}).boxed_unsync(),
            Some((kind, body)) => {
                request = request.header("content-type", kind);
                body
            }
        };
        request
            .body(body)
            .map_err(|source| ClientError::Broken { source: source.into() })
    }
}

/// An answer whose status says success, or that is turned into the error it carries.
pub(crate) struct Answer {
    name: String,
    response: Response<Incoming>,
    connection: Connection,
}

impl Answer {
    async fn checked(self) -> Result<Self, ClientError> {
        let status = self.response.status();
        if status.is_success() {
            return Ok(self);
        }
        let name = self.name.clone();
        let bytes = self.collect().await.unwrap_or_default();
        Err(ClientError::Answered(Box::new(refusal(status, &name, &bytes))))
    }

    /// Reads the whole answer.
    pub(crate) async fn collect(self) -> Result<Bytes, ClientError> {
        let Self {
            name,
            response,
            connection,
        } = self;
        let collected = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
        drop(connection);
        match collected {
            Ok(body) => Ok(body.to_bytes()),
            Err(source) if source.is::<http_body_util::LengthLimitError>() => Err(ClientError::TooLong {
                request: name,
                limit_bytes: BODY_BYTES_MAX,
            }),
            Err(source) => Err(ClientError::Broken { source }),
        }
    }

    pub(crate) async fn json<T: DeserializeOwned>(self) -> Result<T, ClientError> {
        let request = self.name.clone();
        let bytes = self.collect().await?;
        serde_json::from_slice(&bytes).map_err(|source| ClientError::Malformed {
            request,
            detail: source.to_string(),
        })
    }

    pub(crate) fn lines<T: DeserializeOwned>(self) -> Lines<T> {
        Lines::new(self.name, self.response.into_body(), self.connection)
    }
}

/// Turns the body of an error answer into a diagnostic; a stranger's body still says what it says.
fn refusal(status: StatusCode, request: &str, body: &[u8]) -> Diagnostic {
    let kind = kind_of(status);
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(error) => {
            let kind = error.kind.unwrap_or(kind);
            let mut diagnostic = Diagnostic::from(error);
            diagnostic.kind = kind;
            diagnostic
        }
        Err(_) => {
            let diagnostic = Diagnostic::new(
                "witness::client::refused",
                kind,
                format!("the daemon answered `{request}` with status {status}"),
            );
            let text = String::from_utf8_lossy(body);
            let text = text.trim();
            let diagnostic = if text.is_empty() {
                diagnostic
            } else {
                diagnostic.cause(text.chars().take(400).collect::<String>())
            };
            diagnostic.hint("is it another program, or another version, that listens there? `witness doctor` tells")
        }
    }
}

fn kind_of(status: StatusCode) -> Kind {
    match status.as_u16() {
        404 => Kind::NotFound,
        409 => Kind::Conflict,
        403 => Kind::Forbidden,
        501 => Kind::Unsupported,
        429 | 503 => Kind::Busy,
        507 => Kind::Environment,
        400..=499 => Kind::Invalid,
        _ => Kind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_error_arrives_whole_and_a_strangers_is_quoted() {
        let body = br#"{"error":"model `x` is not here","code":"witness::registry::not_found","kind":"not_found","hints":["run `witness list`"]}"#;
        let diagnostic = refusal(StatusCode::NOT_FOUND, "POST /api/show", body);
        assert_eq!(diagnostic.code, "witness::registry::not_found");
        assert_eq!(diagnostic.kind, Kind::NotFound);
        assert_eq!(diagnostic.hints, vec!["run `witness list`"]);

        let diagnostic = refusal(StatusCode::NOT_FOUND, "GET /api/tags", b"404 page not found");
        assert_eq!(diagnostic.kind, Kind::NotFound);
        assert_eq!(diagnostic.causes, vec!["404 page not found"]);
    }
}
