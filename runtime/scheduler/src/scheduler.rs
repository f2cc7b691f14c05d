//! The events. Each changes the state and returns what one planning pass makes of it.

use std::collections::VecDeque;

use crate::load::{Load, Stage};
use crate::{Action, Config, Demand, KeepAlive, LoadId, LoadView, Rejection, RequestId, UnloadReason};

/// Bounds of the advice in `Retry-After`.
const RETRY_AFTER_MS_MIN: u64 = 1_000;
const RETRY_AFTER_MS_MAX: u64 = 60_000;

/// A request in the queue.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) request: RequestId,
    pub(crate) demand: Demand,
}

/// The state machine. See the crate's own text for its rules.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) config: Config,
    pub(crate) loads: Vec<Load>,
    pub(crate) waiting: VecDeque<Waiting>,
    pub(crate) next_load: u64,
    is_closed: bool,
    /// Mean time that a request runs, smoothed.
    service_ms: u64,
}

impl Scheduler {
    /// Makes an empty one. Limits of zero are raised to one.
    pub fn new(config: Config) -> Self {
        let config = Config {
            loaded_max: config.loaded_max.max(1),
            parallel: config.parallel.max(1),
            ..config
        };
        Self {
            config,
            loads: Vec::new(),
            waiting: VecDeque::new(),
            next_load: 1,
            is_closed: false,
            service_ms: 1_000,
        }
    }

    /// Takes in a request. It runs, waits or is refused.
    pub fn request(&mut self, now_ms: u64, request: RequestId, demand: Demand) -> Vec<Action> {
        if self.is_closed {
            return vec![Action::Reject {
                request,
                why: Rejection::ShuttingDown,
            }];
        }
        self.waiting.push_back(Waiting { request, demand });
        let mut actions = self.plan(now_ms);
        let waiting = self.waiting.len();
        // A request that a load was just started for has been accepted, whatever the limit.
        let is_served = actions
            .iter()
            .any(|action| matches!(action, Action::Load { request: id, .. } if *id == request));
        if waiting > self.config.queue_max
            && !is_served
            && self.waiting.back().is_some_and(|last| last.request == request)
        {
            self.waiting.pop_back();
            actions.push(Action::Reject {
                request,
                why: Rejection::QueueFull {
                    waiting: waiting - 1,
                    queue_max: self.config.queue_max,
                    retry_after_ms: self.retry_after_ms(),
                },
            });
        }
        actions
    }

    /// A load is ready and takes `bytes`.
    pub fn loaded(&mut self, now_ms: u64, load: LoadId, bytes: u64) -> Vec<Action> {
        if let Some(load) = self.load_mut(load) {
            load.stage = Stage::Ready;
            load.bytes = bytes;
            load.idle_since_ms = now_ms;
        }
        self.plan(now_ms)
    }

    /// A load takes `bytes` now, because something was attached to it.
    pub fn resized(&mut self, now_ms: u64, load: LoadId, bytes: u64) -> Vec<Action> {
        if let Some(load) = self.load_mut(load) {
            load.bytes = bytes;
        }
        self.plan(now_ms)
    }

    /// A load asks for `bytes` more, for something that it can do without. Idle loads make room for it, the one unused longest first, if there is enough of them; until
    /// they are gone the answer is no. Returns whether it has the room.
    pub fn grow(&mut self, now_ms: u64, load: LoadId, bytes: u64) -> (bool, Vec<Action>) {
        let wanted = self.used_bytes().saturating_add(bytes);
        let mut missing = wanted.saturating_sub(self.config.budget_bytes);
        if missing == 0 {
            if let Some(load) = self.load_mut(load) {
                load.bytes = load.bytes.saturating_add(bytes);
            }
            return (true, self.plan(now_ms));
        }
        let leaving = self.loads.iter().filter(|load| load.stage == Stage::Unloading);
        missing = missing.saturating_sub(leaving.map(|load| load.bytes).sum());
        let mut idle: Vec<&mut Load> = self
            .loads
            .iter_mut()
            .filter(|other| other.is_idle() && other.id != load)
            .collect();
        if idle.iter().map(|load| load.bytes).sum::<u64>() < missing {
            return (false, Vec::new());
        }
        idle.sort_by_key(|load| (load.idle_since_ms, load.id));
        let mut actions = Vec::new();
        for load in idle {
            if missing == 0 {
                break;
            }
            missing = missing.saturating_sub(load.bytes);
            load.stage = Stage::Unloading;
            actions.push(Action::Unload {
                load: load.id,
                reason: UnloadReason::Evicted,
            });
        }
        (false, actions)
    }

    /// A load failed: whoever waits for it is refused, so that nothing is tried again on its own.
    pub fn load_failed(&mut self, now_ms: u64, load: LoadId) -> Vec<Action> {
        let Some(at) = self.loads.iter().position(|known| known.id == load) else {
            return Vec::new();
        };
        let failed = self.loads.swap_remove(at);
        let mut actions = Vec::new();
        self.waiting.retain(|waiting| {
            let is_hit = failed.serves(&waiting.demand);
            if is_hit {
                actions.push(Action::Reject {
                    request: waiting.request,
                    why: Rejection::LoadFailed { load },
                });
            }
            !is_hit
        });
        actions.extend(self.plan(now_ms));
        actions
    }

    /// A request ended, however it did; or its caller left, wherever it stood.
    pub fn finished(&mut self, now_ms: u64, request: RequestId) -> Vec<Action> {
        self.waiting.retain(|waiting| waiting.request != request);
        for load in &mut self.loads {
            if let Some(at) = load.running.iter().position(|(running, _)| *running == request) {
                let (_, since_ms) = load.running.remove(at);
                load.idle_since_ms = now_ms;
                self.service_ms = (self.service_ms * 7 + now_ms.saturating_sub(since_ms)) / 8;
                break;
            }
        }
        self.plan(now_ms)
    }

    /// A worker is gone: it ended as it was told, or it died. Its room is free; requests that still count as running on it are forgotten.
    pub fn unloaded(&mut self, now_ms: u64, load: LoadId) -> Vec<Action> {
        self.loads.retain(|known| known.id != load);
        self.plan(now_ms)
    }

    /// Asks a model to go: at once when idle, else when its last request ends. Returns whether it was there, and what to do.
    pub fn unload(&mut self, now_ms: u64, key: &str) -> (bool, Vec<Action>) {
        let mut is_there = false;
        let mut actions = Vec::new();
        for load in self
            .loads
            .iter_mut()
            .filter(|load| load.key == key && load.stage != Stage::Unloading)
        {
            is_there = true;
            if load.is_idle() {
                load.stage = Stage::Unloading;
                actions.push(Action::Unload {
                    load: load.id,
                    reason: UnloadReason::Asked,
                });
            } else {
                load.keep_alive = KeepAlive::Ms(0);
            }
        }
        actions.extend(self.plan(now_ms));
        (is_there, actions)
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Action> {
        self.plan(now_ms)
    }

    /// Refuses whoever waits and comes; unloads what is loaded, busy or not. The caller ends what runs.
    pub fn close(&mut self) -> Vec<Action> {
        self.is_closed = true;
        let mut actions: Vec<Action> = std::mem::take(&mut self.waiting)
            .into_iter()
            .map(|waiting| Action::Reject {
                request: waiting.request,
                why: Rejection::ShuttingDown,
            })
            .collect();
        for load in self.loads.iter_mut().filter(|load| load.stage != Stage::Unloading) {
            load.stage = Stage::Unloading;
            actions.push(Action::Unload {
                load: load.id,
                reason: UnloadReason::Asked,
            });
        }
        actions
    }

    /// Returns when [`Self::tick`] is wanted next.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.loads.iter().filter_map(Load::expires_at_ms).min()
    }

    /// Returns the limits in force.
    pub fn config(&self) -> Config {
        self.config
    }

    /// Returns memory held by what is loading, loaded and unloading.
    pub fn used_bytes(&self) -> u64 {
        self.loads.iter().fold(0, |sum, load| sum.saturating_add(load.bytes))
    }

    /// Returns memory that could be freed at once: what idle models hold.
    pub fn idle_bytes(&self) -> u64 {
        self.loads
            .iter()
            .filter(|load| load.is_idle())
            .fold(0, |sum, load| sum.saturating_add(load.bytes))
    }

    /// Returns how many requests wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns every load.
    pub fn loads(&self) -> Vec<LoadView> {
        self.loads.iter().map(Load::view).collect()
    }

    /// Advises when a refused request may find a place: the queue's length in mean service times.
    fn retry_after_ms(&self) -> u64 {
        let places: usize = self.loads.iter().map(|load| load.parallel).sum();
        let places = places.max(self.config.parallel) as u64;
        (self.service_ms.saturating_mul(self.waiting.len() as u64) / places)
            .clamp(RETRY_AFTER_MS_MIN, RETRY_AFTER_MS_MAX)
    }

    fn load_mut(&mut self, id: LoadId) -> Option<&mut Load> {
        self.loads.iter_mut().find(|load| load.id == id)
    }
}
