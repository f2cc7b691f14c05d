//! The CPU engine: loads models, attaches adapters, advances sequences.
//!
//! What: the roles `serve` and `measure` over [`witness_model`]'s graph, and over candle-transformers for families that the graph does not have.
//! What not: no HTTP, no registry, no policy about what is loaded; the daemon decides that.
//!
//! | module | knows |
//! | --- | --- |
//! | `serve` | the plugin's calls, in the order they come |
//! | `bundle`, `inspect` | the files of a model, and facts about them |
//! | `engine`, `foreign` | what computes logits |
//! | `prompt`, `constraint`, `sequence` | one request: its tokens, what may come, what has come |
//! | `model`, `schedule`, `step` | one loaded model: adapters, who runs, batches |
//! | `draft` | guesses of a small model of the same vocabulary |
//! | `pages`, `chats` | keys and values of all sequences, and beginnings that are known; those on disk |
//! | `packed` | the packed weights, kept beside the model's files behind the answers |
//! | `measure` | perplexity, divergence and importance of columns, by the same engine |
//!
//! **Invariants:** one copy of the base serves all adapters and sequences. At most `num_parallel` sequences run, the rest wait in the
//! order they came. Text leaves in whole characters. Cost of a step: one pass over the weights, whatever the number of sequences.

mod bundle;
mod chats;
mod constraint;
mod descriptor;
mod draft;
mod engine;
mod error;
mod foreign;
mod inspect;
mod measure;
mod model;
mod packed;
mod pages;
mod prompt;
mod schedule;
mod sequence;
mod serve;
mod step;

pub use descriptor::describe;
pub use measure::{CpuMeasure, Watch, plan, run};
pub use model::Loaded;
pub use serve::CpuServe;

witness_plugin_sdk::export_plugin! { descriptor: describe(), serve: CpuServe, measure: CpuMeasure }
