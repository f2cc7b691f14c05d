//! `witness data validate`: every fault with its place, and what a split would leak.

use std::process::ExitCode;

use serde::Serialize;
use witness_dataset::scan::BadRows;
use witness_dataset::{
    Checks, Fingerprints, Likeness, LineAt, ReadOptions, Report, ScanOptions, Severity, Sources, leakage, scan,
};
use witness_diagnostics::{Diagnostic, Kind};

use super::{count, sources, summary};
use crate::cli::{ChecksName, DataValidate};
use crate::context::Outcome;
use crate::render::output;
use crate::render::table::one_line;

/// Most leaks that are printed one by one.
const LEAKS_PRINTED_MAX: usize = 20;

/// What was found.
#[derive(Serialize)]
struct Findings {
    #[serde(flatten)]
    report: Report,
    /// Rows of these files that the files of `--against` hold too.
    #[serde(skip_serializing_if = "Option::is_none")]
    leaks: Option<Vec<LeakFound>>,
}

/// A row that lies on both sides.
#[derive(Serialize)]
struct LeakFound {
    /// The row, as `file:line`.
    row: String,
    /// The one like it on the other side.
    like: String,
    /// How they are the same.
    likeness: Likeness,
}

/// Checks every row. The exit code is that of invalid input when a row cannot be used.
pub(crate) fn validate(arguments: &DataValidate) -> Outcome<ExitCode> {
    let options = ScanOptions {
        read: ReadOptions {
            checks: match arguments.checks {
                ChecksName::Training => Checks::Training,
                ChecksName::Guide => Checks::Guide,
            },
            ..ReadOptions::default()
        },
        // Bad rows are what is asked for, not an error of the asking.
        bad_rows: BadRows::Skip,
        ..ScanOptions::default()
    };
    let these = sources(&arguments.files)?;
    let (report, rows) = fingerprints(&these, &options)?;
    let leaks = match arguments.against.is_empty() {
        true => None,
        false => Some(leaks(&these, &rows, arguments, &options)?),
    };
    let findings = Findings { report, leaks };
    if arguments.json {
        output::json(&findings)?;
    } else {
        output::print(&text(&findings, arguments.limit))?;
    }
    Ok(exit_code(&findings, arguments))
}

type Rows = Vec<(LineAt, Fingerprints)>;

fn fingerprints(sources: &Sources, options: &ScanOptions) -> Outcome<(Report, Rows)> {
    let mut rows = Rows::new();
    let report = scan(sources, options, |scanned| {
        rows.push((scanned.at, scanned.prints));
        Ok(())
    });
    Ok((report.map_err(Diagnostic::from)?, rows))
}

fn leaks(these: &Sources, rows: &Rows, arguments: &DataValidate, options: &ScanOptions) -> Outcome<Vec<LeakFound>> {
    let others = sources(&arguments.against)?;
    let (_, other_rows) = fingerprints(&others, options)?;
    let prints = |rows: &Rows| -> Vec<Fingerprints> { rows.iter().map(|(_, prints)| *prints).collect() };
    let name = |sources: &Sources, at: LineAt| {
        let file = &sources.files[at.file as usize];
        format!("{}:{}", file.display(), at.line)
    };
    let leaks = leakage(&prints(&other_rows), &prints(rows)).into_iter();
    let found = leaks.map(|leak| LeakFound {
        row: name(these, rows[leak.validation].0),
        like: name(&others, other_rows[leak.train].0),
        likeness: leak.likeness,
    });
    Ok(found.collect())
}

fn exit_code(findings: &Findings, arguments: &DataValidate) -> ExitCode {
    let report = &findings.report;
    let has_leaks = findings.leaks.as_ref().is_some_and(|leaks| !leaks.is_empty());
    let has_warnings = report.count(Severity::Warning) > 0 || has_leaks;
    let is_bad = (report.bad > 0 && !arguments.skip_bad) || (arguments.strict && has_warnings) || report.rows == 0;
    match is_bad {
        true => ExitCode::from(Kind::Invalid.exit_code()),
        false => ExitCode::SUCCESS,
    }
}

fn text(findings: &Findings, limit: usize) -> String {
    let report = &findings.report;
    let mut out = String::new();
    for fault in report.faults.iter().take(limit) {
        out += &format!("{}\n", one_line(&fault.to_string()));
    }
    let all: u64 = report.counts.values().sum();
    let told = report.faults.len().min(limit) as u64;
    if all > told {
        out += &format!("and {} more\n", count(all - told, "fault"));
    }
    for leak in findings.leaks.iter().flatten().take(LEAKS_PRINTED_MAX) {
        let same = match leak.likeness {
            Likeness::Exact => "the same row as",
            Likeness::Normalised => "but for case and white space the same row as",
            Likeness::Prompt => "the same question as",
        };
        out += &format!(
            "{}: warning[leak]: {same} {}\n",
            one_line(&leak.row),
            one_line(&leak.like)
        );
    }
    out += &summary(report);
    if let Some(leaks) = &findings.leaks {
        let exact = leaks.iter().filter(|leak| leak.likeness == Likeness::Exact).count();
        out += &format!(
            "; {} on the other side too, {exact} of them exactly",
            count(leaks.len() as u64, "row")
        );
    }
    out.push('\n');
    for (code, n) in &report.counts {
        out += &format!("{n:>8}  {code}\n");
    }
    out
}
