//! Bad ends: of the plugin, of the worker, of the daemon, of the disk. Whatever it is, stored models stay, lines and checkpoints up to
//! there are kept, and the run goes on when it is told to.

use http::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::desk::{Desk, assert_numbered, is_step, outline, steps};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("ends::a_product_that_is_none_fails_the_run_and_nothing_else", lies),
        case(
            "ends::a_plugin_that_breaks_fails_its_run_with_the_reason",
            broken_plugin,
        ),
        case("ends::a_killed_worker_fails_its_run_which_goes_on_later", killed_worker),
        case("ends::a_killed_daemon_loses_nothing", killed_daemon),
        case("ends::a_daemon_that_ends_lets_the_run_save", ended_daemon),
        case("ends::a_full_disk_is_the_runs_own_trouble", full_disk),
        case("ends::a_base_that_is_gone_is_told_at_the_resume", base_gone),
    ]
}

/// Returns the processes of workers that train: those whose command line is that of a worker and that stand in the idle class.
fn trainer(desk: &Desk, id: &str) -> Pid {
    let log = std::fs::read_to_string(desk.home.path().join("daemon.log")).unwrap();
    let line = log
        .lines()
        .rev()
        .find(|line| line.contains("training") && line.contains(id) && line.contains("pid="));
    let pid = line
        .unwrap()
        .split("pid=")
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    Pid::from_raw(pid.parse().unwrap()).unwrap()
}

async fn lies() {
    let desk = Desk::new().await;
    desk.train(&desk.order("kept", "row\n", json!({"max_steps": 1})).await)
        .await;
    let before = desk.post("/api/show", &json!({"model": "kept"})).await.1;
    for (deed, expected) in [
        ("lie_files", "not_there.safetensors"),
        ("lie_path", "leaves its directory"),
        ("lie_directory", "leaves its directory"),
        ("wrong_reply", "no report"),
    ] {
        let order = desk
            .order("kept", &format!("row\nmode run:{deed}\n"), json!({"max_steps": 2}))
            .await;
        let all = desk.train(&order).await;
        let end = all.last().unwrap();
        assert_eq!(end["state"], "failed", "{deed}: {end}");
        assert!(end["error"].to_string().contains(expected), "{deed}: {end}");
    }
    let mut after = desk.post("/api/show", &json!({"model": "kept"})).await.1;
    after["modified_at"] = before["modified_at"].clone();
    assert_eq!(after, before);
}

async fn broken_plugin() {
    let desk = Desk::new().await;
    for (deed, expected) in [
        ("panic", "the plugin panicked"),
        ("segfault", "SIGSEGV"),
        ("exit3", "exited with code 3"),
        ("bad_event", "an event is not JSON"),
        ("refuse_silently", "did not say why"),
    ] {
        let order = desk.order("new", &format!("row\nmode run:{deed}\n"), json!({})).await;
        let all = desk.train(&order).await;
        let end = all.last().unwrap();
        assert_eq!(
            (&end["state"], &end["model"]),
            (&json!("failed"), &Value::Null),
            "{deed}"
        );
        assert!(end["error"].to_string().contains(expected), "{deed}: {end}");
        let job = desk.job(all[0]["id"].as_str().unwrap()).await;
        assert_eq!((&job["state"], &job["error"]), (&json!("failed"), &end["error"]));
    }
    // Too much to say: all of it arrives, and the run is done.
    let flood = desk
        .order("new", "row\nmode run:flood_events\n", json!({"max_steps": 1}))
        .await;
    let all = desk.train(&flood).await;
    assert_numbered(&all, 0);
    let statuses = all.iter().filter(|line| line["type"] == "status").count();
    assert_eq!((statuses, &all.last().unwrap()["state"]), (5_000, &json!("done")));
}

async fn killed_worker() {
    let desk = Desk::new().await;
    let order = desk
        .order("new", "row\nstep_ms 5\n", json!({"max_steps": 80, "save_steps": 10}))
        .await;
    let id = desk.start(&order).await;
    desk.until(&id, 0, is_step(25)).await;
    kill_process(trainer(&desk, &id), Signal::KILL).unwrap();
    let failed = desk.follow(&id, 0).await;
    let error = failed.last().unwrap()["error"].to_string();
    assert!(
        error.contains("SIGKILL") && error.contains(&format!("witness train resume {id}")),
        "{error}"
    );
    assert!(
        desk.chat("new", Some("checkpoint-10"), "hi").await.is_ok(),
        "what was stored stays"
    );
    desk.post(&format!("/api/train/{id}/resume"), &json!({})).await;
    let all = desk.follow(&id, failed.len()).await;
    let resumed_from = all.iter().find(|line| line["type"] == "started").unwrap()["resumed_from"]
        .as_u64()
        .unwrap();
    assert!(resumed_from >= 20 && resumed_from % 10 == 0, "{resumed_from}");
    assert_eq!(steps(&all), (resumed_from + 1..=80).collect::<Vec<_>>());
    assert_eq!(all.last().unwrap()["state"], "done");
}

async fn killed_daemon() {
    let mut desk = Desk::new().await;
    let order = desk
        .order("new", "row\nstep_ms 5\n", json!({"max_steps": 90, "save_steps": 10}))
        .await;
    let id = desk.start(&order).await;
    let waiting = desk
        .start(&desk.order("second", "row\n", json!({"max_steps": 1})).await)
        .await;
    desk.until(&id, 0, |line| line["type"] == "published").await;
    for kill_at in [15, 45] {
        let from = desk.job(&id).await["n_events"].as_u64().unwrap() as usize;
        let seen = desk.until(&id, from, is_step(kill_at)).await;
        desk.kill();
        // What a kill in the middle of a line leaves.
        let events = desk.run_directory(&id).join("events.jsonl");
        let mut text = std::fs::read_to_string(&events).unwrap();
        text.push_str("{\"seq\":");
        std::fs::write(&events, text).unwrap();
        desk.restart();
        let all = desk.follow(&id, 0).await;
        assert_numbered(&all, 0);
        assert_eq!(all[from..from + seen.len()], seen, "every line that was shown is there");
        assert_eq!(outline(&all[all.len() - 2..]), ["job:interrupted", "end:interrupted"]);
        assert_eq!(
            desk.job(&waiting).await["state"],
            "interrupted",
            "what waited does not begin by itself"
        );
        assert!(
            desk.chat("new", Some("checkpoint-10"), "hi").await.is_ok(),
            "what was stored stays"
        );
        let (status, answer) = desk.post(&format!("/api/train/{id}/resume"), &json!({})).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
    let all = desk.follow(&id, 0).await;
    assert_eq!(all.last().unwrap()["state"], "done");
    let starts: Vec<&Value> = all.iter().filter(|line| line["type"] == "started").collect();
    assert_eq!(starts.len(), 3);
    // A worker works on until it sees that its daemon is gone, so it may have saved more than anybody was shown.
    let from = starts[2]["resumed_from"].as_u64().unwrap();
    assert!((40..90).contains(&from), "{}", starts[2]);
    let last: Vec<u64> = steps(&all).into_iter().rev().take(90 - from as usize).rev().collect();
    assert_eq!(last, (from + 1..=90).collect::<Vec<_>>());
}

async fn ended_daemon() {
    let mut desk = Desk::new().await;
    let order = desk
        .order(
            "new",
            "row\nstep_ms 5\n",
            json!({"max_steps": 100000, "save_steps": 100000}),
        )
        .await;
    let id = desk.start(&order).await;
    desk.until(&id, 0, is_step(5)).await;
    desk.end();
    desk.restart();
    let all = desk.follow(&id, 0).await;
    let kinds = outline(&all);
    assert_eq!(kinds[kinds.len() - 2..], ["job:interrupted", "end:interrupted"]);
    assert_eq!(
        kinds.iter().filter(|kind| *kind == "end:interrupted").count(),
        1,
        "it was told once"
    );
    assert_eq!(
        desk.job(&id).await["checkpoints"].as_array().unwrap().len(),
        1,
        "it saved"
    );
}

/// A file that takes nothing stands in for a disk that is full.
async fn full_disk() {
    let desk = Desk::new().await;
    let order = desk
        .order("new", "row\nstep_ms 5\n", json!({"max_steps": 60, "save_steps": 10}))
        .await;
    let id = desk.start(&order).await;
    desk.until(&id, 0, is_step(12)).await;
    desk.post(&format!("/api/train/{id}/stop"), &json!({})).await;
    let before = desk.follow(&id, 0).await;
    let events = desk.run_directory(&id).join("events.jsonl");
    std::fs::rename(&events, events.with_extension("aside")).unwrap();
    std::os::unix::fs::symlink("/dev/full", &events).unwrap();
    let (status, _) = desk.post(&format!("/api/train/{id}/resume"), &json!({})).await;
    assert_eq!(status, StatusCode::OK);
    // A neighbour waits for its end, which cannot be told, and runs.
    let other = desk.order("other", "row\n", json!({"max_steps": 2})).await;
    assert_eq!(desk.train(&other).await.last().unwrap()["state"], "done");
    let job = desk.job(&id).await;
    assert_eq!(
        (&job["state"], &job["error"]["code"]),
        (&json!("failed"), &json!("witness::daemon::run_files"))
    );
    assert!(
        job["error"]["error"].as_str().unwrap().contains("No space left"),
        "{job}"
    );
    // The disk has room again.
    std::fs::remove_file(&events).unwrap();
    std::fs::rename(events.with_extension("aside"), &events).unwrap();
    desk.post(&format!("/api/train/{id}/resume"), &json!({})).await;
    let all = desk.follow(&id, 0).await;
    assert_numbered(&all, 0);
    assert_eq!(all[..before.len()], before);
    assert_eq!(all.last().unwrap()["state"], "done");
    assert_eq!(*steps(&all).last().unwrap(), 60);
}

async fn base_gone() {
    let mut desk = Desk::new().await;
    let order = desk
        .order(
            "new",
            "row\nstep_ms 5\n",
            json!({"max_steps": 100000, "save_steps": 100000}),
        )
        .await;
    let id = desk.start(&order).await;
    desk.until(&id, 0, is_step(2)).await;
    // The base can be deleted while it is trained on: the run holds its files.
    desk.send(
        http::Method::DELETE,
        "/api/delete",
        json!({"model": "base"}).to_string().into_bytes(),
        &[],
    )
    .await;
    let seen = desk.job(&id).await["n_events"].as_u64().unwrap() as usize;
    desk.until(&id, seen, |line| line["type"] == "step").await;
    desk.kill();
    let models = desk.home.path().join("models/blobs");
    let base = models.join(witness_registry::Digest::of(crate::desk::BASE).file_name());
    std::fs::remove_file(base).unwrap();
    desk.restart();
    let (status, error) = desk.post(&format!("/api/train/{id}/resume"), &json!({})).await;
    assert_eq!(
        (status, &error["code"]),
        (StatusCode::NOT_FOUND, &json!("witness::daemon::run_base_gone"))
    );
    assert_eq!(desk.job(&id).await["state"], "interrupted");
    // The same files under another name do.
    desk.create_base("elsewhere", crate::desk::BASE).await;
    let (status, answer) = desk.post(&format!("/api/train/{id}/resume"), &json!({})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    desk.until(&id, seen, |line| line["type"] == "started").await;
}
