//! Every line of a data set once: rows handed on, faults and duplicates told and counted.
//!
//! Memory: one line, and per row its fingerprints (about 100 bytes in two hash tables).

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::conversation::Role;
use crate::duplicates::{Fingerprint, Fingerprints, Likeness, Seen};
use crate::error::DatasetError;
use crate::fault::{Fault, FaultCode, Severity};
use crate::limits::{FAULTS_KEPT_MAX, ROWS_MAX};
use crate::reader::{Line, LineAt, ReadOptions, Reader};
use crate::row::{Checks, Row};
use crate::sources::Sources;

/// Most faults that [`DatasetError::BadRows`] quotes.
const FAULTS_QUOTED_MAX: usize = 10;

/// How a data set is gone through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanOptions {
    /// How lines are read.
    pub read: ReadOptions,
    /// What becomes of rows that cannot be used.
    pub bad_rows: BadRows,
    /// What becomes of a row that was there before, exactly.
    pub duplicates: Duplicates,
}

/// What becomes of rows that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadRows {
    /// Any one of them is an error, told after all lines were read.
    #[default]
    Refuse,
    /// They are left out, and counted.
    Skip,
}

/// What becomes of a row that was there before, exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duplicates {
    /// It is told, and kept.
    #[default]
    Keep,
    /// It is told, and left out.
    Drop,
}

impl BadRows {
    /// Skips them where that is asked for.
    pub fn skipped_if(skip: bool) -> Self {
        if skip { BadRows::Skip } else { BadRows::Refuse }
    }
}

impl Duplicates {
    /// Drops them where that is asked for.
    pub fn dropped_if(drop: bool) -> Self {
        if drop { Duplicates::Drop } else { Duplicates::Keep }
    }
}

/// What a scan found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Files read.
    pub files: usize,
    /// Files that were named again and read once.
    pub files_repeated: usize,
    /// Lines of all files.
    pub lines: u64,
    /// Lines without anything.
    pub blank: u64,
    /// Rows that were handed on.
    pub rows: u64,
    /// Rows that cannot be used.
    pub bad: u64,
    /// Rows that say exactly what an earlier one does, handed on or not.
    pub duplicates: u64,
    /// Duplicates that were left out.
    pub dropped: u64,
    /// Rows handed on, by shape.
    pub shapes: BTreeMap<&'static str, u64>,
    /// Every fault, by the name of its code.
    pub counts: BTreeMap<&'static str, u64>,
    /// The first faults, errors and warnings, word for word.
    pub faults: Vec<Fault>,
    /// SHA-256, in hexadecimal, of what the rows handed on teach, in their order: equal for equal data, however it is laid out or cut
    /// into files.
    pub digest: String,
}

impl Report {
    /// Returns how many faults of a severity there are.
    pub fn count(&self, severity: Severity) -> u64 {
        let codes = FaultCode::ALL.iter().filter(|code| code.severity() == severity);
        codes.filter_map(|code| self.counts.get(code.name())).sum()
    }

    fn note(&mut self, fault: Fault) {
        *self.counts.entry(fault.code.name()).or_default() += 1;
        if self.faults.len() < FAULTS_KEPT_MAX {
            self.faults.push(fault);
        }
    }
}

/// A row as a scan hands it on.
#[derive(Debug)]
pub struct Scanned<'a> {
    /// What it teaches, and how it was laid out.
    pub row: &'a Row,
    /// Its text as it stood.
    pub text: &'a str,
    /// Where it lies.
    pub at: LineAt,
    /// What it is told apart by.
    pub prints: Fingerprints,
}

/// Reads every line and hands each usable row to `each`, in order. Duplicates over all files are told.
///
/// With [`BadRows::Refuse`], the error comes after the last line, so that it counts all of them.
pub fn scan(
    sources: &Sources,
    options: &ScanOptions,
    mut each: impl FnMut(Scanned<'_>) -> Result<(), DatasetError>,
) -> Result<Report, DatasetError> {
    let mut scan = Scan {
        sources,
        options,
        report: Report {
            files: sources.files.len(),
            files_repeated: sources.repeated.len(),
            ..Report::default()
        },
        seen: Seen::default(),
        prompts: HashMap::new(),
        digest: Sha256::new(),
    };
    for line in Reader::new(sources, options.read) {
        scan.line(line?, &mut each)?;
    }
    scan.finish()
}

struct Scan<'a> {
    sources: &'a Sources,
    options: &'a ScanOptions,
    report: Report,
    seen: Seen,
    /// First row of each question, for the guide's checks.
    prompts: HashMap<Fingerprint, LineAt>,
    digest: Sha256,
}

impl Scan<'_> {
    fn line(
        &mut self,
        mut line: Line,
        each: &mut impl FnMut(Scanned<'_>) -> Result<(), DatasetError>,
    ) -> Result<(), DatasetError> {
        self.report.lines += 1;
        self.report.blank += u64::from(line.is_blank());
        self.report.bad += u64::from(line.row.is_none() && !line.is_blank());
        for fault in line.faults.drain(..) {
            self.report.note(fault);
        }
        let Some(row) = &line.row else {
            return Ok(());
        };
        let prints = Fingerprints::of(&row.conversation);
        let first = self.seen.insert(&prints, line.at);
        if let Some((likeness, first)) = first {
            let (code, same) = match likeness {
                Likeness::Exact => (FaultCode::Duplicate, "the same row as"),
                _ => (FaultCode::NearDuplicate, "but for case and white space the same row as"),
            };
            let message = format!("{same} {}", self.name(first));
            self.report.note(Fault::new(line.place.clone(), code, message));
        }
        let is_duplicate = first.is_some_and(|(likeness, _)| likeness == Likeness::Exact);
        self.report.duplicates += u64::from(is_duplicate);
        if self.options.read.checks == Checks::Guide {
            self.guide_prompt(&line, row);
        }
        if is_duplicate && self.options.duplicates == Duplicates::Drop {
            self.report.dropped += 1;
            return Ok(());
        }
        if self.report.rows == ROWS_MAX as u64 {
            return Err(DatasetError::TooManyRows);
        }
        self.report.rows += 1;
        *self.report.shapes.entry(row.shape.name()).or_default() += 1;
        self.digest.update(prints.exact);
        each(Scanned {
            row,
            text: &line.text,
            at: line.at,
            prints,
        })
    }

    /// Warns, as the guide's script does, of a question that was asked before: the user's message alone, to the letter.
    fn guide_prompt(&mut self, line: &Line, row: &Row) {
        let mut messages = row.conversation.messages().iter();
        let Some(question) = messages.find(|message| message.role == Role::User) else {
            return;
        };
        let mut print = Fingerprint::default();
        print.copy_from_slice(&Sha256::digest(question.content.as_bytes())[..16]);
        let first = *self.prompts.entry(print).or_insert(line.at);
        if first != line.at {
            let message = format!("the same question as {}", self.name(first));
            self.report
                .note(Fault::new(line.place.clone(), FaultCode::DuplicatePrompt, message));
        }
    }

    fn name(&self, at: LineAt) -> String {
        format!("{}:{}", self.sources.name(at.file as usize), at.line)
    }

    fn finish(mut self) -> Result<Report, DatasetError> {
        let report = &mut self.report;
        let digest = self.digest.finalize();
        report.digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        if report.bad > 0 && self.options.bad_rows == BadRows::Refuse {
            let errors = report.faults.iter().filter(|fault| fault.severity == Severity::Error);
            return Err(DatasetError::BadRows {
                count: report.bad,
                rows: report.rows + report.bad + report.dropped,
                first: errors.take(FAULTS_QUOTED_MAX).cloned().collect(),
            });
        }
        Ok(self.report)
    }
}

/// A data set in memory.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Its rows, in order.
    pub rows: Vec<Row>,
    /// Fingerprint of each row.
    pub prints: Vec<Fingerprints>,
    /// Where each row lies, to name it in messages.
    pub at: Vec<LineAt>,
    /// What reading it found.
    pub report: Report,
}

/// Reads every row into memory. A data set without a usable row is an error.
pub fn load(sources: &Sources, options: &ScanOptions) -> Result<Dataset, DatasetError> {
    let (mut rows, mut prints, mut at) = (Vec::new(), Vec::new(), Vec::new());
    let report = scan(sources, options, |scanned| {
        rows.push(scanned.row.clone());
        prints.push(scanned.prints);
        at.push(scanned.at);
        Ok(())
    })?;
    if rows.is_empty() {
        return Err(DatasetError::NoRows {
            files: sources.files.len(),
        });
    }
    Ok(Dataset {
        rows,
        prints,
        at,
        report,
    })
}
