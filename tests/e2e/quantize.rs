//! Other forms of a model for real: every type is made by the plugin and served, a merged model answers as its adapter did, and a daemon that is killed in the middle
//! leaves nothing.

use std::process::Stdio;
use std::time::Duration;

use crate::desk::{Desk, toy};
use crate::harness::gguf::{self, Shape};
use crate::harness::{Daemon, checkout};

/// Every type that `quantize` makes without an importance matrix.
const TYPES: [&str; 23] = [
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S",
    "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_M", "TQ1_0", "TQ2_0",
];

/// A model of F16 whose rows are whole blocks of every type, under the name `base`.
fn base(desk: &Desk, shape: Shape) {
    gguf::write(&desk.path().join("base.gguf"), shape, "base");
    let recipe = "FROM ./base.gguf\nPARAMETER temperature 0\nPARAMETER num_predict 6\n";
    let recipe = desk.write("Modelfile", recipe);
    desk.run(["create", "base", "-f", &recipe]).ok();
}

#[test]
fn every_type_is_made_and_served() {
    let desk = Desk::new();
    base(&desk, Shape::small(2));
    let wanted = desk.run(["run", "base", "hello"]).ok();
    for kind in TYPES {
        let name = format!("base:{}", kind.to_lowercase());
        let told = desk.run(["quantize", "base", kind]);
        assert!(told.err.contains(&format!("`{name}`")), "{}", told.err);
        told.ok();
        let said = desk.run(["run", &name, "hello"]).ok();
        assert!(!said.is_empty(), "{kind}");
        // What holds the same numbers says the same.
        if matches!(kind, "F32" | "F16") {
            assert_eq!(said, wanted, "{kind}");
        }
        let shown = desk.run(["show", &name]).ok();
        assert!(shown.contains(kind), "{shown}");
    }
    let near = desk.run(["quantize", "base", "q4_k_x"]).err;
    assert!(near.contains("did you mean"), "{near}");
    let again = desk.run(["quantize", "base:q8_0", "q4_0"]).err;
    assert!(again.contains("--allow-requantize"), "{again}");
    desk.run(["quantize", "base:q8_0", "q4_0", "--as", "twice", "--allow-requantize"])
        .ok();
    // The table of a plan names each tensor and makes nothing.
    let plan = desk
        .run(["quantize", "base", "q4_k_m", "--as", "never", "--dry-run"])
        .ok();
    assert!(plan.contains("blk.0.attn_v.weight") && plan.contains("Q6_K"), "{plan}");
    desk.run(["show", "never"]).refused(3);
}

/// A path of the quick start, whose tokenizer a GGUF file can say.
fn quickstart(name: &str) -> String {
    let path = checkout().join("modelfiles/quickstart").join(name);
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_recipe_quantizes_what_it_makes() {
    let desk = Desk::new();
    let recipe = format!("FROM {}\nQUANTIZE q8_0\nPARAMETER temperature 0\n", quickstart("base"));
    let recipe = desk.write("Modelfile", recipe);
    desk.run(["create", "small", "-f", &recipe]).ok();
    let shown = desk.run(["show", "small"]).ok();
    assert!(shown.contains("Q8_0") && shown.contains("llama"), "{shown}");
    assert!(!desk.run(["run", "small", "What is an attestation?"]).ok().is_empty());
    // What GGUF cannot say is told and not lost: the toy's tokenizer takes whole words.
    let recipe = desk.write("Toy", format!("FROM {}\nQUANTIZE q8_0\n", toy("base")));
    let told = desk.run(["create", "toy", "-f", &recipe]).err;
    assert!(told.contains("tokenizer.json"), "{told}");
    desk.run(["show", "toy"]).refused(3);
}

// A Hugging Face directory in NF4: made, shown, asked, and made into something else only where somebody takes the loss of both.
#[test]
fn four_bits_of_bitsandbytes_are_made_and_served() {
    let desk = Desk::new();
    let recipe = format!("FROM {}\nPARAMETER temperature 0\n", quickstart("base"));
    let recipe = desk.write("Modelfile", recipe);
    desk.run(["create", "base", "-f", &recipe]).ok();
    let made = desk.run(["quantize", "base", "nf4", "--json"]).ok();
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    assert_eq!(
        (&made["model"], &made["from"]),
        (&"base:nf4".into(), &"base".into()),
        "{made}"
    );
    assert_eq!(
        (&made["quantization"], &made["format"]),
        (&"NF4".into(), &"safetensors".into()),
        "{made}"
    );
    assert!(made["files"].as_array().unwrap().len() > 2, "{made}");
    let shown = desk.run(["show", "base:nf4"]).ok();
    assert!(shown.contains("NF4"), "{shown}");
    assert!(!desk.run(["run", "base:nf4", "What is an attestation?"]).ok().is_empty());
    let again = desk.run(["quantize", "base:nf4", "q8_0"]).err;
    assert!(again.contains("--allow-requantize"), "{again}");
    desk.run(["quantize", "base:nf4", "q8_0", "--as", "small", "--allow-requantize"])
        .ok();
    assert!(!desk.run(["run", "small", "What is an attestation?"]).ok().is_empty());
    let out = desk.path().join("out");
    let out = out.to_str().unwrap();
    desk.run(["export", "base:nf4", "--to", "safetensors", "--quantize", "f16", out])
        .ok();
    let config = std::fs::read_to_string(format!("{out}/config.json")).unwrap();
    assert!(!config.contains("quantization_config"), "{config}");
}

#[test]
fn a_merged_model_answers_as_its_adapter_did() {
    const QUESTION: &str = "How do I attest a Go build?";
    let desk = Desk::new();
    desk.run(["create", "expert", "-f", &quickstart("Modelfile")]).ok();
    let ask = |name: &str| desk.run(["run", name, QUESTION]).ok();
    let wanted = ask("expert");
    desk.run(["merge", "expert"]).ok();
    assert_eq!(ask("expert-merged"), wanted);
    desk.run(["merge", "expert", "--quantize", "q8_0", "--as", "small"])
        .ok();
    assert!(!ask("small").is_empty());
    // Out of the store and in again, in either form.
    let rest = "PARAMETER temperature 0\n";
    let system = desk.run(["show", "expert", "--system"]).ok();
    for (form, extra, from) in [
        ("gguf", &["--merge", "--quantize", "f32"][..], "out-gguf/model.gguf"),
        ("safetensors", &["--merge"], "out-safetensors"),
    ] {
        let directory = desk.path().join(format!("out-{form}"));
        let mut arguments = vec!["export", "expert", "--to", form, directory.to_str().unwrap()];
        arguments.extend(extra);
        desk.run(arguments).ok();
        let recipe = format!("FROM ./{from}\nSYSTEM \"\"\"{}\"\"\"\n{rest}", system.trim_end());
        let recipe = desk.write("Again", recipe);
        desk.run(["create", "again", "-f", &recipe]).ok();
        assert_eq!(ask("again"), wanted, "{form}");
    }
    // An adapter in its other form still is that adapter.
    let directory = desk.path().join("out-adapter");
    let to = directory.to_str().unwrap();
    desk.run(["export", "expert", "--to", "gguf-adapter", to]).ok();
    let recipe = format!(
        "FROM {}\nADAPTER ./out-adapter/adapter.gguf\nSYSTEM \"\"\"{}\"\"\"\n{rest}",
        quickstart("base"),
        system.trim_end()
    );
    let recipe = desk.write("Adapted", recipe);
    desk.run(["create", "adapted", "-f", &recipe]).ok();
    assert_eq!(ask("adapted"), wanted);
}

// kill -9 in the middle: the model that was to be made is not there, the one that it was made of is, and no half file lies anywhere.
#[test]
fn a_killed_daemon_leaves_no_half_model() {
    let desk = Desk::new();
    let daemon = Daemon::start(desk.home());
    base(&desk, Shape::of_bytes(260 << 20));
    let staging = desk.path().join("models/.witness/tmp");
    let working = || {
        let entries = std::fs::read_dir(&staging).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("working-"))
            .count()
    };
    let mut making = desk
        .command()
        .args(["quantize", "base", "iq4_xs", "--as", "half"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut seen = false;
    for _ in 0..2_000 {
        seen = working() > 0;
        if seen || making.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(seen, "it was made before anybody looked");
    daemon.kill();
    let ended = making.wait_with_output().unwrap();
    assert!(!ended.status.success());
    desk.run(["show", "half"]).refused(3);
    assert_eq!(working(), 0);
    assert!(!desk.run(["run", "base", "hello"]).ok().is_empty());
    desk.run(["fsck"]).ok();
}
