//! A running job: reports as they come, a word to stop, and how it ended.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use witness_plugin_protocol::{Diagnostic, Kind};

use crate::connection::{Answer, Connection};

/// A job that runs in a worker.
///
/// No event is lost: the worker sends a few ahead and then the job waits until they are taken. Whoever does not want the events any more
/// drops the job, which also asks it to stop.
#[must_use = "dropping a job asks it to stop"]
pub struct Job {
    connection: Arc<Connection>,
    id: u64,
    plugin: String,
    events: mpsc::Receiver<Value>,
    answer: Option<oneshot::Receiver<Result<Answer, Diagnostic>>>,
}

impl Job {
    pub(crate) fn new(
        connection: Arc<Connection>,
        id: u64,
        plugin: String,
        events: mpsc::Receiver<Value>,
        answer: oneshot::Receiver<Result<Answer, Diagnostic>>,
    ) -> Self {
        Self {
            connection,
            id,
            plugin,
            events,
            answer: Some(answer),
        }
    }

    /// Returns the next event, a JSON object, or nothing once the job has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Value> {
        let event = self.events.recv().await?;
        self.connection.job_taken(self.id);
        Some(event)
    }

    /// Asks the job to save what it has and end. It may take its time; [`crate::Worker::kill`] does not ask.
    pub fn stop(&self) {
        self.connection.stop_job(self.id);
    }

    /// Waits for the end and returns the reply. Events that were not taken before are dropped.
    ///
    /// # Errors
    /// The plugin refused the request or the job failed, or the worker died: the signal or exit code is in the message.
    pub async fn finish(mut self) -> Result<Value, Diagnostic> {
        while self.next().await.is_some() {}
        let answer = match self.answer.take() {
            Some(answer) => answer.await,
            None => return Err(self.connection.gone()),
        };
        let (_, json) = answer.unwrap_or_else(|_| Err(self.connection.gone()))?;
        let json: &[u8] = if json.is_empty() { b"{}" } else { &json };
        serde_json::from_slice(json).map_err(|error| {
            Diagnostic::new(
                "witness::plugin::bad_reply",
                Kind::Plugin,
                format!("the answer of plugin `{}` to `run` cannot be read", self.plugin),
            )
            .cause(error.to_string())
            .hint("report it to the plugin's author")
        })
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.connection.stop_job(self.id);
    }
}
