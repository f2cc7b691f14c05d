//! Errors of this plugin that are no other crate's.

use witness_diagnostics::{Diagnostic, Kind};
use witness_sampling::SamplingError;

/// A fault of this program.
pub(crate) fn internal(message: impl Into<String>) -> Diagnostic {
    Diagnostic::new("witness::serve::internal", Kind::Internal, message)
        .hint("please report this with the request that led to it")
}

/// A request or option that cannot be served.
pub(crate) fn sampling(error: &SamplingError) -> Diagnostic {
    match error {
        SamplingError::Option { .. } | SamplingError::StopLimit { .. } | SamplingError::UnknownToken { .. } => {
            Diagnostic::new("witness::serve::bad_option", Kind::Invalid, error.to_string())
                .hint("change this option in the request or the Modelfile")
        }
        SamplingError::NothingAllowed { .. } => {
            Diagnostic::new("witness::serve::nothing_allowed", Kind::Unsupported, error.to_string())
                .hint("the model's vocabulary cannot spell what `format` asks for; ask without it")
        }
        SamplingError::NotFinite { .. } | SamplingError::NoCandidate { .. } => {
            Diagnostic::new("witness::serve::not_finite", Kind::Damaged, error.to_string())
                .hint("the weights or the adapter are probably damaged; run `witness fsck` and create the model again")
        }
    }
}
