//! `witness data`: training data, checked and prepared. Files to files, without a daemon; only what counts or shows tokens asks one.

mod merge;
mod preview;
mod split;
mod stats;
mod validate;

use std::process::ExitCode;

use witness_dataset::scan::{BadRows, Duplicates};
use witness_dataset::{Report, ScanOptions, Severity, Sources};
use witness_diagnostics::Diagnostic;

use crate::cli::{Data, Unwanted};
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::table::one_line;

/// Runs a verb of `data`.
pub(crate) fn data(verb: &Data) -> Outcome<ExitCode> {
    match verb {
        Data::Validate(arguments) => return validate::validate(arguments),
        Data::Merge(arguments) => merge::merge(arguments)?,
        Data::Split(arguments) => split::split(arguments)?,
        Data::Stats(arguments) => stats::stats(arguments)?,
        Data::Preview(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a verb needs a model, and so a daemon.
pub(crate) fn asks_a_model(verb: &Data) -> bool {
    match verb {
        Data::Preview(_) => true,
        Data::Stats(arguments) => arguments.model.is_some(),
        _ => false,
    }
}

/// Runs a verb of `data` that needs a model.
pub(crate) fn with_model(context: &Context, verb: &Data) -> Outcome {
    match verb {
        Data::Preview(arguments) => preview::preview(context, arguments),
        Data::Stats(arguments) => stats::with_model(context, arguments),
        _ => Ok(()),
    }
}

/// Finds the files, and says which were named twice.
fn sources(files: &[std::path::PathBuf]) -> Outcome<Sources> {
    let sources = Sources::find(files).map_err(Diagnostic::from)?;
    if let Some(first) = sources.repeated.first() {
        let more = match sources.repeated.len() {
            1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        let file = one_line(&first.display().to_string());
        output::note(&format!("`{file}`{more} was named twice and is read once"));
    }
    Ok(sources)
}

impl Unwanted {
    fn options(&self) -> ScanOptions {
        ScanOptions {
            bad_rows: BadRows::skipped_if(self.skip_bad),
            duplicates: Duplicates::dropped_if(self.drop_duplicates),
            ..ScanOptions::default()
        }
    }
}

/// Returns a number with its noun: `1 row`, `2 rows`.
fn count(n: u64, noun: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {noun}{plural}")
}

/// Returns what a reading found, as one line: `22 rows in 6 files; 1 bad row, 2 warnings`.
fn summary(report: &Report) -> String {
    let mut text = format!(
        "{} in {}",
        count(report.rows, "row"),
        count(report.files as u64, "file")
    );
    let found: Vec<String> = [
        (report.bad, "bad row"),
        (report.dropped, "dropped duplicate"),
        (report.duplicates - report.dropped, "duplicate"),
        (report.count(Severity::Warning), "warning"),
    ]
    .iter()
    .filter(|(n, _)| *n > 0)
    .map(|(n, noun)| count(*n, noun))
    .collect();
    if !found.is_empty() {
        text += &format!("; {}", found.join(", "));
    }
    text
}
