//! W&B's offline runs: a directory that `wandb sync` uploads as it stands and `wandb leet` shows.
//!
//! ```text
//! wandb/offline-run-<YYYYMMDD_HHMMSS>-<id>/run-<id>.wandb    the records, in order
//!                                          files/            what else is to be uploaded: nothing, as `wandb sync` makes its own from the records
//! wandb/latest-run -> the newest of them
//! ```
//! Records (wandb_internal.proto): header, run with its settings, two metrics that make `train/global_step` the x-axis of all others as Transformers does,
//! then for every call a summary and a history, and at last exit. Source: runs that W&B 0.31 itself left, and what its own tools read.
//!
//! A run that goes on is a new directory with the same identifier that says `resume`, with its own steps from 0: so W&B itself does it offline, and `wandb sync`
//! appends it to what it has of that run. A torn end of the earlier ones is cut off then, as it would make `wandb sync` stop before the new one.

mod log;
mod records;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Result, TrackerError};
use crate::wandb::log::Log;
use crate::{Outcome, Tracker};

/// The name under which the optimizer's step is kept, as Transformers calls it.
const GLOBAL_STEP: &str = "train/global_step";
/// How many letters an identifier may have; W&B's own are eight.
const RUN_ID_LETTERS_MAX: usize = 64;

/// A run, as W&B knows it.
#[derive(Clone, Copy, Debug)]
pub struct WandbRun<'a> {
    /// Where the directory `wandb` is or is made.
    pub directory: &'a Path,
    /// Now, in seconds since 1970, UTC.
    pub unix_time_s: f64,
    /// Tells the run from others of its project: letters, digits, `-` and `_`.
    pub id: &'a str,
    /// The project; where it is empty, `wandb sync` takes its default.
    pub project: &'a str,
    /// The user or team; where it is empty, whoever uploads.
    pub entity: &'a str,
    /// The name that is shown.
    pub name: &'a str,
    /// The group of runs it belongs to; may be empty.
    pub group: &'a str,
    /// Tags.
    pub tags: &'a [&'a str],
    /// A note; may be empty.
    pub notes: &'a str,
    /// The name of this machine.
    pub host: &'a str,
    /// Whether a run of this identifier goes on.
    pub is_resumed: bool,
}

/// A writer of one offline run.
#[derive(Debug)]
pub struct WandbOffline {
    log: Log,
    directory: PathBuf,
    /// Records written.
    n_records: i64,
    /// Histories written, which is the next one's step.
    n_histories: i64,
    start_time_s: f64,
}

impl WandbOffline {
    /// Makes the directory and writes the run's head.
    pub fn create(run: WandbRun<'_>) -> Result<WandbOffline> {
        check_id(run.id)?;
        let failed = |path: &Path, source| TrackerError::Io {
            path: path.to_owned(),
            verb: "created",
            source,
        };
        let wandb = run.directory.join("wandb");
        fs::create_dir_all(&wandb).map_err(|source| failed(&wandb, source))?;
        if run.is_resumed {
            mend_segments(&wandb, run.id)?;
        }
        // Two segments of one run may begin in one second; the later one is then named after the next.
        let mut second = run.unix_time_s.max(0.0) as u64;
        let directory = loop {
            let name = format!("offline-run-{}-{}", date_and_time(second), run.id);
            let directory = wandb.join(&name);
            match fs::create_dir(&directory) {
                Ok(()) => break directory,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => second += 1,
                Err(source) => return Err(failed(&directory, source)),
            }
        };
        let files = directory.join("files");
        fs::create_dir(&files).map_err(|source| failed(&files, source))?;
        let path = directory.join(format!("run-{}.wandb", run.id));
        let log = Log::create(&path)?;
        point_to_latest(&wandb, &directory);
        let mut offline = WandbOffline {
            log,
            directory,
            n_records: 0,
            n_histories: 0,
            start_time_s: run.unix_time_s,
        };
        offline.write(&[
            records::header(),
            records::run(&run),
            records::metric(GLOBAL_STEP),
            records::metric_of_all(GLOBAL_STEP),
        ])?;
        Ok(offline)
    }

    /// Returns the directory of this run, the one to give to `wandb sync`.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn write(&mut self, records: &[records::Record]) -> Result<()> {
        let numbered: Vec<Vec<u8>> = (self.n_records + 1..)
            .zip(records)
            .map(|(number, record)| record.numbered(number))
            .collect();
        self.log.append(&numbered)?;
        self.n_records += records.len() as i64;
        Ok(())
    }

    fn seconds(&self, unix_time_s: f64) -> f64 {
        (unix_time_s - self.start_time_s).max(0.0)
    }
}

impl Tracker for WandbOffline {
    fn scalars(&mut self, step: u64, unix_time_s: f64, values: &[(&str, f64)]) -> Result<()> {
        let mut items: Vec<(&str, String)> = Vec::with_capacity(values.len() + 4);
        items.extend(values.iter().map(|(tag, value)| (*tag, records::number(*value))));
        items.push((GLOBAL_STEP, step.to_string()));
        items.push(("_step", self.n_histories.to_string()));
        items.push(("_runtime", records::number(self.seconds(unix_time_s))));
        items.push(("_timestamp", records::number(unix_time_s)));
        self.write(&[records::summary(&items), records::history(&items, self.n_histories)])?;
        self.n_histories += 1;
        Ok(())
    }

    fn settings(&mut self, _unix_time_s: f64, settings: &Map<String, Value>) -> Result<()> {
        self.write(&[records::config(settings)])
    }

    fn finish(&mut self, unix_time_s: f64, outcome: Outcome) -> Result<()> {
        let seconds = self.seconds(unix_time_s) as i64;
        // 255 is what W&B records of a run that was interrupted.
        let exit_code = match outcome {
            Outcome::Finished => 0,
            Outcome::Stopped => 255,
            Outcome::Failed => 1,
        };
        self.write(&[records::runtime_summary(seconds), records::exit(exit_code, seconds)])?;
        self.log.sync()
    }
}

fn check_id(id: &str) -> Result<()> {
    // W&B refuses `:;,#?/'"`; the rest is refused because the identifier becomes part of file names.
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    let why = match id {
        "" => "it is empty",
        id if id.len() > RUN_ID_LETTERS_MAX => "it is too long",
        id if !id.chars().all(is_letter) => "it has other letters than a to z, A to Z, 0 to 9, `-`, `_` and `.`",
        id if id.starts_with('.') => "it begins with a dot",
        _ => return Ok(()),
    };
    Err(TrackerError::RunId {
        found: id.to_owned(),
        why,
    })
}

/// Mends what earlier segments of a run were killed in the middle of.
fn mend_segments(wandb: &Path, id: &str) -> Result<()> {
    let entries = fs::read_dir(wandb).map_err(|source| TrackerError::Io {
        path: wandb.to_owned(),
        verb: "read",
        source,
    })?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_segment = name.to_str().is_some_and(|name| {
            let rest = name.strip_prefix("offline-run-").and_then(|name| name.strip_suffix(id));
            rest.is_some_and(|rest| rest.ends_with('-'))
        });
        let path = entry.path().join(format!("run-{id}.wandb"));
        if is_segment && path.is_file() {
            log::mend(&path)?;
        }
    }
    Ok(())
}

/// Makes `latest-run` name a directory beside it. Only a convenience of the tools that read it, so that a file system that has no links does no harm.
fn point_to_latest(wandb: &Path, directory: &Path) {
    #[cfg(unix)]
    if let Some(name) = directory.file_name() {
        let link = wandb.join("latest-run");
        let is_link = fs::symlink_metadata(&link).is_ok_and(|found| found.file_type().is_symlink());
        if is_link {
            let _ = fs::remove_file(&link);
        }
        let _ = std::os::unix::fs::symlink(name, &link);
    }
    #[cfg(not(unix))]
    let _ = (wandb, directory);
}

/// Returns a second since 1970 as `YYYYMMDD_HHMMSS`, UTC.
fn date_and_time(second: u64) -> String {
    let (day, second) = (second / 86_400, second % 86_400);
    // Days of a calendar whose years begin in March, so that the leap day is the last of a year; 719,468 of them lie before 1970.
    let day = day + 719_468;
    let (era, day_of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = 400 * era + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day_of_month:02}_{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests;
