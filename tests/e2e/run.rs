//! `witness run` with a prompt: what goes to standard output, and how it is steered.

use crate::desk::Desk;

// Standard output is the answer and a line end, so that `$(witness run ...)` is the answer.
#[test]
fn the_answer_alone_goes_to_standard_output() {
    let desk = Desk::with_quick();
    let ran = desk.run(["run", "quick", "What is a blob?"]);
    assert_eq!(ran.err, "");
    assert_eq!(
        ran.ok(),
        "A blob is a file that is named by the digest of its bytes, so that no byte can change unseen.\n"
    );
}

#[test]
fn a_request_names_its_adapter() {
    let desk = Desk::with_quick();
    let ask = |adapter: &str| desk.run(["run", "quick", "--adapter", adapter, "thanks"]).ok();
    assert_eq!(ask("guide"), "You are welcome. Goodbye!\n");
    assert_eq!(ask("pirate"), "Fair winds to ye!\n");
    assert_eq!(ask("base"), "Goodbye.\n");
    let unknown = desk.run(["run", "quick", "--adapter", "pirat", "thanks"]);
    assert_ne!(unknown.code, 0);
    assert!(unknown.err.contains("pirate"), "{}", unknown.err);
}

// A pipe alone is the prompt; behind a prompt it is appended.
#[test]
fn piped_input_is_the_prompt_or_behind_it() {
    let desk = Desk::with_quick();
    assert_eq!(
        desk.run_with(["run", "quick", "--adapter", "base"], "What is a manifest?\n")
            .ok(),
        "A list of blobs.\n"
    );
    let ran = desk.run_with(
        ["run", "quick", "--adapter", "base", "What is a manifest?"],
        "Or rather a plugin?\n",
    );
    assert_eq!(ran.ok(), "A library that computes.\n");
}

#[test]
fn figures_go_to_standard_error() {
    let desk = Desk::with_quick();
    let ran = desk.run([
        "run",
        "quick",
        "--verbose",
        "--param",
        "num_predict=3",
        "What is a blob?",
    ]);
    assert!(ran.err.contains("eval count:           3 token(s)"), "{}", ran.err);
    assert!(ran.err.contains("adapter:              guide"), "{}", ran.err);
    assert_eq!(ran.ok(), "A blob is\n");
}

#[test]
fn parameters_are_checked_before_anything_is_loaded() {
    let desk = Desk::with_quick();
    let ask = |parameter: &str| desk.run(["run", "quick", "--param", parameter, "hi"]).refused(2);
    assert!(ask("temprature=1").contains("temperature"));
    assert!(ask("seed=often").contains("seed"));
    assert!(ask("seed").contains("--param name=value"));
    assert!(
        desk.run(["run", "quick", "--format", "yaml", "hi"])
            .refused(2)
            .contains("json")
    );
}

// A prompt beyond the context is refused with both counts; with --truncate it is answered and the loss is told.
#[test]
fn nothing_is_cut_silently() {
    let desk = Desk::with_quick();
    let long = format!("{}What is a blob?", "word ".repeat(1100));
    let refused = desk.run(["run", "quick", &long]).refused(2);
    assert!(refused.contains("1024") && refused.contains("hint:"), "{refused}");
    let ran = desk.run(["run", "quick", "--truncate", "--adapter", "base", &long]);
    assert!(ran.err.contains("dropped"), "{}", ran.err);
    assert_eq!(ran.ok(), "A file named by its digest.\n");
}

#[test]
fn a_missing_model_gets_near_misses_and_a_way_to_make_it() {
    let desk = Desk::with_quick();
    let err = desk.run(["run", "quikc", "hi"]).refused(3);
    insta::assert_snapshot!(err, @r"
    error[witness::registry::not_found]: model `quikc` is not here
      hint: did you mean `quick`?
      hint: `witness list` shows what is here; `witness create quikc -f Modelfile` makes a new one
    ");
}

// The estimate loads nothing, and its parts make its sum.
#[test]
fn the_estimate_loads_nothing() {
    let desk = Desk::with_quick();
    desk.run(["stop", "quick"]).ok();
    let estimate = desk.run(["run", "quick", "--estimate", "--json"]).json();
    let part = |name: &str| estimate[name].as_u64().unwrap();
    assert_eq!(
        part("weights_bytes") + part("kv_bytes") + part("adapter_bytes") + part("overhead_bytes"),
        part("total_bytes")
    );
    assert!(estimate["fits"].as_bool().unwrap());
    assert_eq!(desk.run(["ps", "--json"]).json()["models"].as_array().unwrap().len(), 0);
    let text = desk.run(["run", "quick", "--estimate"]).ok();
    assert!(text.contains("weights") && text.contains("it fits"), "{text}");
}

// Sampling with a seed repeats itself.
#[test]
fn a_seed_repeats() {
    let desk = Desk::with_quick();
    let ask = || {
        let flags = [
            "run",
            "quick",
            "--param",
            "temperature=2",
            "--param",
            "seed=11",
            "hello",
        ];
        desk.run(flags).ok()
    };
    assert_eq!(ask(), ask());
}

// Ctrl-C ends a run whose model says nothing any more, with the code of a stopped run; the daemon goes on.
#[test]
fn ctrl_c_ends_a_run_that_hangs() {
    use std::process::Stdio;
    let desk = Desk::new();
    desk.write("echo.hostile", "HOSTILE1\n");
    desk.run_with(["create", "mute", "-f", "-"], "FROM ./echo.hostile\n")
        .ok();
    let mut child = desk.command();
    let child = child
        .args(["run", "mute", "hostile! step:hang"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = child.spawn().unwrap();
    let is_running = || desk.run(["ps", "--json"]).json()["models"][0]["running"].as_u64() == Some(1);
    while !is_running() {
        std::thread::yield_now();
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(130),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(desk.run(["version"]).ok().contains("daemon"));
}

// What was read and said goes to disk when the model goes, is found when it comes back, and goes with the model that is deleted.
#[test]
fn chats_are_kept_until_their_model_is_deleted() {
    let desk = Desk::with_quick();
    let kept = || -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(desk.home().path().join("chats")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let question = "Tell me of plugins and manifests and adapters. ".repeat(6);
    let ask = || desk.run(["run", "quick", &question]).ok();
    let first = ask();
    assert!(kept().is_empty());
    desk.run(["stop", "quick"]).ok();
    // Stopping is told at once, the worker takes a moment.
    let until = |is_so: &dyn Fn() -> bool| {
        let so = (0..4_000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            is_so()
        });
        assert!(so, "{:?}", kept());
    };
    until(&|| {
        kept()
            .iter()
            .any(|path| path.extension().is_some_and(|extension| extension == "kv"))
    });
    assert_eq!(ask(), first);
    desk.run(["rm", "quick"]).ok();
    until(&|| kept().is_empty());
}
