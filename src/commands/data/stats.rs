//! `witness data stats`: how much there is of what.

use serde::Serialize;
use witness_dataset::scan::BadRows;
use witness_dataset::statistics::{HISTOGRAM_BARS, Lengths, draw};
use witness_dataset::{Report, ScanOptions, Statistics, scan};
use witness_diagnostics::Diagnostic;
use witness_plugin_protocol::RowCounts;

use super::{sources, summary};
use crate::cli::DataStats;
use crate::commands::train::{Order, histogram, plan_text, rows_in};
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::table::Table;

/// Longest bar of the histogram, in columns.
const BAR_COLUMNS: usize = 40;

/// What was counted.
#[derive(Serialize)]
struct Counted {
    report: Report,
    statistics: Statistics,
}

/// What was counted, and what a model makes of it.
#[derive(Serialize)]
struct CountedTokens {
    #[serde(flatten)]
    counted: Counted,
    tokens: RowCounts,
}

/// Counts every row that can be used.
pub(crate) fn stats(arguments: &DataStats) -> Outcome {
    let counted = count_rows(arguments)?;
    if arguments.json {
        return output::json(&counted);
    }
    output::print(&text(&counted))?;
    note_bad(&counted);
    Ok(())
}

/// Counts tokens too, as a model is taught the rows.
pub(crate) fn with_model(context: &Context, arguments: &DataStats) -> Outcome {
    let counted = count_rows(arguments)?;
    let model = arguments.model.as_deref().unwrap_or_default();
    let mut order = Order::of_rows(&arguments.files, model, None, &[])?;
    let plan = rows_in(context, &mut order, Vec::new())?;
    if arguments.json {
        return output::json(&CountedTokens {
            counted,
            tokens: plan.train,
        });
    }
    let mut out = text(&counted);
    out += &format!(
        "\ntokens per row, as `{model}` is taught them\n{}",
        histogram(&plan.train.histogram)
    );
    out += &format!("{}\n", plan_text(&plan.train));
    output::print(&out)?;
    note_bad(&counted);
    Ok(())
}

fn note_bad(counted: &Counted) {
    if counted.report.bad > 0 {
        output::note("bad rows are not counted above; `witness data validate` says what is wrong with them");
    }
}

fn count_rows(arguments: &DataStats) -> Outcome<Counted> {
    let files = sources(&arguments.files)?;
    let options = ScanOptions {
        bad_rows: BadRows::Skip,
        ..ScanOptions::default()
    };
    let mut statistics = Statistics::default();
    let report = scan(&files, &options, |scanned| {
        statistics.add(&scanned.row.conversation, None);
        Ok(())
    });
    Ok(Counted {
        report: report.map_err(Diagnostic::from)?,
        statistics,
    })
}

fn text(counted: &Counted) -> String {
    let statistics = &counted.statistics;
    let mut out = format!("{}\n", summary(&counted.report));
    let shapes: Vec<String> = counted
        .report
        .shapes
        .iter()
        .map(|(shape, n)| format!("{n} {shape}"))
        .collect();
    if !shapes.is_empty() {
        out += &format!("shapes: {}\n", shapes.join(", "));
    }
    out += &format!("digest: sha256:{}\n\n", counted.report.digest);
    let mut roles = Table::new(["ROLE", "MESSAGES", "CHARACTERS", "BYTES"]);
    for (role, said) in &statistics.roles {
        roles.row([
            (*role).to_owned(),
            said.messages.to_string(),
            said.chars.to_string(),
            said.bytes.to_string(),
        ]);
    }
    out += &roles.render(output::width());
    out.push('\n');
    let mut lengths = Table::new(["PER ROW", "MIN", "MEDIAN", "MEAN", "P90", "P99", "MAX", "TOTAL"]);
    for (name, of) in [
        ("answers", &statistics.turns),
        ("characters", &statistics.chars),
        ("bytes", &statistics.bytes),
    ] {
        lengths.row(spread(name, of));
    }
    out += &lengths.render(output::width());
    out += "\ncharacters per row\n";
    out += &draw(&statistics.chars.histogram(HISTOGRAM_BARS), BAR_COLUMNS);
    out
}

fn spread(name: &str, lengths: &Lengths) -> [String; 8] {
    let Some(summary) = lengths.summary() else {
        return std::array::from_fn(|column| if column == 0 { name.to_owned() } else { "-".to_owned() });
    };
    [
        name.to_owned(),
        summary.min.to_string(),
        summary.median.to_string(),
        format!("{:.1}", summary.mean),
        summary.p90.to_string(),
        summary.p99.to_string(),
        summary.max.to_string(),
        summary.total.to_string(),
    ]
}
