//! GGUF: the single-file model format of llama.cpp, versions 2 and 3, little-endian, whole or split over several files.
//!
//! Layout: magic, version, two counts; then the metadata (key, type, value); then one record per tensor (name, dimensions, type,
//! offset); then, aligned, the data. The reader walks the head once, proves every length against the file, and remembers only where
//! each value lies: a vocabulary of 150,000 strings costs nothing until somebody asks for it.
//!
//! Shapes here are row-major (`[out, in]` for a weight), the reverse of the order in the file.
//!
//! **Invariant:** every [`TensorInfo`] of a known type lies inside the data section of its part and overlaps no other.

mod array;
mod cursor;
mod file_type;
mod metadata;
pub mod names;
mod reader;
pub mod rows;
mod split;
mod types;
mod value;
mod writer;

pub use crate::body::Body;
pub use array::Array;
pub use file_type::name as file_type_name;
pub use metadata::Metadata;
pub use reader::{Gguf, TensorInfo};
pub use types::GgmlType;
pub use value::{OwnedValue, Value, ValueType};
pub use writer::Writer;

/// The first four bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// Says whether a file begins as a GGUF file does. One that cannot be read does not: whoever opens it says why.
pub fn has_magic(path: &std::path::Path) -> bool {
    use std::io::Read;
    let mut magic = [0; MAGIC.len()];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == MAGIC
}
/// The alignment of tensor data when the file does not say another.
pub const ALIGNMENT_DEFAULT: u32 = 32;
/// The largest alignment accepted: a huge page. Known files use 32 or 64.
pub const ALIGNMENT_MAX: u32 = 2 * 1024 * 1024;
/// How many metadata entries are read. Known files have below 100.
pub const ENTRIES_MAX: usize = 65_536;
/// How many tensors are read. The largest known files have a few thousand.
pub const TENSORS_MAX: usize = 1_000_000;
/// The longest key, as the format's document says.
pub const KEY_BYTES_MAX: usize = 65_535;
/// The longest tensor name accepted; llama.cpp itself stops at 63.
pub const NAME_BYTES_MAX: usize = 1_024;
/// The most dimensions of a tensor, as in ggml.
pub const DIMENSIONS_MAX: usize = 4;
/// How deep arrays of arrays may nest; known files do not nest at all.
pub const ARRAY_DEPTH_MAX: usize = 8;
/// How many files a split model may have.
pub const PARTS_MAX: usize = 4_096;
