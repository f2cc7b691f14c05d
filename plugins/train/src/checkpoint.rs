//! Checkpoints: written, found again, and fewer when there are too many.
//!
//! | file | holds |
//! | --- | --- |
//! | `adapter_config.json`, `adapter_model.safetensors`, or a whole model's files | what can be used |
//! | `trainer_state.safetensors` | trained weights in f32, moments |
//! | `state.json` | [`RunState`] |

use std::path::Path;

use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{TrainEvent, TrainProduct};
use witness_training::Trainer;
use witness_training::output::TRAINER_STATE;

use crate::error::io;
use crate::folder::{FINAL, Folder, checkpoint_name, copy_file, files_in, write_json};
use crate::product::Contents;
use crate::progress::Progress;
use crate::state::{RunState, STATE_VERSION};

/// The loop's part of a checkpoint.
const RUN_STATE: &str = "state.json";

/// The checkpoints of a run.
pub(crate) struct Store {
    folder: Folder,
    /// Steps, rising.
    steps: Vec<u64>,
    /// The state that was saved or found last.
    saved: Option<RunState>,
}

impl Store {
    /// Opens a run's directory.
    pub(crate) fn open(path: &Path) -> Result<Self, Diagnostic> {
        let folder = Folder::open(path)?;
        Ok(Self {
            steps: folder.checkpoints()?,
            saved: None,
            folder,
        })
    }

    /// Returns the directory.
    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Returns the steps that there are checkpoints of, rising.
    pub(crate) fn steps(&self) -> &[u64] {
        &self.steps
    }

    /// Returns the step of the newest checkpoint.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.steps.last().copied()
    }

    /// Returns whether exactly this state was saved last.
    pub(crate) fn holds(&self, state: &RunState) -> bool {
        self.saved.as_ref() == Some(state)
    }

    /// Takes up the newest checkpoint that is whole. One that is damaged is told and passed over; newer ones than that taken up are
    /// removed, for they would be written again.
    pub(crate) fn resume(
        &mut self,
        trainer: &mut Trainer,
        progress: &mut dyn Progress,
    ) -> Result<Option<RunState>, Diagnostic> {
        for step in self.steps.clone().into_iter().rev() {
            let directory = self.folder.join(&checkpoint_name(step));
            match read_state(&directory, step).and_then(|state| Ok(trainer.read_state(&directory).map(|()| state)?)) {
                Ok(state) => {
                    self.saved = Some(state.clone());
                    return Ok(Some(state));
                }
                Err(diagnostic) => {
                    progress.emit(&TrainEvent::Warning {
                        message: format!("checkpoint-{step} cannot be gone on from: {diagnostic}"),
                    });
                    self.folder.remove_checkpoint(step)?;
                    self.steps.pop();
                }
            }
        }
        Ok(None)
    }

    /// Writes a checkpoint of the state, removes the oldest beyond the limit, and returns what to report.
    pub(crate) fn save(
        &mut self,
        state: &RunState,
        contents: &Contents<'_>,
        limit: Option<u64>,
    ) -> Result<TrainEvent, Diagnostic> {
        let name = checkpoint_name(state.step);
        self.folder.publish(&name, |directory| {
            contents.write(directory)?;
            contents.trainer.write_state(directory)?;
            write_json(&directory.join(RUN_STATE), state)
        })?;
        if !self.steps.contains(&state.step) {
            self.steps.push(state.step);
            self.steps.sort_unstable();
        }
        self.saved = Some(state.clone());
        let best = state.best.map(|best| best.step);
        let removed = surplus(&self.steps, best, limit);
        for step in &removed {
            self.folder.remove_checkpoint(*step)?;
        }
        self.steps.retain(|step| !removed.contains(step));
        Ok(TrainEvent::Checkpoint {
            step: state.step,
            files: match crate::product::kind(contents.settings) {
                TrainProduct::Adapter => self.product_files(&name)?,
                TrainProduct::Model => Vec::new(),
            },
            directory: name,
            removed,
            is_best: best == Some(state.step),
        })
    }

    /// Writes the product: the files of a checkpoint, or what the trainer holds. Returns their names.
    pub(crate) fn finish(&self, contents: &Contents<'_>, best: Option<u64>) -> Result<Vec<String>, Diagnostic> {
        self.folder.publish(FINAL, |directory| match best {
            None => contents.write(directory),
            Some(step) => {
                let name = checkpoint_name(step);
                let from = self.folder.join(&name);
                for file in self.product_files(&name)? {
                    copy_file(&from.join(&file), &directory.join(&file))?;
                }
                Ok(())
            }
        })?;
        self.product_files(FINAL)
    }

    /// Returns the names of a directory's files that make the product.
    pub(crate) fn product_files(&self, name: &str) -> Result<Vec<String>, Diagnostic> {
        let mut files = files_in(&self.folder.join(name))?;
        files.retain(|file| file != TRAINER_STATE && file != RUN_STATE);
        Ok(files)
    }
}

/// Returns the checkpoints that go: all but the newest `limit` and the best.
fn surplus(steps: &[u64], best: Option<u64>, limit: Option<u64>) -> Vec<u64> {
    let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
        return Vec::new();
    };
    let old = &steps[..steps.len().saturating_sub(limit)];
    old.iter().copied().filter(|step| Some(*step) != best).collect()
}

fn read_state(directory: &Path, step: u64) -> Result<RunState, Diagnostic> {
    let path = directory.join(RUN_STATE);
    let bytes = std::fs::read(&path).map_err(|error| io("read", &path, &error))?;
    let damaged = |why: String| {
        Diagnostic::new(
            "witness::train::checkpoint_damaged",
            Kind::Damaged,
            format!("`{}` is not the state of a run", path.display()),
        )
        .cause(why)
        .hint("an older checkpoint is taken where there is one")
    };
    let state: RunState = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if state.version != STATE_VERSION || state.step != step {
        return Err(damaged(format!(
            "it says version {}, step {}",
            state.version, state.step
        )));
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_and_the_best_stay() {
        for (limit, best, expected) in [
            (None, None, vec![]),
            (Some(2), None, vec![10, 20]),
            (Some(2), Some(10), vec![20]),
            (Some(1), Some(40), vec![10, 20, 30]),
            (Some(9), None, vec![]),
        ] {
            assert_eq!(surplus(&[10, 20, 30, 40], best, limit), expected, "{limit:?} {best:?}");
        }
    }
}
