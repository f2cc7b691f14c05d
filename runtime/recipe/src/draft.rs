//! A recipe in the making: layers of keys (a file, then steps of a Modelfile, then flags) that set targets, and the account of each.
//!
//! A target is a field of the settings, `lora.<field>`, `scratch.<field>`, or something beside the settings (`base`, `name`, ...). A later
//! layer takes a target from an earlier one; within a layer two keys of one target have to agree.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::account::{Account, Fate, HIDDEN, is_secret};
use crate::data::DataSource;
use crate::error::{Fault, Problem};
use crate::node::{Node, Position, Value};
use crate::read::{Expected, Reading};
use crate::settings;

/// Longest value that the account repeats, in characters.
const VALUE_CHARS_MAX: usize = 60;

/// Targets of which the last given one counts, since they say the same thing in other ways.
const RIVALS: &[&[&str]] = &[
    &["eval_steps", "evals_per_epoch"],
    &["save_steps", "saves_per_epoch"],
    &["warmup_steps", "warmup_ratio"],
    &["max_steps", "num_epochs"],
    &["gradient_accumulation_steps", "batch_size"],
];

/// A key with its value and what errors call it.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    /// Name that the table knows, or may.
    pub(crate) key: String,
    /// What people wrote: `datasets[0].path`, `--epochs`.
    pub(crate) label: String,
    pub(crate) node: Node,
    /// Where the key stands.
    pub(crate) position: Option<Position>,
}

impl Field {
    /// The field of a key inside this one's value.
    pub(crate) fn inner(&self, key: &str, node: &Node, position: Option<Position>) -> Field {
        Field {
            key: key.to_owned(),
            label: format!("{}.{key}", self.label),
            node: node.clone(),
            position: position.or(self.position),
        }
    }

    /// The fault of a value that is not what it should be.
    pub(crate) fn refuse(&self, expected: Expected) -> Fault {
        let hint = match (expected.hint.as_str(), settings::find(&self.key)) {
            ("", Some(setting)) => format!("`{}`: {}", self.label, setting.help),
            ("", None) => format!("write `{}` with {}", self.label, expected.what),
            (hint, _) => hint.to_owned(),
        };
        let message = format!(
            "`{}` is not a value of `{}`, which takes {}",
            shown(&self.node),
            self.label,
            expected.what
        );
        Fault::new(Problem::Value, self.position, message, hint)
    }

    /// Reads the value, with the fault that names it.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Node) -> Reading<T>) -> Result<T, Fault> {
        read(&self.node).map_err(|expected| self.refuse(expected))
    }

    /// The fault of a key that would change what is learned and cannot be done.
    pub(crate) fn not_yet(&self, what: &str) -> Fault {
        Fault::new(
            Problem::NotYet,
            self.position,
            format!(
                "`{}: {}` asks for {what}, which this version does not do",
                self.label,
                shown(&self.node)
            ),
            format!("remove `{}` to train without it", self.label),
        )
    }
}

/// Returns a value on one line, shortened.
pub(crate) fn shown(node: &Node) -> String {
    let text = match &node.value {
        Value::Text(text) => text.clone(),
        _ => node.to_json().to_string(),
    };
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(VALUE_CHARS_MAX)
        .collect();
    match text.chars().nth(VALUE_CHARS_MAX) {
        Some(_) => format!("{line}..."),
        None => line,
    }
}

/// A target that is set.
#[derive(Clone, Debug)]
struct Held {
    value: Json,
    layer: usize,
    /// Keys that said so, as indexes of the account.
    by: Vec<usize>,
}

/// See the head of the file.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    held: BTreeMap<String, Held>,
    layer: usize,
    origin: String,
    pub(crate) account: Vec<Account>,
    pub(crate) warnings: Vec<String>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) data: Vec<DataSource>,
    pub(crate) validation: Vec<DataSource>,
}

impl Draft {
    /// Begins the next layer. `origin` is what errors call its text.
    pub(crate) fn begin(&mut self, origin: &str) {
        self.layer += 1;
        self.origin = origin.to_owned();
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        let origin = self.origin.clone();
        self.faults.push(fault.within(&origin));
    }

    pub(crate) fn warn(&mut self, warning: impl Into<String>) {
        let warning = warning.into();
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    fn record(&mut self, field: &Field, fate: Fate) -> usize {
        self.account.push(Account {
            key: field.label.clone(),
            value: match is_secret(&field.label) {
                true => HIDDEN.to_owned(),
                false => shown(&field.node),
            },
            line: field.position.map_or(0, |at| at.line),
            fate,
        });
        self.account.len() - 1
    }

    /// Accounts for a key that can make no difference.
    pub(crate) fn no_effect(&mut self, field: &Field, why: impl Into<String>) {
        self.record(field, Fate::NoEffect { why: why.into() });
    }

    /// Accounts for a key that is done by something else than a target.
    pub(crate) fn honoured(&mut self, field: &Field, as_: impl Into<String>) -> usize {
        self.record(field, Fate::Honoured { as_: as_.into() })
    }

    /// Sets a target because of a key, and accounts for it.
    pub(crate) fn set(&mut self, field: &Field, target: &str, value: Json) -> Result<(), Fault> {
        let as_ = format!("{target}: {}", shown_json(&value));
        let entry = self.honoured(field, as_);
        self.hold(field, target, value, vec![entry])
    }

    /// Sets a target because of the keys that were accounted for since `first`.
    pub(crate) fn hold_by(&mut self, field: &Field, target: &str, value: Json, first: usize) -> Result<(), Fault> {
        let is_done = |index: &usize| matches!(&self.account[*index].fate, Fate::Honoured { as_ } if as_ == target);
        let by = (first..self.account.len()).filter(is_done).collect();
        self.hold(field, target, value, by)
    }

    /// Sets another target because of the key that was accounted for last.
    pub(crate) fn set_too(&mut self, field: &Field, target: &str, value: Json) -> Result<(), Fault> {
        let Some(entry) = self.account.len().checked_sub(1) else {
            return Ok(());
        };
        if let Some(Account {
            fate: Fate::Honoured { as_ },
            ..
        }) = self.account.last_mut()
        {
            *as_ += &format!(", {target}: {}", shown_json(&value));
        }
        self.hold(field, target, value, vec![entry])
    }

    fn hold(&mut self, field: &Field, target: &str, value: Json, by: Vec<usize>) -> Result<(), Fault> {
        self.silence_rivals(field, target);
        match self.held.get_mut(target) {
            Some(held) if held.layer == self.layer && held.value != value => {
                let other = held.by.first().map(|index| self.account[*index].key.clone());
                let other = other.unwrap_or_default();
                return Err(Fault::new(
                    Problem::Conflict,
                    field.position,
                    format!(
                        "`{}` and `{other}` both set `{target}`, to {} and {}",
                        field.label,
                        shown_json(&value),
                        shown_json(&held.value)
                    ),
                    "keep one of them",
                ));
            }
            Some(held) if held.layer == self.layer => held.by.extend(by),
            _ => {
                if let Some(earlier) = self.held.remove(target) {
                    self.silence(&earlier.by, &field.label, "what is given last counts");
                }
                let held = Held {
                    value,
                    layer: self.layer,
                    by,
                };
                self.held.insert(target.to_owned(), held);
            }
        }
        Ok(())
    }

    fn silence_rivals(&mut self, field: &Field, target: &str) {
        let rivals = RIVALS.iter().filter(|group| group.contains(&target));
        for rival in rivals.flat_map(|group| group.iter()).filter(|rival| **rival != target) {
            if self.held.get(*rival).is_some_and(|held| held.layer < self.layer)
                && let Some(earlier) = self.held.remove(*rival)
            {
                self.silence(&earlier.by, &field.label, "what is given last counts");
            }
        }
    }

    fn silence(&mut self, entries: &[usize], by: &str, why: &str) {
        for index in entries {
            self.account[*index].fate = Fate::Overridden {
                by: by.to_owned(),
                why: why.to_owned(),
            };
        }
    }

    /// Takes back a target that an earlier layer set: a key that is given as empty.
    pub(crate) fn unset(&mut self, field: &Field, target: &str) {
        self.no_effect(field, "empty, so the default holds");
        if self.held.get(target).is_some_and(|held| held.layer < self.layer)
            && let Some(earlier) = self.held.remove(target)
        {
            self.silence(&earlier.by, &field.label, "what is given last counts");
        }
    }

    /// Returns what a target is set to.
    pub(crate) fn get(&self, target: &str) -> Option<&Json> {
        self.held.get(target).map(|held| &held.value)
    }

    /// Returns a target as a number.
    pub(crate) fn number(&self, target: &str) -> Option<f64> {
        self.get(target).and_then(Json::as_f64)
    }

    /// Whether a target is set to true.
    pub(crate) fn is_true(&self, target: &str) -> bool {
        self.get(target) == Some(&Json::Bool(true))
    }

    /// Sets a target that no key has set: a default, or what other targets imply.
    pub(crate) fn assume(&mut self, target: &str, value: impl Into<Json>) {
        if !self.held.contains_key(target) {
            self.put(target, value);
        }
    }

    /// Sets a target whatever it was; the keys that set it stay accounted for as they are.
    pub(crate) fn put(&mut self, target: &str, value: impl Into<Json>) {
        let value = value.into();
        let layer = self.layer;
        self.held
            .entry(target.to_owned())
            .and_modify(|held| held.value = value.clone())
            .or_insert(Held {
                value,
                layer,
                by: Vec::new(),
            });
    }

    /// Removes a target and returns its value.
    pub(crate) fn take(&mut self, target: &str) -> Option<Json> {
        self.held.remove(target).map(|held| held.value)
    }

    /// Removes a target because another one is stronger.
    pub(crate) fn yield_to(&mut self, target: &str, by: &str, why: &str) -> Option<Json> {
        let by = self.key_of(by).unwrap_or_else(|| by.to_owned());
        let held = self.held.remove(target)?;
        self.silence(&held.by, &by, why);
        Some(held.value)
    }

    /// Removes a target that makes no difference.
    pub(crate) fn drop_target(&mut self, target: &str, why: &str) -> Option<Json> {
        let held = self.held.remove(target)?;
        for index in &held.by {
            self.account[*index].fate = Fate::NoEffect { why: why.to_owned() };
        }
        Some(held.value)
    }

    /// Returns the key that set a target, as it was written.
    pub(crate) fn key_of(&self, target: &str) -> Option<String> {
        let held = self.held.get(target)?;
        held.by.first().map(|index| self.account[*index].key.clone())
    }

    /// Whether a key set the target, not a default.
    pub(crate) fn is_given(&self, target: &str) -> bool {
        self.held.get(target).is_some_and(|held| !held.by.is_empty())
    }

    /// Returns every target that begins with a prefix, without it.
    pub(crate) fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Json)> {
        self.held
            .iter()
            .filter_map(move |(target, held)| Some((target.strip_prefix(prefix)?, &held.value)))
    }

    /// Returns the key that set a target, or the target itself.
    pub(crate) fn key(&self, target: &str) -> String {
        self.key_of(target).unwrap_or_else(|| target.to_owned())
    }

    /// Says anew as what the keys of a target are honoured.
    pub(crate) fn rename(&mut self, target: &str, as_: &str) {
        let Some(held) = self.held.get(target) else {
            return;
        };
        for index in held.by.clone() {
            if matches!(self.account[index].fate, Fate::Honoured { .. }) {
                self.account[index].fate = Fate::Honoured { as_: as_.to_owned() };
            }
        }
    }

    /// Appends to what is said of the key that a target was set by.
    pub(crate) fn remark(&mut self, target: &str, remark: &str) {
        let Some(held) = self.held.get(target) else {
            return;
        };
        for index in held.by.clone() {
            if let Fate::Honoured { as_ } = &mut self.account[index].fate {
                *as_ += remark;
            }
        }
    }
}

fn shown_json(value: &Json) -> String {
    let text = match value {
        Json::String(text) => Node::of(Value::Text(text.clone())),
        Json::Array(items) if items.iter().all(Json::is_string) => {
            let items: Vec<&str> = items.iter().filter_map(Json::as_str).collect();
            Node::of(Value::Text(format!("[{}]", items.join(", "))))
        }
        other => Node::of(Value::Text(other.to_string())),
    };
    shown(&text)
}
