//! Against bytes of W&B's own message classes, a run that W&B left, and cuts at every byte.

use serde_json::json;

use super::*;
use crate::decode::{field, fields, hex, reference, wandb_records};

fn run<'a>(directory: &'a Path, is_resumed: bool) -> WandbRun<'a> {
    WandbRun {
        directory,
        unix_time_s: 1_795_356_802.5,
        id: "abc123",
        project: "p",
        entity: "me",
        name: "n",
        group: "g",
        tags: &["a", "b"],
        notes: "x",
        host: "vm",
        is_resumed,
    }
}

// The same records, serialised by W&B 0.31's own message classes.
#[test]
fn records_equal_those_of_wandb() {
    let check = |record: records::Record, number, wanted| assert_eq!(record.numbered(number), hex(wanted));
    let directory = Path::new("");
    check(
        records::run(&run(directory, true)),
        2,
        "08028a01340a0661626331323312026d651a017032016742016e4a01785201615201626a02766d8a010c0882f18bd8061080cab5ee01c00101",
    );
    check(
        records::metric(GLOBAL_STEP),
        3,
        "080362170a11747261696e2f676c6f62616c5f7374657032021801",
    );
    check(
        records::metric_of_all(GLOBAL_STEP),
        4,
        "0804621c12012a2211747261696e2f676c6f62616c5f73746570320408011801",
    );
    let settings = json!({"lora": {"r": 16}, "learning_rate": 2e-4});
    check(
        records::config(settings.as_object().unwrap()),
        5,
        "08052a2d0a110a046c6f72618201087b2272223a31367d0a180a0d6c6561726e696e675f72617465820106302e30303032",
    );
    let items = [("train/loss", 2.9), ("bad", f64::NAN)].map(|(key, value)| (key, records::number(value)));
    let steps = [(GLOBAL_STEP, "10".to_owned()), ("_step", "7".to_owned())];
    let items: Vec<(&str, String)> = items.into_iter().chain(steps).collect();
    check(
        records::history(&items, 7),
        300,
        "08ac02124c0a12120a747261696e2f6c6f7373820103322e390a0b12036261648201034e614e0a181211747261696e2f676c6f62616c5f7374657082010231300a0b12055f737465708201013712020807",
    );
    check(records::exit(255, 90), 6, "080692010508ff01105a");
    check(
        records::runtime_summary(90),
        7,
        "08071a290a1612065f77616e6462120772756e74696d6582010239300a0f0a085f72756e74696d658201023930",
    );
}

// W&B's own file: framed again, it is the same to the byte; its histories, metrics' numbers and all, are those our records make of their items.
#[test]
fn the_recorded_run_is_written_again() {
    let Some(path) = reference("oracle/trackers/wandb/offline-run-20261122_141321-fixture01/run-fixture01.wandb")
    else {
        return;
    };
    let recorded = fs::read(path).unwrap();
    let records = wandb_records(&recorded);
    let directory = tempfile::tempdir().unwrap();
    let again = directory.path().join("again");
    Log::create(&again).unwrap().append(&records).unwrap();
    assert!(fs::read(&again).unwrap() == recorded);

    let mut losses = Vec::new();
    for record in &records {
        let number = field(record, 1).unwrap().integer();
        if let Some(history) = field(record, 2) {
            let parts = fields(history.bytes());
            let items: Vec<(String, String)> = parts
                .iter()
                .filter(|(number, _)| *number == 1)
                .map(|(_, item)| {
                    let part = |number| field(item.bytes(), number).unwrap().text().to_owned();
                    (part(2), part(16))
                })
                .collect();
            let items: Vec<(&str, String)> = items.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
            let step = field(field(history.bytes(), 2).unwrap().bytes(), 1);
            let step = step.map_or(0, |step| step.integer());
            assert_eq!(&records::history(&items, step).numbered(number), record);
            let loss = items.iter().find(|(key, _)| *key == "train/loss").unwrap();
            losses.push(loss.1.parse::<f64>().unwrap());
        }
        if let Some(exit) = field(record, 18) {
            let seconds = field(exit.bytes(), 2).unwrap().integer();
            assert_eq!(fields(records::exit(0, seconds).numbered(number).as_slice())[1].1, exit);
        }
    }
    assert_eq!(losses, [3.0, 2.9, 2.8, 2.7, 2.6]);
}

// Records of every length around a block's edge, in one write and in many.
#[test]
fn records_cross_blocks() {
    let directory = tempfile::tempdir().unwrap();
    for fill in 32_768 - 40..32_768 + 3 {
        let records = [vec![1; fill - 14], vec![2; 9], vec![3; 70_000], Vec::new(), vec![5]];
        let path = directory.path().join(fill.to_string());
        let mut log = Log::create(&path).unwrap();
        for record in &records[..2] {
            log.append(std::slice::from_ref(record)).unwrap();
        }
        log.append(&records[2..]).unwrap();
        assert!(wandb_records(&fs::read(&path).unwrap()) == records, "{fill}");
    }
}

fn only_file(wandb: &Path, name: &str) -> Vec<u8> {
    fs::read(wandb.join(name).join("run-abc123.wandb")).unwrap()
}

// What is told is in the file at once; cut anywhere, the whole records before the cut are read.
#[test]
fn every_call_reaches_the_file_and_any_cut_is_readable() {
    let directory = tempfile::tempdir().unwrap();
    let mut tracker = WandbOffline::create(run(directory.path(), false)).unwrap();
    let wandb = directory.path().join("wandb");
    let name = "offline-run-20261122_141322-abc123";
    assert_eq!(tracker.directory(), wandb.join(name));
    let count = || wandb_records(&only_file(&wandb, name)).len();
    assert_eq!(count(), 4);
    let settings = json!({"learning_rate": 2e-4});
    tracker
        .settings(1_795_356_803.0, settings.as_object().unwrap())
        .unwrap();
    for step in 1..=3 {
        tracker
            .scalars(10 * step, 1_795_356_804.0, &[("train/loss", 1.5)])
            .unwrap();
        assert_eq!(count() as u64, 5 + 2 * step);
    }
    tracker.finish(1_795_356_900.0, Outcome::Stopped).unwrap();
    let file = only_file(&wandb, "latest-run");
    let records = wandb_records(&file);
    for (number, record) in (1..).zip(&records) {
        assert_eq!(field(record, 1).unwrap().integer(), number);
    }
    for cut in 0..file.len() {
        let read = wandb_records(&file[..cut]);
        assert!(read.len() < records.len() && read[..] == records[..read.len()]);
    }
    // Two segments of one second do not share a directory.
    let second = WandbOffline::create(run(directory.path(), true)).unwrap();
    assert_eq!(second.directory(), wandb.join("offline-run-20261122_141323-abc123"));
    assert!(wandb_records(&only_file(&wandb, "latest-run")).len() == 4);
}

// A segment cut anywhere is mended when its run goes on: it ends with its last whole record. Others, and what is no log, stay as they are.
#[test]
fn a_torn_segment_is_mended() {
    let directory = tempfile::tempdir().unwrap();
    let mut tracker = WandbOffline::create(run(directory.path(), false)).unwrap();
    tracker.scalars(1, 0.0, &[("train/loss", 1.5)]).unwrap();
    let path = tracker.directory().join("run-abc123.wandb");
    let mut log = Log::create(&directory.path().join("long")).unwrap();
    log.append(&[vec![7; 40_000], vec![8; 30_000]]).unwrap();
    for file in [
        fs::read(&path).unwrap(),
        fs::read(directory.path().join("long")).unwrap(),
    ] {
        let cuts = (0..file.len()).filter(|cut| cut % 997 == 0 || *cut < 30 || file.len() - cut < 30);
        for cut in cuts {
            fs::write(&path, &file[..cut]).unwrap();
            mend_segments(&directory.path().join("wandb"), "abc123").unwrap();
            let mended = fs::read(&path).unwrap();
            assert!(wandb_records(&mended) == wandb_records(&file[..cut]), "{cut}");
            assert!(cut < 7 || whole(&mended), "{cut}");
        }
        // A disk that lost its power may leave zeros, or other bytes, in place of the last record.
        for filler in [0, 0x5a] {
            fs::write(&path, [&file[..], &[filler; 100]].concat()).unwrap();
            mend_segments(&directory.path().join("wandb"), "abc123").unwrap();
            assert!(fs::read(&path).unwrap() == file);
        }
    }
    for other in ["bc123", "x"] {
        fs::write(&path, b"torn").unwrap();
        mend_segments(&directory.path().join("wandb"), other).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"torn");
    }
    WandbOffline::create(run(directory.path(), true)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"torn");
}

/// Says whether a log ends with a whole record.
fn whole(file: &[u8]) -> bool {
    let records = wandb_records(file);
    let directory = tempfile::tempdir().unwrap();
    let again = directory.path().join("again");
    Log::create(&again).unwrap().append(&records).unwrap();
    fs::read(again).unwrap() == file
}

#[test]
fn identifiers_that_are_no_file_names_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let long = "a".repeat(65);
    for id in ["", "../x", "a b", "ä", ".a", &long] {
        let run = WandbRun {
            id,
            ..run(directory.path(), false)
        };
        assert!(
            matches!(WandbOffline::create(run), Err(TrackerError::RunId { .. })),
            "{id}"
        );
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    // Names of models are what people call runs.
    let run = WandbRun {
        id: "llama-3.1_lora",
        ..run(directory.path(), false)
    };
    assert!(WandbOffline::create(run).is_ok());
}

// Leap days, ends of years, and a day of the Gregorian calendar's own exceptions; by GNU date.
#[test]
fn dates_are_those_of_the_calendar() {
    for (second, wanted) in [
        (0, "19700101_000000"),
        (951_782_400, "20000229_000000"),
        (951_868_799, "20000229_235959"),
        (1_767_225_599, "20251231_235959"),
        (1_767_225_600, "20260101_000000"),
        (1_795_356_802, "20261122_141322"),
        (4_107_542_400, "21000301_000000"),
    ] {
        assert_eq!(date_and_time(second), wanted);
    }
}
