//! `POST /api/witness/measure`, `/suggest`, `/imatrix` and `/bench`: how good and how fast models are. Answers with lines; the last has what was found.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use witness_api::{BenchRequest, ImatrixRequest, MeasureLine, MeasureRequest, SuggestRequest};
use witness_diagnostics::Diagnostic;

use super::native::{absolute, local_only};
use crate::app::App;
use crate::body::Json;
use crate::guard::Door;
use crate::measure::{self, Order, Race, Trial, Weighing};
use crate::progress;
use crate::reply::{Reply, error_body};

pub(super) async fn measure(State(app): State<Arc<App>>, Json(request): Json<MeasureRequest>) -> Reply {
    let order = Order::read(&app, request).await?;
    Ok(progress::lines(
        move |lines| measure::measure(app, order, lines),
        failed,
    ))
}

pub(super) async fn suggest(State(app): State<Arc<App>>, Json(request): Json<SuggestRequest>) -> Reply {
    let trial = Trial::read(&app, request).await?;
    Ok(progress::lines(
        move |lines| measure::suggest(app, trial, lines),
        failed,
    ))
}

pub(super) async fn bench(State(app): State<Arc<App>>, Json(request): Json<BenchRequest>) -> Reply {
    let race = Race::read(&app, request).await?;
    Ok(progress::lines(move |lines| measure::bench(app, race, lines), failed))
}

/// Writes a file of the user's: for the unix socket alone.
pub(super) async fn imatrix(
    State(app): State<Arc<App>>,
    Extension(door): Extension<Door>,
    Json(mut request): Json<ImatrixRequest>,
) -> Reply {
    local_only(door)?;
    request.file = absolute(request.file)?;
    let order = Weighing::read(&app, request).await?;
    Ok(progress::lines(move |lines| measure::weigh(app, order, lines), failed))
}

fn failed(error: &Diagnostic) -> MeasureLine {
    MeasureLine {
        failure: Some(error_body(error)),
        ..MeasureLine::default()
    }
}
