//! Which model is loaded, who waits, what has to go: a pure state machine.
//!
//! It decides and does nothing: every call takes the time (milliseconds on any monotonic scale) and returns [`Action`]s that the caller
//! carries out and reports back. No I/O, no clock, no tasks, no knowledge of names, files or plugins: a base model is a key, its memory a
//! number.
//!
//! ```text
//! request ──> waiting ──run──> running ──finished──> gone          (a request)
//!                 └──reject
//! load ──> Loading ──loaded──> Ready (idle or busy) ──unload──> Unloading ──unloaded──> gone   (a load: one worker)
//! ```
//!
//! **Invariants**
//! - What is loading, loaded and unloading never exceeds the budget by estimate: room is claimed before a load starts and given back only
//!   when the unload is confirmed.
//! - A busy model is never evicted. What a waiting request needs gone takes no new requests, so nobody starves.
//! - Requests for one key run in order of arrival; requests for loaded models pass those that wait for room.
//! - Every request ends with exactly one of [`Action::Run`] or [`Action::Reject`], or was cancelled by the caller.
//!
//! Cost: one pass over the queue per event, `O(waiting * loaded)`; both are bounded by [`Config`].

mod load;
mod plan;
mod scheduler;
mod types;

pub use load::LoadView;
pub use scheduler::Scheduler;
pub use types::{Action, Config, Demand, KeepAlive, LoadId, Rejection, RequestId, UnloadReason};
