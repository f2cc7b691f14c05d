//! One decoder graph for the families that share it, over `trait Linear`.
//!
//! What: configuration, weights, rotary embedding, attention over a paged cache, adapters applied at run time, a forward pass over several
//! sequences at once. What not: files (that is `formats`), tokens' meaning, sampling, scheduling, threads.
//!
//! | module | knows |
//! | --- | --- |
//! | [`config`] | the families, and what of a configuration can be computed |
//! | [`source`] | tensors of GGUF and Hugging Face files under one set of names |
//! | [`weight`], [`linear`] | storage types; `y = x W^T + b` |
//! | [`load`] | checks every tensor, builds a [`Model`] |
//! | [`lora`], [`adapter`] | deltas, and how an adapter's file becomes them |
//! | [`rope`], [`cache`], [`attention`] | positions, keys and values, and the one function over both |
//! | `pointwise` | the exponential, the gate, the norm |
//! | `split`, `vectors`, `workspace` | work over the threads; instructions; memory of a pass |
//! | [`decoder`] | the graph |
//! | [`packed`] | the weights as they were made, in a file to be mapped the next time |
//!
//! **Invariants:** base weights are immutable and held once, whatever adapters run on them; nothing is ever merged. All arithmetic is f32. What a sequence gets depends on
//! nothing but itself, bit for bit.
//! Cost of a token: every weight is read once a batch; see [`lora`] and [`attention`] for what comes on top.

pub mod adapter;
pub mod attention;
pub mod cache;
pub mod config;
pub mod decoder;
pub mod error;
pub mod linear;
pub mod load;
mod logits;
pub mod lora;
pub mod packed;
mod pointwise;
pub mod rope;
pub mod source;
mod split;
mod threads;
mod vectors;
pub mod weight;
mod workspace;

pub use cache::{KvCache, KvPage, KvPool, KvShape, KvType, PAGE_TOKENS};
pub use config::{Config, FAMILIES, Family};
pub use decoder::{Model, SequenceStep};
pub use error::{ModelError, Result};
pub use logits::Logits;
pub use lora::{Adapter, Observe};
pub use threads::Threads;
