//! Input that means harm: cut, mutated, deep, long, endless. Nothing may panic, and what cannot be used must say so.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;

use witness_dataset::random::PythonRandom;
use witness_dataset::{Checks, Line, ReadOptions, Reader, Severity, Sources};

fn read_with(bytes: &[u8], options: ReadOptions) -> Vec<Line> {
    let mut file = tempfile::NamedTempFile::with_suffix(".jsonl").unwrap();
    file.write_all(bytes).unwrap();
    let sources = Sources::find(&[file.path()]).unwrap();
    Reader::new(&sources, options).map(Result::unwrap).collect()
}

/// Reads and checks what holds of every line, whatever stands in it.
fn read(bytes: &[u8]) -> Vec<Line> {
    let options = ReadOptions {
        checks: Checks::Guide,
        ..ReadOptions::default()
    };
    let lines = read_with(bytes, options);
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(line.at.line, i as u64 + 1);
        let has_error = line.faults.iter().any(|fault| fault.severity == Severity::Error);
        assert_eq!(line.row.is_none(), has_error || line.is_blank(), "{:?}", line.faults);
        for fault in &line.faults {
            assert!(fault.place.line >= 1 && fault.place.column >= 1);
        }
    }
    lines
}

const ROWS: &str = concat!(
    r#"{"messages":[{"role":"system","content":"é \ud83d\ude00"},{"role":"user","content":[{"type":"text","text":"hi"}]},{"role":"assistant","content":"ho","weight":1}],"tools":[{"a":1}]}"#,
    "\n",
    r#"{"conversations":[{"from":"human","value":"a\nb"},{"from":"gpt","value":"c"}],"system":"x"}"#,
    "\n",
    r#"{"instruction":"a","input":"b","output":"c"}"#,
    "\n",
    r#"{"prompt":"a","completion":[{"role":"assistant","content":null,"tool_calls":[{"id":1}]}]}"#,
    "\n",
);

fn code(line: &Line) -> &'static str {
    line.faults.first().map_or("fine", |fault| fault.code.name())
}

#[test]
fn a_file_cut_at_any_byte_reads_up_to_there() {
    for end in 0..ROWS.len() {
        let lines = read(&ROWS.as_bytes()[..end]);
        let whole = ROWS.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count();
        assert!(lines.len() == whole || lines.len() == whole + 1);
    }
}

// Seeded, so that a failure repeats: bytes overwritten, removed, doubled and swapped.
#[test]
fn mutated_rows_do_no_harm() {
    let mut random = PythonRandom::seeded(7);
    for _ in 0..3000 {
        let mut bytes = ROWS.as_bytes().to_vec();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(4) {
                0 => bytes[at] = random.bits(8) as u8,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, br#"{}[]",:\0"#[random.below(9) as usize]),
                _ => {
                    let other = random.below(bytes.len() as u64) as usize;
                    bytes.swap(at, other);
                }
            }
        }
        read(&bytes);
    }
}

// A million levels would end a recursive reader's stack.
#[test]
fn depth_costs_no_stack() {
    const DEPTH: usize = 1_000_000;
    let deep = format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
    // Small enough to become a tree, too deep to be one.
    let tree = format!("{}{}", "[".repeat(DEPTH / 10), "]".repeat(DEPTH / 10));
    let deep_objects = format!("{}1{}", r#"{"a":"#.repeat(DEPTH), "}".repeat(DEPTH));
    for (line, expected) in [
        (deep.clone(), "not_an_object"),
        ("[".repeat(DEPTH), "not_json"),
        (deep_objects.clone(), "unknown_shape"),
        (format!(r#"{{"messages":{deep}}}"#), "wrong_type"),
        (
            format!(r#"{{"messages":[{{"role":"user","content":{deep}}}]}}"#),
            "wrong_type",
        ),
        (
            format!(r#"{{"prompt":"a","completion":"b","tools":{tree}}}"#),
            "not_json",
        ),
        (
            format!(
                r#"{{"messages":[{{"role":"user","content":"a"}},{{"role":"assistant","content":"b","tool_calls":{tree}}}]}}"#
            ),
            "not_json",
        ),
    ] {
        let lines = read(line.as_bytes());
        assert_eq!(code(&lines[0]), expected);
    }
    // What no shape asks for is skipped at any depth.
    let options = ReadOptions::default();
    let line = format!(r#"{{"text":"a","_metadata":{deep}}}"#);
    assert_eq!(code(&read_with(line.as_bytes(), options)[0]), "fine");
}

#[test]
fn many_messages_and_many_keys_meet_a_limit() {
    let messages = vec!["0"; 10_001].join(",");
    assert_eq!(
        code(&read(format!(r#"{{"messages":[{messages}]}}"#).as_bytes())[0]),
        "too_many"
    );
    let keys: Vec<String> = (0..1_001).map(|i| format!(r#""k{i}":0"#)).collect();
    assert_eq!(code(&read(format!("{{{}}}", keys.join(",")).as_bytes())[0]), "too_many");
    // A tree takes many times the memory of its text.
    let tools = vec!["0"; 600_000].join(",");
    let line = format!(r#"{{"prompt":"a","completion":"b","tools":[{tools}]}}"#);
    assert_eq!(code(&read(line.as_bytes())[0]), "too_many");
    // A thousand faults in one row are told as the first few.
    let messages = vec!["0"; 1_000].join(",");
    assert_eq!(
        read(format!(r#"{{"messages":[{messages}]}}"#).as_bytes())[0]
            .faults
            .len(),
        16
    );
}

// A near miss of a word of megabytes would take gigabytes to look for.
#[test]
fn long_words_are_quoted_short_and_compared_with_nothing() {
    let long = "useruser".repeat(1 << 20);
    for line in [
        format!(r#"{{"messages":[{{"role":"{long}","content":"a"}}]}}"#),
        format!(r#"{{"{long}":1}}"#),
        format!(r#"{{"messages":[{{"role":"user","{long}":"a"}}]}}"#),
    ] {
        let lines = read(line.as_bytes());
        assert!(lines[0].faults.iter().all(|fault| fault.message.len() < 300));
    }
}

#[test]
fn a_line_above_the_limit_is_passed_over_and_the_next_one_reads() {
    let long = "x".repeat(5000);
    let file = format!("{{\"text\":\"{long}\"}}\n{{\"text\":\"short\"}}\n{long}");
    let options = ReadOptions {
        line_bytes_max: 100,
        ..ReadOptions::default()
    };
    let lines = read_with(file.as_bytes(), options);
    assert_eq!(
        lines.iter().map(code).collect::<Vec<_>>(),
        ["line_too_long", "fine", "line_too_long"]
    );
    assert_eq!(
        lines[0].faults[0].message,
        "more than 100 bytes; is this one row a line?"
    );
}

#[test]
fn zeros_and_lone_carriage_returns_are_faults_not_crashes() {
    let lines = read(b"\0\0\0\n\r\n\r\r\n\xff\xfe{\0}\0\n\x1b[31m\n");
    assert_eq!(
        lines.iter().map(code).collect::<Vec<_>>(),
        ["not_json", "blank_line", "blank_line", "not_utf8", "not_json"]
    );
}
