//! What can go wrong in quantization. Converts to a [`Diagnostic`] at the edge.

use witness_diagnostics::{Diagnostic, Kind};
use witness_formats::gguf::GgmlType;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, QuantizationError>;

/// Why numbers could not be quantized, or a plan of types not be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum QuantizationError {
    /// A type that has no codec here.
    #[error("numbers of type {} cannot be {act} here", kind.name())]
    Type {
        /// The type.
        kind: GgmlType,
        /// What was asked for: `encoded` or `decoded`.
        act: &'static str,
    },
    /// Rows that are not made of whole blocks.
    #[error("rows of {n_columns} numbers cannot be stored as {}, which takes {block} at a time", kind.name())]
    Columns {
        /// The type.
        kind: GgmlType,
        /// The length of a row.
        n_columns: usize,
        /// How many numbers share a block.
        block: usize,
    },
    /// Numbers that are not whole rows.
    #[error("{numbers} numbers are not whole rows of {n_columns}")]
    Rows {
        /// How many there are.
        numbers: usize,
        /// The length of a row.
        n_columns: usize,
    },
    /// A buffer of another size than the numbers take.
    #[error("{numbers} numbers of type {} do not take {bytes} bytes", kind.name())]
    Bytes {
        /// The type.
        kind: GgmlType,
        /// How many numbers.
        numbers: usize,
        /// The size of the buffer.
        bytes: usize,
    },
    /// An importance that is not one number a column.
    #[error("the importance has {found} numbers for rows of {n_columns}")]
    Importance {
        /// How many it has.
        found: usize,
        /// The length of a row.
        n_columns: usize,
    },
    /// A number that is infinite or not a number.
    #[error("{what} {index} is {value}, which is not a finite number")]
    NotFinite {
        /// What it is one of: `number` or `importance`.
        what: &'static str,
        /// Its place in what was given.
        index: usize,
        /// The value.
        value: f32,
    },
    /// A type that is only made with importance.
    #[error("{} is of no use without an importance matrix", kind.name())]
    NeedsImportance {
        /// The type.
        kind: GgmlType,
    },
    /// A block whose scale is beyond what the type can hold.
    #[error("the numbers from {index} on are too large to be stored as {}", kind.name())]
    TooLarge {
        /// The type.
        kind: GgmlType,
        /// The place of the first number of the block.
        index: usize,
    },
    /// Parts of a stored matrix that do not belong together.
    #[error("{what}: found {found}, expected {expected}")]
    Parts {
        /// Of what.
        what: String,
        /// What is there.
        found: String,
        /// What would fit.
        expected: String,
    },
    /// A name that is not known.
    #[error("`{found}` is not a {what}; known are {known}")]
    Name {
        /// What was to be named: `type to quantize to` or `tensor type`.
        what: &'static str,
        /// The word.
        found: String,
        /// All names.
        known: String,
        /// The closest name, when one is close.
        near: Option<String>,
    },
    /// A pattern of tensor names that cannot be read.
    #[error("`{pattern}` is not a pattern of tensor names: {why}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// A tensor whose name does not say which layer it is in, where the mixture has to know.
    #[error("the layer of tensor `{name}` cannot be told from its name, for a model of {n_layers} layers")]
    Layer {
        /// The tensor.
        name: String,
        /// How many layers the model has.
        n_layers: usize,
    },
}

impl QuantizationError {
    /// Returns the stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            QuantizationError::Type { .. } => "witness::quantization::type",
            QuantizationError::Columns { .. } => "witness::quantization::columns",
            QuantizationError::Rows { .. } => "witness::quantization::rows",
            QuantizationError::Bytes { .. } => "witness::quantization::bytes",
            QuantizationError::Importance { .. } => "witness::quantization::importance",
            QuantizationError::NotFinite { .. } => "witness::quantization::not_finite",
            QuantizationError::NeedsImportance { .. } => "witness::quantization::needs_importance",
            QuantizationError::TooLarge { .. } => "witness::quantization::too_large",
            QuantizationError::Parts { .. } => "witness::quantization::parts",
            QuantizationError::Name { .. } => "witness::quantization::name",
            QuantizationError::Pattern { .. } => "witness::quantization::pattern",
            QuantizationError::Layer { .. } => "witness::quantization::layer",
        }
    }

    fn hint(&self) -> String {
        match self {
            QuantizationError::Type { .. } => {
                "choose F16, Q8_0, Q4_K or another of the types that `witness_quantization::ENCODED` lists".to_owned()
            }
            QuantizationError::Columns { .. } => {
                "store the tensor as F16, or as a type of smaller blocks such as Q8_0".to_owned()
            }
            QuantizationError::Rows { .. } | QuantizationError::Bytes { .. } | QuantizationError::Parts { .. } => {
                "the file that the numbers come from is damaged or cut short; fetch or export it again".to_owned()
            }
            QuantizationError::Importance { .. } => {
                "take an importance matrix that was computed on this very model".to_owned()
            }
            QuantizationError::NotFinite { what: "importance", .. } => {
                "the importance matrix is damaged; compute it again, or quantize without one".to_owned()
            }
            QuantizationError::NotFinite { .. } => {
                "the weights were damaged in training or export; quantizing them would only hide it".to_owned()
            }
            QuantizationError::NeedsImportance { .. } => {
                "give one that was made on this very model, or take a larger type, such as IQ3_S or Q2_K".to_owned()
            }
            QuantizationError::TooLarge { .. } => "keep this tensor in BF16 or F32, which reach further".to_owned(),
            QuantizationError::Name { near: Some(near), .. } => format!("did you mean `{near}`?"),
            QuantizationError::Name { .. } => "take one of the known names; case does not matter".to_owned(),
            QuantizationError::Pattern { .. } => {
                "a pattern is a regular expression that is searched in the name, such as `blk\\.0\\.ffn_down`"
                    .to_owned()
            }
            QuantizationError::Layer { .. } => {
                "a model with experts names its layers `blk.<number>.`; convert the model again".to_owned()
            }
        }
    }
}

impl From<QuantizationError> for Diagnostic {
    fn from(error: QuantizationError) -> Diagnostic {
        let kind = match &error {
            QuantizationError::Type { .. } | QuantizationError::Columns { .. } => Kind::Unsupported,
            _ => Kind::Invalid,
        };
        Diagnostic::new(error.code(), kind, error.to_string()).hint(error.hint())
    }
}
