//! Jobs: planned, run to the end, watched, stopped, lost; and a worker that stands back.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use witness_plugin_host::{Host, Limits, Worker};
use witness_plugin_hostile::deeds::FLOOD_EVENTS;
use witness_plugin_protocol::{Diagnostic, FileRef, ModelSpec, Role, TrainReply, TrainRequest, TrainSettings};

use crate::stage::{LONG, SHORT, Stage, entry, limits, start};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("jobs::a_plan_and_a_run_come_back_whole", whole_run),
        case("jobs::a_stopped_run_saves_and_goes_on_later", stopped_and_resumed),
        case(
            "jobs::a_reader_that_is_slow_holds_the_job_and_loses_nothing",
            slow_reader,
        ),
        case("jobs::a_dropped_job_is_asked_to_stop", dropped),
        case("jobs::a_stopped_worker_lets_its_job_save", worker_stopped),
        case("jobs::a_killed_worker_names_the_signal", killed),
        case(
            "jobs::a_job_that_only_looks_whether_it_should_stop_is_alive",
            polling_is_alive,
        ),
        case("jobs::a_refused_request_costs_nothing", refused),
        case("jobs::a_role_that_is_not_there_is_named", no_role),
        case("jobs::a_background_worker_stands_behind_others", background),
    ]
}

/// Returns a request for a run in the stage's directory over rows and directives.
pub(crate) fn request(stage: &Stage, data: &str) -> TrainRequest {
    let path = stage.directory.path().join("rows.jsonl");
    std::fs::write(&path, data).unwrap();
    let directory = stage.directory.path().join("run");
    std::fs::create_dir_all(&directory).unwrap();
    let file = |name: &str, path: std::path::PathBuf| FileRef {
        name: name.into(),
        path,
        digest: String::new(),
        size: 0,
    };
    TrainRequest {
        model: ModelSpec {
            files: vec![file("model.hostile", stage.model())],
        },
        adapter: None,
        base_name: "base".into(),
        base_digest: String::new(),
        data: vec![file("rows.jsonl", path)],
        validation: vec![],
        template: None,
        settings: TrainSettings {
            max_steps: Some(6),
            save_steps: 2.0,
            ..TrainSettings::default()
        },
        directory,
        resume: false,
        started_at: 0.0,
        trial: false,
        preview: vec![],
    }
}

async fn worker(host: &Host) -> Worker {
    start(host).await.unwrap()
}

fn steps(events: &[Value]) -> Vec<u64> {
    events
        .iter()
        .filter(|event| event["type"] == "step")
        .map(|event| event["step"].as_u64().unwrap())
        .collect()
}

async fn run(worker: &Worker, request: &TrainRequest) -> (Vec<Value>, Result<Value, Diagnostic>) {
    let mut job = worker.run_job(Role::Train, request).unwrap();
    let mut events = Vec::new();
    while let Some(event) = job.next().await {
        events.push(event);
    }
    (events, job.finish().await)
}

async fn whole_run() {
    let stage = Stage::new();
    let worker = worker(&stage.host()).await;
    let request = request(&stage, "row\nrow\n");
    let plan = worker.plan_job(Role::Train, &request, LONG).await.unwrap();
    assert_eq!((&plan["n_steps"], &plan["train"]["n_rows"]), (&json!(6), &json!(2)));
    let (events, reply) = run(&worker, &request).await;
    assert_eq!(events[0]["type"], "started");
    assert_eq!(steps(&events), [1, 2, 3, 4, 5, 6]);
    let reply: TrainReply = serde_json::from_value(reply.unwrap()).unwrap();
    assert_eq!((reply.steps, reply.checkpoints.as_slice()), (6, &[2, 4][..]));
    assert!(request.directory.join("final").join(&reply.files[0]).exists());
    // The worker serves its other role as before.
    let (model, _) = worker.load(&stage.load_request(), LONG).await.unwrap();
    worker.unload(model).await.unwrap();
    worker.stop(LONG).await.unwrap();
}

async fn stopped_and_resumed() {
    let stage = Stage::new();
    let worker = worker(&stage.host()).await;
    let mut request = request(&stage, "row\nstep_ms 5\n");
    request.settings.max_steps = Some(2_000);
    request.settings.save_steps = 1e6;
    let mut job = worker.run_job(Role::Train, &request).unwrap();
    let mut last = Value::Null;
    while let Some(event) = job.next().await {
        if event["step"] == 3 {
            job.stop();
        }
        last = event;
    }
    let reply: TrainReply = serde_json::from_value(job.finish().await.unwrap()).unwrap();
    assert_eq!(last["type"], "checkpoint");
    assert!(reply.steps >= 3 && reply.steps < 2_000, "{reply:?}");
    request.resume = true;
    request.settings.max_steps = Some(reply.steps + 2);
    let (events, _) = run(&worker, &request).await;
    assert_eq!(events[0]["resumed_from"], reply.steps);
    assert_eq!(steps(&events), [reply.steps + 1, reply.steps + 2]);
}

async fn slow_reader() {
    let stage = Stage::new();
    let host = stage.hostile("run:flood_events", |config| config.stall_timeout = SHORT);
    let worker = worker(&host).await;
    let request = request(&stage, "row\n");
    let mut job = worker.run_job(Role::Train, &request).unwrap();
    // Longer than the stall timeout: the job waits for us, which is not its fault.
    tokio::time::sleep(4 * SHORT).await;
    let mut statuses = 0;
    while let Some(event) = job.next().await {
        if event["type"] == "status" {
            assert_eq!(event["message"], statuses.to_string(), "in order");
            statuses += 1;
        }
    }
    assert_eq!(statuses, FLOOD_EVENTS);
    job.finish().await.unwrap();
}

async fn dropped() {
    let stage = Stage::new();
    let worker = worker(&stage.host()).await;
    let mut request = request(&stage, "row\nstep_ms 5\n");
    request.settings.max_steps = Some(1_000_000);
    let mut job = worker.run_job(Role::Train, &request).unwrap();
    let _ = job.next().await;
    drop(job);
    // The thread is free again only once the job has ended.
    worker.plan_job(Role::Train, &request, LONG).await.unwrap();
    assert!(worker.death().is_none());
}

async fn worker_stopped() {
    let stage = Stage::new();
    let worker = worker(&stage.host()).await;
    let mut request = request(&stage, "row\nstep_ms 5\n");
    request.settings.max_steps = Some(1_000_000);
    let mut job = worker.run_job(Role::Train, &request).unwrap();
    while job.next().await.is_some_and(|event| event["type"] != "step") {}
    let stopping = {
        let worker = worker.clone();
        tokio::spawn(async move { worker.stop(LONG).await })
    };
    let mut last = Value::Null;
    while let Some(event) = job.next().await {
        last = event;
    }
    assert_eq!(last["type"], "checkpoint", "{last}");
    assert_eq!(job.finish().await.unwrap()["outcome"], "stopped");
    stopping.await.unwrap().unwrap();
}

async fn killed() {
    let stage = Stage::new();
    let worker = worker(&stage.host()).await;
    let mut request = request(&stage, "row\nstep_ms 5\n");
    request.settings.max_steps = Some(1_000_000);
    let mut job = worker.run_job(Role::Train, &request).unwrap();
    let _ = job.next().await;
    let pid = Pid::from_raw(i32::try_from(worker.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let error = job.finish().await.unwrap_err();
    assert!(error.message.contains("was ended by SIGKILL during `run`"), "{error:?}");
}

async fn polling_is_alive() {
    let stage = Stage::new();
    let host = stage.hostile("none:none", |config| config.stall_timeout = SHORT);
    let worker = worker(&host).await;
    let mut request = request(&stage, &format!("row\nburn 1\nstep_ms {}\n", (5 * SHORT).as_millis()));
    request.settings.max_steps = Some(1);
    let (events, reply) = run(&worker, &request).await;
    assert_eq!(steps(&events), [1], "{reply:?}");
}

async fn refused() {
    let stage = Stage::new();
    let worker = worker(&stage.host()).await;
    let request = request(&stage, "\n");
    let plan = worker.plan_job(Role::Train, &request, LONG).await.unwrap_err();
    let (events, reply) = run(&worker, &request).await;
    assert!(events.is_empty(), "{events:?}");
    assert_eq!(
        (plan.code.as_str(), reply.unwrap_err()),
        ("hostile::no_rows", plan.clone())
    );
    assert!(worker.death().is_none());
}

async fn no_role() {
    let stage = Stage::new();
    let worker = worker(&stage.host()).await;
    let error = worker.plan_job(Role::Quantize, &json!({}), LONG).await.unwrap_err();
    assert_eq!(error.code, "witness::plugin::no_role");
    let job = worker.run_job(Role::Quantize, &json!({})).unwrap();
    assert_eq!(job.finish().await.unwrap_err().code, "witness::plugin::no_role");
}

/// Returns the scheduling policy and niceness of every thread of a process.
fn standings(pid: u32) -> Vec<(String, u64, i64)> {
    std::fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .flatten()
        .map(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap();
            let name = std::fs::read_to_string(thread.path().join("comm")).unwrap();
            let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
            // Counted from the state, which is field 3: niceness is field 19, the policy 41.
            (
                name.trim().to_owned(),
                fields[38].parse().unwrap(),
                fields[16].parse().unwrap(),
            )
        })
        .collect()
}

/// Every thread that the plugin computes with yields; the one that answers pings does not.
async fn background() {
    const IDLE: u64 = 5;
    let stage = Stage::new();
    let host = stage.host();
    let background = Limits {
        is_background: true,
        ..limits()
    };
    let worker = host.start(&*entry(&host).await, background).await.unwrap();
    let mut request = request(&stage, "row\nburn 3\nstep_ms 200\n");
    request.settings.max_steps = Some(1_000_000);
    let mut job = worker.run_job(Role::Train, &request).unwrap();
    let _ = job.next().await;
    // Until the trainer has started the threads of a step.
    let mut threads = standings(worker.pid());
    for _ in 0..3000 {
        if threads.len() >= 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        threads = standings(worker.pid());
    }
    assert!(threads.len() >= 4, "{threads:?}");
    for (name, policy, nice) in &threads {
        let yields = *policy == IDLE || *nice == 19;
        assert_eq!(yields, name != "witness-worker-", "{threads:?}");
    }
    let usual = start(&host).await.unwrap();
    assert!(
        standings(usual.pid())
            .iter()
            .all(|(_, policy, nice)| *policy == 0 && *nice < 19),
        "others do not yield"
    );
}
