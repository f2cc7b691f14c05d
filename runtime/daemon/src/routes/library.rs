//! The routes about what is stored and loaded: `/`, version, tags, ps, copy, delete.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use witness_api::{CopyRequest, DeleteRequest, ProcessModel, ProcessResponse, UNKNOWN_TIME, VersionResponse, rfc3339};
use witness_scheduler::KeepAlive;

use crate::app::{App, VERSION};
use crate::body::Json;
use crate::chats;
use crate::models::library::{blocking, parse_name, shutting_down};
use crate::models::slot::Label;
use crate::reckon::label_of;
use crate::reply::{self, Reply};

/// How far ahead "for ever" lies: clients expect a date.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub(super) async fn root() -> Response {
    "witness is running".into_response()
}

pub(super) async fn version() -> Response {
    reply::json(&VersionResponse {
        version: VERSION.to_owned(),
    })
}

pub(super) async fn tags(State(app): State<Arc<App>>) -> Reply {
    Ok(reply::json_bytes(StatusCode::OK, app.library.tags().await?))
}

pub(super) async fn ps(State(app): State<Arc<App>>) -> Reply {
    let snapshot = app.models.snapshot().await.ok_or_else(shutting_down)?;
    let mut labels = Vec::with_capacity(snapshot.loaded.len());
    for loaded in &snapshot.loaded {
        labels.push(whole_label(&app, loaded.slot.label()).await);
    }
    let mut models: Vec<ProcessModel> = snapshot
        .loaded
        .iter()
        .zip(labels)
        .map(|(loaded, label)| {
            let left = match (loaded.view.expires_at_ms, loaded.view.keep_alive) {
                (Some(at), _) => Duration::from_millis(at.saturating_sub(snapshot.now_ms)),
                // Busy: it will stay so long after it is done.
                (None, KeepAlive::Ms(ms)) => Duration::from_millis(ms).min(FOREVER),
                (None, KeepAlive::Forever) => FOREVER,
            };
            ProcessModel {
                name: label.name.clone(),
                model: label.name,
                size: loaded.view.bytes,
                digest: label.digest,
                details: label.details,
                expires_at: SystemTime::now()
                    .checked_add(left)
                    .map_or_else(|| UNKNOWN_TIME.to_owned(), rfc3339),
                size_vram: 0,
                context_length: loaded.slot.reply.num_ctx,
                adapters: loaded.slot.adapter_names(),
                drafts: loaded.slot.draft_names(),
                notes: loaded.slot.draft_notes(),
                worker_pid: Some(loaded.slot.worker.pid()),
                running: Some(loaded.view.running as u64),
            }
        })
        .collect();
    models.sort_by(|a, b| b.expires_at.cmp(&a.expires_at).then_with(|| a.name.cmp(&b.name)));
    Ok(reply::json(&ProcessResponse { models }))
}

/// A base that was loaded to prove the adapters of a new model was labelled before that model had a digest.
async fn whole_label(app: &Arc<App>, label: Label) -> Label {
    if !label.digest.is_empty() {
        return label;
    }
    let Ok(stored) = app.library.stored(&label.name).await else {
        return label;
    };
    match app.library.info(&stored).await {
        Ok(info) => label_of(&stored, &info),
        Err(_) => label,
    }
}

pub(super) async fn copy(State(app): State<Arc<App>>, Json(request): Json<CopyRequest>) -> Reply {
    let target = parse_name(&request.destination)?;
    let source = app.library.stored(&request.source).await?.name.clone();
    let registry = app.library.registry.clone();
    blocking(move || registry.copy(&source, &target)).await?;
    Ok(reply::empty())
}

pub(super) async fn delete(State(app): State<Arc<App>>, Json(request): Json<DeleteRequest>) -> Reply {
    let name = parse_name(&request.model)?;
    // A damaged model can be deleted too: then there is nothing to unload.
    let stored = match app.library.stored(&request.model).await {
        Ok(stored) => Some(stored),
        Err(error) if error.kind == witness_diagnostics::Kind::NotFound && error.code.ends_with("::not_found") => {
            return Err(error.into());
        }
        Err(_) => None,
    };
    let registry = app.library.registry.clone();
    let report = blocking(move || registry.delete(&name)).await?;
    tracing::info!(model = %request.model, bytes_freed = report.bytes_freed, "deleted");
    let Some(stored) = stored else {
        return Ok(reply::empty());
    };
    // A base that other names use stays loaded, unless it is shown under the name that is gone.
    let snapshot = app.models.snapshot().await.ok_or_else(shutting_down)?;
    let name = stored.name.display_short();
    let is_shown = snapshot
        .loaded
        .iter()
        .any(|loaded| loaded.view.key == stored.base_key && loaded.slot.label().name == name);
    let is_named = app.library.is_base_named(&stored).await?;
    if is_shown || !is_named {
        app.models.unload(&stored.base_key).await;
    }
    if !is_named && let Some(place) = chats::place(&app.settings, &stored.base.files) {
        app.models.forget_chats(&stored.base_key, place.path);
    }
    app.models.collect_when_free(stored.digests());
    Ok(reply::empty())
}
