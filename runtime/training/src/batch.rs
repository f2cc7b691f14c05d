//! Rows of tokens, packed one behind the other into a batch without padding.
//!
//! **Invariant:** samples adjoin, cover the batch and are not empty; positions restart in each; a target never crosses from one sample into the next.

use std::ops::Range;

use crate::error::{Result, TrainingError};

/// The most tokens of one batch: positions and offsets stay far inside 32 bits, and no machine computes more at once.
pub const BATCH_TOKENS_MAX: usize = 1 << 24;

/// A row: tokens, and which of them the model is to learn to say.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Token ids.
    pub ids: &'a [u32],
    /// For each token, whether it is a target. That of the first is without effect: nothing stands before it.
    pub is_target: &'a [bool],
}

/// Rows packed for one pass of the model.
#[derive(Clone, Debug)]
pub struct Batch {
    ids: Vec<u32>,
    positions: Vec<u32>,
    samples: Vec<Range<usize>>,
    /// Tokens from which one is predicted, and the predicted ones.
    predicting: Vec<usize>,
    targets: Vec<u32>,
}

impl Batch {
    /// Packs rows. A row without targets is allowed; it is computed for nothing, so the caller better leaves it out.
    pub fn pack<'a>(samples: impl IntoIterator<Item = Sample<'a>>) -> Result<Batch> {
        let mut batch = Batch {
            ids: Vec::new(),
            positions: Vec::new(),
            samples: Vec::new(),
            predicting: Vec::new(),
            targets: Vec::new(),
        };
        for sample in samples {
            let (n, start) = (sample.ids.len(), batch.ids.len());
            if n == 0 || n != sample.is_target.len() {
                return Err(TrainingError::Batch(format!(
                    "a row of {n} tokens has {} target marks",
                    sample.is_target.len()
                )));
            }
            if n > BATCH_TOKENS_MAX - start {
                return Err(TrainingError::Batch(format!(
                    "it holds more than {BATCH_TOKENS_MAX} tokens"
                )));
            }
            batch.ids.extend_from_slice(sample.ids);
            batch.positions.extend(0..n as u32);
            batch.samples.push(start..start + n);
            for at in (1..n).filter(|at| sample.is_target[*at]) {
                batch.predicting.push(start + at - 1);
                batch.targets.push(sample.ids[at]);
            }
        }
        if batch.ids.is_empty() {
            return Err(TrainingError::Batch("it holds no rows".to_owned()));
        }
        Ok(batch)
    }

    /// Returns the number of tokens that are computed.
    pub fn n_tokens(&self) -> usize {
        self.ids.len()
    }

    /// Returns the number of predictions that the loss is made of.
    pub fn n_targets(&self) -> usize {
        self.targets.len()
    }

    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }

    pub(crate) fn positions(&self) -> &[u32] {
        &self.positions
    }

    pub(crate) fn samples(&self) -> &[Range<usize>] {
        &self.samples
    }

    pub(crate) fn predicting(&self) -> &[usize] {
        &self.predicting
    }

    pub(crate) fn targets(&self) -> &[u32] {
        &self.targets
    }

    /// Proves that every token is in the vocabulary and every sample within the positions there are.
    pub(crate) fn check(&self, vocab_size: usize, positions_max: Option<usize>) -> Result<()> {
        if let Some(token) = self.ids.iter().find(|id| **id as usize >= vocab_size) {
            return Err(TrainingError::Token {
                token: *token,
                vocab_size,
            });
        }
        let longest = self.samples.iter().map(Range::len).max().unwrap_or(0);
        match positions_max {
            Some(most) if longest > most => Err(TrainingError::Batch(format!(
                "a row has {longest} tokens; the base model's positions are exact up to {most}"
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_shifted_inside_their_own_row() {
        let rows = [
            Sample {
                ids: &[5, 6, 7],
                is_target: &[true, false, true],
            },
            Sample {
                ids: &[8, 9],
                is_target: &[true, true],
            },
        ];
        let batch = Batch::pack(rows).unwrap();
        assert_eq!(batch.positions(), [0, 1, 2, 0, 1]);
        assert_eq!(batch.samples(), [0..3, 3..5]);
        assert_eq!((batch.predicting(), batch.targets()), (&[1, 3][..], &[7, 9][..]));
        assert!(batch.check(10, None).is_ok());
        assert!(matches!(
            batch.check(9, None),
            Err(TrainingError::Token { token: 9, .. })
        ));
        assert!(matches!(batch.check(10, Some(2)), Err(TrainingError::Batch(_))));
    }

    #[test]
    fn empty_rows_and_wrong_marks_are_refused() {
        for (ids, is_target) in [(&[][..], &[][..]), (&[1, 2][..], &[true][..])] {
            assert!(Batch::pack([Sample { ids, is_target }]).is_err());
        }
        assert!(Batch::pack([]).is_err());
    }
}
