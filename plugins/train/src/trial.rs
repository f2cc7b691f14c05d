//! How long a run will take, from a few batches of it.

use std::time::Instant;

use witness_diagnostics::Diagnostic;
use witness_plugin_protocol::When;
use witness_recipe::interval;
use witness_training::{Batch, Sample as Row};

use crate::prepare::Prepared;

/// Times that the first step is made; the first one also warms up.
const STEPS: usize = 2;

/// Makes the first batch of the run a few times, measures a batch, and returns the seconds of the whole run.
pub(crate) fn seconds(prepared: &Prepared) -> Result<f64, Diagnostic> {
    let mut trainer = prepared.trainer()?;
    let epoch = prepared.batches.epoch(0);
    let first = epoch.steps.first().map(|step| prepared.batches.computed(step));
    let rows = first.and_then(|batches| batches.into_iter().next()).unwrap_or_default();
    let samples = &prepared.data.train.samples;
    let batch = Batch::pack(rows.iter().map(|row| {
        let encoded = &samples[*row as usize].encoded;
        Row {
            ids: &encoded.ids,
            is_target: &encoded.is_target,
        }
    }))?;
    let batch = [batch];
    let mut step_seconds = f64::INFINITY;
    for _ in 0..STEPS {
        let started = Instant::now();
        trainer.step(&batch, &|| false)?;
        step_seconds = step_seconds.min(started.elapsed().as_secs_f64());
    }
    let started = Instant::now();
    trainer.evaluate(&batch[0])?;
    let measure_seconds = started.elapsed().as_secs_f64();
    let n_tokens = batch[0].n_tokens() as f64;
    let settings = &prepared.settings;
    let n_steps = prepared.extent.n_steps;
    let n_evaluations = match settings.eval_strategy {
        When::Steps => n_steps / interval(settings.eval_steps.unwrap_or(1.0), n_steps),
        When::Epoch => n_steps.div_ceil(prepared.extent.steps_per_epoch.max(1)),
        When::No | When::Best => 0,
    };
    let measured = n_evaluations as f64 * prepared.plan.validation.n_tokens as f64;
    Ok(prepared.extent.n_tokens as f64 * step_seconds / n_tokens + measured * measure_seconds / n_tokens)
}
