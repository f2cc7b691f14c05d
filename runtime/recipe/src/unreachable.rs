//! What settings ask for and a run of so many steps can never do. Told before the first step.

use witness_plugin_protocol::{TrainSettings, When};

/// The length of a run, as its plan has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Steps of the whole run.
    pub n_steps: u64,
    /// Steps of one epoch.
    pub steps_per_epoch: u64,
    /// Rows to measure on.
    pub n_validation_rows: u64,
}

/// Returns what can never happen, each in a sentence.
pub fn unreachable(settings: &TrainSettings, extent: Extent) -> Vec<String> {
    let Extent { n_steps, .. } = extent;
    let mut told = Vec::new();
    if n_steps == 0 {
        return vec!["the run has no steps".to_owned()];
    }
    if let Some(warmup) = settings.warmup_steps.filter(|steps| *steps >= n_steps) {
        told.push(format!(
            "the warm-up of {warmup} steps is {} than the run of {n_steps}: the learning rate rises to {:.0} % of its height and never falls",
            if warmup == n_steps { "not shorter" } else { "longer" },
            100.0 * (n_steps - 1) as f64 / warmup as f64
        ));
    }
    let evaluations = evaluations(settings, extent);
    let wants_best = settings.load_best_model_at_end || settings.early_stopping_patience.is_some();
    match (&evaluations, settings.eval_strategy) {
        (Happens::Never(why), When::Steps | When::Epoch) => told.push(format!("no evaluation is made: {why}")),
        (Happens::Never(_), _) | (Happens::Times(_), _) => {}
    }
    if let Happens::Never(why) = saves(settings, extent) {
        told.push(format!("no checkpoint is written before the end: {why}"));
    }
    if wants_best {
        match &evaluations {
            Happens::Never(_) => told
                .push("without an evaluation there is no best checkpoint: the last weights are the product".to_owned()),
            Happens::Times(times) => {
                if let Some(patience) = settings.early_stopping_patience.filter(|patience| times <= patience) {
                    told.push(format!(
                        "early stopping cannot happen: it takes {} evaluations, and the run makes {times}",
                        patience + 1
                    ));
                }
            }
        }
    }
    if settings.logging_steps > n_steps && !settings.logging_first_step {
        told.push(format!(
            "the log has no entry before the end: its first is at step {}, and the run has {n_steps}",
            settings.logging_steps
        ));
    }
    told
}

/// Of more checkpoints than these a person should know before they fill the disk.
const CHECKPOINTS_UNTOLD: u64 = 10;

/// Says how many checkpoints will lie there at the end, where nothing bounds them and they are many.
pub fn unbounded(settings: &TrainSettings, extent: Extent) -> Option<String> {
    match saves(settings, extent) {
        Happens::Times(times) if settings.save_total_limit.is_none() && times > CHECKPOINTS_UNTOLD => Some(format!(
            "{times} checkpoints will be kept, each with the state of the optimizer: `save_total_limit` bounds them"
        )),
        _ => None,
    }
}

enum Happens {
    Times(u64),
    Never(String),
}

fn evaluations(settings: &TrainSettings, extent: Extent) -> Happens {
    if settings.eval_strategy == When::No {
        return Happens::Never("`eval_strategy` is `no`".to_owned());
    }
    if extent.n_validation_rows == 0 {
        return Happens::Never("there are no validation rows".to_owned());
    }
    let steps = settings.eval_steps.unwrap_or(settings.logging_steps as f64);
    times(settings.eval_strategy, steps, extent)
}

fn saves(settings: &TrainSettings, extent: Extent) -> Happens {
    match settings.save_strategy {
        // Asked for, so not worth a word.
        When::No | When::Best => Happens::Times(0),
        strategy => times(strategy, settings.save_steps, extent),
    }
}

fn times(strategy: When, steps: f64, extent: Extent) -> Happens {
    if strategy == When::Epoch {
        return Happens::Times(extent.n_steps.div_ceil(extent.steps_per_epoch.max(1)));
    }
    let interval = interval(steps, extent.n_steps);
    match extent.n_steps / interval {
        0 => Happens::Never(format!(
            "the first is due at step {interval}, and the run has {}",
            extent.n_steps
        )),
        times => Happens::Times(times),
    }
}

/// Returns the steps between two of something; below 1 it is a share of all steps, rounded up as Transformers does.
pub fn interval(steps: f64, n_steps: u64) -> u64 {
    let steps = if steps < 1.0 {
        (steps * n_steps as f64).ceil()
    } else {
        steps
    };
    (steps as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The guide's script on its own seed data: nothing it asks for ever happens.
    #[test]
    fn the_guides_run_of_six_steps_reaches_nothing() {
        let settings = TrainSettings {
            warmup_steps: Some(100),
            eval_steps: Some(100.0),
            save_steps: 100.0,
            load_best_model_at_end: true,
            early_stopping_patience: Some(3),
            eval_strategy: When::Steps,
            save_strategy: When::Steps,
            ..TrainSettings::default()
        };
        let extent = Extent {
            n_steps: 6,
            steps_per_epoch: 2,
            n_validation_rows: 3,
        };
        insta::assert_snapshot!(unreachable(&settings, extent).join("\n"), @r"
        the warm-up of 100 steps is longer than the run of 6: the learning rate rises to 5 % of its height and never falls
        no evaluation is made: the first is due at step 100, and the run has 6
        no checkpoint is written before the end: the first is due at step 100, and the run has 6
        without an evaluation there is no best checkpoint: the last weights are the product
        the log has no entry before the end: its first is at step 10, and the run has 6
        ");
        let reachable = Extent {
            n_steps: 1000,
            steps_per_epoch: 300,
            n_validation_rows: 3,
        };
        assert_eq!(unreachable(&settings, reachable), Vec::<String>::new());
    }

    #[test]
    fn many_checkpoints_without_a_bound_are_told() {
        let mut settings = TrainSettings {
            save_strategy: When::Epoch,
            ..TrainSettings::default()
        };
        let extent = |n_epochs: u64| Extent {
            n_steps: 10 * n_epochs,
            steps_per_epoch: 10,
            n_validation_rows: 0,
        };
        assert_eq!(unbounded(&settings, extent(10)), None);
        let told = unbounded(&settings, extent(30)).unwrap_or_default();
        assert!(told.starts_with("30 checkpoints will be kept"), "{told}");
        settings.save_total_limit = Some(3);
        assert_eq!(unbounded(&settings, extent(30)), None);
    }

    #[test]
    fn shares_are_rounded_up() {
        assert_eq!(interval(0.1, 6), 1);
        assert_eq!(interval(1.0 / 12.0, 30), 3);
        assert_eq!(interval(100.0, 6), 100);
        assert_eq!(interval(0.0, 6), 1);
    }

    #[test]
    fn a_best_without_measurements_and_a_patience_that_is_too_long() {
        let mut settings = TrainSettings {
            load_best_model_at_end: true,
            eval_steps: Some(30.0),
            save_steps: 50.0,
            eval_strategy: When::Steps,
            save_strategy: When::Steps,
            ..TrainSettings::default()
        };
        let mut extent = Extent {
            n_steps: 100,
            steps_per_epoch: 50,
            n_validation_rows: 0,
        };
        insta::assert_snapshot!(unreachable(&settings, extent).join("\n"), @r"
        no evaluation is made: there are no validation rows
        without an evaluation there is no best checkpoint: the last weights are the product
        ");
        extent.n_validation_rows = 4;
        // A checkpoint is written at a best evaluation too, so the two need not meet.
        assert_eq!(unreachable(&settings, extent), Vec::<String>::new());
        settings.eval_strategy = When::Epoch;
        settings.save_strategy = When::Epoch;
        settings.early_stopping_patience = Some(2);
        insta::assert_snapshot!(unreachable(&settings, extent).join("\n"), @"early stopping cannot happen: it takes 3 evaluations, and the run makes 2");
    }
}
