//! The draft of a request: reckoned with the base, attached beside it when there is room, and left out when there is not.
//!
//! An answer is the same with a draft and without: what hinders it never fails a request. It is logged once, and stands in `/api/ps` and `/api/show` for as long as it
//! lasts. A draft that its worker refused is not tried again there: the files are the same, and each try would read them all.

use witness_diagnostics::Kind;
use witness_plugin_protocol::{AdapterSpec, DraftOptions, ModelInfo};

use crate::app::App;
use crate::limits::DRAFT_PARALLEL_MAX;
use crate::models::handle::Held;
use crate::models::slot::{AdapterUse, DraftOff};
use crate::models::stored::Stored;
use crate::reckon::{CachePlan, Reckoning, lease_of, reckon};

/// Reckons what the draft of a model takes beside a base with a context of `num_ctx`; nothing for a model without one.
pub(crate) fn reckon_draft(app: &App, stored: &Stored, num_ctx: u64) -> Option<Reckoning> {
    let (_, info) = draft_of(stored)?;
    let cache = CachePlan::of(app);
    let cache = CachePlan {
        parallel: cache.parallel.min(DRAFT_PARALLEL_MAX),
        ..cache
    };
    Some(reckon(info, Some(num_ctx), &cache))
}

/// Attaches the draft of a model to its base, unless it is there, and holds it.
pub(crate) async fn attach(app: &App, stored: &Stored, held: &Held) -> Option<AdapterUse> {
    let (spec, _) = draft_of(stored)?;
    let slot = &held.slot;
    if let Some(draft) = slot.hold_attached(spec) {
        return Some(draft);
    }
    if matches!(slot.draft_off(spec), Some(DraftOff::Refused(_))) {
        return None;
    }
    let reckoning = reckon_draft(app, stored, slot.reply.num_ctx)?;
    if !app.models.grow(slot, reckoning.total()).await {
        if slot.set_draft_off(spec, DraftOff::NoRoom) {
            tracing::info!(model = %stored.name, draft = %spec.name, bytes = reckoning.total(), "there is no room for its draft now");
        }
        return None;
    }
    let options = DraftOptions {
        kv_bytes: Some(reckoning.kv),
    };
    let attached = slot.use_adapter(spec, Some(options), lease_of(app, &spec.files)).await;
    // The true size takes the place of what was asked for.
    app.models.resized(slot);
    match attached {
        Ok((draft, _)) => {
            tracing::info!(model = %stored.name, draft = %spec.name, "attached its draft");
            Some(draft)
        }
        Err(diagnostic) => {
            // Too many at once are fewer in a while; whatever else is wrong with it stays so.
            let is_for_good = diagnostic.kind != Kind::Busy;
            if !is_for_good || slot.set_draft_off(spec, DraftOff::Refused(diagnostic.to_string())) {
                tracing::warn!(model = %stored.name, draft = %spec.name, is_for_good, "it runs without its draft: {diagnostic}");
            }
            None
        }
    }
}

/// Says why the draft of a model is not used by the worker that is loaded for it, if it is not.
pub(crate) async fn note(app: &App, stored: &Stored) -> Option<String> {
    let (spec, _) = draft_of(stored)?;
    let snapshot = app.models.snapshot().await?;
    let mut loaded = snapshot
        .loaded
        .iter()
        .filter(|loaded| loaded.view.key == stored.base_key);
    loaded.find_map(|loaded| Some(loaded.slot.draft_off(spec)?.note(&spec.name)))
}

fn draft_of(stored: &Stored) -> Option<(&AdapterSpec, &ModelInfo)> {
    let info = stored.config.witness.as_ref()?.draft.as_ref()?;
    Some((stored.draft.as_ref()?, info))
}
