//! `POST /api/create`, and `POST /api/witness/plan` with the same body.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use witness_api::{CreateRequest, Progress};

use crate::app::App;
use crate::body::Json;
use crate::create;
use crate::progress;
use crate::reply::{self, Reply, error_body};

pub(super) async fn create(State(app): State<Arc<App>>, Json(request): Json<CreateRequest>) -> Reply {
    let streams = request.streams();
    // What is wrong with the request itself has a status of its own, streaming or not.
    let order = create::order::Order::read(&app, request).await?;
    let job = move |lines| create::run(app, order, lines);
    if streams {
        let failed = |error: &_| Progress {
            failure: Some(error_body(error)),
            ..Progress::default()
        };
        return Ok(progress::lines(job, failed));
    }
    let last = progress::quiet(job).await?;
    Ok(reply::json_with(StatusCode::OK, &last))
}

pub(super) async fn plan(State(app): State<Arc<App>>, Json(request): Json<CreateRequest>) -> Reply {
    let order = create::order::Order::read(&app, request).await?;
    Ok(reply::json(&create::plan(&app, &order).await?))
}
