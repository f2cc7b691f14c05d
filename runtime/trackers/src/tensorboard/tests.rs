//! Against bytes of TensorBoard's own library, a file that torch's SummaryWriter left, and cuts at every byte.

use serde_json::json;

use super::*;
use crate::decode::{Wire, field, fields, hex, reference, tf_records};

fn create(directory: &Path, first_step: Option<u64>) -> TensorBoard {
    let run = TensorBoardRun {
        directory,
        unix_time_s: 1_400_000_000.25,
        host: "my host/7",
        process: 42,
        first_step,
    };
    TensorBoard::create(run).unwrap()
}

fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .map(|path| {
            (
                path.file_name().unwrap().to_str().unwrap().to_owned(),
                fs::read(path).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}

// The same events, serialised by TensorBoard 2.21's own message classes.
#[test]
fn events_equal_those_of_tensorboard() {
    let head = head(1.4e9, "w");
    assert_eq!(
        head.bytes(),
        hex("090000008093dcd4411a0d627261696e2e4576656e743a3252030a0177")
    );
    let loss = scalar(1, 1_400_000_001.0, "train/loss", 2.9);
    let wanted = "090000408093dcd44110012a130a110a0a747261696e2f6c6f7373159a993940";
    assert_eq!(loss.bytes(), hex(wanted));
    let zero = scalar(0, 1_400_000_001.0, "eval/loss", 0.0);
    assert_eq!(
        zero.bytes(),
        hex("090000408093dcd4412a120a100a096576616c2f6c6f73731500000000")
    );
    let told = text(1_400_000_001.0, "settings", "{}");
    let wanted = "090000408093dcd4412a310a2f0a1573657474696e67732f746578745f73756d6d617279420c080712041202080142027b7d4a080a060a0474657874";
    assert_eq!(told.bytes(), hex(wanted));
}

// The file of torch's SummaryWriter, taken apart and put together again from its values: every byte is the same.
#[test]
fn the_recorded_file_is_written_again() {
    let Some(path) = reference("oracle/trackers/tb_fixture/events.out.tfevents.1795356838.vm.2143.0") else {
        return;
    };
    let recorded = fs::read(path).unwrap();
    let mut again = Vec::new();
    let mut losses = Vec::new();
    for event in tf_records(&recorded) {
        let Some(Wire::Fixed64(wall_time)) = field(&event, 1) else {
            panic!("no time")
        };
        let wall_time = f64::from_bits(wall_time);
        let step = field(&event, 2).map_or(0, |step| step.integer()) as u64;
        let message = match field(&event, 5) {
            None => {
                let source = field(&event, 10).unwrap();
                head(wall_time, field(source.bytes(), 1).unwrap().text())
            }
            Some(summary) => {
                let value = field(summary.bytes(), 1).unwrap();
                let tag = field(value.bytes(), 1).unwrap();
                match field(value.bytes(), 2) {
                    Some(Wire::Fixed32(bits)) => {
                        losses.push(f32::from_bits(bits));
                        scalar(step, wall_time, tag.text(), f32::from_bits(bits))
                    }
                    _ => {
                        let tensor = field(value.bytes(), 8).unwrap();
                        let tag = tag.text().strip_suffix("/text_summary").unwrap().to_owned();
                        text(wall_time, &tag, field(tensor.bytes(), 8).unwrap().text())
                    }
                }
            }
        };
        again.extend(record(message.bytes()));
    }
    assert_eq!(again, recorded);
    assert_eq!(losses, [3.0, 2.9, 2.8, 2.7, 2.6]);
}

// What is told is in the file at once; cut anywhere, the whole records before the cut are read.
#[test]
fn every_call_reaches_the_file_and_any_cut_is_readable() {
    let directory = tempfile::tempdir().unwrap();
    let runs = directory.path().join("runs/first");
    let mut tracker = create(&runs, None);
    let count = || tf_records(&files(&runs)[0].1).len();
    assert_eq!(count(), 1);
    tracker
        .scalars(1, 1.4e9, &[("train/loss", 2.0), ("train/learning_rate", 1e-4)])
        .unwrap();
    assert_eq!(count(), 3);
    tracker
        .scalars(2, 1.4e9, &[("eval/loss", f64::NAN), ("x", f64::INFINITY)])
        .unwrap();
    let settings = json!({"learning_rate": 2e-4, "lora": {"r": 16}});
    tracker.settings(1.4e9, settings.as_object().unwrap()).unwrap();
    tracker.finish(1.4e9, Outcome::Finished).unwrap();
    let (name, file) = files(&runs).remove(0);
    assert_eq!(name, "events.out.tfevents.1400000000.my-host-7.42.0");
    let records = tf_records(&file);
    assert_eq!(records.len(), 6);
    let value = field(&records[5], 5).map(|summary| field(summary.bytes(), 1).unwrap());
    let tensor = field(value.unwrap().bytes(), 8).unwrap();
    let shown = field(tensor.bytes(), 8).unwrap();
    assert_eq!(
        shown.text(),
        "    {\n      \"learning_rate\": 0.0002,\n      \"lora\": {\n        \"r\": 16\n      }\n    }"
    );
    for cut in 0..file.len() {
        let read = tf_records(&file[..cut]);
        assert!(read.len() < 6 && read[..] == records[..read.len()]);
    }
}

// A run that goes on has a new file that makes TensorBoard forget the steps to come; nothing is ever overwritten.
#[test]
fn a_resumed_run_has_a_file_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    create(directory.path(), None);
    create(directory.path(), Some(5));
    let files = files(directory.path());
    assert_eq!(files.len(), 2);
    assert!(files[1].0.ends_with(".42.1"), "{}", files[1].0);
    let records = tf_records(&files[1].1);
    let started = fields(&records[1]);
    assert_eq!(started[1..], [(2, Wire::Integer(5)), (7, Wire::Bytes(vec![8, 1]))]);
}

#[test]
fn a_directory_that_cannot_be_made_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = TensorBoard::create(TensorBoardRun {
        directory: &file.join("runs"),
        unix_time_s: 0.0,
        host: "",
        process: 1,
        first_step: None,
    });
    let diagnostic = witness_diagnostics::Diagnostic::from(error.unwrap_err());
    assert_eq!(diagnostic.code, "witness::trackers::io");
    assert!(!diagnostic.hints.is_empty());
}
