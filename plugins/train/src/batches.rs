//! Which rows each optimizer step sees: epochs, their order, sequences packed of rows, micro-batches. Pure: lengths and settings in,
//! numbers of samples out, the same for the same seed however often a run was interrupted.
//!
//! Order: each epoch is a fresh permutation, as torch draws it from `seed + epoch`. Packed: the permuted rows are taken in windows of
//! [`WINDOW_SEQUENCES`] sequences' worth of tokens, each packed best-fit decreasing, and the sequences permuted; so rows meet others in every
//! epoch although the packing itself sorts them.

use witness_dataset::order::{group_by_length, steps};
use witness_dataset::{EpochOrder, pack};
use witness_diagnostics::Diagnostic;
use witness_plugin_protocol::{Compat, TrainSettings};

/// Sequences that are packed at a time: best-fit decreasing wastes about half a sequence a window, and wasted room costs nothing here.
const WINDOW_SEQUENCES: usize = 16;

/// Tokens that are computed at once, unless one row alone has more: products of this many rows are near the machine's best, and what a
/// layer keeps for its backward pass grows with it.
pub(crate) const BATCH_TOKENS: usize = 1_024;

/// Steps of a run at most: at ten a second, four months; beyond this a setting is a slip.
const STEPS_MAX: u64 = 100_000_000;

/// Epochs at most.
const EPOCHS_MAX: f64 = 1e6;

/// Samples of one micro-batch.
pub(crate) type MicroBatch = Vec<u32>;

/// The steps of one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epoch {
    /// Which, from 0.
    pub(crate) number: u64,
    /// Micro-batches of each step.
    pub(crate) steps: Vec<Vec<MicroBatch>>,
}

impl Epoch {
    /// Returns the micro-batches of the first steps.
    fn n_micro_batches(&self, n_steps: usize) -> usize {
        self.steps.iter().take(n_steps).map(Vec::len).sum()
    }

    /// Returns the epochs done when so many steps of this one are made, as Transformers counts them.
    pub(crate) fn done(&self, n_steps: usize) -> f64 {
        let all = self.n_micro_batches(self.steps.len()).max(1);
        self.number as f64 + self.n_micro_batches(n_steps) as f64 / all as f64
    }
}

/// Makes the steps of every epoch.
#[derive(Clone, Debug)]
pub(crate) struct Batches {
    lengths: Vec<usize>,
    order: EpochOrder,
    seed: u64,
    pack_tokens: Option<usize>,
    groups_by_length: bool,
    micro_batch: usize,
    accumulation: usize,
}

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Optimizer steps.
    pub(crate) n_steps: u64,
    /// Steps of the first epoch.
    pub(crate) steps_per_epoch: u64,
    /// Tokens computed in all steps.
    pub(crate) n_tokens: u64,
    /// Tokens of the largest step.
    pub(crate) step_tokens_max: u64,
    /// Tokens of the largest batch that is computed at once.
    pub(crate) batch_tokens_max: u64,
}

impl Batches {
    /// Prepares for samples of these lengths.
    pub(crate) fn new(settings: &TrainSettings, lengths: Vec<usize>, sequence_len: usize) -> Result<Self, Diagnostic> {
        let size = |name: &str, value: u64| match usize::try_from(value) {
            Ok(value @ 1..) => Ok(value),
            _ => Err(crate::error::setting(name, value, "1 or more")),
        };
        // The guide's script knows no packing.
        let packs = settings.sample_packing && settings.compat != Some(Compat::Guide);
        Ok(Self {
            lengths,
            order: if settings.shuffle {
                EpochOrder::SeedPlusEpoch
            } else {
                EpochOrder::AsGiven
            },
            seed: settings.seed,
            pack_tokens: packs.then_some(sequence_len),
            groups_by_length: settings.group_by_length,
            micro_batch: size("micro_batch_size", settings.micro_batch_size)?,
            accumulation: size("gradient_accumulation_steps", settings.gradient_accumulation_steps)?,
        })
    }

    /// Returns the steps of an epoch.
    pub(crate) fn epoch(&self, number: u64) -> Epoch {
        let order = self.order.rows(self.seed, self.lengths.len(), number);
        let sequences: Vec<Vec<u32>> = match self.pack_tokens {
            Some(tokens_max) => self.packed(&order, tokens_max, number),
            None if self.groups_by_length => {
                let rows = self.micro_batch.saturating_mul(self.accumulation);
                group_by_length(&order, &self.lengths, rows)
                    .into_iter()
                    .map(|row| vec![row])
                    .collect()
            }
            None => order.into_iter().map(|row| vec![row]).collect(),
        };
        let numbers: Vec<u32> = (0..sequences.len() as u32).collect();
        let steps = steps(&numbers, self.micro_batch, self.accumulation);
        let micro_batch = |numbers: &&[u32]| {
            numbers
                .iter()
                .flat_map(|at| sequences[*at as usize].iter().copied())
                .collect()
        };
        Epoch {
            number,
            steps: steps
                .iter()
                .map(|step| step.micro_batches.iter().map(micro_batch).collect())
                .collect(),
        }
    }

    fn packed(&self, order: &[u32], tokens_max: usize, epoch: u64) -> Vec<Vec<u32>> {
        let room = tokens_max.saturating_mul(WINDOW_SEQUENCES);
        let (mut sequences, mut start, mut n_tokens) = (Vec::new(), 0, 0usize);
        for (at, row) in order.iter().enumerate() {
            n_tokens = n_tokens.saturating_add(self.lengths[*row as usize]);
            if n_tokens >= room || at + 1 == order.len() {
                let packing = pack(&order[start..=at], &self.lengths, tokens_max);
                sequences.extend(packing.sequences.into_iter().map(|pack| pack.rows));
                (start, n_tokens) = (at + 1, 0);
            }
        }
        let order = self.order.rows(self.seed, sequences.len(), epoch);
        order
            .iter()
            .map(|at| std::mem::take(&mut sequences[*at as usize]))
            .collect()
    }

    /// Reckons the length of a run: `max_steps`, or epochs, a part of one rounded up to whole steps as Transformers does.
    pub(crate) fn extent(&self, settings: &TrainSettings) -> Result<Extent, Diagnostic> {
        let epochs = settings.num_epochs;
        if let Some(steps) = settings.max_steps.filter(|steps| !(1..=STEPS_MAX).contains(steps)) {
            return Err(crate::error::setting("max_steps", steps, format!("1 to {STEPS_MAX}")));
        }
        if settings.max_steps.is_none() && !(epochs > 0.0 && epochs <= EPOCHS_MAX) {
            return Err(crate::error::setting(
                "num_epochs",
                epochs,
                format!("above 0 and at most {EPOCHS_MAX}"),
            ));
        }
        let mut extent = Extent {
            n_steps: 0,
            steps_per_epoch: 0,
            n_tokens: 0,
            step_tokens_max: 0,
            batch_tokens_max: 0,
        };
        for number in 0.. {
            let epoch = self.epoch(number);
            let left = match settings.max_steps {
                Some(most) => most - extent.n_steps,
                None => {
                    let share = (epochs - number as f64).clamp(0.0, 1.0);
                    (share * epoch.steps.len() as f64).ceil() as u64
                }
            };
            if number == 0 {
                extent.steps_per_epoch = epoch.steps.len() as u64;
            }
            if left == 0 || epoch.steps.is_empty() {
                break;
            }
            for step in epoch.steps.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                extent.n_steps += 1;
                self.add(step, &mut extent);
            }
            if extent.n_steps > STEPS_MAX {
                return Err(crate::error::setting(
                    "num_epochs",
                    epochs,
                    format!("at most {STEPS_MAX} steps"),
                ));
            }
        }
        Ok(extent)
    }

    /// Cuts a step into batches that are computed at once.
    ///
    /// The loss counts all targets of a step alike, so micro-batches mean nothing to the result. Rows are computed together up to
    /// [`BATCH_TOKENS`], whatever the micro-batches: little ones are joined, large ones take no more memory than that.
    pub(crate) fn computed(&self, step: &[MicroBatch]) -> Vec<Vec<u32>> {
        let (mut batches, mut n_tokens) = (Vec::<Vec<u32>>::new(), 0);
        for row in step.iter().flatten() {
            let length = self.lengths[*row as usize];
            match batches.last_mut() {
                Some(batch) if n_tokens + length <= BATCH_TOKENS => batch.push(*row),
                _ => {
                    batches.push(vec![*row]);
                    n_tokens = 0;
                }
            }
            n_tokens += length;
        }
        batches
    }

    fn add(&self, step: &[MicroBatch], extent: &mut Extent) {
        let tokens = |rows: &Vec<u32>| rows.iter().map(|row| self.lengths[*row as usize] as u64).sum::<u64>();
        let step_tokens = step.iter().map(tokens).sum();
        let largest = self.computed(step).iter().map(tokens).max().unwrap_or(0);
        extent.n_tokens += step_tokens;
        extent.step_tokens_max = extent.step_tokens_max.max(step_tokens);
        extent.batch_tokens_max = extent.batch_tokens_max.max(largest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(change: impl FnOnce(&mut TrainSettings)) -> TrainSettings {
        let mut settings = TrainSettings {
            sample_packing: false,
            ..TrainSettings::default()
        };
        change(&mut settings);
        settings
    }

    fn rows_of(epoch: &Epoch) -> Vec<u32> {
        let mut rows: Vec<u32> = epoch.steps.iter().flatten().flatten().copied().collect();
        rows.sort_unstable();
        rows
    }

    // The recorded run of the guide's script: 19 rows, 4 a micro-batch, 4 micro-batches a step.
    #[test]
    fn steps_are_those_of_the_recorded_run() {
        let settings = settings(|settings| settings.gradient_accumulation_steps = 4);
        let batches = Batches::new(&settings, vec![10; 19], 64).unwrap();
        let epoch = batches.epoch(0);
        assert_eq!(epoch.steps[0][..2], [vec![15, 6, 13, 17], vec![10, 8, 0, 1]]);
        assert_eq!(epoch.steps[1], [vec![9, 5, 11]]);
        assert_eq!((epoch.done(1), epoch.done(2)), (0.8, 1.0));
        assert_eq!(batches.epoch(2).done(1), 2.8);
        let extent = batches.extent(&settings).unwrap();
        assert_eq!((extent.n_steps, extent.steps_per_epoch, extent.n_tokens), (6, 2, 570));
        assert_eq!((extent.step_tokens_max, extent.batch_tokens_max), (160, 160));
    }

    #[test]
    fn parts_of_epochs_round_up_and_max_steps_wins() {
        for (epochs, max_steps, expected) in [
            (1.5, None, 3),
            (0.1, None, 1),
            (3.0, Some(5), 5),
            (1.0, Some(7), 7),
            (2.0, None, 4),
        ] {
            let settings = settings(|settings| {
                settings.gradient_accumulation_steps = 4;
                settings.num_epochs = epochs;
                settings.max_steps = max_steps;
            });
            let batches = Batches::new(&settings, vec![10; 19], 64).unwrap();
            assert_eq!(
                batches.extent(&settings).unwrap().n_steps,
                expected,
                "{epochs} {max_steps:?}"
            );
        }
    }

    #[test]
    fn packed_epochs_hold_every_row_once_and_differ() {
        let lengths: Vec<usize> = (0..400).map(|row| 5 + row * 7 % 60).collect();
        let settings = settings(|settings| settings.sample_packing = true);
        let batches = Batches::new(&settings, lengths.clone(), 64).unwrap();
        let (first, second) = (batches.epoch(0), batches.epoch(1));
        assert_eq!(first, batches.epoch(0));
        assert!(rows_of(&first).into_iter().eq(0..400) && rows_of(&second).into_iter().eq(0..400));
        let together = |epoch: &Epoch| {
            let step = epoch
                .steps
                .iter()
                .flatten()
                .find(|micro_batch| micro_batch.contains(&0))
                .unwrap();
            step.clone()
        };
        assert_ne!(together(&first), together(&second));
        // Four sequences of at most 64 tokens, and few of them far from full.
        let tokens = |micro_batch: &Vec<u32>| micro_batch.iter().map(|row| lengths[*row as usize]).sum::<usize>();
        let all: Vec<usize> = first.steps.iter().flatten().map(tokens).collect();
        assert!(all.iter().all(|tokens| *tokens <= 256));
        let total: usize = lengths.iter().sum();
        assert!(
            all.len() <= total.div_ceil(256) * 12 / 10,
            "{} {}",
            all.len(),
            total.div_ceil(256)
        );
    }

    #[test]
    fn rows_stay_as_they_are_when_asked_and_bad_sizes_are_refused() {
        let given = settings(|settings| settings.shuffle = false);
        let batches = Batches::new(&given, vec![1; 6], 8).unwrap();
        assert_eq!(batches.epoch(3).steps, [[vec![0, 1, 2, 3]], [vec![4, 5]]]);
        for change in [
            |s: &mut TrainSettings| s.micro_batch_size = 0,
            |s: &mut TrainSettings| s.gradient_accumulation_steps = 0,
        ] {
            assert!(Batches::new(&settings(change), vec![1], 8).is_err());
        }
        for change in [
            |s: &mut TrainSettings| s.num_epochs = f64::NAN,
            |s: &mut TrainSettings| s.max_steps = Some(0),
        ] {
            let settings = settings(change);
            assert!(Batches::new(&settings, vec![1], 8).unwrap().extent(&settings).is_err());
        }
    }
}
