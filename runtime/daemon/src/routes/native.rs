//! Our own routes. Those that reach beyond the store (import by path, plugin check by path) or end the daemon are for the unix socket alone.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use tokio::sync::mpsc;
use witness_api::{
    EstimateRequest, EstimateResponse, FsckProblem, FsckProgress, FsckRequest, ImportProgress, ImportRequest,
    LoadedModel, Options, PluginCheckRequest, PluginsResponse, StatusResponse, UnloadRequest, UnloadResponse,
};
use witness_diagnostics::{Diagnostic, Kind};
use witness_registry::{Action, Finding, FsckOptions, ImportOptions, Problem};

use crate::app::{App, VERSION};
use crate::body::Json;
use crate::draft::reckon_draft;
use crate::guard::Door;
use crate::models::library::shutting_down;
use crate::progress;
use crate::reckon::{CachePlan, Reckoning, details, reckon};
use crate::reply::{self, Failure, Reply, error_body, invalid};

/// `?disk` asks for what lies on disk too: clients ask for the rest before each of their requests, and a disk that sleeps must not hold those up.
pub(super) async fn status(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Reply {
    let snapshot = app.models.snapshot().await.ok_or_else(shutting_down)?;
    let packed_bytes = match query.as_deref() {
        Some("disk") => {
            let registry = app.library.registry.clone();
            tokio::task::spawn_blocking(move || registry.packed_bytes())
                .await
                .unwrap_or(0)
        }
        _ => 0,
    };
    let loaded: Vec<LoadedModel> = snapshot
        .loaded
        .iter()
        .map(|loaded| LoadedModel {
            model: loaded.slot.label().name,
            bytes: loaded.view.bytes,
            running: loaded.view.running as u64,
            worker_pid: loaded.slot.worker.pid(),
            plugin: loaded.slot.worker.plugin(),
        })
        .collect();
    Ok(reply::json(&StatusResponse {
        version: VERSION.to_owned(),
        pid: std::process::id(),
        uptime_ms: u64::try_from(app.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        home: app.settings.home.clone(),
        models: app.settings.models.clone(),
        host: app.address.clone(),
        socket: app.socket.clone(),
        plugin_directories: app.engine.directories(),
        running: loaded.iter().map(|model| model.running).sum(),
        loaded,
        queued: snapshot.waiting as u64,
        resident_bytes: crate::memory::resident_bytes(),
        memory_budget_bytes: app.memory_budget_bytes,
        packed_bytes,
    }))
}

pub(super) async fn shutdown(State(app): State<Arc<App>>, Extension(door): Extension<Door>) -> Reply {
    local_only(door)?;
    tracing::info!("asked to shut down");
    app.shutdown.cancel();
    Ok(reply::empty())
}

pub(super) async fn plugins(State(app): State<Arc<App>>) -> Reply {
    Ok(reply::json(&PluginsResponse {
        plugins: app.engine.plugins().await,
        directories: app.engine.directories(),
    }))
}

pub(super) async fn check_plugin(
    State(app): State<Arc<App>>,
    Extension(door): Extension<Door>,
    Json(request): Json<PluginCheckRequest>,
) -> Reply {
    local_only(door)?;
    Ok(reply::json(&app.engine.check(absolute(request.path)?).await))
}

pub(super) async fn unload(State(app): State<Arc<App>>, Json(request): Json<UnloadRequest>) -> Reply {
    let stored = app.library.stored(&request.model).await?;
    Ok(reply::json(&UnloadResponse {
        unloaded: app.models.unload(&stored.base_key).await,
    }))
}

pub(super) async fn estimate(State(app): State<Arc<App>>, Json(request): Json<EstimateRequest>) -> Reply {
    let stored = app.library.stored(&request.model).await?;
    let info = app.library.info(&stored).await?;
    let (of_model, _) = Options::read(&stored.parameters)?;
    let cache = CachePlan::of(&app);
    let num_ctx = request.num_ctx.or(of_model.num_ctx).or(app.settings.context_length);
    let reckoning = reckon(&info, num_ctx, &cache);
    let adapter_bytes = stored.config.witness.as_ref().map_or(0, |witness| {
        witness.adapters.iter().fold(0u64, |sum, a| sum.saturating_add(a.bytes))
    });
    let draft_bytes = reckon_draft(&app, &stored, reckoning.num_ctx).map_or(0, Reckoning::total);
    let total_bytes = reckoning
        .total()
        .saturating_add(adapter_bytes)
        .saturating_add(draft_bytes);
    let snapshot = app.models.snapshot().await.ok_or_else(shutting_down)?;
    let is_loaded = snapshot.loaded.iter().any(|loaded| loaded.view.key == stored.base_key);
    let busy_bytes = snapshot.used_bytes.saturating_sub(snapshot.idle_bytes);
    Ok(reply::json(&EstimateResponse {
        model: request.model,
        details: details(&stored, &info),
        num_ctx: reckoning.num_ctx,
        num_parallel: cache.parallel,
        weights_bytes: reckoning.weights,
        kv_bytes: reckoning.kv,
        adapter_bytes,
        draft_bytes,
        overhead_bytes: reckoning.overhead,
        total_bytes,
        budget_bytes: app.memory_budget_bytes,
        used_bytes: snapshot.used_bytes,
        fits: is_loaded || busy_bytes.saturating_add(total_bytes) <= app.memory_budget_bytes,
        is_loaded,
    }))
}

pub(super) async fn import(
    State(app): State<Arc<App>>,
    Extension(door): Extension<Door>,
    Json(request): Json<ImportRequest>,
) -> Result<Response, Failure> {
    local_only(door)?;
    let path = absolute(request.path)?;
    let library = Arc::clone(&app.library);
    let job = move |lines: mpsc::Sender<ImportProgress>, cancel: Arc<AtomicBool>| {
        let mut report = |completed, total| {
            // A line that finds the queue full is one too many; the next says more.
            let _ = lines.try_send(ImportProgress {
                status: "importing".into(),
                completed,
                total,
                ..ImportProgress::default()
            });
        };
        let options = ImportOptions {
            link: request.link,
            takes: false,
            progress: Some(&mut report),
            cancel: Some(&cancel),
        };
        let blob = library.registry.import_file(&path, options).map_err(Diagnostic::from)?;
        library.expect(std::time::Instant::now(), blob.digest);
        Ok(ImportProgress {
            status: "success".into(),
            completed: blob.size,
            total: blob.size,
            digest: blob.digest.as_str().to_owned(),
            size: blob.size,
            ..ImportProgress::default()
        })
    };
    Ok(progress::blocking_lines(job, |error| ImportProgress {
        failure: Some(error_body(error)),
        ..ImportProgress::default()
    }))
}

pub(super) async fn fsck(State(app): State<Arc<App>>, Json(request): Json<FsckRequest>) -> Result<Response, Failure> {
    let registry = app.library.registry.clone();
    let job = move |lines: mpsc::Sender<FsckProgress>, cancel: Arc<AtomicBool>| {
        let mut report = |progress: witness_registry::FsckProgress| {
            let _ = lines.try_send(FsckProgress {
                status: "checking".into(),
                completed: progress.bytes_done,
                total: progress.bytes_total,
                ..FsckProgress::default()
            });
        };
        let options = FsckOptions {
            repair: request.repair,
            progress: Some(&mut report),
            cancel: Some(&cancel),
        };
        let report = registry.fsck(options).map_err(Diagnostic::from)?;
        Ok(FsckProgress {
            status: if report.is_sound() {
                "sound".into()
            } else {
                "damaged".into()
            },
            completed: report.bytes,
            total: report.bytes,
            done: true,
            blobs: report.blobs as u64,
            models: report.manifests as u64,
            problems: report.findings.iter().map(problem).collect(),
            ..FsckProgress::default()
        })
    };
    Ok(progress::blocking_lines(job, |error| FsckProgress {
        failure: Some(error_body(error)),
        ..FsckProgress::default()
    }))
}

fn problem(finding: &Finding) -> FsckProblem {
    let (name, message) = in_words(&finding.problem);
    FsckProblem {
        problem: name.to_owned(),
        is_damage: finding.problem.is_damage(),
        object: finding.digest.map_or_else(
            || finding.path.display().to_string(),
            |digest| digest.as_str().to_owned(),
        ),
        path: finding.path.clone(),
        models: finding.models.iter().map(ToString::to_string).collect(),
        message,
        repaired: match &finding.action {
            Action::Nothing => None,
            Action::Quarantined(path) => Some(format!("moved aside to {}", path.display())),
            Action::Restored(path) => Some(format!("put back from {}", path.display())),
            Action::Renamed(path) => Some(format!("renamed to {}", path.display())),
            Action::Removed => Some("removed".to_owned()),
        },
    }
}

/// Returns a problem's name on the wire and what to tell a person.
fn in_words(problem: &Problem) -> (&'static str, String) {
    match problem {
        Problem::ManifestUnreadable { reason } => {
            ("manifest_unreadable", format!("the manifest cannot be read: {reason}"))
        }
        Problem::ManifestMisplaced => ("manifest_misplaced", "the manifest's place is no model's name".into()),
        Problem::BlobCorrupt { found } => ("blob_corrupt", format!("its bytes hash to {found}")),
        Problem::BlobUnreadable { reason } => ("blob_unreadable", format!("the blob cannot be read: {reason}")),
        Problem::BlobMissing => ("blob_missing", "the blob is not there".into()),
        Problem::BlobLength {
            bytes_expected,
            bytes_found,
        } => (
            "blob_length",
            format!("it has {bytes_found} bytes and the manifest says {bytes_expected}"),
        ),
        Problem::BlobOldName => (
            "blob_old_name",
            "it lies under the name that old versions of Ollama used".into(),
        ),
        Problem::Orphan => ("orphan", "no model names it".into()),
        Problem::StrayFile => ("stray_file", "it is no part of the store".into()),
    }
}

/// Refuses what came over TCP.
pub(super) fn local_only(door: Door) -> Result<(), Failure> {
    match door {
        Door::Unix => Ok(()),
        Door::Tcp => Err(Diagnostic::new(
            "witness::daemon::local_only",
            Kind::Forbidden,
            "this route is open on the unix socket alone",
        )
        .cause("it reaches files outside of the store or ends the daemon")
        .hint("use the `witness` command on this machine")
        .into()),
    }
}

pub(super) fn absolute(path: std::path::PathBuf) -> Result<std::path::PathBuf, Failure> {
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(invalid("path", format!("the path `{}` is not absolute", path.display())).into())
    }
}
