//! The blocks of GGUF's quantized types, byte for byte as ggml writes and reads them, and the choice of a type for each tensor of a model.
//!
//! What: [`encode`] for the types of [`ENCODED`] and [`decode`] for these and some more; [`Nf4Matrix`], a matrix in bitsandbytes' 4 bits; [`plan`], which gives each
//! tensor the type that llama-quantize would give it for the name of a [`Mixture`]. What not: no file, no thread, no clock. A caller brings whole rows and spreads them over
//! threads as it likes; the bytes do not depend on how, nor on the instructions that are used ([`Isa`](witness_instructions::Isa)).
//!
//! ```
//! use witness_formats::gguf::GgmlType;
//! # fn main() -> Result<(), witness_quantization::QuantizationError> {
//! let row: Vec<f32> = (0..256).map(|i| (i as f32 * 0.1).sin()).collect();
//! let mut block = [0; 144];
//! witness_quantization::encode(GgmlType::Q4_K, &row, 256, None, &mut block)?;
//! let mut again = [0.0; 256];
//! witness_quantization::decode(GgmlType::Q4_K, &block, &mut again)?;
//! assert!((row[3] - again[3]).abs() < 0.1);
//! # Ok(())
//! # }
//! ```

pub mod blockwise;
mod decode;
mod encode;
mod error;
mod grids;
mod lanes;
mod mixture;
mod nf4;
mod nonlinear;
mod plan;
mod widen;

pub use decode::{Decode, decode, decoder};
pub use encode::{ENCODED, NEEDS_IMPORTANCE, encode};
pub use error::{QuantizationError, Result};
pub use mixture::{Mixture, parse_type};
pub use nf4::{NF4_BLOCK, NF4_CODE, Nf4Matrix, Nf4Scales, encode_nf4, nf4_scales};
pub use plan::{Choice, ModelFacts, Override, Plan, PlanOptions, Tensor, plan};
pub use widen::{is_widened, widen};
