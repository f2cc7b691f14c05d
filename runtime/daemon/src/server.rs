//! Connections: two listeners, limits on each connection, and an orderly end.
//!
//! Every connection is a task of its own; a request is a future inside it, so a client who leaves drops whatever was being done for him.
//! At shutdown the listeners close first, then each connection ends after the request that it is in.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::app::App;
use crate::guard::Door;
use crate::limits::{
    CONNECTIONS_MAX, HEADER_BYTES_MAX, HEADER_TIMEOUT, SHUTDOWN_GRACE, TRAIN_SHUTDOWN_GRACE, WRITE_PAUSE_MAX,
};
use crate::reply::{Failure, REQUEST};
use crate::routes::router;
use crate::stall::StallGuard;

/// Name of the header that carries the request's name.
const REQUEST_ID: &str = "x-request-id";

/// Serves both listeners until the shutdown token is cancelled, then waits for the connections.
pub(crate) async fn serve(app: Arc<App>, tcp: TcpListener, unix: Option<UnixListener>) {
    let server = Arc::new(Server {
        router: TowerToHyperService::new(router(Arc::clone(&app))),
        names: Names::new(),
        app: Arc::clone(&app),
    });
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        // A connection beyond the limit waits in the kernel's queue until one ends.
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = app.shutdown.cancelled() => break,
        };
        let Ok(place) = place else { break };
        tokio::select! {
            () = app.shutdown.cancelled() => break,
            accepted = tcp.accept() => match accepted {
                Ok((stream, _)) => {
                    // A token is a small packet that nothing follows for a while.
                    let _ = stream.set_nodelay(true);
                    connections.spawn(Arc::clone(&server).connection(stream, Door::Tcp, place));
                }
                Err(error) => refused(&error).await,
            },
            accepted = accept_unix(unix.as_ref()) => match accepted {
                Ok(stream) => {
                    connections.spawn(Arc::clone(&server).connection(stream, Door::Unix, place));
                }
                Err(error) => refused(&error).await,
            },
        }
        // Ended connections are cleared as new ones come.
        while connections.try_join_next().is_some() {}
    }
    drop((tcp, unix));
    // Workers stop while connections tell their clients.
    let drained = async {
        tokio::join!(app.models.close(), async {
            while connections.join_next().await.is_some() {}
        });
    };
    let (drained, saved) = tokio::join!(
        tokio::time::timeout(SHUTDOWN_GRACE, drained),
        tokio::time::timeout(TRAIN_SHUTDOWN_GRACE, app.jobs.close())
    );
    if saved.is_err() {
        tracing::warn!(
            "a training run did not save in {} s; it goes on from its last checkpoint",
            TRAIN_SHUTDOWN_GRACE.as_secs()
        );
    }
    if drained.is_err() {
        tracing::warn!(
            "some connections or workers did not end in {} s and are cut off",
            SHUTDOWN_GRACE.as_secs()
        );
    }
}

async fn accept_unix(listener: Option<&UnixListener>) -> std::io::Result<tokio::net::UnixStream> {
    match listener {
        Some(listener) => loop {
            let (stream, _) = listener.accept().await?;
            // The socket's mode says so already; a file system that ignores modes would not.
            let own = rustix::process::getuid().as_raw();
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == own || peer.uid() == 0 => return Ok(stream),
                Ok(peer) => tracing::warn!("user {} tried to use the socket", peer.uid()),
                Err(error) => tracing::warn!("a caller on the socket cannot be known: {error}"),
            }
        },
        None => std::future::pending().await,
    }
}

/// Out of file descriptors, most likely: the next try would fail at once, so give others time to end.
async fn refused(error: &std::io::Error) {
    tracing::warn!("a connection could not be accepted: {error}");
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
}

struct Server {
    router: TowerToHyperService<Router>,
    names: Names,
    app: Arc<App>,
}

impl Server {
    async fn connection<S>(self: Arc<Self>, stream: S, door: Door, _place: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(StallGuard::new(stream, WRITE_PAUSE_MAX));
        let server = Arc::clone(&self);
        let service = service_fn(move |request| Arc::clone(&server).request(request, door));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_header_size(HEADER_BYTES_MAX)
            .max_buf_size(HEADER_BYTES_MAX)
            .serve_connection(io, service);
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.app.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!("a connection ended: {error}");
        }
    }

    async fn request(self: Arc<Self>, mut request: Request<Incoming>, door: Door) -> Result<Response, Infallible> {
        let name = self.names.next();
        let mut origin = None;
        if door == Door::Tcp {
            match self.app.guard.check(
                request.headers(),
                request.uri().authority().map(|authority| authority.as_str()),
            ) {
                Ok(allowed) => origin = allowed,
                Err(diagnostic) => {
                    let refuse = async { Failure::from(diagnostic).into_response() };
                    return Ok(finish(REQUEST.scope(Arc::clone(&name), refuse).await, &name, None));
                }
            }
        }
        if request.method() == Method::OPTIONS {
            return Ok(finish(preflight(request.headers()), &name, origin));
        }
        request.extensions_mut().insert(door);
        let span =
            tracing::debug_span!("request", id = %name, method = %request.method(), path = %request.uri().path());
        let answer = REQUEST
            .scope(Arc::clone(&name), self.router.call(request))
            .instrument(span)
            .await;
        let response = match answer {
            Ok(response) => response,
            Err(never) => match never {},
        };
        tracing::debug!(id = %name, status = response.status().as_u16(), "answered");
        Ok(finish(response, &name, origin))
    }
}

/// Adds what every answer has: the request's name, and to whom a browser may show it.
fn finish(mut response: Response, name: &str, origin: Option<HeaderValue>) -> Response {
    let headers = response.headers_mut();
    if let Ok(name) = HeaderValue::from_str(name) {
        headers.insert(REQUEST_ID, name);
    }
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(REQUEST_ID),
        );
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
    }
    response
}

/// Answers a browser that asks before it sends. The origin was checked already.
fn preflight(asked: &HeaderMap) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST, HEAD, DELETE, OPTIONS"),
    );
    let wanted = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        wanted.unwrap_or_else(|| {
            HeaderValue::from_static("authorization, content-type, user-agent, accept, x-requested-with")
        }),
    );
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("43200"));
    response
}

/// Names requests: a mark of this run of the daemon and a number.
struct Names {
    run: u32,
    next: AtomicU64,
}

impl Names {
    fn new() -> Self {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            run: (since.as_millis() as u32) ^ std::process::id().rotate_left(16),
            next: AtomicU64::new(1),
        }
    }

    fn next(&self) -> Arc<str> {
        format!("{:08x}-{}", self.run, self.next.fetch_add(1, Ordering::Relaxed)).into()
    }
}
