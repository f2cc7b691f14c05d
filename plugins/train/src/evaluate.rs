//! The loss on the validation rows, as Transformers reckons `eval_loss`: the mean over rows of their batch's mean over targets.

use witness_diagnostics::Diagnostic;
use witness_plugin_protocol::TrainEvent;
use witness_training::{Batch, Sample as Row, Trainer};

use crate::batches::BATCH_TOKENS;
use crate::data::Sample;
use crate::progress::{Progress, during};

/// What is measured.
pub(crate) struct Evaluation<'a> {
    /// The rows, in order.
    pub(crate) samples: &'a [Sample],
    /// Rows of a batch.
    pub(crate) batch_rows: u64,
}

/// Measures. Returns nothing when it is told to stop.
pub(crate) fn evaluate(
    trainer: &Trainer,
    evaluation: &Evaluation<'_>,
    progress: &mut dyn Progress,
) -> Result<Option<f64>, Diagnostic> {
    let rows = usize::try_from(evaluation.batch_rows).unwrap_or(usize::MAX).max(1);
    let total = evaluation.samples.len().div_ceil(rows) as u64;
    let mut sum = 0.0;
    for (done, samples) in (1..).zip(evaluation.samples.chunks(rows)) {
        let mean = during(&*progress, |is_stopped| {
            let (mut loss, mut n_targets) = (0.0, 0);
            for batch in parts(samples) {
                let batch = Batch::pack(batch.iter().map(|sample| Row {
                    ids: &sample.encoded.ids,
                    is_target: &sample.encoded.is_target,
                }))?;
                let Some(sum) = trainer.evaluate_until(&batch, is_stopped)? else {
                    return Ok(None);
                };
                loss += sum;
                n_targets += batch.n_targets();
            }
            Ok::<_, Diagnostic>(Some(loss / n_targets.max(1) as f64))
        })?;
        let Some(mean) = mean else { return Ok(None) };
        sum += mean * samples.len() as f64;
        // A hundred reports are enough for the longest evaluation.
        let percent = |done: u64| done * 100 / total;
        if percent(done) > percent(done - 1) {
            progress.emit(&TrainEvent::Evaluating { done, total });
        }
    }
    Ok(Some(sum / evaluation.samples.len().max(1) as f64))
}

/// Cuts a batch into what is computed at once.
fn parts(samples: &[Sample]) -> Vec<&[Sample]> {
    let (mut parts, mut start, mut n_tokens) = (Vec::new(), 0, 0);
    for (at, sample) in samples.iter().enumerate() {
        let length = sample.encoded.ids.len();
        if at > start && n_tokens + length > BATCH_TOKENS {
            parts.push(&samples[start..at]);
            (start, n_tokens) = (at, 0);
        }
        n_tokens += length;
    }
    parts.push(&samples[start..]);
    parts
}
