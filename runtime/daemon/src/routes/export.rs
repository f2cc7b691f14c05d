//! `POST /api/witness/export` and `POST /api/witness/unbundle`: what leaves the store for files of the user's, and comes back from one. For the unix socket alone.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use witness_api::{ExportProgress, ExportRequest, ExportResponse, UnbundleProgress, UnbundleRequest};

use super::native::{absolute, local_only};
use crate::app::App;
use crate::body::Json;
use crate::export;
use crate::guard::Door;
use crate::import;
use crate::progress;
use crate::reply::{self, Reply, error_body};

pub(super) async fn export(
    State(app): State<Arc<App>>,
    Extension(door): Extension<Door>,
    Json(mut request): Json<ExportRequest>,
) -> Reply {
    local_only(door)?;
    if let Some(file) = request.file.take() {
        request.file = Some(absolute(file)?);
    }
    // A bundle has no directory; any other form has no file and must have one.
    if request.file.is_none() || !request.directory.as_os_str().is_empty() {
        request.directory = absolute(request.directory)?;
    }
    let streams = request.streams();
    // What is wrong with the request itself has a status of its own, streaming or not.
    let order = export::Order::read(&app, request).await?;
    let job = move |lines| export::run(app, order, lines);
    if streams {
        let failed = |error: &_| ExportProgress {
            failure: Some(error_body(error)),
            ..ExportProgress::default()
        };
        return Ok(progress::lines(job, failed));
    }
    let last = progress::quiet(job).await?;
    Ok(reply::json(&ExportResponse {
        directory: last.directory.unwrap_or_default(),
        files: last.files,
    }))
}

pub(super) async fn unbundle(
    State(app): State<Arc<App>>,
    Extension(door): Extension<Door>,
    Json(mut request): Json<UnbundleRequest>,
) -> Reply {
    local_only(door)?;
    request.path = absolute(request.path)?;
    let streams = request.streams();
    // What is wrong with the request or the file's index has a status of its own, streaming or not.
    let order = import::Order::read(&app, request).await?;
    let job = move |lines| import::run(app, order, lines);
    if streams {
        let failed = |error: &_| UnbundleProgress {
            failure: Some(error_body(error)),
            ..UnbundleProgress::default()
        };
        return Ok(progress::lines(job, failed));
    }
    Ok(reply::json(&progress::quiet(job).await?))
}
