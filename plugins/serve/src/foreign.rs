//! Families that our graph does not have, served by candle-transformers without adapters.

use witness_diagnostics::Diagnostic;
use witness_plugin_protocol::ModelInfo;

use crate::bundle::Bundle;

/// State of one sequence in a model of candle-transformers.
pub(crate) trait ForeignState: Send {
    /// Returns the number of positions held.
    fn len(&self) -> usize;
}

/// Returns the architectures served here.
pub(crate) fn architectures() -> impl Iterator<Item = &'static str> {
    [].into_iter()
}

/// Returns the facts about a model of such a family, or `refusal` when it is of none.
pub(crate) fn model_info(_bundle: &Bundle, refusal: Diagnostic) -> Result<ModelInfo, Diagnostic> {
    Err(refusal)
}
