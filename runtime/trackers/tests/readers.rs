//! What the trackers' own programs read of what we write: TensorBoard's event accumulator, and W&B's `leet inspect` and `sync`.
//!
//! They are looked for in the Python that WITNESS_TEST_PYTHON names, else in `python3`; without them a test says that it was skipped, and passes.

#![expect(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use witness_trackers::{Outcome, TensorBoard, TensorBoardRun, Tracker, WandbOffline, WandbRun};

const START_S: f64 = 1_795_356_802.5;

/// Returns a Python that has a package, or nothing, said.
fn python_with(package: &str) -> Option<String> {
    let named = std::env::var("WITNESS_TEST_PYTHON").ok();
    let mut candidates = named.into_iter().chain(["python3".to_owned()]);
    let found = candidates.find(|python| {
        let probe = Command::new(python).args(["-c", &format!("import {package}")]).output();
        probe.is_ok_and(|output| output.status.success())
    });
    if found.is_none() {
        eprintln!("skipped: no python with PyPI's `{package}`; name one in WITNESS_TEST_PYTHON");
    }
    found
}

fn run(python: &str, script: &str, arguments: &[&Path]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script);
    let output = Command::new(python).arg(script).args(arguments).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}{complaint}");
    serde_json::from_str(&told).unwrap()
}

fn settings() -> Value {
    json!({"learning_rate": 2e-4, "base": "tiny", "lora": {"r": 16}})
}

/// Tells of steps `first` to `last` a loss of one over the step, and an evaluation at every tenth.
fn tell(tracker: &mut dyn Tracker, first: u64, last: u64) {
    for step in first..=last {
        let time = START_S + step as f64;
        let values = [("train/loss", 1.0 / step as f64), ("train/learning_rate", 2e-4)];
        tracker.scalars(step, time, &values).unwrap();
        if step.is_multiple_of(10) {
            tracker
                .scalars(step, time, &[("eval/loss", 2.0 / step as f64)])
                .unwrap();
        }
    }
}

/// Cuts the last bytes off a file, as a process that is killed while it writes may leave it.
fn tear(path: &Path) {
    let whole = fs::read(path).unwrap();
    fs::write(path, &whole[..whole.len() - 5]).unwrap();
}

// A run is killed at step 25 inside a record, and goes on from its checkpoint at step 20.
#[test]
fn tensorboard_reads_a_run_that_was_killed_and_went_on() {
    let Some(python) = python_with("tensorboard") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let create = |unix_time_s, first_step| {
        TensorBoard::create(TensorBoardRun {
            directory: directory.path(),
            unix_time_s,
            host: "vm",
            process: 7,
            first_step,
        })
    };
    let mut tracker = create(START_S, None).unwrap();
    tracker.settings(START_S, settings().as_object().unwrap()).unwrap();
    tell(&mut tracker, 1, 25);
    for entry in fs::read_dir(directory.path()).unwrap() {
        tear(&entry.unwrap().path());
    }
    let told = run(&python, "tensorboard_reader.py", &[directory.path()]);
    // The last record was the rate of step 25.
    assert_eq!(told["scalars"]["train/loss"].as_array().unwrap().len(), 25);
    assert_eq!(told["scalars"]["train/learning_rate"].as_array().unwrap().len(), 24);
    let losses = told["scalars"]["train/loss"].as_array().unwrap();
    assert_eq!(losses[3], json!([4, START_S + 4.0, 0.25]));
    assert!(
        told["texts"]["settings/text_summary"][0]
            .as_str()
            .unwrap()
            .contains("\"learning_rate\": 0.0002")
    );

    let mut resumed = create(START_S + 100.0, Some(21)).unwrap();
    tell(&mut resumed, 21, 30);
    resumed.scalars(31, START_S, &[("train/loss", f64::NAN)]).unwrap();
    resumed.finish(START_S + 200.0, Outcome::Finished).unwrap();
    let told = run(&python, "tensorboard_reader.py", &[directory.path()]);
    let steps = |tag: &str| -> Vec<u64> {
        let events = told["scalars"][tag].as_array().unwrap().iter();
        events.map(|event| event[0].as_u64().unwrap()).collect()
    };
    assert_eq!(steps("train/loss"), (1..=31).collect::<Vec<_>>());
    assert_eq!(steps("train/learning_rate"), (1..=30).collect::<Vec<_>>());
    assert_eq!(steps("eval/loss"), [10, 20, 30]);
    assert_eq!(told["scalars"]["train/loss"][30][2], json!("nan"));
}

// One run that ends; one that is killed inside a record and goes on as a second segment; one that is killed between records.
#[test]
fn wandb_inspects_and_syncs_our_runs() {
    let Some(python) = python_with("wandb") else { return };
    let directory = tempfile::tempdir().unwrap();
    let create = |id, unix_time_s, is_resumed| {
        WandbOffline::create(WandbRun {
            directory: directory.path(),
            unix_time_s,
            id,
            project: "attestors",
            entity: "",
            name: "expert",
            group: "",
            tags: &["lora"],
            notes: "",
            host: "vm",
            is_resumed,
        })
        .unwrap()
    };
    let settings = settings();
    let settings = settings.as_object().unwrap();
    let mut whole = create("whole", START_S, false);
    whole.settings(START_S, settings).unwrap();
    tell(&mut whole, 1, 400);
    whole
        .scalars(
            401,
            START_S + 401.0,
            &[("train/grad_norm", f64::NAN), ("x", f64::INFINITY)],
        )
        .unwrap();
    whole.finish(START_S + 402.0, Outcome::Finished).unwrap();
    let mut killed = create("killed", START_S, false);
    killed.settings(START_S, settings).unwrap();
    tell(&mut killed, 1, 25);
    tear(&killed.directory().join("run-killed.wandb"));
    let mut resumed = create("killed", START_S + 100.0, true);
    resumed.settings(START_S, settings).unwrap();
    tell(&mut resumed, 21, 30);
    resumed.finish(START_S + 130.0, Outcome::Failed).unwrap();

    let mut open = create("open", START_S, false);
    tell(&mut open, 1, 3);

    let directories = [
        whole.directory(),
        killed.directory(),
        resumed.directory(),
        open.directory(),
    ];
    let told = run(&python, "wandb_readers.py", &directories);
    let inspected = |directory: &Path| &told["inspected"][directory.file_name().unwrap().to_str().unwrap()];
    let found = inspected(whole.directory());
    for (key, wanted) in [
        ("config", json!(settings)),
        ("project", json!("attestors")),
        ("name", json!("expert")),
        ("run_id", json!("whole")),
        ("tags", json!(["lora"])),
        ("state", json!("finished")),
        ("exit_code", json!(0)),
        ("start_time", json!("2026-11-22T14:13:22.5Z")),
    ] {
        assert_eq!(found[key], wanted, "{key} of {found}");
    }
    assert_eq!(found["summary"]["train/loss"], json!(1.0 / 400.0));
    assert_eq!(found["summary"]["x"], json!("Infinity"));
    // The history of step 25 was torn; its summary stands before it.
    assert_eq!(inspected(killed.directory())["summary"]["train/global_step"], json!(25));
    assert_eq!(inspected(resumed.directory())["state"], json!("failed"));
    assert_eq!(
        inspected(resumed.directory())["summary"]["train/global_step"],
        json!(30)
    );

    let synced = told["synced"].as_str().unwrap();
    assert_eq!(synced.matches("Finished syncing").count(), 4, "{synced}");
    assert_eq!(told["runs"]["open"]["history"].as_array().unwrap().len(), 3);
    let synced = &told["runs"]["whole"];
    assert_eq!(synced["exit_code"], json!(0));
    // 400 steps, 40 evaluations and the last call.
    let history = synced["history"].as_array().unwrap();
    assert_eq!(history.len(), 441);
    assert_eq!(history[3]["train/loss"], json!(0.25));
    assert_eq!(history[3]["_timestamp"], json!(START_S + 4.0));
    assert_eq!(history[10]["eval/loss"], json!(0.2));
    assert_eq!(history[10]["_step"], json!(10));
    assert_eq!(history[440]["train/global_step"], json!(401));
    assert_eq!(
        [&history[440]["train/grad_norm"], &history[440]["x"]],
        ["NaN", "Infinity"]
    );
    assert_eq!(synced["summary"]["train/loss"], json!(1.0 / 400.0));
    // Both segments: 24 steps and 2 evaluations, then 10 and 1.
    let history = told["runs"]["killed"]["history"].as_array().unwrap();
    let steps: Vec<u64> = history
        .iter()
        .map(|row| row["train/global_step"].as_u64().unwrap())
        .collect();
    assert_eq!([steps.len(), steps[25] as usize, steps[26] as usize], [37, 24, 21]);
    assert_eq!(told["runs"]["killed"]["exit_code"], json!(1));
    let upserts = synced["upserts"].as_array().unwrap();
    assert_eq!(upserts[0]["displayName"], json!("expert"));
    let config: Value = serde_json::from_str(upserts.last().unwrap()["config"].as_str().unwrap()).unwrap();
    assert_eq!(config["learning_rate"]["value"], json!(2e-4));
    assert_eq!(config["lora"]["value"], json!({"r": 16}));
    // Field 5 of the second metric: its x-axis is the first one.
    assert_eq!(config["_wandb"]["value"]["m"][0]["1"], json!("train/global_step"));
    assert_eq!(config["_wandb"]["value"]["m"][1]["5"], json!(1));
}
