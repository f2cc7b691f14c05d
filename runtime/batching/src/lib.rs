//! Decisions of an engine that runs several sequences at once: how many tokens each feeds in a step, whose keys and values a new one can begin with, and whether
//! guessing ahead pays.
//!
//! What: [`shares`], [`PrefixTree`], [`look_up`], [`Speculation`] and [`Outlay`]. What not: no tensor, no memory of keys and values (a page is a handle of the caller's), no text,
//! no clock: times are told, so that tests tell them too.
//!
//! **Invariant:** nothing here changes what a sequence says. Which tokens are fed together and whose pages are shared is free where the engine's rows do not depend on
//! each other; a guess is only ever compared with what the engine chose.

mod guess;
mod prefix;
mod share;

pub use guess::{GUESS_LEN_MAX, Outlay, Speculation, look_up};
pub use prefix::{Found, PrefixTree};
pub use share::{Pending, shares};
