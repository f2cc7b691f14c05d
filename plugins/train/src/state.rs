//! Where a run is: everything beside weights and moments that decides what comes next. Part of every checkpoint.
//!
//! **Invariant:** no clock and no number of threads enters it, so a run that was interrupted ends with the same state as one that was not.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use witness_plugin_protocol::TrainOutcome;

/// Version of the file.
pub(crate) const STATE_VERSION: u32 = 1;

/// The state of the loop after some steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunState {
    /// [`STATE_VERSION`].
    pub(crate) version: u32,
    /// Steps made.
    pub(crate) step: u64,
    /// Epochs done.
    pub(crate) epoch: f64,
    /// Whether a stop came before the validation rows were measured that are due at this step.
    pub(crate) evaluation_due: bool,
    /// Step of the last log entry.
    pub(crate) logged_step: u64,
    /// Sum of the step losses since then.
    pub(crate) loss_since_log: f64,
    /// Sum of all step losses.
    pub(crate) loss_total: f64,
    /// Last loss on the validation rows.
    pub(crate) eval_loss: Option<f64>,
    /// The lowest one.
    pub(crate) best: Option<Best>,
    /// Evaluations in a row that were not better.
    pub(crate) n_not_better: u64,
    /// Set when the run is over before its last step.
    pub(crate) outcome: Option<TrainOutcome>,
    /// What Transformers calls `log_history`, without times.
    pub(crate) log_history: Vec<Value>,
}

/// The best evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    pub(crate) step: u64,
    pub(crate) loss: f64,
}

/// When to give up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Evaluations in a row that may not be better; nothing = any number.
    pub(crate) most: Option<u64>,
    /// By how much the loss has to fall to count for patience.
    pub(crate) threshold: f64,
}

impl RunState {
    /// Returns the state before the first step.
    pub(crate) fn new() -> Self {
        Self {
            version: STATE_VERSION,
            ..Self::default()
        }
    }

    /// Takes a loss on the validation rows. Returns whether it is the best so far.
    ///
    /// Any fall makes a new best; only one by more than the threshold renews the patience, as Transformers' callback has it.
    pub(crate) fn take_evaluation(&mut self, loss: f64, patience: Patience) -> bool {
        let falls_by = self.best.map_or(f64::INFINITY, |best| best.loss - loss);
        let is_best = falls_by > 0.0;
        if falls_by > 0.0 && falls_by > patience.threshold {
            self.n_not_better = 0;
        } else {
            self.n_not_better += 1;
        }
        if is_best {
            self.best = Some(Best { step: self.step, loss });
        }
        self.eval_loss = Some(loss);
        self.evaluation_due = false;
        self.log_history
            .push(json!({ "eval_loss": loss, "epoch": self.epoch, "step": self.step }));
        if patience.most.is_some_and(|most| self.n_not_better >= most) {
            self.outcome = Some(TrainOutcome::EarlyStopped);
        }
        is_best
    }

    /// Takes the loss of the step that was just made.
    pub(crate) fn take_step(&mut self, loss: f64, epoch: f64) {
        self.step += 1;
        self.epoch = epoch;
        self.loss_since_log += loss;
        self.loss_total += loss;
    }

    /// Makes a log entry and begins the next mean.
    pub(crate) fn log(&mut self, grad_norm: f64, learning_rate: f64) -> Map<String, Value> {
        let n = self.step.saturating_sub(self.logged_step).max(1) as f64;
        let mut values = Map::new();
        values.insert("loss".to_owned(), json!(self.loss_since_log / n));
        values.insert("grad_norm".to_owned(), json!(grad_norm));
        values.insert("learning_rate".to_owned(), json!(learning_rate));
        self.loss_since_log = 0.0;
        self.logged_step = self.step;
        let mut entry = values.clone();
        entry.insert("epoch".to_owned(), json!(self.epoch));
        entry.insert("step".to_owned(), json!(self.step));
        self.log_history.push(Value::Object(entry));
        values
    }

    /// Returns the mean of all step losses.
    pub(crate) fn train_loss(&self) -> f64 {
        if self.step == 0 {
            0.0
        } else {
            self.loss_total / self.step as f64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_counts_as_the_callback_of_transformers_does() {
        let patience = Patience {
            most: Some(2),
            threshold: 0.1,
        };
        let mut state = RunState::new();
        // (loss, is best, not better in a row): a small fall is a new best that does not renew the patience.
        for (step, (loss, is_best, n_not_better)) in [(3.0, true, 0), (2.95, true, 1), (2.5, true, 0), (2.5, false, 1)]
            .into_iter()
            .enumerate()
        {
            state.step = step as u64 + 1;
            assert_eq!(state.take_evaluation(loss, patience), is_best, "{loss}");
            assert_eq!((state.n_not_better, state.outcome), (n_not_better, None), "{loss}");
        }
        assert!(!state.take_evaluation(2.6, patience));
        assert_eq!(state.outcome, Some(TrainOutcome::EarlyStopped));
        assert_eq!(state.best, Some(Best { step: 3, loss: 2.5 }));
    }

    #[test]
    fn logs_are_means_since_the_last_one() {
        let mut state = RunState::new();
        state.take_step(3.0, 0.1);
        state.take_step(2.0, 0.2);
        assert_eq!(state.log(1.5, 0.25)["loss"], json!(2.5));
        state.take_step(1.0, 0.3);
        assert_eq!(state.log(1.5, 0.25)["loss"], json!(1.0));
        assert_eq!(state.train_loss(), 2.0);
        assert_eq!(state.log_history[1]["step"], json!(3));
    }

    // Sums must come back to the bit.
    #[test]
    fn a_state_survives_its_file() {
        let mut state = RunState::new();
        for step in 1..50 {
            state.take_step(1.0 / f64::from(step), f64::from(step) / 7.0);
            if step % 3 == 0 {
                state.log(0.1 * f64::from(step), 1e-4 / f64::from(step));
            }
        }
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<RunState>(&text).unwrap(), state);
    }
}
