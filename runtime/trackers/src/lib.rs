//! Writers of what trackers of experiments read: TensorBoard's event files and W&B's offline runs.
//!
//! What: numbers of a step, the settings of a run and its end, each in the file the moment it is told. What not: no network, no clock (times are passed in), no
//! reading back; where the numbers come from. Tags are those of Transformers (`train/loss`, `eval/loss`, `train/learning_rate`), so that charts made for it fit.
//!
//! | module | knows |
//! | --- | --- |
//! | [`TensorBoard`] | TFRecord framing, `tensorflow.Event` |
//! | [`WandbOffline`] | W&B's directory, its log framing and its records |
//! | `protobuf`, `checksum`, `append` | what both are made of |
//!
//! **Invariant:** a file that is cut off anywhere, as by kill -9 or a full disk, is read up to the last whole record; a record that could not be written whole
//! is taken back, so that what is written after it can be read.
//!
//! ```no_run
//! use witness_trackers::{Outcome, TensorBoard, TensorBoardRun, Tracker};
//! # fn main() -> witness_trackers::Result<()> {
//! let mut tracker = TensorBoard::create(TensorBoardRun {
//!     directory: "runs/first".as_ref(),
//!     unix_time_s: 1_795_356_838.5,
//!     host: "laptop",
//!     process: 2_143,
//!     first_step: None,
//! })?;
//! tracker.scalars(10, 1_795_356_840.0, &[("train/loss", 2.9), ("train/learning_rate", 2e-4)])?;
//! tracker.finish(1_795_356_841.0, Outcome::Finished)?;
//! # Ok(())
//! # }
//! ```

mod append;
mod checksum;
#[cfg(test)]
mod decode;
mod error;
mod protobuf;
mod tensorboard;
mod wandb;

use serde_json::{Map, Value};

pub use error::{Result, TrackerError};
pub use tensorboard::{TensorBoard, TensorBoardRun};
pub use wandb::{WandbOffline, WandbRun};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It came to its end.
    Finished,
    /// It was told to stop.
    Stopped,
    /// It could not go on.
    Failed,
}

/// Something that keeps what a run tells of itself. Times are seconds since 1970, UTC.
pub trait Tracker: Send {
    /// Keeps numbers of an optimizer step, by tag. A number may be infinite or none.
    fn scalars(&mut self, step: u64, unix_time_s: f64, values: &[(&str, f64)]) -> Result<()>;
    /// Keeps the settings of the run.
    fn settings(&mut self, unix_time_s: f64, settings: &Map<String, Value>) -> Result<()>;
    /// Says that the run is over. Nothing may be written after it.
    fn finish(&mut self, unix_time_s: f64, outcome: Outcome) -> Result<()>;
}
