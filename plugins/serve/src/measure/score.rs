//! What logits say about the tokens that came: likelihood, divergence from a reference, and their statistics.
//!
//! Logits are f32; everything that is summed is summed in f64. A model held against itself diverges by exactly 0.

use rayon::iter::{IndexedParallelIterator, IntoParallelRefMutIterator, ParallelIterator};
use witness_diagnostics::{Diagnostic, Kind};
use witness_model::Threads;
use witness_plugin_protocol::{Divergence, MeasureEvent, MeasureReply};

use super::reference::Beside;

/// Everything that was scored.
pub(super) struct Scores {
    beside: Beside,
    /// Negative log-likelihood of each token that came, nats.
    losses: Vec<f64>,
    /// Against the reference, for each token that came.
    distances: Vec<Distance>,
}

/// One place against the reference.
struct Distance {
    /// Kullback and Leibler's, nats.
    divergence: f64,
    /// The reference's loss of the token that came.
    reference_loss: f64,
    /// Both think the same token the likeliest.
    agrees: bool,
}

impl Scores {
    /// Begins.
    pub(super) fn new(beside: Beside) -> Scores {
        Scores {
            beside,
            losses: Vec::new(),
            distances: Vec::new(),
        }
    }

    /// Scores rows of logits, each against the token that came.
    pub(super) fn add(
        &mut self,
        mut rows: Vec<Vec<f32>>,
        came: &[u32],
        threads: Option<&Threads>,
    ) -> Result<(), Diagnostic> {
        let length = rows.first().map_or(0, Vec::len);
        let reference = self.beside.take(rows.len(), length)?;
        let score = || -> Vec<Option<(f64, Option<Distance>)>> {
            rows.par_iter_mut()
                .enumerate()
                .map(|(index, row)| {
                    let token = *came.get(index)? as usize;
                    to_log_probabilities(row)?;
                    let loss = -f64::from(*row.get(token)?);
                    let distance = match &reference {
                        Some(reference) => Some(distance(reference.get(index)?, row, token)?),
                        None => None,
                    };
                    Some((loss, distance))
                })
                .collect()
        };
        for score in Threads::run_on(threads, score) {
            let (loss, distance) = score.ok_or_else(not_finite)?;
            self.losses.push(loss);
            self.distances.extend(distance);
        }
        self.beside.put(&rows)
    }

    /// Says how far it is.
    pub(super) fn progress(&self, n_chunks: u64) -> MeasureEvent {
        let (loss, _) = mean_and_error(self.losses.iter().copied());
        let divergence = (!self.distances.is_empty())
            .then(|| mean_and_error(self.distances.iter().map(|distance| distance.divergence)).0);
        MeasureEvent::Progress {
            n_chunks,
            perplexity: Some(loss.exp()),
            divergence,
        }
    }

    /// Sums up.
    pub(super) fn finish(mut self) -> Result<MeasureReply, Diagnostic> {
        self.beside.finish()?;
        let (loss, error) = mean_and_error(self.losses.iter().copied());
        Ok(MeasureReply {
            n_scored: self.losses.len() as u64,
            perplexity: loss.exp(),
            perplexity_error: loss.exp() * error,
            divergence: (!self.distances.is_empty()).then(|| self.divergence()),
            ..MeasureReply::default()
        })
    }

    fn divergence(&self) -> Divergence {
        let places = || self.distances.iter().zip(&self.losses);
        let (mean, error) = mean_and_error(self.distances.iter().map(|distance| distance.divergence));
        let agrees = |distance: &Distance| f64::from(u8::from(distance.agrees));
        let (top_agreement, top_agreement_error) = mean_and_error(self.distances.iter().map(agrees));
        // Of the pairs, because the two models find the same tokens hard.
        let (ratio, ratio_error) = mean_and_error(places().map(|(distance, loss)| loss - distance.reference_loss));
        let change = |(distance, loss): (&Distance, &f64)| ((-loss).exp() - (-distance.reference_loss).exp()).powi(2);
        let (change, _) = mean_and_error(places().map(change));
        let mut sorted: Vec<f64> = self.distances.iter().map(|distance| distance.divergence).collect();
        sorted.sort_by(f64::total_cmp);
        Divergence {
            mean,
            error,
            median: quantile(&sorted, 0.5),
            p99: quantile(&sorted, 0.99),
            max: sorted.last().copied().unwrap_or_default(),
            top_agreement,
            top_agreement_error,
            perplexity_ratio: ratio.exp(),
            perplexity_ratio_error: ratio.exp() * ratio_error,
            probability_change_rms: change.sqrt(),
        }
    }
}

/// Turns logits into natural logarithms of probabilities; nothing when one of them is no number.
fn to_log_probabilities(row: &mut [f32]) -> Option<()> {
    let max = row.iter().fold(f32::NEG_INFINITY, |max, &logit| max.max(logit));
    let sum: f64 = row.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    let shift = f64::from(max) + sum.ln();
    if !shift.is_finite() {
        return None;
    }
    for logit in row {
        *logit = (f64::from(*logit) - shift) as f32;
    }
    Some(())
}

fn distance(reference: &[f32], row: &[f32], token: usize) -> Option<Distance> {
    let mut divergence = 0.0;
    for (&before, &now) in reference.iter().zip(row) {
        let before = f64::from(before);
        divergence += before.exp() * (before - f64::from(now));
    }
    divergence.is_finite().then(|| Distance {
        // Rounding of the logarithms alone can bring it below nothing.
        divergence: divergence.max(0.0),
        reference_loss: -f64::from(reference.get(token).copied().unwrap_or_default()),
        agrees: likeliest(reference) == likeliest(row),
    })
}

fn likeliest(row: &[f32]) -> usize {
    let numbered = row.iter().enumerate();
    let (index, _) = numbered.fold((0, f32::NEG_INFINITY), |best, (index, &number)| {
        if number > best.1 { (index, number) } else { best }
    });
    index
}

/// Returns the mean and its standard error.
fn mean_and_error(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
    // Welford's way: no difference of two large sums.
    let (mut n, mut mean, mut squares) = (0.0, 0.0, 0.0);
    for number in numbers {
        n += 1.0;
        let off = number - mean;
        mean += off / n;
        squares += off * (number - mean);
    }
    let error = if n > 1.0 { (squares / (n - 1.0) / n).sqrt() } else { 0.0 };
    (mean, error)
}

/// Returns the number below which `share` of the sorted ones lie, between two of them by its place.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let place = share * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

fn not_finite() -> Diagnostic {
    Diagnostic::new(
        "witness::serve::not_finite",
        Kind::Damaged,
        "the model's logits are not numbers",
    )
    .hint("the weights or the adapter are probably damaged; run `witness fsck` and create the model again")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the numbers of a case that is small enough to reckon by hand.
    #[test]
    fn the_statistics_are_those_of_the_definitions() {
        let mut scores = Scores::new(Beside::Nothing);
        // Probabilities 1/4, 3/4 and 1/2, 1/2.
        let rows = vec![vec![0.0, 3f32.ln()], vec![5.0, 5.0]];
        scores.add(rows, &[1, 0], None).unwrap();
        let reply = scores.finish().unwrap();
        let losses = [(4f64 / 3.0).ln(), 2f64.ln()];
        let mean = (losses[0] + losses[1]) / 2.0;
        let deviation = ((losses[0] - mean).powi(2) + (losses[1] - mean).powi(2)).sqrt();
        assert!((reply.perplexity - mean.exp()).abs() < 1e-6, "{reply:?}");
        assert!((reply.perplexity_error - mean.exp() * deviation / 2f64.sqrt()).abs() < 1e-6);
        assert_eq!((reply.n_scored, reply.divergence), (2, None));

        let (before, mut now) = ([0.25f32.ln(), 0.75f32.ln()], vec![0.0, 0.0]);
        to_log_probabilities(&mut now).unwrap();
        let found = distance(&before, &now, 0).unwrap();
        let wanted = 0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln();
        assert!(
            (found.divergence - wanted).abs() < 1e-6,
            "{} {wanted}",
            found.divergence
        );
        assert!((found.reference_loss - 4f64.ln()).abs() < 1e-6 && !found.agrees);
    }

    /// Goal: the numbers below which a share lies, in between as well.
    #[test]
    fn quantiles_lie_between_their_neighbours() {
        assert_eq!(quantile(&[], 0.5), 0.0);
        assert_eq!(quantile(&[3.0], 0.99), 3.0);
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
    }

    /// Goal: what is no number is an error and no perplexity.
    #[test]
    fn logits_that_are_not_numbers_are_refused() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut scores = Scores::new(Beside::Nothing);
            let refused = scores.add(vec![vec![0.0, bad]], &[0], None).unwrap_err();
            assert_eq!(refused.code, "witness::serve::not_finite");
        }
    }
}
