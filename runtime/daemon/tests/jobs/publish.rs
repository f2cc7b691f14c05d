//! What a run makes: stored while it goes on, under its own name only, whole models too, and written out again.

use http::StatusCode;
use serde_json::{Value, json};

use crate::desk::{Desk, is_step, outline};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("publish::checkpoints_answer_while_the_run_goes_on", while_running),
        case("publish::a_model_that_was_there_changes_at_the_end_only", name_taken),
        case("publish::the_limit_on_checkpoints_holds_for_the_model", limit),
        case("publish::a_whole_model_is_stored_as_one", whole_model),
        case("publish::an_adapter_is_written_out", export),
    ]
}

fn is_published(line: &Value) -> bool {
    line["type"] == "published"
}

async fn adapters(desk: &Desk, model: &str) -> Value {
    desk.post("/api/show", &json!({"model": model})).await.1["witness"]["adapters"].clone()
}

async fn while_running() {
    let desk = Desk::new().await;
    let order = desk
        .order(
            "new",
            "row\nstep_ms 10\n",
            json!({"max_steps": 100000, "save_steps": 10}),
        )
        .await;
    let id = desk.start(&order).await;
    let first = desk.until(&id, 0, is_published).await;
    let told = first.last().unwrap();
    assert_eq!(
        (&told["model"], &told["adapters"]),
        (&json!("new"), &json!(["default", "checkpoint-10"]))
    );
    assert!(
        desk.chat("new", Some("checkpoint-10"), "hi")
            .await
            .unwrap()
            .starts_with("[checkpoint-10@")
    );
    assert!(
        desk.chat("base", Some("base"), "a neighbour")
            .await
            .unwrap()
            .contains("a neighbour")
    );
    let more = desk.until(&id, first.len(), is_published).await;
    assert!(more.last().unwrap()["adapters"].as_array().unwrap().len() > 2);
    // Without a restart, and without loading the base again.
    assert!(
        desk.chat("new", Some("checkpoint-20"), "hi")
            .await
            .unwrap()
            .starts_with("[checkpoint-20@")
    );
    assert_eq!(desk.job(&id).await["state"], "running");
    let (_, show) = desk.post("/api/show", &json!({"model": "new"})).await;
    assert_eq!(show["witness"]["training"]["run"], json!(id));
    // Somebody takes the name: the run leaves it alone from here on.
    desk.create_base("new", b"HOSTILE1\nnum_ctx 32\n").await;
    let seen = desk.job(&id).await["n_events"].as_u64().unwrap() as usize;
    let checkpoints = |line: &Value| line["type"] == "checkpoint";
    let next = desk.until(&id, seen, checkpoints).await;
    desk.until(&id, seen + next.len(), checkpoints).await;
    assert_eq!(adapters(&desk, "new").await, json!([]));
}

async fn name_taken() {
    let desk = Desk::new().await;
    let mut order = desk
        .order("base", "row\nstep_ms 5\n", json!({"max_steps": 30, "save_steps": 5}))
        .await;
    let id = desk.start(&order).await;
    desk.until(&id, 0, is_step(20)).await;
    assert_eq!(adapters(&desk, "base").await, json!([]));
    let all = desk.follow(&id, 0).await;
    assert_eq!(all.iter().filter(|line| is_published(line)).count(), 1);
    assert_eq!(adapters(&desk, "base").await[0], "default");
    // Once more on top: the base's weights, and not its adapters, are what is trained on.
    order["settings"] = json!({"max_steps": 1});
    desk.train(&order).await;
    assert_eq!(adapters(&desk, "base").await, json!(["default"]));
}

async fn limit() {
    let desk = Desk::new().await;
    let settings = json!({"max_steps": 11, "save_steps": 2, "save_total_limit": 2});
    desk.train(&desk.order("new", "row\n", settings).await).await;
    assert_eq!(
        adapters(&desk, "new").await,
        json!(["default", "checkpoint-8", "checkpoint-10"])
    );
}

async fn whole_model() {
    let desk = Desk::new().await;
    let mut order = desk
        .order(
            "whole",
            "row\n",
            json!({"max_steps": 4, "save_steps": 2, "method": "full"}),
        )
        .await;
    order["parameters"] = json!({"num_predict": 3});
    let all = desk.train(&order).await;
    assert_eq!(
        outline(&all).iter().filter(|kind| *kind == "published").count(),
        1,
        "only at the end"
    );
    let (_, show) = desk.post("/api/show", &json!({"model": "whole"})).await;
    assert_eq!(
        (&show["witness"]["adapters"], &show["witness"]["files"][0][0]),
        (&json!([]), &json!("trained.hostile"))
    );
    assert_eq!(
        desk.chat("whole", None, "one two three four").await.unwrap().trim(),
        "one two three"
    );
    // From nothing: no base at all.
    let mut order = desk
        .order(
            "scratch",
            "row\n",
            json!({"method": "full", "scratch": {}, "max_steps": 1}),
        )
        .await;
    order["from"] = Value::Null;
    assert_eq!(desk.train(&order).await.last().unwrap()["state"], "done");
    let (_, show) = desk.post("/api/show", &json!({"model": "scratch"})).await;
    assert_eq!(show["details"]["parent_model"], "");
    assert!(desk.chat("scratch", None, "hello").await.is_ok());
    order["from"] = json!("base");
    assert_eq!(desk.post("/api/train", &order).await.0, StatusCode::BAD_REQUEST, "both");
}

async fn export() {
    let desk = Desk::new().await;
    desk.train(
        &desk
            .order("new", "row\n", json!({"max_steps": 5, "save_steps": 2}))
            .await,
    )
    .await;
    let target = desk.home.path().join("out/adapter");
    let body = json!({"model": "new", "adapter": "checkpoint-4", "directory": target, "form": "peft"});
    assert_eq!(
        desk.post("/api/witness/export", &body).await.0,
        StatusCode::FORBIDDEN,
        "not over TCP"
    );
    let (status, answer) = desk.local("/api/witness/export", &body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(
        answer["files"],
        json!(["adapter_config.json", "adapter_model.safetensors"])
    );
    let weights = || std::fs::read_to_string(target.join("adapter_model.safetensors")).unwrap();
    assert_eq!(weights(), "weights after 4 steps");
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 2);
    let mut other = json!({"model": "new", "directory": target});
    let (status, error) = desk.local("/api/witness/export", &other).await;
    assert_eq!(
        (status, &error["code"]),
        (StatusCode::CONFLICT, &json!("witness::daemon::export_not_empty"))
    );
    assert_eq!(weights(), "weights after 4 steps");
    other["force"] = json!(true);
    assert_eq!(desk.local("/api/witness/export", &other).await.0, StatusCode::OK);
    assert_eq!(weights(), "weights after 5 steps");
    let elsewhere = desk.home.path().join("out/more");
    for (model, more, expected) in [
        ("new", json!({"adapter": "checkpoint-5"}), "did you mean `checkpoint-"),
        ("new", json!({"form": "onnx"}), "there is no form"),
        (
            "new",
            json!({"adapter": "base", "form": "peft"}),
            "`base` is no adapter",
        ),
        ("base", json!({}), "has no adapter"),
        ("new", json!({"directory": "relative"}), "not absolute"),
    ] {
        let mut body = json!({"model": model, "directory": elsewhere});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, error) = desk.local("/api/witness/export", &body).await;
        assert!(
            !status.is_success() && error.to_string().contains(expected),
            "{expected}: {error}"
        );
    }
    assert!(!elsewhere.exists());
    let body = json!({"model": "base", "adapter": "base", "directory": elsewhere});
    assert_eq!(
        desk.local("/api/witness/export", &body).await.1["files"],
        json!(["m.hostile"])
    );
}
