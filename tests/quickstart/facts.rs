//! The table of names against the reference beside the checkout, where it is present.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::corpus::facts::{Facts, Takes};

fn reference() -> Option<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/witness-cli/witness-facts.json");
    match std::fs::read(&path) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap()),
        Err(_) => {
            eprintln!("skipped: this test needs ../shared");
            None
        }
    }
}

fn texts(value: &Value) -> BTreeSet<String> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn commands_and_flags_are_those_of_the_reference() {
    let Some(reference) = reference() else { return };
    let facts = Facts::load();
    for (name, command) in reference["commands"].as_object().unwrap() {
        let name = name.strip_prefix("witness ").unwrap();
        let mut ours: BTreeMap<&str, _> = facts.commands[name]
            .iter()
            .map(|flag| (flag.long.as_str(), (flag.short.as_deref(), flag.takes)))
            .collect();
        for (long, flag) in command["flags"].as_object().unwrap() {
            let takes = match flag["type"].as_str().unwrap() {
                "bool" => Takes::Nothing,
                list if list.contains("repeatable") => Takes::List,
                _ => Takes::Value,
            };
            let found = ours.remove(long.as_str());
            assert_eq!(found, Some((flag["short"].as_str(), takes)), "witness {name} {long}");
        }
        // The reference lists the flags of every command only where it found them.
        let everywhere = [
            "--help",
            "--config",
            "--log-level",
            "--debug-cpu-profile-file",
            "--debug-mem-profile-file",
        ];
        ours.retain(|long, _| !everywhere.contains(long));
        assert!(ours.is_empty(), "witness {name} has no {ours:?}");
    }
    let named = |name: &String| reference["commands"].get(format!("witness {name}")).is_some();
    let more: Vec<&String> = facts.commands.keys().filter(|name| !named(name)).collect();
    assert_eq!(more, ["attestors list", "attestors schema"]);
    let subcommands = texts(&reference["commands"]["witness attestors"]["subcommands"]);
    assert!(subcommands.contains("list") && subcommands.contains("schema <attestor>"));
}

#[test]
fn attestors_and_types_are_those_of_the_reference() {
    let Some(reference) = reference() else { return };
    let facts = Facts::load();
    let mut types = BTreeSet::new();
    for (name, attestor) in reference["attestors"].as_object().unwrap() {
        if attestor["in_witness_cli_head"] != true {
            assert!(!facts.attestors.contains_key(name), "{name} is in no released command");
            continue;
        }
        let ours = &facts.attestors[name];
        assert_eq!(ours.predicate_type, attestor["predicate_type"].as_str().unwrap());
        assert_eq!(ours.stage, attestor["run_type"].as_str().unwrap());
        assert_eq!(
            ours.fields.iter().cloned().collect::<BTreeSet<_>>(),
            texts(&attestor["top_level_fields"])
        );
        types.insert(ours.predicate_type.clone());
        types.extend(attestor.get("also_predicate_types").map(texts).unwrap_or_default());
        let always = attestor.get("always_run").is_some();
        assert_eq!(
            always || attestor["run_type"] == "verify",
            facts.never_named.contains(name),
            "{name}"
        );
    }
    for name in ["collection_predicate_type", "policy_payload_type"] {
        types.insert(reference[name].as_str().unwrap().to_owned());
    }
    assert_eq!(facts.types, types);
}

#[test]
fn policies_have_the_fields_of_the_reference() {
    let Some(reference) = reference() else { return };
    let facts = Facts::load();
    let policy = &reference["policy_json"];
    let attestation = &policy["$defs"]["step"]["properties"]["attestations"]["items"];
    let shapes = [
        ("policy", policy),
        ("root", &policy["$defs"]["root"]),
        ("publickey", &policy["properties"]["publickeys"]["additionalProperties"]),
        ("step", &policy["$defs"]["step"]),
        ("attestation", attestation),
        ("regopolicy", &attestation["properties"]["regopolicies"]["items"]),
        ("functionary", &policy["$defs"]["functionary"]),
        (
            "certConstraint",
            &policy["$defs"]["functionary"]["properties"]["certConstraint"],
        ),
    ];
    assert_eq!(facts.shapes.len(), shapes.len());
    for (name, shape) in shapes {
        let fields: BTreeSet<String> = shape["properties"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(facts.shapes[name].fields, fields, "{name}");
        let required = shape.get("required").map(texts).unwrap_or_default();
        assert_eq!(facts.shapes[name].required, required, "{name}");
    }
}
