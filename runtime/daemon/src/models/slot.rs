//! One loaded base in its worker, with the adapters and drafts attached to it.
//!
//! The base is loaded once; adapters come and go beside it. An adapter's name inside the worker carries a digest of its files, because
//! two models on one base may both call theirs `default`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use witness_api::ModelDetails;
use witness_diagnostics::Diagnostic;
use witness_plugin_protocol::{AdapterSpec, DraftOptions, LoadAdapterReply, LoadAdapterRequest, LoadReply};
use witness_registry::{Digest, Lease};
use witness_scheduler::LoadId;

use crate::engine::Worker;
use crate::limits::{ADAPTERS_ATTACHED_MAX, DRAFTS_ATTACHED_MAX};

/// A loaded base.
pub(crate) struct Slot {
    pub(crate) load: LoadId,
    pub(crate) worker: Arc<dyn Worker>,
    pub(crate) reply: LoadReply,
    /// The model that asked last, for `/api/ps`.
    label: Mutex<Label>,
    /// Keeps the files of the base where they are. Adapters bring their own.
    _lease: Lease,
    attached: Mutex<Attached>,
    /// Why drafts are not used, by their names in the worker: as good as known for as long as the worker lives, for neither its base nor a draft's files change.
    drafts_off: Mutex<BTreeMap<String, DraftOff>>,
    /// Held while adapters are attached or detached, so that each is attached once.
    changing: tokio::sync::Mutex<()>,
}

/// Under which name a base is shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Label {
    pub(crate) name: String,
    pub(crate) digest: String,
    pub(crate) details: ModelDetails,
}

#[derive(Default)]
struct Attached {
    adapters: HashMap<String, AttachedAdapter>,
    /// Counts uses, so that the one unused longest can be found without a clock.
    uses: u64,
}

/// An adapter or a draft.
struct AttachedAdapter {
    is_draft: bool,
    bytes: u64,
    /// Answers that use it now.
    users: usize,
    last_use: u64,
    _lease: Lease,
}

/// Why a draft is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DraftOff {
    /// There was no room for it; there may be later.
    NoRoom,
    /// The worker refused it, and would again.
    Refused(String),
}

/// Holds an adapter or a draft in its place while an answer uses it.
pub(crate) struct AdapterUse {
    slot: Arc<Slot>,
    /// Name inside the worker.
    pub(crate) name: String,
}

impl Drop for AdapterUse {
    fn drop(&mut self) {
        if let Some(adapter) = self.slot.attached().adapters.get_mut(&self.name) {
            adapter.users = adapter.users.saturating_sub(1);
        }
    }
}

impl Slot {
    pub(crate) fn new(load: LoadId, worker: Arc<dyn Worker>, reply: LoadReply, label: Label, lease: Lease) -> Self {
        Self {
            load,
            worker,
            reply,
            label: Mutex::new(label),
            _lease: lease,
            attached: Mutex::default(),
            drafts_off: Mutex::default(),
            changing: tokio::sync::Mutex::new(()),
        }
    }

    pub(crate) fn label(&self) -> Label {
        self.label.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_label(&self, label: Label) {
        *self.label.lock().unwrap_or_else(PoisonError::into_inner) = label;
    }

    /// Returns the names of the adapters that are attached, without their digests, sorted.
    pub(crate) fn adapter_names(&self) -> Vec<String> {
        self.names(false)
    }

    /// Returns the names of the drafts that are attached, as [`Slot::adapter_names`] does.
    pub(crate) fn draft_names(&self) -> Vec<String> {
        self.names(true)
    }

    fn names(&self, of_drafts: bool) -> Vec<String> {
        let mut names: Vec<String> = self
            .attached()
            .adapters
            .iter()
            .filter(|(_, adapter)| adapter.is_draft == of_drafts)
            .map(|(name, _)| without_digest(name).to_owned())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Returns why a draft is not used, if it is not.
    pub(crate) fn draft_off(&self, spec: &AdapterSpec) -> Option<DraftOff> {
        self.drafts_off().get(&name_in_worker(spec)).cloned()
    }

    /// Notes why a draft is not used. Returns whether that is news.
    pub(crate) fn set_draft_off(&self, spec: &AdapterSpec, off: DraftOff) -> bool {
        self.drafts_off().insert(name_in_worker(spec), off.clone()) != Some(off)
    }

    /// Returns what a person should know of the drafts that are not used, a sentence each.
    pub(crate) fn draft_notes(&self) -> Vec<String> {
        let off = self.drafts_off();
        off.iter().map(|(name, off)| off.note(without_digest(name))).collect()
    }

    /// Returns what the base and all that is attached to it take.
    pub(crate) fn bytes(&self) -> u64 {
        let adapters = self
            .attached()
            .adapters
            .values()
            .fold(0u64, |sum, adapter| sum.saturating_add(adapter.bytes));
        self.reply.resident_bytes.saturating_add(adapters)
    }

    /// Holds an adapter or a draft, if it is attached.
    pub(crate) fn hold_attached(self: &Arc<Self>, spec: &AdapterSpec) -> Option<AdapterUse> {
        self.hold(&name_in_worker(spec))
    }

    /// Attaches an adapter, or with options a draft, unless it is there, and holds it. Returns whether it was attached now.
    pub(crate) async fn use_adapter(
        self: &Arc<Self>,
        spec: &AdapterSpec,
        draft: Option<DraftOptions>,
        lease: Lease,
    ) -> Result<(AdapterUse, bool), Diagnostic> {
        let name = name_in_worker(spec);
        if let Some(held) = self.hold(&name) {
            return Ok((held, false));
        }
        let _changing = self.changing.lock().await;
        if let Some(held) = self.hold(&name) {
            return Ok((held, false));
        }
        self.make_room(draft.is_some()).await?;
        let request = LoadAdapterRequest {
            adapter: AdapterSpec {
                name: name.clone(),
                files: spec.files.clone(),
            },
            check: false,
            draft,
        };
        let reply = self.worker.load_adapter(&request).await?;
        let adapter = AttachedAdapter {
            is_draft: draft.is_some(),
            bytes: reply.info.bytes,
            users: 0,
            last_use: 0,
            _lease: lease,
        };
        self.attached().adapters.insert(name.clone(), adapter);
        self.drafts_off().remove(&name);
        // It was inserted two lines above and only `make_room`, under the same lock, removes.
        let held = self.hold(&name).ok_or_else(super::library::shutting_down)?;
        Ok((held, true))
    }

    /// Attaches an adapter under a name of its own, runs the base with and without it, and detaches it. In a task of its own: a client who
    /// leaves in the middle leaves nothing attached.
    pub(crate) async fn prove(self: Arc<Self>, spec: AdapterSpec) -> Result<LoadAdapterReply, Diagnostic> {
        let proof = async move {
            let _changing = self.changing.lock().await;
            let name = format!("{}-proof", name_in_worker(&spec));
            let request = LoadAdapterRequest {
                adapter: AdapterSpec {
                    name: name.clone(),
                    files: spec.files,
                },
                check: true,
                draft: None,
            };
            let reply = self.worker.load_adapter(&request).await;
            if reply.is_ok()
                && let Err(error) = self.worker.unload_adapter(&name).await
            {
                tracing::warn!("adapter `{}` was proven but not detached: {error}", spec.name);
            }
            reply
        };
        match tokio::spawn(proof).await {
            Ok(reply) => reply,
            Err(_) => Err(super::library::shutting_down()),
        }
    }

    fn hold(self: &Arc<Self>, name: &str) -> Option<AdapterUse> {
        let mut attached = self.attached();
        attached.uses += 1;
        let now = attached.uses;
        let adapter = attached.adapters.get_mut(name)?;
        adapter.users += 1;
        adapter.last_use = now;
        Some(AdapterUse {
            slot: Arc::clone(self),
            name: name.to_owned(),
        })
    }

    async fn make_room(&self, for_draft: bool) -> Result<(), Diagnostic> {
        let victim = {
            let attached = self.attached();
            let alike = || {
                attached
                    .adapters
                    .iter()
                    .filter(|(_, adapter)| adapter.is_draft == for_draft)
            };
            let most = match for_draft {
                true => DRAFTS_ATTACHED_MAX,
                false => ADAPTERS_ATTACHED_MAX,
            };
            if alike().count() < most {
                return Ok(());
            }
            let idle = alike().filter(|(_, adapter)| adapter.users == 0);
            idle.min_by_key(|(_, adapter)| adapter.last_use)
                .map(|(name, _)| name.clone())
        };
        if let Some(name) = victim {
            self.worker.unload_adapter(&name).await?;
            self.attached().adapters.remove(&name);
        }
        Ok(())
    }

    fn attached(&self) -> MutexGuard<'_, Attached> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drafts_off(&self) -> MutexGuard<'_, BTreeMap<String, DraftOff>> {
        self.drafts_off.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DraftOff {
    /// Says what is so, and what to do about it.
    pub(crate) fn note(&self, draft: &str) -> String {
        match self {
            DraftOff::NoRoom => format!(
                "draft `{draft}` is not used: there is no room for it beside the other models; `witness stop` one, or raise `memory_budget`"
            ),
            DraftOff::Refused(why) => format!("draft `{draft}` is not used until the model is loaded again: {why}"),
        }
    }
}

fn without_digest(name_in_worker: &str) -> &str {
    name_in_worker.split('@').next().unwrap_or_default()
}

/// Returns the adapter's name with a digest of its files.
fn name_in_worker(spec: &AdapterSpec) -> String {
    let text: String = spec
        .files
        .iter()
        .map(|file| format!("{}\0{}\n", file.name, file.digest))
        .collect();
    format!("{}@{}", spec.name, Digest::of(text.as_bytes()).short())
}
