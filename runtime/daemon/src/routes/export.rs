//! `POST /api/witness/export`: a model, its base or an adapter as files in a directory of the user's. For the unix socket alone.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use witness_api::{ExportProgress, ExportRequest, ExportResponse};

use super::native::{absolute, local_only};
use crate::app::App;
use crate::body::Json;
use crate::export;
use crate::guard::Door;
use crate::progress;
use crate::reply::{self, Reply, error_body};

pub(super) async fn export(
    State(app): State<Arc<App>>,
    Extension(door): Extension<Door>,
    Json(mut request): Json<ExportRequest>,
) -> Reply {
    local_only(door)?;
    request.directory = absolute(request.directory)?;
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
