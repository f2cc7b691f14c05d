//! The JSON files beside Hugging Face weights: what the model is, how it should be sampled, how its text is framed.
//!
//! Read in the spellings of transformers 4 and 5. Everything is bounded: a size in `config.json` is as hostile as an offset in a
//! binary file, because somebody allocates by it. Model types that no decoder here knows are kept as data.

mod config;
mod decoder;
pub mod four_bit;
mod from_gguf;
mod generation;
pub(crate) mod json;
mod rope;
mod tokenizer;

pub use config::{Family, HfConfig};
pub use decoder::DecoderConfig;
pub use generation::GenerationConfig;
pub use json::Fields;
pub use rope::{Rope, RopeScaling};
pub use tokenizer::TokenizerConfig;

/// The longest `config.json` that is read; known ones are below 100 KB.
pub const CONFIG_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// The longest `tokenizer_config.json` and chat template that are read; Gemma 3, among the longest, has 1.2 MB.
pub const TOKENIZER_CONFIG_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How many chat templates a model may have by name; known ones have up to four.
pub const TEMPLATES_MAX: usize = 64;
