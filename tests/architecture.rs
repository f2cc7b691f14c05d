//! The arrows between our crates and the owners of outside ones, kept true. A new arrow needs a line here and a reason in its commit.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Which of ours each of ours may use, as `runtime/ARCHITECTURE.md` draws it. Names are folders; `src` is the program.
const ARROWS: &[(&str, &[&str])] = &[
    (
        "src",
        &[
            "client",
            "daemon",
            "plugin-host",
            "modelfile",
            "recipe",
            "plugin-protocol",
            "dataset",
            "settings",
            "api",
            "diagnostics",
        ],
    ),
    (
        "daemon",
        &[
            "api",
            "scheduler",
            "registry",
            "plugin-host",
            "plugin-protocol",
            "settings",
            "modelfile",
            "diagnostics",
        ],
    ),
    ("client", &["api", "settings", "modelfile", "diagnostics"]),
    ("plugin-host", &["plugin-abi", "plugin-protocol", "diagnostics"]),
    ("plugin-sdk", &["plugin-abi", "plugin-protocol", "diagnostics"]),
    ("plugin-protocol", &["diagnostics"]),
    ("recipe", &["plugin-protocol", "diagnostics"]),
    ("scheduler", &["diagnostics"]),
    ("registry", &["diagnostics"]),
    ("modelfile", &["diagnostics"]),
    ("api", &["diagnostics"]),
    ("settings", &["diagnostics"]),
    ("formats", &["diagnostics"]),
    ("template", &["diagnostics"]),
    ("tokenizer", &["formats", "diagnostics"]),
    ("conversion", &["formats", "tokenizer", "diagnostics"]),
    // One word holds a whole process to fewer instructions, so whoever chooses functions by them asks one crate.
    (
        "model",
        &["kernels", "quantization", "instructions", "formats", "diagnostics"],
    ),
    ("quantization", &["instructions", "formats", "diagnostics"]),
    ("kernels", &["instructions", "formats", "diagnostics"]),
    ("instructions", &["diagnostics"]),
    // A frozen base is trained on as it lies in its file, so its blocks are decoded there.
    ("training", &["quantization", "instructions", "formats", "diagnostics"]),
    ("dataset", &["diagnostics"]),
    ("trackers", &["diagnostics"]),
    ("sampling", &[]),
    ("batching", &[]),
    ("plugin-abi", &[]),
    ("diagnostics", &[]),
];

/// What any plugin may use. `hostile` also breaks the ABI on purpose and therefore sees its tables.
const PLUGIN: &[&str] = &[
    "plugin-sdk",
    "plugin-protocol",
    "model",
    "batching",
    "kernels",
    "instructions",
    "formats",
    "tokenizer",
    "conversion",
    "template",
    "sampling",
    "dataset",
    "quantization",
    "training",
    "trackers",
    "recipe",
    "diagnostics",
];

/// Outside crates that belong to some of ours alone: a beginning of a name, and its owners.
const OWNERS: &[(&str, &[&str])] = &[
    ("tokio", &["daemon", "client", "plugin-host", "src"]),
    ("hyper", &["daemon", "client"]),
    ("axum", &["daemon"]),
    ("libloading", &["plugin-host"]),
    ("candle", &["plugins"]),
    ("gemm", &["training"]),
    ("pulp", &["model", "training"]),
    ("tokenizers", &["tokenizer"]),
    ("minijinja", &["template"]),
    ("memmap2", &["formats"]),
    ("clap", &["src"]),
    ("indicatif", &["src"]),
    ("rustyline", &["src"]),
    ("serde-saphyr", &["recipe"]),
    ("directories", &["settings"]),
];

/// The only crates that may contain `unsafe`, each for a boundary that Rust cannot check.
const UNSAFE: &[&str] = &[
    "plugin-abi",
    "plugin-sdk",
    "plugin-host",
    "formats",
    "hostile",
    "quantization",
    "training",
    "kernels",
    "instructions",
    "model",
];

/// One of our crates: its folder's name, whether it is a plugin, what it depends on when built.
struct Ours {
    name: String,
    is_plugin: bool,
    directory: std::path::PathBuf,
    dependencies: BTreeSet<String>,
}

fn workspace() -> Vec<Ours> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().iter().map(ours).collect()
}

fn ours(package: &Value) -> Ours {
    let manifest = std::path::PathBuf::from(package["manifest_path"].as_str().unwrap());
    let directory = manifest.parent().unwrap().to_owned();
    let folder = directory.file_name().unwrap().to_str().unwrap().to_owned();
    let is_root = package["name"] == "witness";
    let dependencies = package["dependencies"].as_array().unwrap().iter();
    let dependencies = dependencies
        .filter(|dependency| dependency["kind"].is_null())
        .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
        .collect();
    Ours {
        name: if is_root { "src".to_owned() } else { folder },
        is_plugin: directory.parent().unwrap().ends_with("plugins"),
        directory,
        dependencies,
    }
}

#[test]
fn every_arrow_is_permitted() {
    let permitted: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    for crate_ in workspace() {
        let allowed: BTreeSet<&str> = if crate_.is_plugin {
            let own = if crate_.name == "hostile" {
                &["plugin-abi"][..]
            } else {
                &[]
            };
            PLUGIN.iter().chain(own).copied().collect()
        } else {
            let allowed = permitted.get(crate_.name.as_str());
            let allowed = allowed.unwrap_or_else(|| panic!("`{}` is new: give it a line in ARROWS", crate_.name));
            allowed.iter().copied().collect()
        };
        for target in crate_
            .dependencies
            .iter()
            .filter_map(|name| name.strip_prefix("witness-"))
        {
            assert!(allowed.contains(target), "`{}` may not use `{target}`", crate_.name);
        }
    }
}

#[test]
fn outside_crates_stay_with_their_owners() {
    for crate_ in workspace() {
        for dependency in &crate_.dependencies {
            for (prefix, owners) in OWNERS {
                let is_theirs = dependency == prefix || dependency.starts_with(&format!("{prefix}-"));
                let is_owner =
                    owners.contains(&crate_.name.as_str()) || (crate_.is_plugin && owners.contains(&"plugins"));
                assert!(
                    !is_theirs || is_owner,
                    "`{}` may not use `{dependency}`: it belongs to {owners:?}",
                    crate_.name
                );
            }
        }
    }
}

// No plugin is named in the runtime or the program: a third party's plugin is found, chosen and used like ours.
#[test]
fn nothing_in_the_runtime_depends_on_a_plugin() {
    for crate_ in workspace().iter().filter(|crate_| !crate_.is_plugin) {
        let plugin = crate_
            .dependencies
            .iter()
            .find(|name| name.starts_with("witness-plugin-") && !is_of_the_runtime(name));
        assert!(plugin.is_none(), "`{}` depends on the plugin {plugin:?}", crate_.name);
    }
}

fn is_of_the_runtime(name: &str) -> bool {
    ["abi", "host", "protocol", "sdk"]
        .iter()
        .any(|end| name == format!("witness-plugin-{end}"))
}

#[test]
fn unsafe_code_lies_only_at_the_boundaries() {
    for crate_ in workspace() {
        let has_unsafe = sources(&crate_.directory.join("src")).iter().any(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            text.lines()
                .map(str::trim_start)
                .any(|line| !line.starts_with("//") && line.contains("expect(unsafe_code"))
        });
        assert!(
            !has_unsafe || UNSAFE.contains(&crate_.name.as_str()),
            "`{}` lifts the ban on unsafe code",
            crate_.name
        );
    }
}

// A newcomer opens any file and is told first what it is for.
#[test]
fn every_file_says_what_it_is_for() {
    for crate_ in workspace() {
        for folder in ["src", "tests", "benches", "examples"] {
            for path in sources(&crate_.directory.join(folder)) {
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(text.starts_with("//!"), "{} does not begin with `//!`", path.display());
                let mut lines = text.lines().map(str::trim_start);
                let is_allowing = lines.any(|line| line.starts_with("#[allow") || line.starts_with("#![allow"));
                assert!(
                    !is_allowing,
                    "{} allows a lint: use `#[expect(.., reason)]`",
                    path.display()
                );
            }
        }
    }
}

/// Returns every Rust file below a directory.
fn sources(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => sources(&path),
            false if path.extension().is_some_and(|ending| ending == "rs") => vec![path],
            false => Vec::new(),
        })
        .collect()
}
