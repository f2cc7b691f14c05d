//! The routes: each translates a request, asks the models or the library, and translates the answer. None decides anything.

mod blobs;
mod chat;
mod create;
mod export;
mod generate;
mod library;
mod measure;
mod native;
mod show;
mod train;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use http::{Method, StatusCode, Uri};
use witness_diagnostics::{Diagnostic, Kind, near_miss};

use crate::app::App;
use crate::reply::Failure;

/// Every path, for the near misses of an unknown one.
const PATHS: &[&str] = &[
    "/api/generate",
    "/api/chat",
    "/api/create",
    "/api/tags",
    "/api/show",
    "/api/ps",
    "/api/copy",
    "/api/delete",
    "/api/version",
    "/api/blobs/:digest",
    "/api/train",
    "/api/train/:id",
    "/api/train/:id/events",
    "/api/train/:id/stop",
    "/api/train/:id/resume",
    "/api/witness/status",
    "/api/witness/shutdown",
    "/api/witness/plugins",
    "/api/witness/plugins/check",
    "/api/witness/fsck",
    "/api/witness/import",
    "/api/witness/unload",
    "/api/witness/estimate",
    "/api/witness/plan",
    "/api/witness/export",
    "/api/witness/measure",
    "/api/witness/suggest",
    "/api/witness/imatrix",
    "/api/witness/bench",
    "/api/witness/unbundle",
];

/// Paths of Ollama's API that a later version will have.
const LATER: &[&str] = &["/api/pull", "/api/push", "/api/embed", "/api/embeddings"];

/// Builds the router.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(library::root))
        .route("/api/version", get(library::version))
        .route("/api/tags", get(library::tags))
        .route("/api/ps", get(library::ps))
        .route("/api/show", post(show::show))
        .route("/api/copy", post(library::copy))
        .route("/api/delete", delete(library::delete))
        .route("/api/create", post(create::create))
        .route(
            "/api/blobs/{digest}",
            get(blobs::head).head(blobs::head).post(blobs::upload),
        )
        .route("/api/generate", post(generate::generate))
        .route("/api/chat", post(chat::chat))
        .route("/api/train", get(train::list).post(train::train))
        .route("/api/train/{id}", get(train::show).delete(train::remove))
        .route("/api/train/{id}/events", get(train::events))
        .route("/api/train/{id}/stop", post(train::stop))
        .route("/api/train/{id}/resume", post(train::resume))
        .route("/api/witness/measure", post(measure::measure))
        .route("/api/witness/suggest", post(measure::suggest))
        .route("/api/witness/imatrix", post(measure::imatrix))
        .route("/api/witness/bench", post(measure::bench))
        .route("/api/witness/status", get(native::status))
        .route("/api/witness/shutdown", post(native::shutdown))
        .route("/api/witness/plugins", get(native::plugins))
        .route("/api/witness/plugins/check", post(native::check_plugin))
        .route("/api/witness/fsck", post(native::fsck))
        .route("/api/witness/import", post(native::import))
        .route("/api/witness/unload", post(native::unload))
        .route("/api/witness/estimate", post(native::estimate))
        .route("/api/witness/plan", post(create::plan))
        .route("/api/witness/export", post(export::export))
        .route("/api/witness/unbundle", post(export::unbundle))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        // Bodies have limits of their own: see `body` and `routes::blobs`.
        .layer(DefaultBodyLimit::disable())
        .with_state(app)
}

async fn unknown(uri: Uri) -> Response {
    let path: String = uri.path().chars().take(200).collect();
    if LATER.contains(&path.as_str()) {
        return Failure::from(
            Diagnostic::new(
                "witness::daemon::not_yet",
                Kind::Unsupported,
                format!("`{path}` is not there yet"),
            )
            .hint("it comes with a later version"),
        )
        .into_response();
    }
    let mut diagnostic = Diagnostic::new(
        "witness::daemon::no_route",
        Kind::NotFound,
        format!("there is no `{path}`"),
    );
    if let Some(near) = near_miss(&path, PATHS.iter().copied()) {
        diagnostic = diagnostic.hint(format!("did you mean `{near}`?"));
    }
    Failure::from(diagnostic).into_response()
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let path: String = uri.path().chars().take(200).collect();
    let diagnostic = Diagnostic::new(
        "witness::daemon::method",
        Kind::Invalid,
        format!("`{path}` does not take {method}"),
    )
    .hint("see the API section of the README for its method");
    Failure::with_status(diagnostic, StatusCode::METHOD_NOT_ALLOWED).into_response()
}
