//! Makes a model into another form of itself: converts between GGUF and Hugging Face directories, merges adapters, quantizes.
//!
//! What: the role `quantize` over [`witness_conversion`] (names, metadata, order of rows, merges) and [`witness_quantization`] (blocks, and which type each tensor
//! gets). What not: no HTTP, no registry; the host brings files and a directory, and stores what the reply names.
//!
//! | module | knows |
//! | --- | --- |
//! | `transform` | the plugin's calls: which way a request goes |
//! | `base` | the base's files, and what a merge makes of them |
//! | `pieces` | the tensors of a GGUF file that is to be written, wherever their numbers come from |
//! | `types` | which type each gets |
//! | `stream` | all of them through all cores into one file |
//! | `imatrix` | files of importance |
//! | `directory`, `adapter` | the forms that are not one GGUF file |
//! | `four_bit` | weights in NF4, of a directory and for one |
//!
//! **Invariants:** memory is that of some rows a thread, whatever the model; for a directory in NF4, of its largest matrix in 4 bits besides. The bytes do not depend on the number of threads. A file is whole and on the disk
//! before it is named.

mod adapter;
mod base;
mod descriptor;
mod directory;
mod error;
mod four_bit;
mod imatrix;
mod pieces;
mod stream;
mod transform;
mod types;

pub use descriptor::describe;
pub use transform::{CpuQuantize, Progress, plan, run};

witness_plugin_sdk::export_plugin! { descriptor: describe(), quantize: CpuQuantize }
