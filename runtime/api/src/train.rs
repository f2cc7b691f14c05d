//! `/api/train`: training runs as jobs, the lines that they report, and the export of what they made.
//!
//! What a run is told and what it reports are the messages of the plugins' role `train`; here they travel as JSON objects, so that this
//! crate needs not follow them. A line's own part (number, time, kind) and what the daemon itself adds to a run's lines are typed.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::lenient::null_default;
use crate::{ErrorBody, Message, TextOrList};

/// Media type of a stream of server-sent events.
pub const EVENT_STREAM: &str = "text/event-stream";

/// Body of `POST /api/train`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainRequest {
    /// Name of the model that the run makes. May be empty for a plan.
    #[serde(alias = "name", deserialize_with = "null_default")]
    pub model: String,
    /// Model to start from; nothing when the settings make one from nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Adapter of that model to go on from, in place of a fresh one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// Rows to learn from, in this order: blobs that are already here.
    #[serde(deserialize_with = "null_default")]
    pub data: Vec<DataFile>,
    /// Rows to measure on.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub validation: Vec<DataFile>,
    /// Settings of the run, as the message of the role `train` spells them. An unknown key is an error.
    #[serde(deserialize_with = "null_default")]
    pub settings: Map<String, Value>,
    /// What a person wrote that became these settings: kept beside the run, not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipe: Option<Value>,
    /// Prompt template, of the run and of the model that it makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// System message of the new model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Default options of the new model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Map<String, Value>>,
    /// Messages that begin every conversation with the new model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// One licence text or several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license: Option<TextOrList>,
    /// Answer what the run would do, and start nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<bool>,
    /// For a plan: show these rows as the model is taught them.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub preview: Vec<u64>,
    /// For a plan: make a short trial to tell how long the run will take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<bool>,
    /// Start although the run is reckoned not to fit into memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
    /// Send the run's lines until it ends; true when absent. A client that leaves does not end the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
}

impl TrainRequest {
    /// Returns whether lines are sent.
    pub fn streams(&self) -> bool {
        self.stream.unwrap_or(true)
    }

    /// Returns whether only a plan is asked for.
    pub fn plans(&self) -> bool {
        self.plan.unwrap_or(false)
    }
}

/// One file of rows, stored as a blob.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataFile {
    /// Name that faults in it are told with.
    pub name: String,
    /// `sha256:<hex>`.
    pub digest: String,
}

/// Answer of `POST /api/train` with `plan`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainPlanResponse<P = Value> {
    /// What the run would do and take: the plan of the role `train`.
    pub plan: P,
}

/// State of a job. A job begins as `queued` and ends in one of the last four; of these `stopped`, `interrupted` and `failed` can be resumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainState {
    /// It waits for the job before it.
    #[default]
    Queued,
    /// Its worker starts and reads the data.
    Starting,
    /// It makes steps.
    Running,
    /// It was asked to stop and writes a checkpoint.
    Stopping,
    /// It was stopped.
    Stopped,
    /// The daemon ended while it ran.
    Interrupted,
    /// It broke off.
    Failed,
    /// It made all its steps and its model is stored.
    Done,
}

impl TrainState {
    /// Returns whether nothing more happens unless it is resumed.
    pub fn has_ended(self) -> bool {
        matches!(
            self,
            TrainState::Stopped | TrainState::Interrupted | TrainState::Failed | TrainState::Done
        )
    }

    /// Returns whether it can be resumed.
    pub fn can_resume(self) -> bool {
        self.has_ended() && self != TrainState::Done
    }

    /// Returns its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            TrainState::Queued => "queued",
            TrainState::Starting => "starting",
            TrainState::Running => "running",
            TrainState::Stopping => "stopping",
            TrainState::Stopped => "stopped",
            TrainState::Interrupted => "interrupted",
            TrainState::Failed => "failed",
            TrainState::Done => "done",
        }
    }
}

impl std::fmt::Display for TrainState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A training run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainJob {
    /// Its name: the day it was made and four hex digits.
    pub id: String,
    /// Model that it makes.
    pub model: String,
    /// Model that it starts from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// How it stands.
    pub state: TrainState,
    /// Optimizer steps made.
    pub step: u64,
    /// Optimizer steps of the whole run; 0 until its plan is known.
    pub n_steps: u64,
    /// Epochs done.
    pub epoch: f64,
    /// Loss of the last step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Last loss on the validation rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// Step of the best checkpoint so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_step: Option<u64>,
    /// Steps whose checkpoints are there, rising.
    pub checkpoints: Vec<u64>,
    /// Lines reported: the number that the next one gets.
    pub n_events: u64,
    /// When it was asked for, RFC 3339.
    pub created_at: String,
    /// When its worker was last started, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Directory with everything of the run.
    pub directory: PathBuf,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}

/// Answer of the routes about one job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainJobResponse {
    /// The job.
    pub job: TrainJob,
}

/// Answer of `GET /api/train`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainJobsResponse {
    /// All jobs, the newest first.
    #[serde(deserialize_with = "null_default")]
    pub jobs: Vec<TrainJob>,
}

/// One line of a run: an event of the role `train` (`started`, `step`, `checkpoint`, ..) or one of the daemon's own (`job`, `end`).
///
/// The numbers of a run's lines rise by one from 0, over restarts and resumes too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainLine {
    /// Number of the line.
    pub seq: u64,
    /// When it was reported, RFC 3339.
    #[serde(default)]
    pub at: String,
    /// The event, its `type` included.
    #[serde(flatten)]
    pub event: Map<String, Value>,
}

impl TrainLine {
    /// Returns the event's `type`.
    pub fn kind(&self) -> &str {
        self.event.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// Reads the event as a type of the caller's.
    ///
    /// # Errors
    /// When it is another event, or of a later version.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_value(Value::Object(self.event.clone()))
    }

    /// Returns what the line says when the daemon itself wrote it.
    pub fn of_daemon(&self) -> Option<TrainJobLine> {
        self.read().ok()
    }
}

/// What the daemon adds to the lines of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TrainJobLine {
    /// The job's state changed. The first line of a run is one of these.
    Job {
        /// The job's id.
        id: String,
        /// Its model.
        model: String,
        /// The state that it is in now.
        state: TrainState,
        /// Why, where that is not plain: what it waits for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The model was stored with what the run has so far.
    Published {
        /// Name of the model.
        model: String,
        /// Adapters of it that came from this run.
        adapters: Vec<String>,
        /// Step that a request is answered from when it names no adapter.
        step: u64,
    },
    /// Something to know about the job.
    Notice {
        /// In words.
        message: String,
    },
    /// The run ended: its last line, until it is resumed.
    End {
        /// `done`, `stopped`, `interrupted` or `failed`.
        state: TrainState,
        /// Model that was stored, if one was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<String>,
        /// Why it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<ErrorBody>,
        /// How the run itself says that it ended: the reply of the role `train`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply: Option<Value>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    // A line keeps every field of an event that this crate knows nothing about, in both directions.
    #[test]
    fn a_line_is_its_event_with_a_number_and_a_time() {
        let wire =
            json!({"seq": 7, "at": "2026-11-26T10:00:00Z", "type": "step", "step": 3, "loss": 1.5, "new": {"a": [1]}});
        let line: TrainLine = serde_json::from_value(wire.clone()).unwrap();
        assert_eq!((line.seq, line.kind()), (7, "step"));
        assert_eq!(line.event["new"], json!({"a": [1]}));
        assert!(line.of_daemon().is_none());
        assert_eq!(serde_json::to_value(&line).unwrap(), wire);
    }

    #[test]
    fn the_daemons_own_lines_are_typed() {
        let line: TrainLine = serde_json::from_value(json!({
            "seq": 9, "at": "", "type": "end", "state": "failed", "error": {"error": "it broke", "code": "a::b"}
        }))
        .unwrap();
        let Some(TrainJobLine::End { state, error, .. }) = line.of_daemon() else {
            panic!("{line:?}")
        };
        assert_eq!(state, TrainState::Failed);
        assert_eq!(error.unwrap().code, "a::b");
    }

    #[test]
    fn states_have_one_spelling() {
        use TrainState::*;
        for state in [Queued, Starting, Running, Stopping, Stopped, Interrupted, Failed, Done] {
            assert_eq!(serde_json::to_value(state).unwrap(), json!(state.as_str()));
            assert_eq!(state.can_resume(), state.has_ended() && state != Done);
        }
    }

    #[test]
    fn a_request_of_the_least() {
        let request: TrainRequest = serde_json::from_value(
            json!({"model": "a", "from": "b", "data": [{"name": "x.jsonl", "digest": "sha256:0"}], "settings": null}),
        )
        .unwrap();
        assert!(request.streams() && !request.plans());
        assert_eq!(
            serde_json::to_value(&request).unwrap(),
            json!({"model": "a", "from": "b", "data": [{"name": "x.jsonl", "digest": "sha256:0"}], "settings": {}})
        );
    }
}
