//! safetensors: a JSON head that says where each tensor lies, then the data. One file, or shards with an index.
//!
//! The head is read by our own checked reader: its length, every offset, every shape and the absence of gaps and overlaps are proven
//! before a tensor is handed out. Data stays in the mapping.
//!
//! Source: the safetensors format description (8-byte little-endian head length, at most 100 MB; JSON object; offsets relative to
//! the data, covering it without holes).
//!
//! **Invariant:** every tensor's bytes are exactly its shape times its element size and belong to it alone.

mod header;
mod index;
mod reader;
mod writer;

pub use crate::body::Body;
pub use reader::SafeTensors;
pub use writer::Writer;

/// The longest head that the format allows.
pub const HEADER_BYTES_MAX: u64 = 100_000_000;
/// The longest `model.safetensors.index.json` that is read; DeepSeek-V3's, among the longest known, is below 10 MB.
pub const INDEX_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How many tensors one model may have.
pub const TENSORS_MAX: usize = 1_000_000;
/// The most dimensions of a tensor.
pub const DIMENSIONS_MAX: usize = 16;
/// The longest tensor name.
pub const NAME_BYTES_MAX: usize = 4_096;
/// How many shards a model may have.
pub const SHARDS_MAX: usize = 4_096;
