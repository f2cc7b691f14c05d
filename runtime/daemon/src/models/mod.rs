//! Models: what is stored under a name, and what of it is loaded.
//!
//! `config` is the config blob's shape, `stored` turns a manifest into files, texts and adapters, `library` caches that by name,
//! `handle` is how routes ask for a place, `actor` carries out the scheduler's decisions, `slot` is one loaded base with its adapters.

pub(crate) mod actor;
pub(crate) mod config;
pub(crate) mod handle;
pub(crate) mod library;
pub(crate) mod slot;
pub(crate) mod stored;
