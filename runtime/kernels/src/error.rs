//! What can go wrong with packed weights. Converts to a [`Diagnostic`] at the edge.

use witness_diagnostics::{Diagnostic, Kind};
use witness_formats::gguf::GgmlType;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, KernelError>;

/// Why weights could not be packed or multiplied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum KernelError {
    /// A type that has no kernel.
    #[error("weights of type {} cannot be multiplied here", kind.name())]
    Type {
        /// The type.
        kind: GgmlType,
    },
    /// Rows that are not made of whole blocks, or a matrix too large to address.
    #[error("a matrix of {n_rows} rows of {n_columns} numbers cannot be stored as {}", kind.name())]
    Shape {
        /// The type.
        kind: GgmlType,
        /// The number of rows.
        n_rows: usize,
        /// The length of a row.
        n_columns: usize,
    },
    /// Another number of bytes or numbers than the shape calls for.
    #[error("{what} has {found} where the shape calls for {expected}")]
    Length {
        /// What was handed over.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length that fits.
        expected: usize,
    },
    /// Packed bytes of another layout, or at an address that vectors cannot be loaded from.
    #[error("packed weights {detail}")]
    Packed {
        /// What is wrong.
        detail: &'static str,
    },
    /// No memory for packed weights.
    #[error("no memory for {bytes} bytes of weights: {reason}")]
    Memory {
        /// How many were asked for.
        bytes: usize,
        /// The system's words.
        reason: String,
    },
}

impl KernelError {
    /// Returns the stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            KernelError::Type { .. } => "witness::kernels::type",
            KernelError::Shape { .. } => "witness::kernels::shape",
            KernelError::Length { .. } => "witness::kernels::length",
            KernelError::Packed { .. } => "witness::kernels::packed",
            KernelError::Memory { .. } => "witness::kernels::memory",
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            KernelError::Type { .. } => "quantize the model to a type that is served, such as Q4_K_M or Q8_0",
            KernelError::Shape { .. } => "the file that the weights come from is damaged; fetch or convert it again",
            KernelError::Length { .. } => "the file that the weights come from is cut short; fetch or convert it again",
            KernelError::Packed { .. } => "delete the packed copy; it is made again from the model's file",
            KernelError::Memory { .. } => "unload another model, or take a smaller type such as Q4_K_M",
        }
    }
}

impl From<KernelError> for Diagnostic {
    fn from(error: KernelError) -> Diagnostic {
        let kind = match &error {
            KernelError::Type { .. } => Kind::Unsupported,
            KernelError::Memory { .. } => Kind::Environment,
            KernelError::Packed { .. } => Kind::Damaged,
            KernelError::Shape { .. } | KernelError::Length { .. } => Kind::Invalid,
        };
        Diagnostic::new(error.code(), kind, error.to_string()).hint(error.hint())
    }
}
