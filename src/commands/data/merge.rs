//! `witness data merge`: the rows of many files in one.

use std::path::Path;

use witness_dataset::Report;
use witness_dataset::write::{RowForm, merge as merge_rows, merge_to_file};
use witness_diagnostics::{Diagnostic, Kind};

use super::{sources, summary};
use crate::cli::DataMerge;
use crate::context::Outcome;
use crate::render::output;

/// Merges, and says what came of it: on standard error, since the rows may go to standard output.
pub(crate) fn merge(arguments: &DataMerge) -> Outcome {
    let files = sources(&arguments.files)?;
    let options = arguments.unwanted.options();
    let form = match arguments.messages {
        true => RowForm::Messages,
        false => RowForm::AsIs,
    };
    let report: Report = if arguments.out == Path::new("-") {
        let mut stdout = std::io::BufWriter::new(std::io::stdout().lock());
        match merge_rows(&files, &options, form, &mut stdout, Path::new("standard output")) {
            Err(witness_dataset::DatasetError::Write { source, .. })
                if source.kind() == std::io::ErrorKind::BrokenPipe =>
            {
                // What is buffered has nobody to go to.
                let _ = stdout.into_parts();
                return Err(Diagnostic::new(
                    output::CLOSED,
                    Kind::Cancelled,
                    "standard output was closed",
                ));
            }
            merged => merged.map_err(Diagnostic::from)?,
        }
    } else {
        merge_to_file(&files, &options, form, &arguments.out).map_err(Diagnostic::from)?
    };
    let is_printed = arguments.out == Path::new("-");
    if arguments.json && !is_printed {
        return output::json(&report);
    }
    output::note(&format!("merged {}", summary(&report)));
    Ok(())
}
