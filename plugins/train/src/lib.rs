//! Trains adapters and whole models: from files of rows to checkpoints and a product that is served as it lies.
//!
//! What: the role `train` over [`witness_training`]'s mathematics. What not: no HTTP, no registry, no recipe in any spelling; the host brings
//! files and settings and stores what the last report names.
//!
//! | module | knows |
//! | --- | --- |
//! | `train` | the plugin's calls |
//! | `settings`, `rates` | defaults, contradictions, and what the training library takes |
//! | `base`, `scratch` | the base model's files, tokenizer and template; or one made from nothing |
//! | `encode` | a row's tokens, and which of them are learned |
//! | `data`, `batches` | all rows; which of them each step sees |
//! | `prepare`, `trial` | the plan |
//! | `run`, `evaluate`, `state` | the loop and where it is |
//! | `folder`, `checkpoint`, `product`, `identity` | what lies on disk |
//! | `progress`, `watch` | who is told: the host, trackers |
//!
//! **Invariants:** the same request gives the same product to the bit, with any number of threads, and however often the run is killed and
//! resumed. A checkpoint is whole or not seen. Weights that are no finite numbers are never written.

mod base;
mod batches;
mod checkpoint;
mod data;
mod descriptor;
mod encode;
mod error;
mod evaluate;
mod folder;
mod identity;
mod prepare;
mod product;
mod progress;
mod rates;
mod run;
mod scratch;
mod settings;
mod state;
mod train;
mod trial;
mod watch;

pub use descriptor::describe;
pub use progress::Progress;
pub use run::run;
pub use train::{CpuTrain, plan};

witness_plugin_sdk::export_plugin! { descriptor: describe(), train: CpuTrain }
