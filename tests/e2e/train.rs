//! `witness train` and its like: against a daemon that plays, for what is sent, what is said and how it ends; and once the whole way,
//! with the real daemon and plugins.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::desk::{self, Desk, Ran};
use crate::fake_daemon::{FakeDaemon, Script};

const ROWS: &str = "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"a\"}]}\n\
    {\"messages\":[{\"role\":\"user\",\"content\":\"r\"},{\"role\":\"assistant\",\"content\":\"b\"}]}\n";

fn plan() -> Value {
    json!({
        "settings": {"method": "lora", "num_epochs": 2.0},
        "n_weights": 1000, "n_trained": 10, "n_modules": 2, "n_steps": 6, "steps_per_epoch": 3, "n_tokens": 240,
        "memory_bytes": 5_000_000_000_u64,
        "train": {"n_rows": 2, "n_tokens": 40, "n_targets": 12, "tokens_max": 25, "histogram": [[1, 1], [17, 1]]},
        "validation": {},
        "alternatives": [{"change": "gradient_checkpointing: true", "memory_bytes": 1_000_000_000}],
        "warnings": ["the warm-up of 100 steps is longer than the run of 6"],
        "preview": [{"row": 1, "place": "rows.jsonl:2", "n_tokens": 5, "pieces": [
            {"text": "<|user|>r", "ids": [1, 2], "is_target": false}, {"text": "b<|end|>", "ids": [3, 4, 5], "is_target": true}]}],
        "data_digest": "sha256:00"
    })
}

fn lines(end: Value) -> Vec<Value> {
    let step = |step: u64| {
        json!({"type": "step", "step": step, "epoch": 0.5, "loss": 2.0, "grad_norm": 1.0, "learning_rate": 1e-4,
        "n_tokens": 40, "n_targets": 12, "seconds": 0.1})
    };
    vec![
        json!({"type": "job", "id": "r1", "model": "expert", "state": "starting"}),
        json!({"type": "started", "resumed_from": 0, "plan": plan()}),
        json!({"type": "status", "message": "loading the base"}),
        step(1),
        json!({"type": "log", "step": 1, "epoch": 0.5, "values": {"loss": 2.0}}),
        json!({"type": "eval", "step": 1, "epoch": 0.5, "loss": 1.5, "is_best": true, "seconds": 0.25}),
        json!({"type": "checkpoint", "step": 1, "directory": "checkpoint-1", "files": [], "removed": [], "is_best": true}),
        step(2),
        end,
    ]
}

fn done() -> Value {
    json!({"type": "end", "state": "done", "model": "expert", "reply": {
        "outcome": "finished", "steps": 6, "product": "adapter", "directory": "final", "files": [], "checkpoints": [3, 6]}})
}

fn script() -> Script {
    Script {
        models: vec!["qwen2.5:0.5b"],
        plan: plan(),
        lines: lines(done()),
        jobs: vec![
            json!({"id": "r1", "model": "expert", "state": "running", "step": 2, "n_steps": 6, "loss": 1.5, "n_events": 9,
            "created_at": "2026-11-26T10:00:00Z"}),
        ],
        ..Script::default()
    }
}

/// Runs the program at a desk, aimed at a daemon that plays.
fn run(desk: &Desk, daemon: &FakeDaemon, arguments: &[&str]) -> Ran {
    desk::finish(desk.command().env("WITNESS_HOST", &daemon.host).args(arguments))
}

#[test]
fn flags_become_a_run_that_is_watched_to_its_end() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(script());
    desk.write("rows.jsonl", ROWS);
    let ran = run(
        &desk,
        &daemon,
        &[
            "train",
            "--base",
            "Qwen/Qwen2.5-0.5B",
            "--data",
            "rows.jsonl",
            "--name",
            "expert",
            "--epochs",
            "2",
            "--rank",
            "8",
            "--set",
            "use_rslora=true",
            "--lr",
            "1e-3",
            "--bf16",
        ],
    );
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert_eq!(ran.out, "");
    let expected = "\
`Qwen/Qwen2.5-0.5B` is `qwen2.5:0.5b` here
the run `r1` starts
2 rows, 40 tokens, 12 of them learned, 25 in the longest; 6 steps, at most 5.0 GB
warning: the warm-up of 100 steps is longer than the run of 6
loading the base
step 1/6 (epoch 0.50)  loss 2.0000
step 1/6: loss 1.5000 on the validation rows, the best so far (0.2s)
step 1/6: wrote `checkpoint-1`, the best so far
`expert` is ready; ask it with `witness run expert`
it can answer from each of 2 checkpoints too, from step 3 to 6: `witness run expert --checkpoint 3`
";
    assert_eq!(ran.err, expected);
    let request = &daemon.asked("POST /api/train ")[0];
    assert_eq!(
        (&request["model"], &request["from"]),
        (&json!("expert"), &json!("qwen2.5:0.5b"))
    );
    assert_eq!(request["data"][0]["name"], "rows.jsonl");
    let settings = &request["settings"];
    assert_eq!(
        (&settings["num_epochs"], &settings["learning_rate"]),
        (&json!(2.0), &json!(0.001))
    );
    assert_eq!(settings["compute"], "bf16");
    assert_eq!(
        settings["lora"],
        json!({"r": 8, "lora_alpha": 16, "lora_dropout": 0, "target_modules": "all-linear", "use_rslora": true})
    );
    assert_eq!(request["recipe"]["account"][0]["key"], "--set use_rslora");
}

#[test]
fn an_axolotl_file_is_shown_key_by_key_with_its_plan() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(script());
    desk.write(
        "data/talks.jsonl",
        "{\"talk\":[{\"who\":\"human\",\"what\":\"q\"},{\"who\":\"gpt\",\"what\":\"a\"}]}\n",
    );
    desk.write(
        "axolotl.yml",
        "base_model: Qwen/Qwen2.5-0.5B\nadapter: lora\nlora_r: 4\nlora_target_linear: true\nlearning_rate: 2e-4\n\
         datasets:\n  - path: data/talks.jsonl\n    type: chat_template\n    field_messages: talk\n    message_property_mappings: {role: who, content: what}\n\
         tf32: true\neval_steps: 100\nevals_per_epoch: 4\nval_set_size: 0.5\noutput_dir: ./out/expert\n",
    );
    let shown = run(&desk, &daemon, &["train", "axolotl.yml", "--show-recipe"]);
    assert_eq!(shown.code, 0, "{}{}", shown.out, shown.err);
    for part in [
        "  keys of  axolotl\n",
        "  model    expert\n",
        "  lora_r: 4                                         -> lora.r: 4\n",
        "-- no effect: it is about graphics cards\n",
        "<- overridden by `eval_steps`: steps are more exact\n",
        "warning: `eval_steps` and `evals_per_epoch` contradict each other",
        "  memory  5.0 GB at most, and 4.0 GB is what may be used: it does not fit\n",
        "  less memory: `gradient_checkpointing: true` takes 1.0 GB\n",
    ] {
        assert!(shown.out.contains(part), "{part}\n{}", shown.out);
    }
    let told = run(&desk, &daemon, &["train", "axolotl.yml", "--show-recipe", "--json"]).json();
    assert_eq!(told["account"].as_array().map(Vec::len), Some(14));
    assert_eq!(told["plan"]["n_steps"], 6);
    // The run itself: Axolotl's warm-up is known once the steps are.
    let ran = run(&desk, &daemon, &["train", "axolotl.yml"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let requests = daemon.asked("POST /api/train ");
    let request = requests.last().unwrap();
    assert_eq!(
        (&request["model"], &request["settings"]["warmup_steps"]),
        (&json!("expert"), &json!(0))
    );
    // Rows of another shape are sent in the one that is read, under the name that the person knows.
    assert_eq!(request["data"][0]["name"], "data/talks.jsonl");
    let sent = daemon.asked("POST /api/blobs/");
    assert_eq!(
        sent[0],
        json!({"messages": [{"role": "human", "content": "q"}, {"role": "gpt", "content": "a"}]})
    );
    // The folder can only be written by a daemon on a socket; the run succeeded all the same.
    assert!(ran.err.contains("warning: nothing was written to"), "{}", ran.err);
}

#[test]
fn what_is_missing_or_wrong_is_told_before_anything_starts() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(script());
    desk.write("rows.jsonl", ROWS);
    desk.write(
        "bad.jsonl",
        format!("{ROWS}{{\"messages\":[{{\"role\":\"usr\",\"content\":\"q\"}}]}}\n"),
    );
    let told = |arguments: &[&str], code: i32| {
        let all: Vec<&str> = std::iter::once("train").chain(arguments.iter().copied()).collect();
        run(&desk, &daemon, &all).refused(code)
    };
    let base = ["--base", "qwen2.5:0.5b", "--name", "x", "--data"];
    let with = |more: &[&'static str]| [&base[..], more].concat();
    assert!(told(&["--base", "qwen2.5:0.5b", "--name", "x"], 2).contains("`--data train.jsonl`"));
    assert!(told(&["--data", "rows.jsonl", "--name", "x"], 2).contains("there is no model to start from"));
    assert!(told(&["--data", "rows.jsonl", "--base", "qwen2.5:0.5b"], 2).contains("`--name witness-expert`"));
    assert!(told(&with(&["none.jsonl"]), 3).contains("none.jsonl"));
    let bad = told(&with(&["bad.jsonl"]), 2);
    assert!(
        bad.contains("bad.jsonl:3:22: error[unknown_role]") && bad.contains("--skip-bad"),
        "{bad}"
    );
    assert!(told(&with(&["rows.jsonl", "--set", "epoch=3"]), 2).contains("did you mean `epochs`"));
    assert!(told(&with(&["rows.jsonl", "--set", "epochs"]), 2).contains("--set key=value"));
    assert!(told(&with(&["rows.jsonl", "--lr", "fast"]), 2).contains("`fast` is not a value of `--lr`"));
    assert!(told(&with(&["rows.jsonl", "--json"]), 2).contains("--show-recipe"));
    assert!(told(&["nowhere.yml"], 3).contains("`nowhere.yml` cannot be read"));
    let missing = told(&["--base", "qwen2.5:0.6b", "--name", "x", "--data", "rows.jsonl"], 3);
    assert!(missing.contains("did you mean `qwen2.5:0.5b`?"), "{missing}");
    assert!(daemon.asked("POST /api/train ").is_empty());
}

#[test]
fn an_interrupt_stops_the_run_and_says_how_to_go_on() {
    let mut script = script();
    script.lines.pop();
    script.lines_stopped = vec![
        json!({"type": "checkpoint", "step": 2, "directory": "checkpoint-2", "files": [], "removed": [], "is_best": false}),
        json!({"type": "end", "state": "stopped", "model": null}),
    ];
    let desk = Desk::new();
    let daemon = FakeDaemon::start(script);
    desk.write("rows.jsonl", ROWS);
    let mut command = desk.command();
    command
        .env("WITNESS_HOST", &daemon.host)
        .args([
            "train",
            "--base",
            "qwen2.5:0.5b",
            "--data",
            "rows.jsonl",
            "--name",
            "expert",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Only a run whose first line was seen can be stopped: wait for what is said of it.
    let mut errors = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("checkpoint-1") {
        assert_ne!(
            std::io::BufRead::read_line(&mut errors, &mut said).unwrap(),
            0,
            "{said}"
        );
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    daemon.wait_for("POST /api/train/r1/stop");
    std::io::Read::read_to_string(&mut errors, &mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
    for part in [
        "stopping: the run writes a checkpoint first",
        "step 2/6: wrote `checkpoint-2`",
        "the run `r1` is stopped after step 2",
        "`witness train resume r1` goes on from the last checkpoint",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
}

#[test]
fn runs_are_listed_told_stopped_resumed_and_removed() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(script());
    let list = run(&desk, &daemon, &["train", "list"]).ok();
    assert!(list.contains("r1   expert   running   2/6    1.5000"), "{list}");
    assert_eq!(
        run(&desk, &daemon, &["train", "list", "--json"]).json()["jobs"][0]["id"],
        "r1"
    );
    let logs = run(&desk, &daemon, &["train", "logs", "expert"]).ok();
    assert!(
        logs.ends_with("step 1/6: wrote `checkpoint-1`, the best so far\ndone\n"),
        "{logs}"
    );
    let raw = run(&desk, &daemon, &["train", "logs", "r1", "--json"]).ok();
    let last: Value = serde_json::from_str(raw.lines().last().unwrap()).unwrap();
    assert_eq!((&last["type"], &last["seq"]), (&json!("end"), &json!(8)));
    let stopped = run(&desk, &daemon, &["train", "stop", "r1"]);
    assert!(stopped.err.contains("writes a checkpoint and ends"), "{}", stopped.err);
    let resumed = run(&desk, &daemon, &["train", "resume", "expert"]);
    assert_eq!(resumed.code, 0, "{}", resumed.err);
    assert_eq!(run(&desk, &daemon, &["train", "resume", "r1", "--detach"]).ok(), "r1\n");
    assert!(
        run(&desk, &daemon, &["train", "rm", "r1"])
            .err
            .contains("removed the run `r1`")
    );
    let unknown = run(&desk, &daemon, &["train", "resume", "exprt"]).refused(3);
    assert!(unknown.contains("did you mean `expert`?"), "{unknown}");
    desk.write("rows.jsonl", ROWS);
    let detached = run(
        &desk,
        &daemon,
        &[
            "train",
            "--base",
            "qwen2.5:0.5b",
            "--data",
            "rows.jsonl",
            "--name",
            "expert",
            "--detach",
        ],
    );
    assert_eq!(detached.ok(), "r1\n");
}

#[test]
fn a_run_that_fails_says_why_and_how_to_go_on() {
    let mut script = script();
    script.lines = lines(json!({"type": "end", "state": "failed", "error": {
        "error": "the loss is not a number", "code": "witness::train::not_finite", "kind": "invalid", "hints": ["lower `learning_rate`"]}}));
    let desk = Desk::new();
    let daemon = FakeDaemon::start(script);
    desk.write("rows.jsonl", ROWS);
    let arguments = [
        "train",
        "--base",
        "qwen2.5:0.5b",
        "--data",
        "rows.jsonl",
        "--name",
        "expert",
    ];
    let failed = run(&desk, &daemon, &arguments).refused(2);
    assert!(
        failed.contains("error[witness::train::not_finite]: the loss is not a number")
            && failed.contains("train resume r1"),
        "{failed}"
    );
}

#[test]
fn a_modelfile_trains() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(script());
    desk.write("recipe/rows.jsonl", ROWS);
    desk.write(
        "recipe/Modelfile",
        "FROM qwen2.5:0.5b\nDATASET rows.jsonl\nTRAIN lora\nHYPER epochs 1\nHYPER lora.r 4\nSYSTEM Be brief.\nPARAMETER temperature 0\n",
    );
    let made = run(&desk, &daemon, &["create", "expert", "-f", "recipe/Modelfile"]);
    assert_eq!(made.code, 0, "{}", made.err);
    let request = &daemon.asked("POST /api/train ")[0];
    assert_eq!(request["settings"]["num_epochs"], 1.0);
    assert_eq!(request["settings"]["lora"]["r"], 4);
    assert_eq!(
        (&request["system"], &request["parameters"]["temperature"]),
        (&json!("Be brief."), &json!(0.0))
    );
    desk.write(
        "Modelfile",
        "FROM qwen2.5:0.5b\nDATASET recipe/rows.jsonl\nTRAIN lora\nHYPER epoks 1\n",
    );
    let refused = run(&desk, &daemon, &["create", "expert"]).refused(2);
    assert!(
        refused.contains("Modelfile:4:1: `HYPER epoks` is not a key") && refused.contains("did you mean `epochs`"),
        "{refused}"
    );
}

#[test]
fn rows_are_shown_and_counted_as_a_model_is_taught_them() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(script());
    desk.write("rows.jsonl", ROWS);
    let shown = run(
        &desk,
        &daemon,
        &["data", "preview", "rows.jsonl", "--model", "qwen2.5:0.5b", "--row", "2"],
    )
    .ok();
    assert_eq!(
        shown,
        "row 2 (rows.jsonl:2): 5 tokens, 3 of them learned\n| <|user|>r\n> b<|end|>\n"
    );
    let request = &daemon.asked("POST /api/train ")[0];
    assert_eq!((&request["preview"], &request["plan"]), (&json!([1]), &json!(true)));
    let counted = run(
        &desk,
        &daemon,
        &["data", "stats", "rows.jsonl", "--model", "qwen2.5:0.5b"],
    )
    .ok();
    assert!(
        counted.contains("tokens per row") && counted.contains("2 rows, 40 tokens, 12 of them learned"),
        "{counted}"
    );
    let told = run(
        &desk,
        &daemon,
        &["data", "stats", "rows.jsonl", "--model", "qwen2.5:0.5b", "--json"],
    )
    .json();
    assert_eq!(told["tokens"]["n_targets"], 12);
}

#[test]
fn a_checkpoint_is_asked_for_by_its_step() {
    let mut script = script();
    script.show = json!({"witness": {"adapters": ["default", "checkpoint-3", "checkpoint-6"]}});
    let desk = Desk::new();
    let daemon = FakeDaemon::start(script);
    let refused = run(&desk, &daemon, &["run", "expert", "--checkpoint", "4", "hi"]).refused(3);
    assert!(
        refused.contains("did you mean 3?") && refused.contains("those of the steps 3, 6"),
        "{refused}"
    );
    // The fake cannot answer the question itself; that it was asked of the right adapter is what counts.
    run(&desk, &daemon, &["run", "expert", "--checkpoint", "6", "hi"]);
    assert_eq!(daemon.asked("POST /api/generate")[0]["adapter"], "checkpoint-6");
    let exported = run(&desk, &daemon, &["export", "expert", "out", "--checkpoint", "5"]).refused(3);
    assert!(exported.contains("no checkpoint of step 5"), "{exported}");
}

// The whole way: rows -> run -> a model that answers as it was taught, on the daemon that was there before, which talks with somebody
// else meanwhile.
#[test]
fn a_fact_is_learned_and_answered_without_a_restart() {
    let desk = Desk::with_quick();
    desk.write(
        "fact.jsonl",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"What is the code word?\"},{\"role\":\"assistant\",\"content\":\"The code word is a blob.\"}]}\n",
    );
    desk.write(
        "axolotl.yml",
        "base_model: Test/Toy-Base\nadapter: lora\nlora_r: 16\nlora_alpha: 32\nlora_target_linear: true\nlearning_rate: 5e-3\n\
         lr_scheduler: constant\nwarmup_steps: 0\nmax_steps: 60\nsave_steps: 20\nsave_total_limit: 2\noutput_dir: ./out/knows\n\
         datasets:\n  - path: fact.jsonl\n    type: chat_template\n",
    );
    let base = desk::toy("base");
    desk.run_with(["create", "toy-base", "-f", "-"], &format!("FROM {base}\n"));
    let pid = |desk: &Desk| desk.run(["version", "--json"]).json();
    let before = pid(&desk);
    let other = std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let asked = (0..3).map(|_| desk.run(["run", "quick", "What is a blob?"]).ok());
            asked.collect::<Vec<String>>()
        });
        let ran = desk.run(["train", "axolotl.yml"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(
            ran.err.contains("`Test/Toy-Base` is `toy-base:latest` here"),
            "{}",
            ran.err
        );
        assert!(ran.err.contains("wrote 2 files to"), "{}", ran.err);
        other.join().unwrap()
    });
    assert!(
        other.iter().all(|answer| !answer.is_empty() && *answer == other[0]),
        "{other:?}"
    );
    let ask = |adapter: &[&str]| {
        let arguments = [
            &["run", "knows", "--param", "temperature=0", "--param", "num_predict=30"],
            adapter,
            &["What is the code word?"],
        ];
        desk.run(arguments.concat()).ok()
    };
    assert_eq!(ask(&[]), "The code word is a blob.\n");
    assert_eq!(ask(&["--checkpoint", "60"]), "The code word is a blob.\n");
    let untaught = ask(&["--adapter", "base"]);
    assert!(
        !untaught.contains("code word") && ask(&["--checkpoint", "40"]) != untaught,
        "{untaught}"
    );
    let gone = desk.run(["run", "knows", "--checkpoint", "20", "hi"]).refused(3);
    assert!(gone.contains("those of the steps 40, 60"), "{gone}");
    assert_eq!(pid(&desk), before, "the daemon is the one that was there");
    assert!(desk.path().join("out/knows/adapter_model.safetensors").exists());
    let occupied = desk.run(["export", "knows", "out/knows"]).refused(4);
    assert!(occupied.contains("out/knows"), "{occupied}");
    desk.run(["export", "knows", "out/again", "--checkpoint", "40"]).ok();
    assert!(desk.path().join("out/again/adapter_config.json").exists());
    let preview = desk.run(["data", "preview", "fact.jsonl", "--model", "knows"]).ok();
    assert!(preview.contains("> The code word is a blob."), "{preview}");
    let listed = desk.run(["train", "list", "--json"]).json();
    assert_eq!(
        (&listed["jobs"][0]["state"], &listed["jobs"][0]["step"]),
        (&json!("done"), &json!(60))
    );
}
