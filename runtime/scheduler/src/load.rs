//! One load: a base model on its way into memory, in it, or on its way out.

use crate::{Demand, KeepAlive, LoadId, RequestId};

/// Where a load stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Loading,
    Ready,
    Unloading,
}

#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) id: LoadId,
    pub(crate) key: String,
    pub(crate) shape: u64,
    /// Requests that run on it at most.
    pub(crate) parallel: usize,
    pub(crate) bytes: u64,
    pub(crate) stage: Stage,
    pub(crate) running: Vec<(RequestId, u64)>,
    /// Of the request that ran last.
    pub(crate) keep_alive: KeepAlive,
    /// When the last request ended, or the load did.
    pub(crate) idle_since_ms: u64,
}

impl Load {
    pub(crate) fn is_idle(&self) -> bool {
        self.stage == Stage::Ready && self.running.is_empty()
    }

    pub(crate) fn serves(&self, demand: &Demand) -> bool {
        self.stage != Stage::Unloading && self.key == demand.key && demand.shape.is_none_or(|shape| shape == self.shape)
    }

    /// Returns when an idle load is to go; nothing while it is busy or kept forever.
    pub(crate) fn expires_at_ms(&self) -> Option<u64> {
        match self.keep_alive {
            KeepAlive::Ms(ms) if self.is_idle() => Some(self.idle_since_ms.saturating_add(ms)),
            _ => None,
        }
    }

    pub(crate) fn view(&self) -> LoadView {
        LoadView {
            id: self.id,
            key: self.key.clone(),
            shape: self.shape,
            bytes: self.bytes,
            is_ready: self.stage == Stage::Ready,
            running: self.running.len(),
            keep_alive: self.keep_alive,
            expires_at_ms: self.expires_at_ms(),
        }
    }
}

/// A load as others may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadView {
    /// Its name.
    pub id: LoadId,
    /// The base model.
    pub key: String,
    /// Load options.
    pub shape: u64,
    /// Memory reckoned for it.
    pub bytes: u64,
    /// Whether it can run requests.
    pub is_ready: bool,
    /// Requests that run on it.
    pub running: usize,
    /// How long it stays once idle.
    pub keep_alive: KeepAlive,
    /// When it goes; nothing while busy or kept forever.
    pub expires_at_ms: Option<u64>,
}
