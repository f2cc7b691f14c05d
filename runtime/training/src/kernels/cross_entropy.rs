//! The loss of a row of logits, and its gradient in their place.

use rayon::prelude::*;

use super::{exponentials, largest, vectorised};
use crate::real::Real;

/// Computes `log(sum(e^logits)) - logits[target]` of every row, summed in the order of rows in f64; with a `scale`, replaces the logits, `[n, vocabulary]`, by
/// `scale * (softmax - one at the target)`.
///
/// # Panics
/// If a target lies outside the vocabulary.
pub(crate) fn cross_entropy_rows<T: Real>(
    logits: &mut [T],
    vocabulary: usize,
    targets: &[u32],
    scale: Option<T>,
) -> f64 {
    let mut losses = vec![0.0f64; targets.len()];
    let rows = logits.par_chunks_mut(vocabulary).zip(targets).zip(&mut losses);
    rows.for_each(|((logits, target), loss)| {
        let wanted = logits[*target as usize];
        let most = vectorised(
            #[inline(always)]
            || largest(logits),
        );
        let sum = vectorised(
            #[inline(always)]
            || exponentials(logits, most),
        );
        *loss = sum.to_f64().ln() + (most.to_f64() - wanted.to_f64());
        if let Some(scale) = scale {
            let factor = scale / sum;
            vectorised(
                #[inline(always)]
                || {
                    for value in logits.iter_mut() {
                        *value *= factor;
                    }
                },
            );
            logits[*target as usize] -= scale;
        }
    });
    losses.iter().sum()
}
