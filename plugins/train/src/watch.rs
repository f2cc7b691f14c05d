//! What trackers of experiments are told: the log's numbers, under the tags that Transformers uses, and the settings once.
//!
//! A tracker that fails, such as for want of room, is told of once and given up; a run is not lost over its charts.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use witness_diagnostics::{Diagnostic, near_miss};
use witness_plugin_protocol::{TrainEvent, TrainSettings};
use witness_trackers::{Outcome, TensorBoard, TensorBoardRun, Tracker, TrackerError, WandbOffline, WandbRun};

use crate::error::setting;
use crate::progress::Progress;

const TENSORBOARD: &str = "tensorboard";
const WANDB: &str = "wandb";

/// The trackers of a run.
pub(crate) struct Watch {
    trackers: Vec<(&'static str, Box<dyn Tracker>)>,
}

/// What trackers are told of a run at its start.
pub(crate) struct Watched<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) settings: &'a TrainSettings,
    /// Tells this run from others; equal at every start of it.
    pub(crate) identity: &'a str,
    /// What the run is called where nobody named it.
    pub(crate) name: &'a str,
    /// Steps that earlier starts made.
    pub(crate) resumed_from: u64,
    /// What the run is, for the trackers' table of settings.
    pub(crate) facts: Map<String, Value>,
}

/// Refuses trackers that there are not.
pub(crate) fn check(settings: &TrainSettings) -> Result<(), Diagnostic> {
    for name in &settings.report_to {
        if ![TENSORBOARD, WANDB, "none"].contains(&name.as_str()) {
            let diagnostic = setting("report_to", format!("`{name}`"), "some of tensorboard, wandb");
            return Err(match near_miss(name, [TENSORBOARD, WANDB]) {
                Some(near) => diagnostic.hint(format!("did you mean `{near}`?")),
                None => diagnostic,
            });
        }
    }
    Ok(())
}

impl Watch {
    /// Opens the trackers that are asked for.
    pub(crate) fn open(run: &Watched<'_>, progress: &mut dyn Progress) -> Watch {
        let asks = |name: &str| run.settings.report_to.iter().any(|asked| asked == name);
        let mut watch = Watch { trackers: Vec::new() };
        let (time, host) = (now(), host());
        if asks(TENSORBOARD) {
            let opened = TensorBoard::create(TensorBoardRun {
                directory: &run.directory.join(TENSORBOARD),
                unix_time_s: time,
                host: &host,
                process: std::process::id(),
                first_step: (run.resumed_from > 0).then_some(run.resumed_from + 1),
            });
            watch.add(TENSORBOARD, opened, progress);
        }
        if asks(WANDB) {
            let id = run
                .settings
                .wandb_run_id
                .clone()
                .unwrap_or_else(|| short_id(run.identity));
            let opened = WandbOffline::create(WandbRun {
                directory: run.directory,
                unix_time_s: time,
                id: &id,
                project: run.settings.wandb_project.as_deref().unwrap_or_default(),
                entity: run.settings.wandb_entity.as_deref().unwrap_or_default(),
                name: run.settings.run_name.as_deref().unwrap_or(run.name),
                group: "",
                tags: &[],
                notes: "",
                host: &host,
                is_resumed: run.resumed_from > 0,
            });
            watch.add(WANDB, opened, progress);
        }
        let facts = &run.facts;
        watch.each(progress, |tracker| tracker.settings(time, facts));
        watch
    }

    fn add<T: Tracker + 'static>(
        &mut self,
        name: &'static str,
        opened: Result<T, TrackerError>,
        progress: &mut dyn Progress,
    ) {
        match opened {
            Ok(tracker) => self.trackers.push((name, Box::new(tracker))),
            Err(error) => given_up(name, error, progress),
        }
    }

    /// Passes on the numbers of a log entry or an evaluation; other events hold none.
    pub(crate) fn tell(&mut self, event: &TrainEvent, progress: &mut dyn Progress) {
        let (step, values) = match event {
            TrainEvent::Log { step, epoch, values } => {
                let tag = |name: &String| match name.as_str() {
                    "train_loss" => "train/train_loss".to_owned(),
                    name => format!("train/{name}"),
                };
                let numbers = values
                    .iter()
                    .filter_map(|(name, value)| Some((tag(name), value.as_f64()?)));
                let epoch = ("train/epoch".to_owned(), *epoch);
                (*step, numbers.chain([epoch]).collect::<Vec<_>>())
            }
            TrainEvent::Eval {
                step,
                epoch,
                loss,
                seconds,
                ..
            } => {
                let numbers = [
                    ("eval/loss", *loss),
                    ("eval/runtime", *seconds),
                    ("train/epoch", *epoch),
                ];
                (*step, numbers.map(|(tag, value)| (tag.to_owned(), value)).to_vec())
            }
            _ => return,
        };
        let values: Vec<(&str, f64)> = values.iter().map(|(tag, value)| (tag.as_str(), *value)).collect();
        let time = now();
        self.each(progress, |tracker| tracker.scalars(step, time, &values));
    }

    /// Ends all of them.
    pub(crate) fn finish(&mut self, outcome: Outcome, progress: &mut dyn Progress) {
        let time = now();
        self.each(progress, |tracker| tracker.finish(time, outcome));
        self.trackers.clear();
    }

    fn each(
        &mut self,
        progress: &mut dyn Progress,
        mut tell: impl FnMut(&mut dyn Tracker) -> Result<(), TrackerError>,
    ) {
        self.trackers
            .retain_mut(|(name, tracker)| match tell(tracker.as_mut()) {
                Ok(()) => true,
                Err(error) => {
                    given_up(name, error, progress);
                    false
                }
            });
    }
}

fn given_up(name: &str, error: TrackerError, progress: &mut dyn Progress) {
    progress.emit(&TrainEvent::Warning {
        message: format!("`report_to: {name}` is given up: {}", Diagnostic::from(error)),
    });
}

/// Returns eight letters and digits, as W&B names runs.
fn short_id(identity: &str) -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let hash = Sha256::digest(identity.as_bytes());
    hash.iter()
        .take(8)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % 36]))
        .collect()
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
