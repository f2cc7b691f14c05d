//! One pass over the queue: who runs, what is loaded, what goes.
//!
//! The pass is recomputed from nothing at every event, so that there is no state to go stale:
//!
//! ```text
//! for each waiting request, oldest first:
//!   a load serves it and no earlier request needs that load gone  -> run, if a place is free; else wait
//!   it is larger than the budget                                  -> reject
//!   room and a place are free, beyond what earlier ones claim     -> load
//!   else name victims: same key in another shape, idle by age, busy by age, until it would fit;
//!        unload the idle ones, close the busy ones to newcomers, claim the room
//! ```

use std::collections::BTreeSet;

use crate::load::{Load, Stage};
use crate::scheduler::{Scheduler, Waiting};
use crate::{Action, Demand, LoadId, Rejection, UnloadReason};

/// What earlier requests of the pass hold on to.
#[derive(Default)]
struct Claims {
    bytes: u64,
    places: usize,
    /// Loads that take no newcomers because an earlier request needs them gone.
    closed: BTreeSet<LoadId>,
    /// Keys that an earlier request waits to have loaded; later ones of the same key keep their order.
    keys: BTreeSet<String>,
}

impl Scheduler {
    /// Runs one pass, then lets go what has expired.
    pub(crate) fn plan(&mut self, now_ms: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut claims = Claims::default();
        let mut still_waiting = std::collections::VecDeque::with_capacity(self.waiting.len());
        for waiting in std::mem::take(&mut self.waiting) {
            if let Some(waiting) = self.place(waiting, &mut claims, &mut actions, now_ms) {
                still_waiting.push_back(waiting);
            }
        }
        self.waiting = still_waiting;
        self.expire(now_ms, &mut actions);
        actions
    }

    /// Places one request. Returns it when it has to wait.
    fn place(
        &mut self,
        waiting: Waiting,
        claims: &mut Claims,
        actions: &mut Vec<Action>,
        now_ms: u64,
    ) -> Option<Waiting> {
        let demand = &waiting.demand;
        if claims.keys.contains(&demand.key) {
            return Some(waiting);
        }
        if let Some(load) = self
            .loads
            .iter_mut()
            .find(|load| load.serves(demand) && !claims.closed.contains(&load.id))
        {
            if load.stage != Stage::Ready || load.running.len() >= load.parallel {
                // A later request of another shape must not overtake: it would want this load gone.
                claims.keys.insert(demand.key.clone());
                return Some(waiting);
            }
            load.running.push((waiting.request, now_ms));
            load.keep_alive = demand.keep_alive;
            actions.push(Action::Run {
                request: waiting.request,
                load: load.id,
            });
            return None;
        }
        if demand.bytes > self.config.budget_bytes {
            let why = Rejection::TooLarge {
                needed_bytes: demand.bytes,
                budget_bytes: self.config.budget_bytes,
            };
            actions.push(Action::Reject {
                request: waiting.request,
                why,
            });
            return None;
        }
        claims.keys.insert(demand.key.clone());
        let victims = self.victims(demand, claims);
        if victims.is_empty() && self.fits(demand.bytes, claims) {
            self.start(&waiting, actions, now_ms);
            return Some(waiting);
        }
        for id in victims {
            claims.closed.insert(id);
            if let Some(load) = self.loads.iter_mut().find(|load| load.id == id && load.is_idle()) {
                load.stage = Stage::Unloading;
                let reason = if load.key == demand.key {
                    UnloadReason::Reshaped
                } else {
                    UnloadReason::Evicted
                };
                actions.push(Action::Unload { load: id, reason });
            }
        }
        claims.bytes = claims.bytes.saturating_add(demand.bytes);
        claims.places += 1;
        Some(waiting)
    }

    fn start(&mut self, waiting: &Waiting, actions: &mut Vec<Action>, now_ms: u64) {
        let id = LoadId(self.next_load);
        self.next_load += 1;
        let demand = &waiting.demand;
        let shape = demand.shape.unwrap_or(demand.shape_default);
        self.loads.push(Load {
            id,
            key: demand.key.clone(),
            shape,
            parallel: demand.parallel.unwrap_or(self.config.parallel).max(1),
            bytes: demand.bytes,
            stage: Stage::Loading,
            running: Vec::new(),
            keep_alive: demand.keep_alive,
            idle_since_ms: now_ms,
        });
        actions.push(Action::Load {
            load: id,
            key: demand.key.clone(),
            shape,
            request: waiting.request,
        });
    }

    fn fits(&self, bytes: u64, claims: &Claims) -> bool {
        let held = self.used_bytes().saturating_add(claims.bytes).saturating_add(bytes);
        held <= self.config.budget_bytes && self.loads.len() + claims.places < self.config.loaded_max
    }

    /// Returns the loads that have to go before `demand` fits; nothing when it fits, or will once unloads under way are done.
    fn victims(&self, demand: &Demand, claims: &Claims) -> Vec<LoadId> {
        let mut candidates: Vec<&Load> = self
            .loads
            .iter()
            .filter(|load| load.stage == Stage::Ready && !claims.closed.contains(&load.id))
            .collect();
        candidates.sort_by_key(|load| (load.key != demand.key, !load.is_idle(), load.idle_since_ms, load.id));
        // What is on its way out, or promised to earlier requests, is room to come.
        let staying = |load: &&Load| load.stage != Stage::Unloading && !claims.closed.contains(&load.id);
        let mut bytes = claims.bytes + self.loads.iter().filter(staying).map(|load| load.bytes).sum::<u64>();
        let mut places = claims.places + self.loads.iter().filter(staying).count();
        let mut victims = Vec::new();
        for load in candidates {
            let fits =
                bytes.saturating_add(demand.bytes) <= self.config.budget_bytes && places < self.config.loaded_max;
            if fits && load.key != demand.key {
                break;
            }
            bytes = bytes.saturating_sub(load.bytes);
            places = places.saturating_sub(1);
            victims.push(load.id);
        }
        victims
    }

    fn expire(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        for load in &mut self.loads {
            if load.expires_at_ms().is_some_and(|at| at <= now_ms) {
                load.stage = Stage::Unloading;
                actions.push(Action::Unload {
                    load: load.id,
                    reason: UnloadReason::Expired,
                });
            }
        }
    }
}
