//! What is refused before a run begins, and what a plan says.

use http::StatusCode;
use serde_json::{Value, json};

use crate::desk::Desk;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("requests::a_plan_starts_nothing", plan),
        case("requests::what_is_wrong_is_told_before_anything_begins", refusals),
        case("requests::too_little_memory_is_refused_with_ways_out", memory),
        case("requests::a_run_is_found_by_id_beginning_and_model", found),
    ]
}

async fn plan() {
    let desk = Desk::new().await;
    let mut order = desk.order("", "row\nrow\n", json!({"max_steps": 5})).await;
    order["plan"] = json!(true);
    order["trial"] = json!(true);
    let (status, answer) = desk.post("/api/train", &order).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let plan = &answer["plan"];
    assert_eq!((&plan["n_steps"], &plan["train"]["n_rows"]), (&json!(5), &json!(2)));
    assert_eq!(
        (&plan["seconds"], &plan["settings"]["max_steps"]),
        (&json!(1.5), &json!(5))
    );
    assert_eq!(desk.get("/api/train").await.1, json!({"jobs": []}));
    assert!(!desk.home.path().join("runs").exists(), "nothing is made for a plan");
}

async fn refusals() {
    let desk = Desk::new().await;
    let good = desk.order("new", "row\n", json!({})).await;
    let with = |key: &str, value: Value| {
        let mut order = good.clone();
        order[key] = value;
        order
    };
    let absent = format!("sha256:{}", "0".repeat(64));
    let cases = [
        (
            with("settings", json!({"lerning_rate": 1})),
            400,
            "did you mean `learning_rate`?",
        ),
        (with("settings", json!({"seed": "x"})), 400, "`seed`"),
        (with("from", json!("bse")), 404, "did you mean `base`?"),
        (with("from", Value::Null), 400, "`settings.scratch`"),
        (with("model", json!("")), 400, "names no `model`"),
        (with("model", json!("a b")), 400, "a b"),
        (with("data", json!([])), 400, "no file of rows"),
        (
            with("data", json!([{"name": "x", "digest": absent}])),
            400,
            "is not here",
        ),
        (
            with("data", json!([{"name": "", "digest": good["data"][0]["digest"]}])),
            400,
            "no name for a file",
        ),
        (
            with("parameters", json!({"temprature": 1})),
            400,
            "did you mean `temperature`?",
        ),
        (desk.order("new", "\n", json!({})).await, 400, "no row to learn from"),
        (
            desk.order("new", "mode plan:segfault\n", json!({})).await,
            500,
            "SIGSEGV",
        ),
    ];
    for (order, status, expected) in cases {
        let (found, answer) = desk.post("/api/train", &order).await;
        assert_eq!(found.as_u16(), status, "{answer}");
        assert!(answer.to_string().contains(expected), "{expected}: {answer}");
    }
    assert_eq!(desk.get("/api/train").await.1, json!({"jobs": []}));
    for path in ["/api/train/none", "/api/train/none/events", "/api/train/%2e%2e"] {
        let (status, answer) = desk.get(path).await;
        assert_eq!(
            (status, &answer["code"]),
            (StatusCode::NOT_FOUND, &json!("witness::daemon::run_not_found"))
        );
    }
}

async fn memory() {
    let desk = Desk::new().await;
    let mut order = desk
        .order(
            "new",
            &format!("row\nmemory_bytes {}\n", u64::MAX / 2),
            json!({"max_steps": 1}),
        )
        .await;
    let (status, answer) = desk.post("/api/train", &order).await;
    assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE, "{answer}");
    let hints = answer["hints"].to_string();
    assert!(
        hints.contains("gradient_checkpointing: true") && hints.contains("still too much") && hints.contains("--force"),
        "{hints}"
    );
    order["force"] = json!(true);
    assert_eq!(desk.train(&order).await.last().unwrap()["state"], "done");
}

async fn found() {
    let desk = Desk::new().await;
    let order = desk.order("me/new:v1", "row\n", json!({"max_steps": 1})).await;
    let first = desk.train(&order).await[0]["id"].as_str().unwrap().to_owned();
    let second = desk.train(&order).await[0]["id"].as_str().unwrap().to_owned();
    assert!(first < second, "ids sort by age");
    for text in [second.as_str(), "me%2Fnew:v1", "ME%2FNew%3Av1"] {
        assert_eq!(desk.job(text).await["id"], second.as_str(), "{text}");
    }
    let common: String = first
        .chars()
        .zip(second.chars())
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a)
        .collect();
    let (status, answer) = desk.get(&format!("/api/train/{common}")).await;
    assert_eq!(
        (status, &answer["code"]),
        (StatusCode::BAD_REQUEST, &json!("witness::daemon::run_ambiguous"))
    );
    assert_eq!(desk.job(&second[..=common.len()]).await["id"], second.as_str());
    let jobs = desk.get("/api/train").await.1;
    assert_eq!(jobs["jobs"][0]["id"], second.as_str(), "the newest first");
    assert_eq!(
        (&jobs["jobs"][1]["model"], &jobs["jobs"][1]["from"]),
        (&json!("me/new:v1"), &json!("base"))
    );
    assert_eq!(desk.delete(&format!("/api/train/{first}")).await.0, StatusCode::OK);
    assert!(!desk.run_directory(&first).exists());
    assert_eq!(desk.get(&format!("/api/train/{first}")).await.0, StatusCode::NOT_FOUND);
    assert!(desk.chat("me/new:v1", None, "still here").await.is_ok());
}
