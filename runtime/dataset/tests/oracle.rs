//! The guide's own run: its files merged, split and visited in the order that its script was traced in.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use serde_json::Value;
use witness_dataset::order::{n_steps, steps};
use witness_dataset::write::{RowForm, SplitFiles, merge_to_file, split_to_files};
use witness_dataset::{
    Checks, EpochOrder, ReadOptions, ScanOptions, Severity, Sources, SplitOptions, load, scan, split,
};

/// Returns the reference data beside the checkout, or says why the test is skipped.
fn shared(test: &str) -> Option<PathBuf> {
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let found = folders.find(|folder| folder.join("shared/oracle").is_dir());
    if found.is_none() {
        eprintln!("skipped: {test} needs ../shared");
    }
    found.map(|folder| folder.join("shared"))
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn rows_of(value: &Value) -> Vec<u32> {
    let rows = value.as_array().unwrap().iter();
    rows.map(|row| row.as_u64().unwrap() as u32).collect()
}

/// The guide's `cat data/attestors/*.jsonl data/policies/*.jsonl data/workflows/*.jsonl`.
fn guide_sources(shared: &Path) -> Sources {
    let patterns = ["attestors/*.jsonl", "policies/*.jsonl", "workflows/*.jsonl"];
    let data = shared.join("witness-evals/data");
    Sources::find(&patterns.map(|pattern| data.join(pattern))).unwrap()
}

#[test]
fn the_guides_files_come_out_byte_for_byte() {
    let Some(shared) = shared("the guide's merge and split") else {
        return;
    };
    let oracle = shared.join("oracle");
    let folder = tempfile::tempdir().unwrap();
    let merged = folder.path().join("witness-train.jsonl");
    let report = merge_to_file(&guide_sources(&shared), &ScanOptions::default(), RowForm::AsIs, &merged).unwrap();
    assert_eq!((report.rows, report.bad, report.duplicates), (22, 0, 0));
    assert_eq!(
        std::fs::read(&merged).unwrap(),
        std::fs::read(oracle.join("llama/rows.jsonl")).unwrap()
    );

    let recorded = json(&oracle.join("seed_trainer/split.json"));
    let parts = split(22, &SplitOptions::default()).unwrap();
    let shuffled = [parts.train.clone(), parts.validation.clone()].concat();
    assert_eq!(shuffled, rows_of(&recorded["shuffled_indices"]));
    assert_eq!(parts.train.len() as u64, recorded["split"].as_u64().unwrap());

    let files = SplitFiles {
        train: folder.path().join("train.jsonl"),
        validation: folder.path().join("val.jsonl"),
    };
    let sources = Sources::find(&[&merged]).unwrap();
    let options = (ScanOptions::default(), SplitOptions::default());
    let done = split_to_files(&sources, &options.0, &options.1, RowForm::Python, &files).unwrap();
    assert_eq!(done.split, parts);
    assert!(done.leaks.is_empty());
    for (ours, theirs) in [(&files.train, "train.jsonl"), (&files.validation, "val.jsonl")] {
        let theirs = oracle.join("seed_trainer").join(theirs);
        assert_eq!(std::fs::read(ours).unwrap(), std::fs::read(theirs).unwrap());
    }
}

#[test]
fn every_micro_batch_holds_the_rows_that_the_trace_recorded() {
    let Some(shared) = shared("the order of the traced run") else {
        return;
    };
    let trace = json(&shared.join("oracle/seed_trainer/trace.json"));
    let batches = trace["micro_batches"].as_array().unwrap();
    let recorded: Vec<Vec<u32>> = batches
        .iter()
        .filter(|batch| batch["train"] == true)
        .map(|batch| rows_of(&batch["rows"]))
        .collect();
    let mut ours = Vec::new();
    for epoch in 0..3 {
        let order = EpochOrder::SeedPlusEpoch.rows(42, 19, epoch);
        for step in steps(&order, 4, 4) {
            ours.extend(step.micro_batches.iter().map(|rows| rows.to_vec()));
        }
    }
    assert_eq!(ours, recorded);
    let logged = trace["log_history"].as_array().unwrap().iter();
    let last_step = logged.filter_map(|entry| entry["step"].as_u64()).max().unwrap();
    assert_eq!(3 * n_steps(19, 4, 4) as u64, last_step);
}

// Every file of the guide's repository reads; what its own checks find there is what its own script finds.
#[test]
fn all_of_the_guides_data_reads() {
    let Some(shared) = shared("the guide's data") else {
        return;
    };
    let data = shared.join("witness-evals/data");
    let sources = Sources::find(&[data.join("conceptual"), data.join("attestors")]).unwrap();
    let read = ReadOptions {
        checks: Checks::Guide,
        ..ReadOptions::default()
    };
    let options = ScanOptions {
        read,
        ..ScanOptions::default()
    };
    let report = scan(&sources, &options, |_| Ok(())).unwrap();
    assert_eq!(report.count(Severity::Error), 0, "{:?}", report.faults.first());
    assert_eq!(report.rows, report.lines);
    let expected: Vec<(&str, u64)> = EXPECTED_WARNINGS.to_vec();
    let found: Vec<(&str, u64)> = report.counts.into_iter().collect();
    assert_eq!(found, expected);
}

/// Counted by a few lines of Python over the same files: rows that are equal to an earlier one; answers below 100 characters; answers
/// without `witness run` and `witness verify`; questions that were asked before.
const EXPECTED_WARNINGS: &[(&str, u64)] = &[("duplicate", 4492), ("duplicate_prompt", 4546), ("no_command", 6308)];

#[test]
fn a_loaded_data_set_keeps_its_order_and_says_what_it_is() {
    let Some(shared) = shared("loading the guide's data") else {
        return;
    };
    let sources = guide_sources(&shared);
    let dataset = load(&sources, &ScanOptions::default()).unwrap();
    assert_eq!(
        (dataset.rows.len(), dataset.prints.len(), dataset.at.len()),
        (22, 22, 22)
    );
    let one = Sources::find(&[shared.join("oracle/llama/rows.jsonl")]).unwrap();
    let merged = load(&one, &ScanOptions::default()).unwrap();
    assert_eq!(merged.rows, dataset.rows);
    assert_eq!(
        merged.report.digest, dataset.report.digest,
        "the digest does not depend on how rows lie in files"
    );
}
