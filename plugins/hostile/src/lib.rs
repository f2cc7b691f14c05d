//! A plugin for tests: a well-behaved, very fast engine for a made-up format, and on demand every way of breaking the rules.
//!
//! The good engine ([`good`]) reads files that end in `.hostile` and start with [`good::MAGIC`]. It answers with the words of the
//! prompt, or for a prompt `emit N` with N tokens as fast as it can, so that it also serves as a measure of everything around it.
//! The good trainer ([`trainer`]) reports and saves like a real one and learns nothing.
//!
//! Misbehaviour is asked for as `phase:deed` (`step:segfault`), by the environment variable `WITNESS_HOSTILE`, a line
//! `mode phase:deed` in the model's file, or `hostile! phase:deed` anywhere in a request. [`mode::Phase`] lists the phases, [`deeds`]
//! what can be done in each. Never installed with the program.
#![expect(
    unsafe_code,
    reason = "it breaks the rules of the C ABI on purpose, which safe code cannot"
)]

pub mod deeds;
pub mod good;
pub mod mode;
mod tables;
pub mod trainer;
