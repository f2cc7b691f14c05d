//! TensorBoard's event files.
//!
//! ```text
//! record = length u64 | masked CRC-32C of it | data | masked CRC-32C of it       all little-endian; data is a tensorflow.Event
//! Event  = wall_time 1, step 2, file_version 3 | summary 5 | session_log 7, source_metadata 10
//! ```
//! The first record says `brain.Event:2`. Numbers are `simple_value`s, as torch's SummaryWriter writes them for Transformers; settings are a text of the text
//! plugin. Sources: TensorFlow's record_writer, and event.proto and summary.proto of TensorBoard.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value};

use crate::append::Appender;
use crate::checksum::masked_crc32c;
use crate::error::{Result, TrackerError};
use crate::protobuf::Message;
use crate::{Outcome, Tracker};

/// What the first record names as the format.
const FILE_VERSION: &str = "brain.Event:2";
/// How many files of one second, host and process there may be.
const FILES_MAX: u32 = 1_000;

/// Fields of Event.
mod event {
    pub(super) const WALL_TIME: u64 = 1;
    pub(super) const STEP: u64 = 2;
    pub(super) const FILE_VERSION: u64 = 3;
    pub(super) const SUMMARY: u64 = 5;
    pub(super) const SESSION_LOG: u64 = 7;
    pub(super) const SOURCE_METADATA: u64 = 10;
}

/// Where event files go.
#[derive(Clone, Copy, Debug)]
pub struct TensorBoardRun<'a> {
    /// The directory of the run; made where it is not there. A run that goes on gets a new file in the same one.
    pub directory: &'a Path,
    /// Now, in seconds since 1970, UTC.
    pub unix_time_s: f64,
    /// The name of this machine, for the file's name.
    pub host: &'a str,
    /// The number of this process, for the file's name.
    pub process: u32,
    /// The first step to come of a run that goes on. TensorBoard then forgets what older files tell of that step and later ones.
    pub first_step: Option<u64>,
}

/// A writer of one event file.
#[derive(Debug)]
pub struct TensorBoard {
    file: Appender,
}

impl TensorBoard {
    /// Makes the file and writes its head.
    pub fn create(run: TensorBoardRun<'_>) -> Result<TensorBoard> {
        let failed = |path: &Path, source| TrackerError::Io {
            path: path.to_owned(),
            verb: "created",
            source,
        };
        fs::create_dir_all(run.directory).map_err(|source| failed(run.directory, source))?;
        let (second, host) = (run.unix_time_s.max(0.0) as u64, file_name_part(run.host));
        let mut number = 0;
        let file = loop {
            let name = format!("events.out.tfevents.{second:010}.{host}.{}.{number}", run.process);
            let path = run.directory.join(name);
            match Appender::create(&path) {
                Ok(file) => break file,
                Err(error) if error.kind() == ErrorKind::AlreadyExists && number < FILES_MAX => number += 1,
                Err(source) => return Err(failed(&path, source)),
            }
        };
        let mut tensor_board = TensorBoard { file };
        tensor_board.write(&head(run.unix_time_s, concat!("witness ", env!("CARGO_PKG_VERSION"))))?;
        if let Some(first_step) = run.first_step {
            const START: i64 = 1;
            let log = Message::new().integer(1, START);
            let event = timed(run.unix_time_s).integer(event::STEP, first_step as i64);
            tensor_board.write(&event.message(event::SESSION_LOG, &log))?;
        }
        Ok(tensor_board)
    }

    fn write(&mut self, event: &Message) -> Result<()> {
        self.file.append(&record(event.bytes()))
    }
}

impl Tracker for TensorBoard {
    fn scalars(&mut self, step: u64, unix_time_s: f64, values: &[(&str, f64)]) -> Result<()> {
        let records = values.iter().flat_map(|(tag, value)| {
            let event = scalar(step, unix_time_s, tag, *value as f32);
            record(event.bytes())
        });
        self.file.append(&records.collect::<Vec<u8>>())
    }

    fn settings(&mut self, unix_time_s: f64, settings: &Map<String, Value>) -> Result<()> {
        // The text plugin shows Markdown; a line that is indented by four is shown as it stands.
        let json = format!("{:#}", Value::Object(settings.clone()));
        let lines: Vec<String> = json.lines().map(|line| format!("    {line}")).collect();
        self.write(&text(unix_time_s, "settings", &lines.join("\n")))
    }

    fn finish(&mut self, _unix_time_s: f64, _outcome: Outcome) -> Result<()> {
        self.file.sync()
    }
}

fn timed(unix_time_s: f64) -> Message {
    Message::new().double(event::WALL_TIME, unix_time_s)
}

/// Returns the first event of a file.
fn head(unix_time_s: f64, writer: &str) -> Message {
    let source = Message::new().text(1, writer);
    let event = timed(unix_time_s).text(event::FILE_VERSION, FILE_VERSION);
    event.message(event::SOURCE_METADATA, &source)
}

fn scalar(step: u64, unix_time_s: f64, tag: &str, value: f32) -> Message {
    const TAG: u64 = 1;
    const SIMPLE_VALUE: u64 = 2;
    let value = Message::new().text(TAG, tag).float_present(SIMPLE_VALUE, value);
    let event = timed(unix_time_s).integer(event::STEP, step as i64);
    event.message(event::SUMMARY, &Message::new().message(1, &value))
}

/// Returns a text for the text plugin: a tensor of one string.
fn text(unix_time_s: f64, tag: &str, text: &str) -> Message {
    const DT_STRING: i64 = 7;
    let shape = Message::new().message(2, &Message::new().integer(1, 1));
    let tensor = Message::new().integer(1, DT_STRING).message(2, &shape);
    let tensor = tensor.text_present(8, text);
    let plugin = Message::new().message(1, &Message::new().text(1, "text"));
    let value = Message::new().text(1, &format!("{tag}/text_summary"));
    let value = value.message(8, &tensor).message(9, &plugin);
    timed(unix_time_s).message(event::SUMMARY, &Message::new().message(1, &value))
}

/// Frames an event.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_crc32c(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc32c(data).to_le_bytes());
    record
}

/// Keeps of a host's name what may stand between the dots of a file's name.
fn file_name_part(host: &str) -> String {
    let kept = |letter: char| match letter {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => letter,
        _ => '-',
    };
    let part: String = host.chars().take(64).map(kept).collect();
    if part.is_empty() { "host".to_owned() } else { part }
}

#[cfg(test)]
mod tests;
