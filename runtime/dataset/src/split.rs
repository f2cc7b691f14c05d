//! Which rows train and which validate: the guide's Python, row for row.
//!
//! ```python
//! random.seed(42); random.shuffle(examples); split = int(len(examples) * 0.9)
//! ```

use crate::error::DatasetError;
use crate::limits::ROWS_MAX;
use crate::random::PythonRandom;

/// How rows are shared out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SplitOptions {
    /// Seed of the shuffle. The guide's is 42.
    pub seed: u64,
    /// Share of the rows that train, rounded down as Python's `int` does. The guide's is 0.9.
    pub train_fraction: f64,
}

impl Default for SplitOptions {
    fn default() -> Self {
        Self {
            seed: 42,
            train_fraction: 0.9,
        }
    }
}

/// Row numbers of the two parts, each in the order in which it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// What is learned from.
    pub train: Vec<u32>,
    /// What is only measured on.
    pub validation: Vec<u32>,
}

/// Shares out `n_rows` rows. Together the parts hold each row once.
pub fn split(n_rows: usize, options: &SplitOptions) -> Result<Split, DatasetError> {
    let fraction = options.train_fraction;
    if !(0.0..=1.0).contains(&fraction) {
        return Err(DatasetError::BadFraction { fraction });
    }
    if n_rows > ROWS_MAX {
        return Err(DatasetError::TooManyRows);
    }
    let mut rows: Vec<u32> = (0..n_rows as u32).collect();
    PythonRandom::seeded(options.seed).shuffle(&mut rows);
    // Python multiplies as f64 and truncates; `as` does the same.
    let n_train = ((n_rows as f64 * fraction) as usize).min(n_rows);
    let validation = rows.split_off(n_train);
    Ok(Split {
        train: rows,
        validation,
    })
}
