//! `witness data split`: the guide's split, row for row.

use serde_json::json;
use witness_dataset::write::{RowForm, SplitFiles, SplitReport, split_to_files};
use witness_dataset::{Likeness, SplitOptions};
use witness_diagnostics::Diagnostic;

use super::{count, sources, summary};
use crate::cli::DataSplit;
use crate::context::Outcome;
use crate::render::output;
use crate::render::table::one_line;

/// Splits, and warns of rows that both parts hold.
pub(crate) fn split(arguments: &DataSplit) -> Outcome {
    let files = sources(&arguments.files)?;
    let options = SplitOptions {
        seed: arguments.seed,
        train_fraction: arguments.train_fraction,
    };
    let outputs = SplitFiles {
        train: arguments.train.clone(),
        validation: arguments.validation.clone(),
    };
    let form = match arguments.as_is {
        true => RowForm::AsIs,
        false => RowForm::Python,
    };
    let done =
        split_to_files(&files, &arguments.unwanted.options(), &options, form, &outputs).map_err(Diagnostic::from)?;
    if arguments.json {
        return output::json(&json!({
            "report": done.report,
            "seed": arguments.seed,
            "train": { "file": outputs.train.display().to_string(), "rows": done.split.train },
            "validation": { "file": outputs.validation.display().to_string(), "rows": done.split.validation },
            "leaks": leaks(&done, &outputs),
        }));
    }
    output::print(&text(&done, &outputs))
}

fn leaks(done: &SplitReport, outputs: &SplitFiles) -> Vec<serde_json::Value> {
    // Rows are written one a line, in order.
    let row = |file: &std::path::Path, index: usize| format!("{}:{}", file.display(), index + 1);
    let leaks = done.leaks.iter().map(|leak| {
        json!({
            "row": row(&outputs.validation, leak.validation),
            "like": row(&outputs.train, leak.train),
            "likeness": leak.likeness,
        })
    });
    leaks.collect()
}

fn text(done: &SplitReport, outputs: &SplitFiles) -> String {
    let mut out = format!("{}\n", summary(&done.report));
    for (name, file, rows) in [
        ("train", &outputs.train, &done.split.train),
        ("validation", &outputs.validation, &done.split.validation),
    ] {
        let file = one_line(&file.display().to_string());
        out += &format!("{name}: {} in `{file}`\n", count(rows.len() as u64, "row"));
    }
    if done.split.validation.is_empty() || done.split.train.is_empty() {
        out += "warning: one part is empty; give more rows, or another --train-fraction\n";
    }
    if !done.leaks.is_empty() {
        let of = |likeness| done.leaks.iter().filter(|leak| leak.likeness == likeness).count();
        out += &format!(
            "warning: {} in training too ({} exactly, {} but for case and white space, {} with another answer); --drop-duplicates leaves out exact copies\n",
            count(done.leaks.len() as u64, "validation row"),
            of(Likeness::Exact),
            of(Likeness::Normalised),
            of(Likeness::Prompt),
        );
    }
    out
}
