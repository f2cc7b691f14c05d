//! Models from one form to another: Hugging Face directories, GGUF files, LoRA adapters of both, and the merge of an adapter into its base.
//!
//! What: a plan first ([`GgufPlan`]) that holds metadata and knows where each tensor comes from, then its bytes, a few rows at a time. So the memory
//! is that of a few rows whatever the model, and a caller that quantizes asks for the rows that it wants. What not: no quantization (a
//! function of the caller decodes), no progress, no names of files but those of the Hugging Face form.
//!
//! | module | knows |
//! | --- | --- |
//! | [`Weights`] | tensors by name and rows, whatever they come from |
//! | [`GgufPlan`] | a Hugging Face directory as a GGUF file |
//! | [`HfPlan`] | a GGUF file as a Hugging Face directory |
//! | [`Merged`] | an adapter merged into its base, as weights |
//! | [`adapter_to_gguf`], [`adapter_to_peft`] | adapters in the other form |
//!
//! **Invariant:** what has no exact counterpart in the other form is refused by name. Nothing is guessed, nothing dropped in silence.
//!
//! ```no_run
//! use witness_conversion::{DenseType, GgufPlan};
//! # fn main() -> Result<(), witness_conversion::ConversionError> {
//! let files = witness_formats::FileSet::from_directory("model".as_ref())?;
//! let plan = GgufPlan::from_hf(&files, None)?;
//! plan.write(DenseType::F16, std::io::sink())?;
//! # Ok(())
//! # }
//! ```

mod hf;
mod lora;
mod merge;
mod plan;
mod tensor;
mod weights;

mod family;
mod general;
mod metadata;
mod pre;
mod sentencepiece;
mod special;
mod vocabulary;

mod error;

pub use error::{ConversionError, Result};
pub use family::Family;
pub use hf::{HfPlan, Shard, write_shards};
pub use lora::{adapter_to_gguf, adapter_to_peft};
pub use merge::Merged;
pub use plan::{DenseType, GgufPlan};
pub use tensor::{OutputTensor, encode_dense};
pub use weights::{Decode, Described, GgufWeights, Weights};
