//! The one task that owns the scheduler and the loaded bases.
//!
//! Everything that can happen is a [`Message`]; one loop handles them all: it tells the scheduler, then carries out what comes back.
//! Loading, stopping and watching workers run in tasks of their own that report back as messages, so the loop never waits.
//!
//! ```text
//! route ── Acquire ──> [ loop: Scheduler ] ── Load ──> task: host starts a worker ── Loaded ──> loop
//!       <── Held ─────                     ── Run ──> the waiting route
//!  drop Held ── Finished ──> loop          ── Unload ──> task: worker stops ── Gone ──> loop
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use witness_diagnostics::Diagnostic;
use witness_plugin_protocol::LoadRequest;
use witness_registry::{Digest, GcOptions, Registry};
use witness_scheduler::{Action, KeepAlive, LoadId, Rejection, RequestId, Scheduler, UnloadReason};

use super::handle::{Loaded, Message, Refusal, Snapshot, Want};
use super::library::shutting_down;
use super::slot::Slot;
use crate::chats;
use crate::engine::Engine;
use crate::limits::WORKER_GRACE;
use crate::packed;

/// Starts the loop in a task of its own.
pub(super) fn start(
    scheduler: Scheduler,
    engine: Arc<dyn Engine>,
    registry: Registry,
    packed_cache_bytes: u64,
    sender: mpsc::UnboundedSender<Message>,
    receiver: mpsc::UnboundedReceiver<Message>,
) {
    let actor = Actor {
        scheduler,
        engine,
        registry,
        packed_cache_bytes,
        sender,
        since: Instant::now(),
        waiting: HashMap::new(),
        slots: HashMap::new(),
        failures: HashMap::new(),
        collect_when_free: BTreeSet::new(),
        forget_when_free: BTreeMap::new(),
        closing: None,
    };
    tokio::spawn(actor.run(receiver));
}

struct Waiting {
    want: Box<Want>,
    reply: oneshot::Sender<Result<Arc<Slot>, Refusal>>,
}

struct Actor {
    scheduler: Scheduler,
    engine: Arc<dyn Engine>,
    registry: Registry,
    /// Bytes that packed weights may take on disk.
    packed_cache_bytes: u64,
    sender: mpsc::UnboundedSender<Message>,
    since: Instant,
    waiting: HashMap<RequestId, Waiting>,
    slots: HashMap<LoadId, Arc<Slot>>,
    /// Why loads failed, until their requests have been told.
    failures: HashMap<LoadId, Diagnostic>,
    /// Blobs of deleted models that a loaded base may still use.
    collect_when_free: BTreeSet<Digest>,
    /// Chats of deleted bases, by their keys: a worker on its way out may write them once more.
    forget_when_free: BTreeMap<String, PathBuf>,
    closing: Option<oneshot::Sender<()>>,
}

impl Actor {
    async fn run(mut self, mut receiver: mpsc::UnboundedReceiver<Message>) {
        loop {
            let deadline = self
                .scheduler
                .next_deadline_ms()
                .map(|ms| self.since + Duration::from_millis(ms));
            let message = match deadline {
                Some(deadline) => match tokio::time::timeout_at(deadline.into(), receiver.recv()).await {
                    Ok(message) => message,
                    Err(_) => {
                        let now = self.now_ms();
                        let actions = self.scheduler.tick(now);
                        self.carry_out(actions);
                        continue;
                    }
                },
                None => receiver.recv().await,
            };
            // The actor holds a sender itself, so the channel never closes; it ends when told to.
            let Some(message) = message else { return };
            self.handle(message);
            if self.closing.is_some() && self.scheduler.loads().is_empty() {
                if let Some(reply) = self.closing.take() {
                    let _ = reply.send(());
                }
                return;
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.since.elapsed().as_millis() as u64
    }

    fn handle(&mut self, message: Message) {
        let now = self.now_ms();
        let actions = match message {
            Message::Acquire { request, want, reply } => {
                let demand = want.demand.clone();
                self.waiting.insert(request, Waiting { want, reply });
                self.scheduler.request(now, request, demand)
            }
            Message::Finished(request) => {
                self.waiting.remove(&request);
                self.scheduler.finished(now, request)
            }
            Message::Loaded { load, result } => self.loaded(now, load, result),
            Message::Resized { load, bytes } => self.scheduler.resized(now, load, bytes),
            Message::Grow { load, bytes, reply } => {
                let (is_there, actions) = self.scheduler.grow(now, load, bytes);
                let _ = reply.send(is_there);
                actions
            }
            Message::Died { load, diagnostic } => match self.slots.remove(&load) {
                Some(slot) => {
                    tracing::warn!(model = %slot.label().name, "the worker is gone: {diagnostic}");
                    self.scheduler.unloaded(now, load)
                }
                None => Vec::new(),
            },
            Message::Gone(load) => {
                self.slots.remove(&load);
                self.collect();
                self.scheduler.unloaded(now, load)
            }
            Message::Unload { key, reply } => {
                let (is_there, actions) = self.scheduler.unload(now, &key);
                let _ = reply.send(is_there);
                actions
            }
            Message::CollectWhenFree(digests) => {
                self.collect_when_free.extend(digests);
                Vec::new()
            }
            Message::ForgetChats { key, path } => {
                self.forget_when_free.insert(key, path);
                Vec::new()
            }
            Message::Snapshot(reply) => {
                let _ = reply.send(self.snapshot(now));
                Vec::new()
            }
            Message::Close(reply) => {
                self.closing = Some(reply);
                self.scheduler.close()
            }
        };
        self.forget_chats();
        self.carry_out(actions);
    }

    fn loaded(&mut self, now: u64, load: LoadId, result: Result<Arc<Slot>, Diagnostic>) -> Vec<Action> {
        match result {
            Ok(slot) => {
                let bytes = slot.bytes();
                if self.closing.is_some() || !self.scheduler.loads().iter().any(|view| view.id == load) {
                    self.stop(load, slot);
                    return Vec::new();
                }
                self.watch(load, &slot);
                tracing::info!(model = %slot.label().name, bytes, pid = slot.worker.pid(), plugin = %slot.worker.plugin(), "loaded");
                self.slots.insert(load, slot);
                self.scheduler.loaded(now, load, bytes)
            }
            Err(diagnostic) => {
                tracing::warn!("a load failed: {diagnostic}");
                self.failures.insert(load, diagnostic);
                let actions = self.scheduler.load_failed(now, load);
                if self.closing.is_some() {
                    return self.scheduler.unloaded(now, load);
                }
                actions
            }
        }
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Load { load, request, .. } => self.start(load, request),
                Action::Unload { load, reason } => self.unload(load, reason),
                Action::Run { request, load } => self.let_run(request, load),
                Action::Reject { request, why } => self.refuse(request, &why),
            }
        }
        self.failures.clear();
    }

    /// Starts a load in a task of its own.
    fn start(&mut self, load: LoadId, request: RequestId) {
        let Some(waiting) = self.waiting.get(&request) else {
            return;
        };
        let want = &waiting.want;
        let load_request = LoadRequest {
            model: want.model.clone(),
            options: want.options,
            chats: want.chats.clone(),
            packed: None,
        };
        let (architecture, label, lease) = (want.architecture.clone(), want.label.clone(), want.lease.clone());
        let (engine, sender) = (Arc::clone(&self.engine), self.sender.clone());
        let bytes_max = if want.may_pack { self.packed_cache_bytes } else { 0 };
        let registry = self.registry.clone();
        tokio::spawn(async move {
            let mut load_request = load_request;
            load_request.packed = packed::place(registry, &load_request.model.files, bytes_max).await;
            let result = engine.load(&load_request, &architecture, &label.name).await;
            let result = result.map(|(worker, reply)| Arc::new(Slot::new(load, worker, reply, label, lease)));
            let _ = sender.send(Message::Loaded { load, result });
        });
    }

    fn unload(&mut self, load: LoadId, reason: UnloadReason) {
        // A load that is still under way is stopped when it reports.
        if let Some(slot) = self.slots.remove(&load) {
            tracing::info!(model = %slot.label().name, ?reason, "unloading");
            self.stop(load, slot);
        }
    }

    fn stop(&self, load: LoadId, slot: Arc<Slot>) {
        let sender = self.sender.clone();
        tokio::spawn(async move {
            slot.worker.stop(WORKER_GRACE).await;
            drop(slot);
            let _ = sender.send(Message::Gone(load));
        });
    }

    /// Watches the worker and nothing more: the slot, and with it the lease on its files, must be free to go.
    fn watch(&self, load: LoadId, slot: &Slot) {
        let (sender, worker) = (self.sender.clone(), Arc::clone(&slot.worker));
        tokio::spawn(async move {
            let diagnostic = worker.died().await;
            let _ = sender.send(Message::Died { load, diagnostic });
        });
    }

    fn let_run(&mut self, request: RequestId, load: LoadId) {
        let (Some(waiting), Some(slot)) = (self.waiting.remove(&request), self.slots.get(&load)) else {
            return;
        };
        slot.set_label(waiting.want.label.clone());
        // A caller who left has a ticket that says so by itself.
        let _ = waiting.reply.send(Ok(Arc::clone(slot)));
    }

    fn refuse(&mut self, request: RequestId, why: &Rejection) {
        let Some(waiting) = self.waiting.remove(&request) else {
            return;
        };
        let model = &waiting.want.label.name;
        let (diagnostic, retry_after_ms) = match why {
            Rejection::LoadFailed { load } => {
                let failure = self.failures.get(load).cloned();
                (failure.unwrap_or_else(|| Diagnostic::from(why.clone())), None)
            }
            Rejection::TooLarge {
                needed_bytes,
                budget_bytes,
            } => {
                let mut diagnostic = Diagnostic::from(why.clone());
                diagnostic.message = format!(
                    "model `{model}` needs about {} of memory and {} may be used",
                    human_bytes(*needed_bytes),
                    human_bytes(*budget_bytes)
                );
                (
                    diagnostic.cause(format!(
                        "{needed_bytes} bytes are more than the budget of {budget_bytes} bytes"
                    )),
                    None,
                )
            }
            Rejection::QueueFull { retry_after_ms, .. } => (Diagnostic::from(why.clone()), Some(*retry_after_ms)),
            Rejection::ShuttingDown => (shutting_down(), None),
        };
        let _ = waiting.reply.send(Err(Refusal {
            diagnostic,
            retry_after_ms,
        }));
    }

    /// Deletes the chats of deleted models, save those whose worker has not ended: it may be writing them.
    fn forget_chats(&mut self) {
        if self.forget_when_free.is_empty() {
            return;
        }
        let loads = self.scheduler.loads();
        self.forget_when_free.retain(|key, path| {
            let has_worker = loads.iter().any(|load| load.key == *key);
            if !has_worker {
                chats::forget(path);
            }
            has_worker
        });
    }

    fn collect(&mut self) {
        let only = std::mem::take(&mut self.collect_when_free);
        if only.is_empty() {
            return;
        }
        let registry = self.registry.clone();
        // They were named until they were deleted, so nobody is about to name them: no time of grace.
        let options = GcOptions {
            grace: Duration::ZERO,
            only: Some(only),
        };
        tokio::task::spawn_blocking(move || match registry.gc_with(options) {
            Ok(report) => tracing::debug!(?report, "collected"),
            Err(error) => tracing::warn!("blobs were not collected: {error}"),
        });
    }

    fn snapshot(&self, now_ms: u64) -> Snapshot {
        let loaded = self
            .scheduler
            .loads()
            .into_iter()
            .filter_map(|view| {
                self.slots.get(&view.id).map(|slot| Loaded {
                    view,
                    slot: Arc::clone(slot),
                })
            })
            .collect();
        Snapshot {
            loaded,
            waiting: self.scheduler.waiting(),
            used_bytes: self.scheduler.used_bytes(),
            idle_bytes: self.scheduler.idle_bytes(),
            now_ms,
        }
    }
}

/// Returns the scheduler's form of a time to keep.
pub(crate) fn keep_alive(given: Option<witness_api::KeepAlive>, default: witness_settings::KeepAlive) -> KeepAlive {
    let millis = |time: Duration| KeepAlive::Ms(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    match (given, default) {
        (Some(witness_api::KeepAlive::For(time)), _) => millis(time),
        (Some(witness_api::KeepAlive::Forever), _) => KeepAlive::Forever,
        (None, witness_settings::KeepAlive::For(time)) => millis(time),
        (None, witness_settings::KeepAlive::Forever) => KeepAlive::Forever,
    }
}

/// Writes a size for people, in powers of 1024.
pub(crate) fn human_bytes(bytes: u64) -> String {
    let (value, unit) = match bytes {
        0..1_024 => return format!("{bytes} B"),
        1_024..1_048_576 => (bytes as f64 / 1_024.0, "KiB"),
        1_048_576..1_073_741_824 => (bytes as f64 / 1_048_576.0, "MiB"),
        _ => (bytes as f64 / 1_073_741_824.0, "GiB"),
    };
    format!("{value:.1} {unit}")
}
