//! `witness data`: files to files, without a daemon.

use serde_json::Value;

use crate::desk::Desk;
use crate::harness;

fn row(question: &str, answer: &str) -> String {
    format!(r#"{{"messages":[{{"role":"user","content":"{question}"}},{{"role":"assistant","content":"{answer}"}}]}}"#)
}

fn read(desk: &Desk, name: &str) -> String {
    std::fs::read_to_string(desk.path().join(name)).unwrap()
}

#[test]
fn faults_are_named_with_their_place_and_end_with_two() {
    let desk = Desk::new();
    let bad = r#"{"messages":[{"role":"usr","content":"q"}]}"#;
    desk.write(
        "data/a.jsonl",
        [row("q", "a"), bad.to_owned(), "{".to_owned(), row("q", "a")].join("\n"),
    );
    let ran = desk.run(["data", "validate", "data"]);
    assert_eq!(ran.code, 2, "{}{}", ran.out, ran.err);
    let expected = "\
data/a.jsonl:2:22: error[unknown_role]: `usr` is no role; is `user` meant?
data/a.jsonl:3:1: error[not_json]: not JSON: EOF while parsing an object; the line ends too early: is the object broken over several lines?
data/a.jsonl:4:1: warning[duplicate]: the same row as data/a.jsonl:1
2 rows in 1 file; 2 bad rows, 1 duplicate, 1 warning
       1  duplicate
       1  not_json
       1  unknown_role
";
    assert_eq!(ran.out, expected);
    let skipped = desk
        .run(["data", "validate", "data", "--skip-bad", "--limit", "1"])
        .ok();
    assert!(skipped.contains("and 2 faults more\n"), "{skipped}");
    let report = desk.run(["data", "validate", "data/*.jsonl", "--json"]);
    assert_eq!(report.code, 2);
    let report: Value = serde_json::from_str(&report.out).unwrap();
    assert_eq!((&report["rows"], &report["bad"]), (&2.into(), &2.into()));
    assert_eq!(report["faults"][0]["code"], "unknown_role");
    assert_eq!(
        (&report["faults"][0]["line"], &report["faults"][0]["column"]),
        (&2.into(), &22.into())
    );
    // Nothing of this needed a daemon.
    assert!(!desk.path().join("witness.sock").exists());
}

#[test]
fn warnings_fail_only_when_asked_and_leaks_are_told() {
    let desk = Desk::new();
    desk.write("train.jsonl", [row("q", "a"), row("r", "b")].join("\n"));
    desk.write("val.jsonl", [row("Q", "A"), row("r", "c"), row("s", "d")].join("\n"));
    let told = desk
        .run(["data", "validate", "val.jsonl", "--against", "train.jsonl"])
        .ok();
    assert!(
        told.contains("val.jsonl:1: warning[leak]: but for case and white space the same row as train.jsonl:1"),
        "{told}"
    );
    assert!(
        told.contains("val.jsonl:2: warning[leak]: the same question as train.jsonl:2"),
        "{told}"
    );
    assert!(
        told.contains("2 rows on the other side too, 0 of them exactly"),
        "{told}"
    );
    let strict = desk.run(["data", "validate", "val.jsonl", "--against", "train.jsonl", "--strict"]);
    assert_eq!(strict.code, 2);
}

#[test]
fn a_merge_refuses_or_skips_bad_rows() {
    let desk = Desk::new();
    desk.write("data/a.jsonl", row("q", "a"));
    desk.write(
        "data/b.jsonl",
        [
            "[1]".to_owned(),
            row("q", "a"),
            r#"{"prompt":"r","completion":"b"}"#.to_owned(),
        ]
        .join("\n"),
    );
    let refusal = desk.run(["data", "merge", "data", "-o", "all.jsonl"]).refused(2);
    assert!(
        refusal.contains("witness::dataset::bad_rows") && refusal.contains("data/b.jsonl:1:1"),
        "{refusal}"
    );
    assert!(!desk.path().join("all.jsonl").exists());
    let merged = desk.run([
        "data",
        "merge",
        "data",
        "-o",
        "all.jsonl",
        "--skip-bad",
        "--drop-duplicates",
        "--messages",
    ]);
    assert!(
        merged
            .err
            .contains("merged 2 rows in 2 files; 1 bad row, 1 dropped duplicate"),
        "{}",
        merged.err
    );
    assert_eq!(
        read(&desk, "all.jsonl"),
        format!("{}\n{}\n", row("q", "a"), row("r", "b"))
    );
    let printed = desk.run(["data", "merge", "all.jsonl", "--out", "-"]).ok();
    assert_eq!(printed, read(&desk, "all.jsonl"));
    assert!(
        desk.run(["data", "merge", "all.jsonl", "-o", "./all.jsonl"])
            .refused(4)
            .contains("both read and written")
    );
    assert!(
        desk.run(["data", "merge", "none/*.jsonl", "-o", "x.jsonl"])
            .refused(3)
            .contains("matches no file")
    );
}

#[test]
fn a_split_is_that_of_the_guides_python() {
    let desk = Desk::new();
    let rows: Vec<String> = (0..22).map(|i| row(&format!("q{i}"), "é")).collect();
    desk.write("all.jsonl", rows.join("\n"));
    let report = desk.run(["data", "split", "all.jsonl", "--json"]).json();
    assert_eq!(
        report["train"]["rows"].as_array().unwrap()[..4],
        [21, 5, 2, 15].map(Value::from)
    );
    assert_eq!(report["validation"]["rows"], serde_json::json!([0, 3, 20]));
    let first = r#"{"messages": [{"role": "user", "content": "q21"}, {"role": "assistant", "content": "\u00e9"}]}"#;
    assert_eq!(read(&desk, "train.jsonl").lines().next(), Some(first));
    assert_eq!(read(&desk, "val.jsonl").lines().count(), 3);
    let text = desk
        .run([
            "data",
            "split",
            "all.jsonl",
            "--train",
            "a.jsonl",
            "--validation",
            "b.jsonl",
            "--as-is",
        ])
        .ok();
    assert_eq!(
        text,
        "22 rows in 1 file\ntrain: 19 rows in `a.jsonl`\nvalidation: 3 rows in `b.jsonl`\n"
    );
    assert_eq!(read(&desk, "a.jsonl").lines().next(), Some(rows[21].as_str()));
    assert!(
        desk.run(["data", "split", "all.jsonl", "--train-fraction", "2"])
            .refused(2)
            .contains("not a share")
    );
}

// The whole path of the guide, with its own files.
#[test]
fn the_guides_commands_have_their_equal() {
    let Some(shared) = harness::checkout()
        .parent()
        .map(|parent| parent.join("shared"))
        .filter(|shared| shared.is_dir())
    else {
        eprintln!("skipped: the guide's commands need ../shared");
        return;
    };
    let desk = Desk::new();
    let data = |name: &str| shared.join("witness-evals/data").join(name).display().to_string();
    let files = ["attestors/*.jsonl", "policies/*.jsonl", "workflows/*.jsonl"].map(data);
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    desk.run([&["data", "validate", "--checks", "guide"], &files[..]].concat())
        .ok();
    desk.run([&["data", "merge", "--out", "witness-train.jsonl"], &files[..]].concat())
        .ok();
    desk.run(["data", "split", "witness-train.jsonl"]).ok();
    for name in ["train.jsonl", "val.jsonl"] {
        let recorded = std::fs::read_to_string(shared.join("oracle/seed_trainer").join(name)).unwrap();
        assert_eq!(read(&desk, name), recorded, "{name}");
    }
}

#[test]
fn statistics_count_roles_and_lengths() {
    let desk = Desk::new();
    desk.write(
        "a.jsonl",
        [row("q", "answer"), row("why", "so"), "{".to_owned()].join("\n"),
    );
    desk.write("b.txt", "Plain text.");
    let ran = desk.run(["data", "stats", "a.jsonl", "b.txt"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.out
            .starts_with("3 rows in 2 files; 1 bad row\nshapes: 2 messages, 1 text\ndigest: sha256:"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("assistant   2          8            8"), "{}", ran.out);
    assert!(ran.err.contains("data validate"));
    let json = desk.run(["data", "stats", "a.jsonl", "--json"]).json();
    assert_eq!(json["statistics"]["roles"]["user"]["chars"], 4);
    assert_eq!(json["statistics"]["chars"]["max"], 7);
}
