//! The importance matrix that a request names, as the quantizers want it: mean squares by tensor.

use std::collections::HashMap;

use witness_diagnostics::{Diagnostic, Kind};
use witness_formats::imatrix;
use witness_plugin_protocol::FileRef;

use crate::error::Result;

/// Importance by tensor.
#[derive(Debug, Default)]
pub(crate) struct Imatrix {
    by_tensor: HashMap<String, Vec<f32>>,
}

impl Imatrix {
    /// Reads a file of either form.
    pub(crate) fn read(file: &FileRef) -> Result<Imatrix> {
        let read = imatrix::Imatrix::read(&file.path, &file.name).map_err(|error| {
            let fault = Diagnostic::from(error);
            if fault.kind == Kind::Environment {
                return fault;
            }
            let hint = "make one with `witness imatrix`; llama.cpp's GGUF form and its older `.dat` form are read";
            Diagnostic::new(
                "witness::quantize::imatrix",
                fault.kind,
                format!("`{}` is no importance matrix", file.name),
            )
            .cause(fault.message)
            .hint(hint)
        })?;
        let means = |(name, importance): (String, imatrix::Importance)| (name, importance.means());
        Ok(Imatrix {
            by_tensor: read.tensors.into_iter().map(means).collect(),
        })
    }

    /// Returns the importance of a tensor's columns, expert after expert.
    pub(crate) fn of(&self, tensor: &str) -> Option<&[f32]> {
        self.by_tensor.get(tensor).map(Vec::as_slice)
    }
}
