//! One dense tensor that stays where it lies: in a mapped file, or in memory when it had to be rewritten.
//!
//! **Invariant:** `bytes` is as long as the product of `shape` times the element size; both constructors prove it.

use std::{fmt, ops::Range, sync::Arc};

use crate::{Dtype, FormatError, Mmap, Result, decode_f32};

/// A dense tensor: element type, row-major shape and bytes. A clone costs two reference counts.
#[derive(Clone)]
pub struct TensorRef {
    dtype: Dtype,
    shape: Arc<[usize]>,
    storage: Storage,
}

#[derive(Clone)]
enum Storage {
    Mapped(Mmap, Range<usize>),
    Owned(Arc<[u8]>),
}

impl TensorRef {
    /// Refers to a range of a mapped file; nothing when the range is outside it or the shape disagrees with the range.
    pub(crate) fn mapped(dtype: Dtype, shape: &[usize], file: &Mmap, range: Range<usize>) -> Option<TensorRef> {
        let bytes = file.get(range.clone())?;
        (bytes_of(dtype, shape)? == bytes.len() as u64).then(|| TensorRef {
            dtype,
            shape: shape.into(),
            storage: Storage::Mapped(file.clone(), range),
        })
    }

    /// Holds bytes of its own; the same checks.
    pub(crate) fn owned(dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Option<TensorRef> {
        (bytes_of(dtype, shape)? == bytes.len() as u64).then(|| TensorRef {
            dtype,
            shape: shape.into(),
            storage: Storage::Owned(bytes.into()),
        })
    }

    /// Builds a tensor in memory from its little-endian elements.
    pub fn from_bytes(dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Result<TensorRef> {
        let length = bytes.len();
        TensorRef::owned(dtype, shape, bytes).ok_or_else(|| {
            FormatError::malformed(
                "tensor in memory",
                "its shape",
                format!("the bytes of {} {shape:?}", dtype.name()),
                format!("{length} bytes"),
            )
        })
    }

    /// Builds an F32 tensor in memory from row-major values.
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Result<TensorRef> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        TensorRef::owned(Dtype::F32, shape, bytes).ok_or_else(|| {
            FormatError::malformed(
                "tensor in memory",
                "its shape",
                format!("the elements of {shape:?}"),
                format!("{} values", values.len()),
            )
        })
    }

    /// Returns the element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Returns the row-major shape; a weight is `[out, in]`.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the little-endian elements, row-major. May be unaligned.
    pub fn bytes(&self) -> &[u8] {
        match &self.storage {
            Storage::Mapped(file, range) => &file[range.clone()],
            Storage::Owned(bytes) => bytes,
        }
    }

    /// Says that nobody looks at the bytes soon: pages of a mapped file leave the resident memory until then.
    pub fn release(&self) {
        self.release_part(0..self.bytes().len());
    }

    /// As [`TensorRef::release`], for some of the bytes.
    pub fn release_part(&self, bytes: Range<usize>) {
        if let Storage::Mapped(file, range) = &self.storage {
            let start = range.start.saturating_add(bytes.start).min(range.end);
            let end = range.start.saturating_add(bytes.end).min(range.end);
            file.release(start..end);
        }
    }

    /// Decodes all elements to `f32`, row-major.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        decode_f32(self.dtype, self.bytes())
    }
}

impl fmt::Debug for TensorRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype.name(), self.shape)
    }
}

/// Returns how many bytes a tensor takes, or nothing when the product overflows.
pub(crate) fn bytes_of(dtype: Dtype, shape: &[usize]) -> Option<u64> {
    dtype.bytes_of(elements_of(shape)?)
}

/// Returns the product of a shape, or nothing when it overflows.
pub(crate) fn elements_of(shape: &[usize]) -> Option<u64> {
    shape
        .iter()
        .try_fold(1u64, |product, dim| product.checked_mul(u64::try_from(*dim).ok()?))
}
