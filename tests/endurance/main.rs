//! What must never cost a stored model: `kill -9` at any moment, a full disk, a hostile file. Against the real daemon.
//!
//! The counts are small in the normal run; `WITNESS_KILLS` and `WITNESS_MUTATIONS` raise them (200 and 10000 are the promised numbers).

#[path = "../harness/mod.rs"]
mod harness;

mod bundles;
mod crowd;
mod disk_full;
mod hostile_files;
mod kills;
mod random;

/// Reads a count from the environment.
fn count(variable: &str, default: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}
