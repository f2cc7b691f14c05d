//! The names of the real `witness` command: commands, flags, attestors, predicate types, fields. Read from `facts.json`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

const FACTS: &str = include_str!("facts.json");

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    Nothing,
    Value,
    /// Several values: repeated, or separated by commas.
    List,
}

/// A flag of a command.
#[derive(Clone, Debug)]
pub(crate) struct Flag {
    pub(crate) long: String,
    pub(crate) short: Option<String>,
    pub(crate) takes: Takes,
}

/// An attestor.
#[derive(Clone, Debug)]
pub(crate) struct Attestor {
    pub(crate) predicate_type: String,
    pub(crate) stage: String,
    pub(crate) fields: Vec<String>,
}

/// The fields of an object in a policy.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) fields: BTreeSet<String>,
    pub(crate) required: BTreeSet<String>,
}

/// All of them.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) commands: BTreeMap<String, Vec<Flag>>,
    pub(crate) attestors: BTreeMap<String, Attestor>,
    /// Attestors that nobody names after `-a`: they run anyway, or never with `witness run`.
    pub(crate) never_named: BTreeSet<String>,
    pub(crate) types: BTreeSet<String>,
    pub(crate) shapes: BTreeMap<String, Shape>,
}

impl Facts {
    /// Reads the table that is part of this program.
    pub(crate) fn load() -> Facts {
        let facts: Value = serde_json::from_str(FACTS).expect("facts.json is JSON");
        let everywhere = flags(&facts["every command"]);
        let commands = map(&facts["commands"], |own| {
            let mut all = flags(own);
            all.extend(everywhere.iter().cloned());
            all
        });
        let attestors: BTreeMap<String, Attestor> = map(&facts["attestors"], |attestor| Attestor {
            predicate_type: text(&attestor["type"]),
            stage: text(&attestor["stage"]),
            fields: texts(&attestor["fields"]),
        });
        let shapes = map(&facts["policy objects"], |shape| Shape {
            fields: texts(&shape["fields"]).into_iter().collect(),
            required: texts(&shape["required"]).into_iter().collect(),
        });
        let types = attestors.values().map(|attestor| attestor.predicate_type.clone());
        Facts {
            types: types.chain(texts(&facts["other types"])).collect(),
            never_named: texts(&facts["always recorded"])
                .into_iter()
                .chain(texts(&facts["not named by -a"]))
                .collect(),
            commands,
            attestors,
            shapes,
        }
    }

    /// Returns the flag of a command that is written so, `--long` or `-s`.
    pub(crate) fn flag(&self, command: &str, written: &str) -> Option<&Flag> {
        let is_it = |flag: &&Flag| flag.long == written || flag.short.as_deref() == Some(written);
        self.commands.get(command)?.iter().find(is_it)
    }

    /// Returns whether any command has this flag.
    pub(crate) fn is_flag(&self, written: &str) -> bool {
        self.commands
            .keys()
            .any(|command| self.flag(command, written).is_some())
    }
}

fn map<T>(value: &Value, of: impl Fn(&Value) -> T) -> BTreeMap<String, T> {
    let entries = value.as_object().expect("facts.json holds an object here").iter();
    entries.map(|(name, value)| (name.clone(), of(value))).collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("facts.json holds a text here").to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().expect("facts.json holds a list here");
    list.iter().map(text).collect()
}

fn flags(value: &Value) -> Vec<Flag> {
    let flags = texts(value).into_iter().map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let takes = match words[words.len() - 1] {
            "switch" => Takes::Nothing,
            "value" => Takes::Value,
            "list" => Takes::List,
            other => panic!("a flag takes `{other}`"),
        };
        Flag {
            long: words[0].to_owned(),
            short: (words.len() == 3).then(|| words[1].to_owned()),
            takes,
        }
    });
    flags.collect()
}
