//! One answer as it comes.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::sync::mpsc;
use witness_plugin_protocol::{Alternative, Diagnostic, Done, Started};

use crate::connection::Connection;

/// What comes of a generation.
#[derive(Clone, Debug, PartialEq)]
pub enum GenEvent {
    /// A token.
    Token {
        /// Its id.
        id: u32,
        /// Whole characters that it completes; may be empty.
        text: String,
        /// Natural logarithm of its probability, when asked for.
        logprob: Option<f32>,
        /// The most likely tokens at its place, when asked for.
        alternatives: Vec<Alternative>,
    },
    /// The end: counts and times, and text that was held back and belongs to the answer. Nothing follows.
    Done(Done, String),
    /// The answer failed. Nothing follows.
    Error(Diagnostic),
}

/// A running answer. Dropping it cancels the sequence at the plugin's next step.
#[must_use = "dropping a generation cancels it"]
pub struct Generation {
    /// What the plugin said when it admitted the request.
    pub started: Started,
    stream: Stream,
}

impl Generation {
    pub(crate) fn new(started: Started, stream: Stream) -> Self {
        Self { started, stream }
    }

    /// Returns the next event, or nothing after the last one. Cancel safe.
    pub async fn recv(&mut self) -> Option<GenEvent> {
        std::future::poll_fn(|context| self.stream.poll_next(context)).await
    }
}

impl futures_core::Stream for Generation {
    type Item = GenEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<GenEvent>> {
        self.stream.poll_next(context)
    }
}

/// The receiving end of a sequence. The writer is the watching task of the connection: it queues tokens, leaves the last event in
/// `last` and closes the queue; the last event has a place of its own so that it always fits.
pub(crate) struct Stream {
    connection: Arc<Connection>,
    sequence: u64,
    events: mpsc::Receiver<GenEvent>,
    last: Arc<Mutex<Option<GenEvent>>>,
}

impl Stream {
    pub(crate) fn new(
        connection: Arc<Connection>,
        sequence: u64,
        events: mpsc::Receiver<GenEvent>,
        last: Arc<Mutex<Option<GenEvent>>>,
    ) -> Self {
        Self {
            connection,
            sequence,
            events,
            last,
        }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<GenEvent>> {
        let event = ready!(self.events.poll_recv(context));
        Poll::Ready(event.or_else(|| self.last.lock().unwrap_or_else(PoisonError::into_inner).take()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.cancel(self.sequence);
    }
}
