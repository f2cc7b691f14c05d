//! Scans, merges and splits of whole files: duplicates across files, bad rows skipped and counted, outputs whole or not at all.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use witness_dataset::scan::{BadRows, Duplicates};
use witness_dataset::write::{RowForm, SplitFiles, merge_to_file, split_to_files};
use witness_dataset::{DatasetError, FaultCode, Likeness, ScanOptions, Severity, Sources, SplitOptions, load, scan};
use witness_diagnostics::{Diagnostic, Kind};

fn row(question: &str, answer: &str) -> String {
    format!(r#"{{"messages":[{{"role":"user","content":"{question}"}},{{"role":"assistant","content":"{answer}"}}]}}"#)
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn sources(&self, names: &[&str]) -> Sources {
        let paths: Vec<PathBuf> = names.iter().map(|name| self.path(name)).collect();
        Sources::find(&paths).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

const SKIP: ScanOptions = ScanOptions {
    read: witness_dataset::ReadOptions {
        line_bytes_max: witness_dataset::limits::LINE_BYTES_MAX,
        checks: witness_dataset::Checks::Training,
    },
    bad_rows: BadRows::Skip,
    duplicates: Duplicates::Keep,
};

#[test]
fn duplicates_are_told_within_and_across_files() {
    let folder = Folder::new();
    folder.write("a.jsonl", [row("q", "a"), row("r", "b"), row("q", "a")].join("\n"));
    folder.write(
        "b.jsonl",
        [row("Q ", "A"), r#"{"prompt":"r","completion":"b"}"#.to_owned()].join("\n"),
    );
    let sources = folder.sources(&["a.jsonl", "b.jsonl"]);
    let report = scan(&sources, &ScanOptions::default(), |_| Ok(())).unwrap();
    let told: Vec<(u64, FaultCode, String)> = report
        .faults
        .iter()
        .map(|fault| {
            let message = fault.message.replace(&format!("{}/", folder.0.path().display()), "");
            (fault.place.line, fault.code, message)
        })
        .collect();
    let expected = [
        (3, FaultCode::Duplicate, "the same row as a.jsonl:1"),
        (
            1,
            FaultCode::NearDuplicate,
            "but for case and white space the same row as a.jsonl:1",
        ),
        (2, FaultCode::Duplicate, "the same row as a.jsonl:2"),
    ];
    assert_eq!(
        told,
        expected.map(|(line, code, message)| (line, code, message.to_owned()))
    );
    assert_eq!((report.rows, report.duplicates, report.dropped), (5, 2, 0));
    let drop = ScanOptions {
        duplicates: Duplicates::Drop,
        ..ScanOptions::default()
    };
    let report = scan(&sources, &drop, |_| Ok(())).unwrap();
    assert_eq!((report.rows, report.duplicates, report.dropped), (3, 2, 2));
}

#[test]
fn bad_rows_are_refused_with_examples_or_skipped_and_counted() {
    let folder = Folder::new();
    let bad: Vec<String> = (0..30).map(|_| "{".to_owned()).collect();
    folder.write(
        "a.jsonl",
        format!("{}\n\n{}\n{}", row("q", "a"), bad.join("\n"), row("r", "b")),
    );
    let sources = folder.sources(&["a.jsonl"]);
    let error = load(&sources, &ScanOptions::default()).unwrap_err();
    let diagnostic = Diagnostic::from(error);
    assert_eq!(
        (diagnostic.code.as_str(), diagnostic.kind),
        ("witness::dataset::bad_rows", Kind::Invalid)
    );
    assert_eq!(diagnostic.message, "30 of 32 rows cannot be used");
    assert_eq!(diagnostic.causes.len(), 11);
    assert!(
        diagnostic.causes[0].contains("a.jsonl:3:1: error[not_json]: not JSON"),
        "{}",
        diagnostic.causes[0]
    );
    assert_eq!(diagnostic.causes[10], "and 20 rows more");
    let dataset = load(&sources, &SKIP).unwrap();
    assert_eq!(dataset.rows.len(), 2);
    let report = &dataset.report;
    assert_eq!((report.lines, report.blank, report.bad), (33, 1, 30));
    assert_eq!(report.counts["not_json"], 30);
    assert_eq!(
        (report.count(Severity::Error), report.count(Severity::Warning)),
        (30, 1)
    );
    assert_eq!(dataset.at[1].line, 33);
}

#[test]
fn an_empty_data_set_is_an_error() {
    let folder = Folder::new();
    folder.write("a.jsonl", "\n\n");
    let sources = folder.sources(&["a.jsonl"]);
    assert!(matches!(load(&sources, &SKIP), Err(DatasetError::NoRows { .. })));
    let out = folder.path("out.jsonl");
    assert!(matches!(
        merge_to_file(&sources, &SKIP, RowForm::AsIs, &out),
        Err(DatasetError::NoRows { .. })
    ));
    assert_eq!(folder.names(), ["a.jsonl"], "nothing is left behind");
}

// Unlike `cat`, a file without a last line break joins no two rows; a byte order mark and carriage returns do not come along.
#[test]
fn a_merge_keeps_rows_as_they_stand_or_brings_them_to_messages() {
    let folder = Folder::new();
    let odd = r#"{ "prompt":"q",  "completion":"\u00e9" }"#;
    folder.write("a.jsonl", format!("\u{feff}{}\r\n{odd}", row("q", "a")));
    folder.write("b.jsonl", row("r", "b"));
    folder.write("c.txt", "Plain\ntext.\n");
    let sources = folder.sources(&["a.jsonl", "b.jsonl", "c.txt"]);
    let out = folder.path("out.jsonl");
    let report = merge_to_file(&sources, &ScanOptions::default(), RowForm::AsIs, &out).unwrap();
    assert_eq!(report.rows, 4);
    let plain = r#"{"text":"Plain\ntext.\n"}"#;
    assert_eq!(
        text(&out),
        format!("{}\n{odd}\n{}\n{plain}\n", row("q", "a"), row("r", "b"))
    );
    merge_to_file(&sources, &ScanOptions::default(), RowForm::Messages, &out).unwrap();
    assert_eq!(
        text(&out),
        format!("{}\n{}\n{}\n{plain}\n", row("q", "a"), row("q", "é"), row("r", "b"))
    );
    let again = load(&Sources::find(&[&out]).unwrap(), &ScanOptions::default()).unwrap();
    assert_eq!(again.report.digest, report.digest, "the content is the same");
    assert_eq!(folder.names(), ["a.jsonl", "b.jsonl", "c.txt", "out.jsonl"]);
}

#[test]
fn an_output_is_never_an_input_and_a_failure_keeps_what_lay_there() {
    let folder = Folder::new();
    folder.write("a.jsonl", format!("{}\n{{", row("q", "a")));
    folder.write("old.jsonl", "old");
    let sources = folder.sources(&["a.jsonl"]);
    let a = folder.path("a.jsonl");
    let refused = merge_to_file(&sources, &SKIP, RowForm::AsIs, &a);
    assert!(matches!(refused, Err(DatasetError::OutputIsInput { .. })));
    let old = folder.path("old.jsonl");
    assert!(merge_to_file(&sources, &ScanOptions::default(), RowForm::AsIs, &old).is_err());
    assert_eq!(text(&old), "old");
    let same = SplitFiles {
        train: old.clone(),
        validation: old.clone(),
    };
    let split = split_to_files(&sources, &SKIP, &SplitOptions::default(), RowForm::AsIs, &same);
    assert!(matches!(split, Err(DatasetError::SameOutput { .. })));
    let nowhere = folder.path("no/such/folder.jsonl");
    let error = merge_to_file(&sources, &SKIP, RowForm::AsIs, &nowhere).unwrap_err();
    assert_eq!(Diagnostic::from(error).kind, Kind::Environment);
    assert_eq!(folder.names(), ["a.jsonl", "old.jsonl"]);
}

// The parts together are the rows, and what both parts share is told.
#[test]
fn a_split_keeps_every_row_and_tells_leaks() {
    let folder = Folder::new();
    let rows: Vec<String> = (0..50)
        .map(|i| row(&format!("q{}", i % 40), &format!("a{}", i % 45)))
        .collect();
    folder.write("a.jsonl", rows.join("\n"));
    let sources = folder.sources(&["a.jsonl"]);
    let files = SplitFiles {
        train: folder.path("train.jsonl"),
        validation: folder.path("val.jsonl"),
    };
    let options = SplitOptions {
        seed: 7,
        train_fraction: 0.5,
    };
    let done = split_to_files(&sources, &ScanOptions::default(), &options, RowForm::AsIs, &files).unwrap();
    let (train, validation) = (text(&files.train), text(&files.validation));
    assert_eq!((train.lines().count(), validation.lines().count()), (25, 25));
    let mut all: Vec<&str> = train.lines().chain(validation.lines()).collect();
    let mut before: Vec<&str> = rows.iter().map(String::as_str).collect();
    all.sort_unstable();
    before.sort_unstable();
    assert_eq!(all, before);
    let question = |row: &str| {
        row.split(r#""content":""#)
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap()
            .to_owned()
    };
    let asked: Vec<String> = train.lines().map(question).collect();
    let leaked = validation.lines().filter(|row| asked.contains(&question(row))).count();
    assert_eq!(done.leaks.len(), leaked);
    assert!(leaked > 0 && done.leaks.iter().any(|leak| leak.likeness == Likeness::Prompt));
}

// Rows are read a second time by their place: marks, line ends and files of text must not shift it.
#[test]
fn a_split_finds_odd_rows_again() {
    let folder = Folder::new();
    folder.write(
        "a.jsonl",
        format!(
            "\u{feff}{}\r\n\n  {}\r\n{{\n{}",
            row("é", "a"),
            row("r", "b"),
            row("s", "c")
        ),
    );
    folder.write("b.txt", "\u{feff}Plain\ntext.");
    let sources = folder.sources(&["a.jsonl", "b.txt"]);
    let files = SplitFiles {
        train: folder.path("train.jsonl"),
        validation: folder.path("val.jsonl"),
    };
    let done = split_to_files(&sources, &SKIP, &SplitOptions::default(), RowForm::Messages, &files).unwrap();
    let rows = [
        row("é", "a"),
        row("r", "b"),
        row("s", "c"),
        r#"{"text":"Plain\ntext."}"#.to_owned(),
    ];
    let expected = |part: &[u32]| -> String { part.iter().map(|&i| format!("{}\n", rows[i as usize])).collect() };
    assert_eq!(text(&files.train), expected(&done.split.train));
    assert_eq!(text(&files.validation), expected(&done.split.validation));
    assert_eq!((done.split.train.len(), done.split.validation.len()), (3, 1));
}

// Every error names its code and a way out.
#[test]
fn errors_have_codes_and_hints() {
    let path = PathBuf::from("x");
    let io = || std::io::Error::from(std::io::ErrorKind::StorageFull);
    for (error, code, exit) in [
        (DatasetError::NoFiles { pattern: "x".into() }, "no_files", 3),
        (DatasetError::TooManyFiles, "too_many_files", 2),
        (DatasetError::TooManyRows, "too_many_rows", 2),
        (
            DatasetError::Read {
                path: path.clone(),
                source: io(),
            },
            "read",
            9,
        ),
        (
            DatasetError::Read {
                path: path.clone(),
                source: std::io::ErrorKind::NotFound.into(),
            },
            "no_files",
            3,
        ),
        (
            DatasetError::Write {
                path: path.clone(),
                source: io(),
            },
            "write",
            9,
        ),
        (DatasetError::OutputIsInput { path: path.clone() }, "output_is_input", 4),
        (DatasetError::SameOutput { path: path.clone() }, "same_output", 4),
        (DatasetError::NoRows { files: 1 }, "no_rows", 2),
        (DatasetError::BadFraction { fraction: 2.0 }, "bad_fraction", 2),
        (
            DatasetError::BadPattern {
                pattern: "[".into(),
                reason: "r".into(),
            },
            "bad_pattern",
            2,
        ),
        (DatasetError::Changed { path }, "changed", 4),
    ] {
        let diagnostic = Diagnostic::from(error);
        assert_eq!(diagnostic.code, format!("witness::dataset::{code}"));
        assert_eq!(diagnostic.kind.exit_code(), exit, "{code}");
        assert!(!diagnostic.hints.is_empty());
    }
}
