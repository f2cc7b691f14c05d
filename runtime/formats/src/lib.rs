//! Model files as checked, plain Rust values: GGUF, safetensors, Hugging Face configurations and LoRA adapters.
//!
//! What: readers that prove every count, length and offset before they use it, and streaming writers. Weights stay where they lie, in
//! a read-only mapping. What not: no tokenizer, no tensor arithmetic, no network, and no pickle, ever.
//!
//! | module | knows |
//! | --- | --- |
//! | [`FileSet`] | which files a model consists of, by logical name |
//! | [`gguf`] | GGUF v2 and v3, split files, tensor types, names and row order of llama.cpp |
//! | [`safetensors`] | single and sharded safetensors |
//! | [`hf`] | config.json, generation_config.json, tokenizer_config.json |
//! | [`adapter`] | PEFT directories and GGUF LoRA files as one shape |
//! | [`imatrix`] | importance matrices for quantization, in llama.cpp's two forms |
//!
//! **Invariant:** on any input each function returns a value or a [`FormatError`]; it never panics, and it never allocates from a
//! length that was not first shown to lie inside the file.
//!
//! ```no_run
//! use witness_formats::{FileSet, gguf::Gguf, safetensors::SafeTensors};
//! # fn main() -> Result<(), witness_formats::FormatError> {
//! let model = Gguf::open_file("model.gguf".as_ref())?;
//! println!("{} {}", model.architecture()?, model.file_type());
//! let weights = SafeTensors::open(&FileSet::from_directory("model".as_ref())?)?;
//! println!("{:?}", weights.require("lm_head.weight")?.shape());
//! # Ok(())
//! # }
//! ```

mod body;
mod dtype;
mod error;
mod files;
mod mmap;
mod tensor;

pub mod adapter;
pub mod gguf;
pub mod hf;
pub mod imatrix;
pub mod safetensors;

pub use dtype::{Dtype, decode_f32};
pub use error::{FormatError, Result};
pub use files::{FILES_MAX, FileSet};
pub use mmap::Mmap;
pub use tensor::TensorRef;
