//! Products of weights on the CPU, at the speed of its memory (one token) and of its arithmetic units (many).
//!
//! What: [`PackedMatrix`], weights of a quantized GGUF type laid out for the widest dot product; [`Activations`], inputs rounded to 8 bits a block; their product;
//! [`PlainMatrix`], weights of f16, bf16 or f32 as they lie in a file, and their product with inputs as they are; and the [`Pool`] of threads that shares the rows
//! out. What not: no file, no model, no tensor library, no clock.
//!
//! # Cost
//! One token reads every weight once: `bytes / bandwidth`. Many tokens take two operations a weight and token: `2 * rows * columns * tokens / peak`. The packed bytes
//! are those of the file, so nothing is read that the file does not hold. `examples/roofline.rs` measures the limits and how near each type comes.
//!
//! What many tokens cost beside the dot products is scaling: 3 to 4 operations in f32 for each token, row and block of 32, where the dot product takes 8 with VNNI.
//! So of the limit of VNNI no more than some two thirds is left for types of 4 and 8 bits and half for those of 6. Processors with tiles of bytes (AMX) spare the
//! 8, not the others, and are from half again to twice as quick.
//!
//! # Invariants
//! 1. The numbers of a token depend on nothing but the weights and that token: not on how many tokens share the batch, not on the number of threads, not on the
//!    instructions ([`Isa`](witness_instructions::Isa)). All paths make the same integer sums and add the same f32 numbers in the same order; tests hold them to equal bits.
//! 2. A NaN or an infinity in a token makes that token's whole output NaN with packed weights (see [`Activations`]), never an ordinary number; with plain ones it
//!    gives what the sum of its products gives.
//! 3. Lengths are checked before any loop; no content of weights or activations panics.
//!
//! ```
//! use witness_formats::gguf::GgmlType;
//! use witness_kernels::{Activations, PackedMatrix, Pool};
//! # fn main() -> Result<(), witness_kernels::KernelError> {
//! let pool = Pool::new(2);
//! // Two rows of 32 numbers in Q8_0: a scale of 1 in 16 bits, then the numbers.
//! let blocks: Vec<u8> = [[0x00, 0x3c].as_slice(), &[3; 32], &[0x00, 0x3c], &[1; 32]].concat();
//! let weights = PackedMatrix::pack(GgmlType::Q8_0, 2, 32, &blocks, &pool)?;
//! let x = Activations::quantize(&[1.0; 32], 32, &pool)?;
//! let mut y = [0.0; 2];
//! weights.multiply(&x, &mut y, &pool)?;
//! assert!((y[0] - 96.0).abs() < 1e-3 && (y[1] - 32.0).abs() < 1e-3);
//! # Ok(())
//! # }
//! ```

mod activations;
mod error;
mod format;
mod lanes;
pub mod limits;
mod matrix;
mod memory;
mod output;
mod pack;
mod plain;
mod pool;
mod scalar;
#[cfg(test)]
mod tests;

pub use activations::Activations;
pub use error::{KernelError, Result};
pub use format::{LAYOUT_VERSION, TILE_ROWS, is_packable};
pub use matrix::PackedMatrix;
pub use memory::{Buffer, Watch, fetch_ahead};
pub use plain::{PlainMatrix, is_plain, widen_f16};
pub use pool::Pool;
