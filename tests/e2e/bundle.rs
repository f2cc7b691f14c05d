//! A model in one file: out of one home, into another, and every way in which the file can be wrong. The real plugin serves what came out.

use std::path::Path;

use serde_json::{Value, json};

use crate::desk::{self, Desk, toy};
use crate::fake_daemon::{FakeDaemon, Script};

const QUESTION: &str = "What is a blob?";

/// A desk with the toy model, and its bundle.
fn bundled(more: &[&str]) -> (Desk, String) {
    let desk = Desk::with_quick();
    let file = desk.path().join("quick.witness.tar").to_str().unwrap().to_owned();
    let ran = desk.run([&["export", "quick", &file, "--to", "bundle"], more].concat());
    assert!(ran.err.contains("witness import FILE"), "{}", ran.err);
    assert_eq!(ran.ok(), "");
    (desk, file)
}

fn digest(desk: &Desk, model: &str) -> Value {
    let listed = desk.run(["list", "--json"]).json();
    let models = listed["models"].as_array().unwrap();
    let found = models.iter().find(|found| found["name"] == format!("{model}:latest"));
    found.map_or(Value::Null, |found| found["digest"].clone())
}

/// What is left of the writing or the reading of a bundle.
fn left_over(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).into_iter().flatten();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name.ends_with(".part") || name.starts_with("incoming-"))
        .collect()
}

#[test]
fn a_model_goes_to_another_home_and_answers_as_before() {
    let (desk, file) = bundled(&[]);
    let other = Desk::new();
    let ran = other.run(["import", &file]);
    assert!(
        ran.err.contains("imported `quick`; ask it with `witness run quick`"),
        "{}",
        ran.err
    );
    assert!(!ran.err.contains("warning"), "{}", ran.err);
    assert_eq!(ran.ok(), "");
    assert_eq!(digest(&other, "quick"), digest(&desk, "quick"));
    for part in [&["--modelfile"][..], &["--parameters"], &["--license"], &[]] {
        let show = |desk: &Desk| {
            let shown = desk.run([&["show", "quick"], part].concat()).ok();
            let shown = shown.replace(desk.path().to_str().unwrap(), "HOME");
            // How long ago each was made is its own.
            let lines = shown.lines().filter(|line| !line.trim_start().starts_with("modified "));
            lines.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(show(&other), show(&desk), "{part:?}");
    }
    for adapter in ["guide", "pirate", "base"] {
        let ask = |desk: &Desk| desk.run(["run", "quick", "--adapter", adapter, QUESTION]).ok();
        assert_eq!(ask(&other), ask(&desk), "{adapter}");
    }
    // The same model is the same file, also from there.
    let again = other.path().join("again.tar").to_str().unwrap().to_owned();
    other.run(["export", "quick", &again, "--to", "bundle"]).ok();
    assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(&again).unwrap());
    assert!(left_over(desk.path()).is_empty() && left_over(&other.path().join("models/.witness/tmp")).is_empty());
    other.run(["fsck"]).ok();
    // Under a name of its own, told for programs.
    let told = other.run(["import", &file, "second:v1", "--json"]).json();
    assert_eq!(told["model"], "second:v1");
    assert_eq!(
        told["digest"],
        format!("sha256:{}", digest(&desk, "quick").as_str().unwrap())
    );
}

#[test]
fn one_adapter_or_no_base() {
    let (desk, file) = bundled(&["--adapter", "pirate"]);
    let other = Desk::new();
    other.run(["import", &file]).ok();
    // It is the only one, so it answers.
    let wanted = desk.run(["run", "quick", "--adapter", "pirate", QUESTION]).ok();
    assert_eq!(other.run(["run", "quick", QUESTION]).ok(), wanted);
    other.run(["run", "quick", "--adapter", "guide", QUESTION]).refused(2);

    let (desk, file) = bundled(&["--without-base"]);
    let other = Desk::new();
    let refused = other.run(["import", &file]).refused(3);
    assert!(
        refused.contains("without its base `quick:latest`")
            && refused.contains("config.json")
            && refused.contains("sha256:"),
        "{refused}"
    );
    assert_eq!(digest(&other, "quick"), Value::Null);
    let recipe = other.write("Modelfile", format!("FROM {}\n", toy("base")));
    other.run(["create", "mine", "-f", &recipe]).ok();
    other.run(["import", &file]).ok();
    assert_eq!(digest(&other, "quick"), digest(&desk, "quick"));
    let ask = |desk: &Desk| desk.run(["run", "quick", QUESTION]).ok();
    assert_eq!(ask(&other), ask(&desk));
}

#[test]
fn what_is_there_is_not_written_over() {
    let (desk, file) = bundled(&[]);
    let before = std::fs::read(&file).unwrap();
    let refused = desk.run(["export", "quick", &file, "--to", "bundle"]).refused(4);
    assert!(refused.contains("--force"), "{refused}");
    let told = desk
        .run(["export", "quick", &file, "--to", "bundle", "--force", "--json"])
        .json();
    assert_eq!(told, json!({"file": file, "size": before.len()}));
    assert_eq!(std::fs::read(&file).unwrap(), before);
    let other = Desk::new();
    let recipe = other.write("Modelfile", format!("FROM {}\nSYSTEM mine\n", toy("base")));
    other.run(["create", "quick", "-f", &recipe]).ok();
    let mine = digest(&other, "quick");
    let refused = other.run(["import", &file]).refused(4);
    assert!(
        refused.contains("--force") && refused.contains("witness import FILE NAME"),
        "{refused}"
    );
    assert_eq!(digest(&other, "quick"), mine);
    other.run(["import", &file, "--force"]).ok();
    assert_eq!(digest(&other, "quick"), digest(&desk, "quick"));
}

// One byte in each part of the file, its end, and what follows it.
#[test]
fn a_damaged_bundle_makes_no_model() {
    let (_desk, file) = bundled(&[]);
    let sound = std::fs::read(&file).unwrap();
    let other = Desk::new();
    let find = |text: &str| {
        sound
            .windows(text.len())
            .position(|window| window == text.as_bytes())
            .unwrap()
    };
    let parts = [
        ("header of the index", 0),
        ("length of the index", 130),
        ("index", find("\"program\"")),
        ("name in the index", find("quick:latest")),
        ("header of the manifest", find("witness-bundle-1/manifest.json") + 20),
        ("manifest", find("\"schemaVersion\"") + 3),
        ("header of a blob", find("witness-bundle-1/blobs/") + 5),
        ("weights", sound.len() / 2),
        ("end", sound.len() - 700),
        ("last byte", sound.len() - 1),
    ];
    for (part, place) in parts {
        let mut bytes = sound.clone();
        bytes[place] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let ran = other.run(["import", &file]);
        // What does not even begin like a bundle is no bundle.
        let is_told = ran.err.contains("is damaged") || ran.err.contains("is no bundle");
        assert!(is_told && matches!(ran.code, 2 | 8), "{part}: {} {}", ran.code, ran.err);
        assert!(ran.err.contains("hint: "), "{part}: {}", ran.err);
    }
    for (bytes, wanted) in [
        (sound[..sound.len() / 2].to_vec(), "it ends after"),
        (sound[..100].to_vec(), "is no bundle"),
        (Vec::new(), "is no bundle"),
        ([&sound[..], b"more"].concat(), "4 bytes follow its end"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let ran = other.run(["import", &file]);
        assert!(ran.code != 0 && ran.err.contains(wanted), "{wanted}: {}", ran.err);
    }
    assert_eq!(digest(&other, "quick"), Value::Null);
    assert!(left_over(&other.path().join("models/.witness/tmp")).is_empty());
    // A version that is not known yet.
    let text = "witness-bundle-1/";
    let mut newer = sound.clone();
    newer[text.len() - 2] = b'9';
    std::fs::write(&file, newer).unwrap();
    let refused = other.run(["import", &file]).refused(5);
    assert!(
        refused.contains("format version 9") && refused.contains("update"),
        "{refused}"
    );
    // After all that the sound file is taken.
    std::fs::write(&file, &sound).unwrap();
    other.run(["import", &file]).ok();
}

#[test]
fn wrong_flags_are_told_with_a_way_out() {
    let (desk, file) = bundled(&[]);
    for (arguments, code, wanted) in [
        (&["export", "quick", "--to", "bundle"][..], 2, "<TARGET>"),
        (&["export", "quick", "x.tar", "--to", "bundel"], 2, "bundle"),
        (
            &["export", "quick", "x.tar", "--to", "bundle", "--merge"],
            2,
            "witness merge",
        ),
        (
            &["export", "quick", "x.tar", "--to", "bundle", "--quantize", "q8_0"],
            2,
            "witness quantize",
        ),
        (
            &["export", "quick", "x.tar", "--to", "bundle", "--adapter", "pirat"],
            2,
            "did you mean `pirate`?",
        ),
        (
            &["export", "quick", "x", "--to", "gguf", "--without-base"],
            2,
            "--to bundle",
        ),
        (
            &["export", "quikc", "x.tar", "--to", "bundle"],
            3,
            "did you mean `quick`?",
        ),
        (&["export", "quick", "no/where/x.tar", "--to", "bundle"], 3, "no/where"),
        (&["export", "quick", ".", "--to", "bundle"], 2, "not a plain file"),
        (&["import"], 2, "<FILE>"),
        (&["import", "nowhere.tar"], 3, "nowhere.tar"),
        (&["import", "."], 2, "not a plain file"),
        (&["import", "Modelfile"], 2, "witness create"),
        (&["import", &file, "a b"], 2, "no model name"),
        (&["import", &file, "--forse"], 2, "--force"),
    ] {
        desk.write("Modelfile", "FROM ./x\n".repeat(100));
        let refused = desk.run(arguments).refused(code);
        assert!(refused.contains(wanted), "{arguments:?}: {refused}");
    }
    assert!(!desk.path().join("x.tar").exists() && !desk.path().join("x").exists());
}

// What is sent, and where: both are for the socket of the daemon's own machine.
#[test]
fn requests_are_as_they_are_meant() {
    let script = Script {
        models: vec!["llama:latest"],
        making: vec![
            json!({"status": "success", "model": "llama:latest", "directory": "/out", "files": ["llama:latest"]}),
        ],
        ..Script::default()
    };
    let (desk, daemon) = (Desk::new(), FakeDaemon::start(script));
    let socket = desk.path().join("fake.sock");
    daemon.also_at(&socket);
    let run = |arguments: &[&str]| {
        let mut command = desk.command();
        command.env("WITNESS_HOST", &daemon.host).env("WITNESS_SOCKET", &socket);
        desk::finish(command.args(arguments)).ok()
    };
    run(&[
        "export",
        "llama",
        "a.tar",
        "--to",
        "bundle",
        "--without-base",
        "--adapter",
        "two",
    ]);
    run(&[
        "export",
        "llama",
        "out",
        "--to",
        "ollama",
        "--merge",
        "--quantize",
        "q8_0",
        "--force",
    ]);
    run(&["import", "a.tar"]);
    run(&["import", "a.tar", "mine", "--force"]);
    let (file, out) = (desk.path().join("a.tar"), desk.path().join("out"));
    assert_eq!(
        daemon.asked("POST /api/witness/export"),
        [
            json!({"model": "llama", "adapter": "two", "file": file, "form": "bundle", "without_base": true, "force": false, "stream": true}),
            json!({"model": "llama", "directory": out, "form": "ollama", "quantize": "q8_0", "merge": true, "force": true, "stream": true}),
        ]
    );
    assert_eq!(
        daemon.asked("POST /api/witness/unbundle"),
        [
            json!({"path": file, "force": false, "stream": true}),
            json!({"path": file, "model": "mine", "force": true, "stream": true}),
        ]
    );
}

#[test]
fn help_has_examples_and_shells_complete() {
    let desk = Desk::new();
    let help = desk.run(["help", "import"]).ok();
    assert!(
        help.contains("Examples:") && help.contains("expert.witness.tar"),
        "{help}"
    );
    let help = desk.run(["help", "export"]).ok();
    for part in ["--without-base", "--to bundle", "--to ollama", "bundle:", "ollama:"] {
        assert!(help.contains(part), "{part}: {help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = desk.run(["completions", shell]).ok();
        assert!(script.contains("import") && script.contains("without-base"), "{shell}");
    }
}
