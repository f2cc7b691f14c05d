//! A run from its order to its model: lines, followers, the queue, stop and resume.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::desk::{Desk, assert_numbered, is_step, lines, outline, steps};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("runs::a_run_reports_and_leaves_a_model", whole),
        case("runs::server_sent_events_go_on_where_they_broke_off", server_sent),
        case("runs::a_watcher_that_leaves_does_not_end_the_run", watcher_leaves),
        case("runs::one_runs_and_the_others_wait", queue),
        case("runs::a_stopped_run_goes_on_later", stop_and_resume),
    ]
}

async fn whole() {
    let desk = Desk::new().await;
    let mut order = desk
        .order("new", "row\n", json!({"max_steps": 5, "save_steps": 2, "seed": 9}))
        .await;
    order["system"] = json!("be brief");
    order["recipe"] = json!({"written": "by hand"});
    let all = desk.train(&order).await;
    assert_numbered(&all, 0);
    assert_eq!(steps(&all), [1, 2, 3, 4, 5]);
    let outline = outline(&all);
    assert_eq!(outline[..4], ["job:queued", "job:starting", "started", "job:running"]);
    assert_eq!(outline[outline.len() - 3..], ["published", "job:done", "end:done"]);
    assert_eq!(outline.iter().filter(|kind| *kind == "checkpoint").count(), 2);
    let id = all[0]["id"].as_str().unwrap();
    let end = all.last().unwrap();
    assert_eq!(
        (&end["model"], &end["reply"]["outcome"]),
        (&json!("new"), &json!("finished"))
    );
    // Everything again, and from the middle.
    assert_eq!(desk.follow(id, 0).await, all);
    assert_eq!(desk.follow(id, 5).await, all[5..]);
    let job = desk.job(id).await;
    assert_eq!(
        (&job["state"], &job["step"], &job["n_steps"]),
        (&json!("done"), &json!(5), &json!(5))
    );
    assert_eq!(
        (&job["checkpoints"], &job["n_events"]),
        (&json!([2, 4]), &json!(all.len()))
    );
    assert!(job["started_at"].is_string() && job["ended_at"].is_string() && job["error"].is_null());

    let (_, show) = desk.post("/api/show", &json!({"model": "new"})).await;
    let training = &show["witness"]["training"];
    assert_eq!(
        (&training["run"], &training["seed"], &training["step"]),
        (&json!(id), &json!(9), &json!(5))
    );
    assert_eq!(
        (&training["plugin"], &training["recipe"]["written"]),
        (&json!("hostile"), &json!("by hand"))
    );
    assert!(
        training["base"].as_str().unwrap().starts_with("sha256:"),
        "as the plugin says it: {training}"
    );
    assert_eq!(training["data"][0]["digest"], order["data"][0]["digest"]);
    assert_eq!(
        (&show["system"], &show["details"]["parent_model"]),
        (&json!("be brief"), &json!("base:latest"))
    );
    assert_eq!(
        show["witness"]["adapters"],
        json!(["default", "checkpoint-2", "checkpoint-4"])
    );
    assert!(desk.chat("new", None, "hello").await.unwrap().starts_with("[default@"));
    assert!(
        desk.chat("new", Some("checkpoint-4"), "hello")
            .await
            .unwrap()
            .starts_with("[checkpoint-4@")
    );
    let error = desk.chat("new", Some("checkpoint-3"), "hello").await.unwrap_err();
    assert!(
        error.contains("it has: default, checkpoint-2, checkpoint-4, base"),
        "{error}"
    );
    // The run's own rows are those that were uploaded.
    let rows = desk.run_directory(id).join("data/0001-rows.jsonl");
    assert_eq!(std::fs::read_to_string(rows).unwrap(), "row\n");
}

fn numbers(text: &str) -> Vec<u64> {
    let ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
    ids.map(|id| id.parse().unwrap()).collect()
}

async fn server_sent() {
    let desk = Desk::new().await;
    let order = desk.order("new", "row\nstep_ms 5\n", json!({"max_steps": 20})).await;
    let id = desk.start(&order).await;
    let accept = ("accept", "text/event-stream");
    let path = format!("/api/train/{id}/events");
    let (status, all) = desk.send(Method::GET, &path, Vec::new(), &[accept]).await;
    assert_eq!(status, StatusCode::OK);
    let last = numbers(&all).len() as u64;
    assert_eq!(
        numbers(&all),
        (0..last).collect::<Vec<_>>(),
        "it follows to the end by itself"
    );
    let data: Vec<Value> = all
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|text| serde_json::from_str(text).unwrap())
        .collect();
    assert_eq!(data, desk.follow(&id, 0).await);
    let (_, rest) = desk
        .send(Method::GET, &path, Vec::new(), &[accept, ("last-event-id", "9")])
        .await;
    assert_eq!(numbers(&rest), (10..last).collect::<Vec<_>>());
    let seen = (last - 1).to_string();
    let (status, nothing) = desk
        .send(Method::GET, &path, Vec::new(), &[accept, ("last-event-id", &seen)])
        .await;
    assert_eq!(
        (status, nothing.as_str()),
        (StatusCode::NO_CONTENT, ""),
        "a browser is not to come again"
    );
    for wrong in ["from=x", "follow=maybe"] {
        let (status, _) = desk.get(&format!("{path}?{wrong}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }
}

async fn watcher_leaves() {
    let desk = Desk::new().await;
    let order = desk.order("new", "row\nstep_ms 5\n", json!({"max_steps": 60})).await;
    let id = desk.start(&order).await;
    // `until` drops its connection.
    desk.until(&id, 0, is_step(3)).await;
    assert_eq!(steps(&desk.follow(&id, 0).await), (1..=60).collect::<Vec<_>>());
}

async fn queue() {
    let desk = Desk::new().await;
    let slow = desk
        .order("slow", "row\nstep_ms 5\n", json!({"max_steps": 100000}))
        .await;
    let first = desk.start(&slow).await;
    let second = desk
        .start(&desk.order("second", "row\n", json!({"max_steps": 1})).await)
        .await;
    let third = desk
        .start(&desk.order("third", "row\n", json!({"max_steps": 1})).await)
        .await;
    desk.until(&first, 0, is_step(1)).await;
    let waiting = desk.until(&second, 0, |_| true).await;
    assert_eq!(
        (&waiting[0]["state"], &waiting[0]["reason"]),
        (&json!("queued"), &json!(format!("waits for run {first}")))
    );
    let (status, error) = desk.delete(&format!("/api/train/{second}")).await;
    assert_eq!(
        (status, &error["code"]),
        (StatusCode::CONFLICT, &json!("witness::daemon::run_running"))
    );
    assert_eq!(
        desk.post(&format!("/api/train/{second}/stop"), &json!({})).await.1["job"]["state"],
        "stopped"
    );
    assert_eq!(desk.job(&third).await["state"], "queued");
    desk.post(&format!("/api/train/{first}/stop"), &json!({})).await;
    assert_eq!(desk.follow(&third, 0).await.last().unwrap()["state"], "done");
    assert_eq!(desk.job(&first).await["state"], "stopped");
    // One that was taken out of the queue can still be run.
    assert_eq!(
        desk.post(&format!("/api/train/{second}/resume"), &json!({})).await.0,
        StatusCode::OK
    );
    assert_eq!(desk.follow(&second, 0).await.last().unwrap()["state"], "done");
    let (status, error) = desk.post(&format!("/api/train/{second}/resume"), &json!({})).await;
    assert_eq!(
        (status, &error["code"]),
        (StatusCode::CONFLICT, &json!("witness::daemon::run_not_resumable"))
    );
}

async fn stop_and_resume() {
    let desk = Desk::new().await;
    let order = desk
        .order(
            "new",
            "row\nstep_ms 5\n",
            json!({"max_steps": 60, "save_steps": 100000}),
        )
        .await;
    let id = desk.start(&order).await;
    desk.until(&id, 0, is_step(3)).await;
    let (status, _) = desk.post(&format!("/api/train/{id}/stop"), &json!({})).await;
    assert_eq!(status, StatusCode::OK);
    let stopped = desk.follow(&id, 0).await;
    let outline_stopped = outline(&stopped);
    assert_eq!(
        outline_stopped[outline_stopped.len() - 2..],
        ["job:stopped", "end:stopped"]
    );
    assert!(
        outline_stopped.contains(&"job:stopping".to_owned()),
        "{outline_stopped:?}"
    );
    // The checkpoint of the stop is a model already: there was none of that name.
    assert_eq!(stopped.last().unwrap()["model"], "new");
    assert!(desk.chat("new", None, "so far").await.unwrap().starts_with("[default@"));
    let (status, error) = desk.post(&format!("/api/train/{id}/stop"), &json!({})).await;
    assert_eq!(
        (status, &error["code"]),
        (StatusCode::CONFLICT, &json!("witness::daemon::run_ended"))
    );
    let (status, resumed) = desk.post("/api/train/new/resume", &json!({})).await;
    assert_eq!((status, &resumed["job"]["id"]), (StatusCode::OK, &json!(id)));
    let all = desk.follow(&id, 0).await;
    assert_numbered(&all, 0);
    assert_eq!(all[..stopped.len()], stopped);
    assert_eq!(
        steps(&all),
        (1..=60).collect::<Vec<_>>(),
        "no step twice and none left out"
    );
    assert_eq!(all.last().unwrap()["state"], "done");
    // A resume of rows that are not the same is refused.
    let again = desk
        .start(
            &desk
                .order("other", "row\nstep_ms 5\n", json!({"max_steps": 100000}))
                .await,
        )
        .await;
    desk.until(&again, 0, is_step(1)).await;
    desk.post(&format!("/api/train/{again}/stop"), &json!({})).await;
    desk.follow(&again, 0).await;
    let rows = desk.run_directory(&again).join("data/0001-rows.jsonl");
    std::fs::remove_file(&rows).unwrap();
    std::fs::write(&rows, "another row\n").unwrap();
    let (status, error) = desk.post(&format!("/api/train/{again}/resume"), &json!({})).await;
    assert_eq!(
        (status.as_u16(), &error["code"]),
        (500, &json!("witness::daemon::run_data_changed"))
    );
    assert_eq!(lines("{\"a\":1}\n{\"b").len(), 1);
}
