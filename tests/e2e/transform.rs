//! Other forms of a model: `quantize`, `merge`, `export` and `create --quantize`, against a daemon that plays, for what is sent and said.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::desk::{self, Desk, Ran, toy};
use crate::fake_daemon::{FakeDaemon, LEFT, Script};

fn script() -> Script {
    Script {
        models: vec!["llama:latest"],
        show: json!({"witness": {"adapters": ["default", "checkpoint-300"]}}),
        transform_plan: json!({
            "architecture": "llama", "from": "BF16", "to": "Q4_K_M", "source_bytes": 1_100_000, "target_bytes": 345_000,
            "bits_per_weight": 4.846, "memory_bytes": 12_000_000,
            "tensors": [
                {"name": "token_embd.weight", "shape": [1024, 256], "from": "BF16", "to": "Q6_K", "bytes": 215_040},
                {"name": "blk.0.attn_q.weight", "shape": [256, 256], "from": "BF16", "to": "Q4_K", "bytes": 36_864},
            ],
            "warnings": ["there is no importance matrix"],
        }),
        making: vec![
            json!({"status": "gathering model components"}),
            json!({"status": "warning: there is no importance\u{1b}[2J matrix"}),
            json!({"status": "quantizing BF16 model to Q4_K_M"}),
            json!({"status": "quantizing BF16 model to Q4_K_M", "total": 100, "completed": 50}),
            json!({"status": "quantizing BF16 model to Q4_K_M", "total": 100, "completed": 100}),
            json!({"status": "creating new layer sha256:00"}),
            json!({"status": "success", "directory": "/out", "files": ["model.gguf"]}),
        ],
        ..Script::default()
    }
}

/// Runs the program at a desk, aimed at a daemon that plays.
fn run(desk: &Desk, daemon: &FakeDaemon, arguments: &[&str]) -> Ran {
    desk::finish(desk.command().env("WITNESS_HOST", &daemon.host).args(arguments))
}

// Each step is told once however many lines it has, and a warning as one line without what could rewrite the terminal.
const TOLD: &str = "gathering model components\n\
    warning: there is no importance [2J matrix\n\
    quantizing BF16 model to Q4_K_M\n";

#[test]
fn quantize_asks_for_a_model_of_a_model() {
    let (desk, daemon) = (Desk::new(), FakeDaemon::start(script()));
    let ran = run(&desk, &daemon, &["quantize", "llama", "Q4_K_M"]);
    assert_eq!(
        ran.err,
        format!(
            "making `llama:q4_k_m` of `llama`\n{TOLD}created `llama:q4_k_m`; ask it with `witness run llama:q4_k_m`\n"
        )
    );
    assert_eq!(ran.ok(), "");
    desk.write("data.imatrix", "matrix");
    run(
        &desk,
        &daemon,
        &[
            "quantize",
            "llama",
            "q4_K_M",
            "--as",
            "small",
            "--imatrix",
            "data.imatrix",
            "--tensor-type",
            "attn_v=q8_0",
            "--tensor-type",
            "ffn_.*=q6_K",
            "--output-tensor-type",
            "q8_0",
            "--token-embedding-type",
            "f16",
            "--pure",
            "--allow-requantize",
        ],
    )
    .ok();
    let asked = daemon.asked("POST /api/create");
    let base = json!({"model": "llama:q4_k_m", "from": "llama", "stream": true, "quantize": "Q4_K_M"});
    assert_eq!(asked[0], base);
    // The digest of what the file holds.
    let sent = "sha256:6e00cd562cc2d88e238dfb81d9439de7ec843ee9d0c9879d549cb1436786f975";
    assert_eq!(
        daemon.asked(&format!("POST /api/blobs/{sent}")).len(),
        1,
        "the matrix was sent"
    );
    assert_eq!(
        asked[1],
        json!({"model": "small", "from": "llama", "stream": true, "quantize": "q4_K_M", "quantize_options": {
            "imatrix": sent, "tensor_types": {"attn_v": "q8_0", "ffn_.*": "q6_K"}, "output_type": "q8_0",
            "embedding_type": "f16", "pure": true, "requantize": true,
        }})
    );
    let twice = [
        "quantize",
        "llama",
        "q8_0",
        "--tensor-type",
        "a=f16",
        "--tensor-type",
        "a=f32",
    ];
    let refused = run(&desk, &daemon, &twice).refused(2);
    assert!(refused.contains("the pattern `a` twice"), "{refused}");
    let refused = run(
        &desk,
        &daemon,
        &["quantize", "llama", "q8_0", "--tensor-type", "attn_v"],
    )
    .refused(2);
    assert!(refused.contains("attn_v=q8_0"), "{refused}");
    let refused = run(&desk, &daemon, &["quantize", "llama", "q8_0", "--imatrix", "nowhere"]).refused(3);
    assert!(
        refused.contains("`nowhere`") && !refused.contains("did you mean"),
        "{refused}"
    );
}

#[test]
fn a_dry_run_is_a_table_and_makes_nothing() {
    let (desk, daemon) = (Desk::new(), FakeDaemon::start(script()));
    let ran = run(&desk, &daemon, &["quantize", "llama", "q4_K_M", "--dry-run", "--pure"]);
    assert_eq!(ran.err, "warning: there is no importance matrix\n");
    insta::assert_snapshot!(ran.ok(), @r"
    TENSOR                SHAPE         FROM   TO     SIZE
    token_embd.weight     [1024, 256]   BF16   Q6_K   215 kB
    blk.0.attn_q.weight   [256, 256]    BF16   Q4_K   37 kB

    `llama:q4_k_m` would have 2 tensors: 1 Q6_K (215 kB), 1 Q4_K (37 kB)
    BF16, 1.1 MB -> Q4_K_M, 345 kB: 4.85 bits a weight
    the work takes up to 12 MB of memory
    ");
    let json = run(&desk, &daemon, &["quantize", "llama", "q4_K_M", "--dry-run", "--json"]).json();
    assert_eq!(
        (&json["to"], &json["tensors"][0]["bytes"]),
        (&json!("Q4_K_M"), &json!(215_040))
    );
    let plans = daemon.asked("POST /api/witness/plan");
    assert_eq!(
        plans[0],
        json!({"model": "llama:q4_k_m", "from": "llama", "quantize": "q4_K_M", "quantize_options": {"pure": true, "requantize": false}})
    );
    assert!(daemon.asked("POST /api/create").is_empty());
}

#[test]
fn merge_takes_the_adapter_that_answers_or_the_one_named() {
    let (desk, daemon) = (Desk::new(), FakeDaemon::start(script()));
    let ran = run(&desk, &daemon, &["merge", "llama:8b"]);
    assert!(
        ran.err.starts_with("making `llama-merged:8b` of `llama:8b`\n")
            && ran.err.contains("created `llama-merged:8b`"),
        "{}",
        ran.err
    );
    run(&desk, &daemon, &["merge", "llama", "--adapter", "two", "--as", "x"]).ok();
    run(
        &desk,
        &daemon,
        &["merge", "llama", "--checkpoint", "300", "--quantize", "q8_0"],
    )
    .ok();
    let asked = daemon.asked("POST /api/create");
    let body =
        |model: &str, from: &str, merge: &str| json!({"model": model, "from": from, "merge": merge, "stream": true});
    assert_eq!(asked[0], body("llama-merged:8b", "llama:8b", ""));
    assert_eq!(asked[1], body("x", "llama", "two"));
    let mut third = body("llama-merged", "llama", "checkpoint-300");
    third["quantize"] = json!("q8_0");
    assert_eq!(asked[2], third);
    let refused = run(&desk, &daemon, &["merge", "llama", "--checkpoint", "200"]).refused(3);
    assert!(refused.contains("did you mean 300?"), "{refused}");
}

// The flag is as Ollama's; the recipe's own type gives way to it, and that is said.
#[test]
fn create_quantizes_by_flag_or_recipe() {
    let (desk, daemon) = (Desk::new(), FakeDaemon::start(script()));
    desk.write("Modelfile", "FROM llama\nQUANTIZE q4_K_M\n");
    let ran = run(&desk, &daemon, &["create", "a"]);
    assert!(!ran.err.contains("takes the place"), "{}", ran.err);
    assert!(ran.err.contains(TOLD), "{}", ran.err);
    let ran = run(&desk, &daemon, &["create", "b", "-q", "Q4_K_M"]);
    assert!(!ran.err.contains("takes the place"), "{}", ran.err);
    let ran = run(&desk, &daemon, &["create", "c", "--quantize", "q8_0"]);
    assert!(
        ran.err
            .contains("`--quantize q8_0` takes the place of the recipe's `QUANTIZE q4_K_M`"),
        "{}",
        ran.err
    );
    let types: Vec<Value> = daemon
        .asked("POST /api/create")
        .into_iter()
        .map(|body| body["quantize"].clone())
        .collect();
    assert_eq!(types, ["q4_K_M", "Q4_K_M", "q8_0"]);
    desk.write("Modelfile", "FROM llama\nDATASET x.jsonl\nTRAIN lora\n");
    let refused = run(&desk, &daemon, &["create", "d", "-q", "q8_0"]).refused(5);
    assert!(refused.contains("train first, then `witness quantize"), "{refused}");
}

#[test]
fn export_names_form_and_steps() {
    let (desk, daemon) = (Desk::new(), FakeDaemon::start(script()));
    let socket = desk.path().join("fake.sock");
    daemon.also_at(&socket);
    let export = |arguments: &[&str]| {
        let mut command = desk.command();
        command.env("WITNESS_HOST", &daemon.host).env("WITNESS_SOCKET", &socket);
        desk::finish(command.args(["export", "llama", "out"]).args(arguments))
    };
    let out = desk.path().join("out");
    let ran = export(&["--to", "gguf", "--merge", "--adapter", "two", "--quantize", "q4_K_M"]);
    assert_eq!(ran.err, format!("{TOLD}wrote model.gguf to `{}`\n", out.display()));
    assert_eq!(ran.ok(), "");
    let answer = export(&["--to", "gguf-adapter", "--checkpoint", "300", "--force", "--json"]).json();
    assert_eq!(answer, json!({"directory": out, "files": ["model.gguf"]}));
    export(&[]).ok();
    let asked = daemon.asked("POST /api/witness/export");
    let body = |more: Value| {
        let mut body = json!({"model": "llama", "directory": out, "force": false, "stream": true});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    assert_eq!(
        asked,
        [
            body(json!({"form": "gguf", "merge": true, "adapter": "two", "quantize": "q4_K_M"})),
            body(json!({"form": "gguf_adapter", "adapter": "checkpoint-300", "force": true})),
            body(json!({"form": "peft"})),
        ]
    );
}

// Ctrl-C: the request is dropped, which is what ends the work in the daemon.
#[test]
fn an_interrupt_ends_the_work_and_says_what_is_left() {
    let mut script = script();
    script.making.truncate(4);
    script.making_hangs = true;
    let (desk, daemon) = (Desk::new(), FakeDaemon::start(script));
    let mut command = desk.command();
    command
        .env("WITNESS_HOST", &daemon.host)
        .args(["quantize", "llama", "q4_K_M"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut errors = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("quantizing") {
        assert_ne!(
            std::io::BufRead::read_line(&mut errors, &mut said).unwrap(),
            0,
            "{said}"
        );
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    daemon.wait_for(LEFT);
    std::io::Read::read_to_string(&mut errors, &mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
    assert!(
        said.contains("`llama:q4_k_m` was not created") && said.contains("the store is as it was"),
        "{said}"
    );
}

// A model that is not here, and forms that do not go together, as the real daemon says it.
#[test]
fn the_daemon_refuses_with_a_way_out() {
    let desk = Desk::with_quick();
    for arguments in [
        &["quantize", "quikc", "q8_0"][..],
        &["merge", "quikc"],
        &["export", "quikc", "out"],
    ] {
        let refused = desk.run(arguments).refused(3);
        assert!(refused.contains("did you mean `quick`?"), "{arguments:?}: {refused}");
    }
    let refused = desk.run(["merge", "quick", "--adapter", "nobody"]).refused(3);
    assert!(
        refused.contains("no adapter `nobody` to merge") && !refused.contains("witness list"),
        "{refused}"
    );
    let refused = desk
        .run(["export", "quick", "out", "--to", "gguf", "--adapter", "pirate"])
        .refused(2);
    assert!(refused.contains("--merge"), "{refused}");
    let refused = desk.run(["export", "quick", "out", "--quantize", "q8_0"]).refused(2);
    assert!(refused.contains("--to gguf"), "{refused}");
    // What is stored as it is asked for is copied.
    desk.run(["export", "quick", "base", "--to", "safetensors"]).ok();
    let weights = |path: String| std::fs::read(path).unwrap();
    let copied = desk.path().join("base/model.safetensors").display().to_string();
    assert_eq!(weights(copied), weights(toy("base/model.safetensors")));
}

#[test]
fn shells_complete_the_types() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = desk.run(["completions", shell]).ok();
        assert!(script.contains("Q4_K_M") && script.contains("IQ4_XS"), "{shell}");
    }
}
