//! The records of a run: messages of wandb_internal.proto, as far as they are written here.

use serde_json::{Map, Value};

use crate::protobuf::Message;
use crate::wandb::WandbRun;

/// The oldest reader that understands these records: what W&B 0.31 says of its own.
const MIN_CONSUMER: &str = "0.70.0";

/// Fields of Record.
mod field {
    pub(super) const NUMBER: u64 = 1;
    pub(super) const HISTORY: u64 = 2;
    pub(super) const SUMMARY: u64 = 3;
    pub(super) const CONFIG: u64 = 5;
    pub(super) const METRIC: u64 = 12;
    pub(super) const RUN: u64 = 17;
    pub(super) const EXIT: u64 = 18;
    pub(super) const HEADER: u64 = 21;
}

/// A record that has no number yet.
#[derive(Debug)]
pub(super) struct Record {
    field: u64,
    message: Message,
}

impl Record {
    fn new(field: u64, message: Message) -> Record {
        Record { field, message }
    }

    /// Returns the bytes of the record as the `number`-th of its file, from 1.
    pub(super) fn numbered(&self, number: i64) -> Vec<u8> {
        let record = Message::new().integer(field::NUMBER, number);
        record.message(self.field, &self.message).bytes().to_vec()
    }
}

pub(super) fn header() -> Record {
    let producer = concat!("witness-", env!("CARGO_PKG_VERSION"));
    let version = Message::new().text(1, producer).text(2, MIN_CONSUMER);
    Record::new(field::HEADER, Message::new().message(1, &version))
}

pub(super) fn run(run: &WandbRun<'_>) -> Record {
    let message = Message::new().text(1, run.id).text(2, run.entity).text(3, run.project);
    let message = message.text(6, run.group).text(8, run.name).text(9, run.notes);
    let message = run
        .tags
        .iter()
        .fold(message, |message, tag| message.text_present(10, tag));
    let seconds = run.unix_time_s.max(0.0);
    let start = Message::new().integer(1, seconds as i64);
    let start = start.integer(2, (seconds.fract() * 1e9) as i64);
    let message = message.text(13, run.host).message(17, &start);
    Record::new(field::RUN, message.boolean(24, run.is_resumed))
}

/// Declares a metric.
pub(super) fn metric(name: &str) -> Record {
    let options = Message::new().boolean(3, true);
    Record::new(field::METRIC, Message::new().text(1, name).message(6, &options))
}

/// Makes one metric the x-axis of all others.
pub(super) fn metric_of_all(step_metric: &str) -> Record {
    let options = Message::new().boolean(1, true).boolean(3, true);
    let message = Message::new().text(2, "*").text(4, step_metric);
    Record::new(field::METRIC, message.message(6, &options))
}

pub(super) fn config(settings: &Map<String, Value>) -> Record {
    let update =
        |message: Message, (key, value): (&String, &Value)| message.message(1, &item(&[key], &value.to_string()));
    Record::new(field::CONFIG, settings.iter().fold(Message::new(), update))
}

pub(super) fn summary(items: &[(&str, String)]) -> Record {
    let update = |message: Message, (key, value): &(&str, String)| message.message(1, &nested(&[key], value));
    Record::new(field::SUMMARY, items.iter().fold(Message::new(), update))
}

pub(super) fn history(items: &[(&str, String)], step: i64) -> Record {
    let update = |message: Message, (key, value): &(&str, String)| message.message(1, &nested(&[key], value));
    let message = items.iter().fold(Message::new(), update);
    Record::new(field::HISTORY, message.message(2, &Message::new().integer(1, step)))
}

/// Says how long the run took, as W&B shows it.
pub(super) fn runtime_summary(seconds: i64) -> Record {
    let seconds = seconds.to_string();
    let message = Message::new().message(1, &nested(&["_wandb", "runtime"], &seconds));
    Record::new(field::SUMMARY, message.message(1, &item(&["_runtime"], &seconds)))
}

pub(super) fn exit(exit_code: i64, seconds: i64) -> Record {
    Record::new(field::EXIT, Message::new().integer(1, exit_code).integer(2, seconds))
}

/// Returns a number as W&B's JSON, which has words for those that JSON has none for.
pub(super) fn number(value: f64) -> String {
    match serde_json::Number::from_f64(value) {
        Some(number) => number.to_string(),
        None if value.is_nan() => "NaN".to_owned(),
        None if value > 0.0 => "Infinity".to_owned(),
        None => "-Infinity".to_owned(),
    }
}

/// Returns an item whose key is one text, dots and all.
fn item(key: &[&str], value_json: &str) -> Message {
    keyed(1, key, value_json)
}

/// Returns an item whose key is a path.
fn nested(key: &[&str], value_json: &str) -> Message {
    keyed(2, key, value_json)
}

fn keyed(field: u64, key: &[&str], value_json: &str) -> Message {
    let message = key
        .iter()
        .fold(Message::new(), |message, key| message.text_present(field, key));
    message.text(16, value_json)
}
