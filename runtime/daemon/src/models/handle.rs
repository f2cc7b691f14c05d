//! The routes' handle on the loop that owns the loaded bases: what can be asked of it, and what it holds out.
//!
//! The channel is unbounded because [`Held`] reports from `drop`; what is in it is bounded by the connections: each holds one request and
//! a request sends two messages.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};
use witness_diagnostics::Diagnostic;
use witness_plugin_protocol::{ChatsFile, LoadOptions, ModelSpec};
use witness_registry::{Digest, Lease, Registry};
use witness_scheduler::{Demand, LoadId, LoadView, RequestId, Scheduler};

use super::actor;
use super::library::shutting_down;
use super::slot::{Label, Slot};
use crate::engine::Engine;

/// What a request needs to run.
pub(crate) struct Want {
    pub(crate) demand: Demand,
    pub(crate) model: ModelSpec,
    pub(crate) options: LoadOptions,
    pub(crate) architecture: String,
    /// Whether its weights may have a packed form.
    pub(crate) may_pack: bool,
    pub(crate) label: Label,
    /// Where its chats are kept while it is not loaded.
    pub(crate) chats: Option<ChatsFile>,
    /// Keeps the files of the base.
    pub(crate) lease: Lease,
}

/// Why a request did not get to run.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) diagnostic: Diagnostic,
    pub(crate) retry_after_ms: Option<u64>,
}

/// A place on a loaded base. Dropping it frees the place.
pub(crate) struct Held {
    pub(crate) slot: Arc<Slot>,
    _ticket: Ticket,
}

/// Tells the loop that a request ended, wherever it stood.
struct Ticket {
    request: RequestId,
    sender: mpsc::UnboundedSender<Message>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Without a loop there is nobody to tell.
        let _ = self.sender.send(Message::Finished(self.request));
    }
}

/// A loaded base as listings show it.
pub(crate) struct Loaded {
    pub(crate) view: LoadView,
    pub(crate) slot: Arc<Slot>,
}

/// The state of the loop as the status shows it.
pub(crate) struct Snapshot {
    pub(crate) loaded: Vec<Loaded>,
    pub(crate) waiting: usize,
    pub(crate) used_bytes: u64,
    pub(crate) idle_bytes: u64,
    pub(crate) now_ms: u64,
}

/// Everything that can happen.
pub(super) enum Message {
    Acquire {
        request: RequestId,
        want: Box<Want>,
        reply: oneshot::Sender<Result<Arc<Slot>, Refusal>>,
    },
    Finished(RequestId),
    Loaded {
        load: LoadId,
        result: Result<Arc<Slot>, Diagnostic>,
    },
    Resized {
        load: LoadId,
        bytes: u64,
    },
    Grow {
        load: LoadId,
        bytes: u64,
        reply: oneshot::Sender<bool>,
    },
    Died {
        load: LoadId,
        diagnostic: Diagnostic,
    },
    Gone(LoadId),
    Unload {
        key: String,
        reply: oneshot::Sender<bool>,
    },
    CollectWhenFree(Vec<Digest>),
    ForgetChats {
        key: String,
        path: PathBuf,
    },
    Snapshot(oneshot::Sender<Snapshot>),
    Close(oneshot::Sender<()>),
}

/// The routes' handle on the loop.
#[derive(Clone)]
pub(crate) struct Models {
    sender: mpsc::UnboundedSender<Message>,
    next_request: Arc<AtomicU64>,
}

impl Models {
    /// Starts the loop.
    pub(crate) fn start(
        scheduler: Scheduler,
        engine: Arc<dyn Engine>,
        registry: Registry,
        packed_cache_bytes: u64,
    ) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        actor::start(
            scheduler,
            engine,
            registry,
            packed_cache_bytes,
            sender.clone(),
            receiver,
        );
        Self {
            sender,
            next_request: Arc::new(AtomicU64::new(1)),
        }
    }

    /// Waits for a place on a loaded base. Dropping the future gives it up.
    pub(crate) async fn acquire(&self, want: Want) -> Result<Held, Refusal> {
        let request = RequestId(self.next_request.fetch_add(1, Ordering::Relaxed));
        let ticket = Ticket {
            request,
            sender: self.sender.clone(),
        };
        let (reply, answer) = oneshot::channel();
        let gone = || Refusal {
            diagnostic: shutting_down(),
            retry_after_ms: None,
        };
        self.sender
            .send(Message::Acquire {
                request,
                want: Box::new(want),
                reply,
            })
            .map_err(|_| gone())?;
        let slot = answer.await.map_err(|_| gone())??;
        Ok(Held { slot, _ticket: ticket })
    }

    /// Reports that a base takes more or less than it did.
    pub(crate) fn resized(&self, slot: &Slot) {
        let _ = self.sender.send(Message::Resized {
            load: slot.load,
            bytes: slot.bytes(),
        });
    }

    /// Asks for room beside a base for something that it can do without. Says whether it is there.
    pub(crate) async fn grow(&self, slot: &Slot, bytes: u64) -> bool {
        let (reply, answer) = oneshot::channel();
        let load = slot.load;
        let _ = self.sender.send(Message::Grow { load, bytes, reply });
        answer.await.unwrap_or(false)
    }

    /// Asks a base to go. Returns whether it was loaded.
    pub(crate) async fn unload(&self, key: &str) -> bool {
        let (reply, answer) = oneshot::channel();
        let _ = self.sender.send(Message::Unload {
            key: key.to_owned(),
            reply,
        });
        answer.await.unwrap_or(false)
    }

    /// Asks that blobs of a deleted model are collected when a base that still uses them has let go.
    pub(crate) fn collect_when_free(&self, digests: Vec<Digest>) {
        let _ = self.sender.send(Message::CollectWhenFree(digests));
    }

    /// Asks that the chats of a deleted base go as soon as no worker has it loaded: one on its way out still writes them.
    pub(crate) fn forget_chats(&self, key: &str, path: PathBuf) {
        let key = key.to_owned();
        let _ = self.sender.send(Message::ForgetChats { key, path });
    }

    /// Returns what is loaded and who waits.
    pub(crate) async fn snapshot(&self) -> Option<Snapshot> {
        let (reply, answer) = oneshot::channel();
        let _ = self.sender.send(Message::Snapshot(reply));
        answer.await.ok()
    }

    /// Refuses whoever waits, stops every worker, and returns when all are gone.
    pub(crate) async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        let _ = self.sender.send(Message::Close(reply));
        let _ = answer.await;
    }
}

impl From<Refusal> for crate::reply::Failure {
    fn from(refusal: Refusal) -> Self {
        crate::reply::Failure::from(refusal.diagnostic).retry_after_ms(refusal.retry_after_ms)
    }
}
