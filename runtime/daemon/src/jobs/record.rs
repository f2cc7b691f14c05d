//! What lies in the directory of a run, beside its lines and what the plugin writes: two JSON documents. Blocking.
//!
//! ```text
//! runs/<id>/job.json       what was asked for; written once
//!           state.json     how it stands; replaced whole
//!           events.jsonl   its lines, appended
//!           data/          the rows as they were: hard links to blobs, or copies
//!           output/        the plugin's own
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use witness_api::{ErrorBody, TrainState};
use witness_plugin_protocol::TrainSettings;
use witness_registry::{Digest, Manifest};

/// Version of both documents.
pub(super) const VERSION: u32 = 1;
pub(super) const JOB: &str = "job.json";
pub(super) const STATE: &str = "state.json";
pub(super) const EVENTS: &str = "events.jsonl";
pub(super) const DATA: &str = "data";
pub(super) const OUTPUT: &str = "output";

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct JobRecord {
    pub(super) version: u32,
    pub(super) id: String,
    pub(super) created_at: String,
    /// Name of the model that it makes, in full.
    pub(super) model: String,
    /// There was no model of that name: checkpoints may be stored under it as they come.
    pub(super) is_new: bool,
    /// The request as it came.
    pub(super) request: witness_api::TrainRequest,
    /// Its settings, read.
    pub(super) settings: TrainSettings,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) base: Option<BaseRecord>,
    /// Architecture of the base; empty when there is none.
    pub(super) architecture: String,
    /// Template that the rows are laid out with, when it is not the base's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) template: Option<String>,
    pub(super) data: Vec<DataRecord>,
    pub(super) validation: Vec<DataRecord>,
    /// Bytes of memory that the plan said it takes.
    pub(super) memory_bytes: u64,
}

/// The base as it was: its name may lead elsewhere by the time a run is resumed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct BaseRecord {
    pub(super) name: String,
    pub(super) digest: Digest,
    pub(super) manifest: Manifest,
    /// `sha256:<hex>` over names and digests of its files.
    pub(super) files_digest: String,
}

/// One file of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DataRecord {
    /// Name that faults are told with.
    pub(super) name: String,
    /// Name below [`DATA`].
    pub(super) file: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// How a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct StateRecord {
    pub(super) version: u32,
    pub(super) state: TrainState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ended_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<ErrorBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reply: Option<Value>,
    /// It has stored a model.
    pub(super) is_published: bool,
    pub(super) summary: Summary,
}

/// What the lines of a run come to, up to one of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Summary {
    /// Lines, and their bytes.
    pub(super) lines: u64,
    pub(super) bytes: u64,
    pub(super) step: u64,
    pub(super) n_steps: u64,
    pub(super) epoch: f64,
    pub(super) loss: Option<f64>,
    pub(super) eval_loss: Option<f64>,
    pub(super) best_step: Option<u64>,
    /// Those that are there, rising.
    pub(super) checkpoints: Vec<CheckpointRecord>,
}

/// One checkpoint, as the plugin reported it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CheckpointRecord {
    pub(super) step: u64,
    pub(super) directory: String,
    pub(super) files: Vec<String>,
}

impl Summary {
    /// Takes one event in. What it does not know, or what is not as it should be, changes nothing.
    pub(super) fn take(&mut self, event: &Map<String, Value>) {
        let number = |key: &str| event.get(key).and_then(Value::as_u64);
        let real = |key: &str| event.get(key).and_then(Value::as_f64);
        match event.get("type").and_then(Value::as_str).unwrap_or_default() {
            "started" => {
                self.step = number("resumed_from").unwrap_or(0);
                let n_steps = event.get("plan").and_then(|plan| plan.get("n_steps"));
                self.n_steps = n_steps.and_then(Value::as_u64).unwrap_or(self.n_steps);
            }
            "step" => {
                self.step = number("step").unwrap_or(self.step);
                self.epoch = real("epoch").unwrap_or(self.epoch);
                self.loss = real("loss").or(self.loss);
            }
            "eval" => self.eval_loss = real("loss").or(self.eval_loss),
            "checkpoint" => self.take_checkpoint(event),
            _ => {}
        }
    }

    fn take_checkpoint(&mut self, event: &Map<String, Value>) {
        // As the message of the role `train` has it; a plugin that sends something else has no checkpoint there.
        let Ok(witness_plugin_protocol::TrainEvent::Checkpoint {
            step,
            directory,
            files,
            removed,
            is_best,
        }) = serde_json::from_value(Value::Object(event.clone()))
        else {
            return;
        };
        self.checkpoints
            .retain(|known| known.step != step && !removed.contains(&known.step));
        let at = self.checkpoints.partition_point(|known| known.step < step);
        self.checkpoints.insert(at, CheckpointRecord { step, directory, files });
        if is_best {
            self.best_step = Some(step);
        }
    }
}

/// Writes a document: whole or not at all, and not lost when the machine goes down after it.
pub(super) fn write(path: &Path, document: &impl Serialize) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(document)?;
    bytes.push(b'\n');
    let draft = path.with_extension("json.new");
    let mut file = File::create(&draft)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Reads a document.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn take(summary: &mut Summary, event: Value) {
        summary.take(event.as_object().unwrap());
    }

    #[test]
    fn a_summary_follows_the_events() {
        let mut summary = Summary::default();
        take(
            &mut summary,
            json!({"type": "started", "plan": {"n_steps": 30}, "resumed_from": 0}),
        );
        take(
            &mut summary,
            json!({"type": "step", "step": 1, "epoch": 0.1, "loss": 2.5}),
        );
        for (step, removed, is_best) in [(10, vec![], true), (20, vec![], false), (30, vec![10], false)] {
            take(
                &mut summary,
                json!({"type": "checkpoint", "step": step, "directory": format!("checkpoint-{step}"), "files": ["a"],
                    "removed": removed, "is_best": is_best}),
            );
        }
        take(&mut summary, json!({"type": "eval", "loss": 1.5}));
        // Not as they should be.
        take(&mut summary, json!({"type": "checkpoint", "step": "forty"}));
        take(&mut summary, json!({"type": "step", "step": -1, "loss": null}));
        take(&mut summary, json!({"no": "type"}));
        let steps: Vec<u64> = summary.checkpoints.iter().map(|checkpoint| checkpoint.step).collect();
        assert_eq!((summary.step, summary.n_steps, summary.loss), (1, 30, Some(2.5)));
        assert_eq!(
            (steps.as_slice(), summary.best_step, summary.eval_loss),
            (&[20, 30][..], Some(10), Some(1.5))
        );
        take(
            &mut summary,
            json!({"type": "started", "plan": {"n_steps": 30}, "resumed_from": 20}),
        );
        assert_eq!(summary.step, 20);
    }

    #[test]
    fn a_document_is_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(STATE);
        for lines in [1, 2] {
            let state = StateRecord {
                summary: Summary {
                    lines,
                    ..Summary::default()
                },
                ..StateRecord::default()
            };
            write(&path, &state).unwrap();
            assert_eq!(read::<StateRecord>(&path).unwrap(), state);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no draft is left");
    }
}
