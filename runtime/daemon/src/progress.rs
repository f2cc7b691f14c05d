//! Long jobs that report as NDJSON lines: the job sends values, the connection writes them. A reader who leaves ends the job.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use witness_diagnostics::Diagnostic;

use crate::limits::PROGRESS_LINES_MAX;
use crate::reply::{self, REQUEST};

/// Answers with the lines of an asynchronous job. Dropping the answer aborts the job at its next await.
pub(crate) fn lines<T, J, F>(job: J, failed: impl FnOnce(&Diagnostic) -> T + Send + 'static) -> Response
where
    T: Serialize + Send + 'static,
    J: FnOnce(mpsc::Sender<T>) -> F,
    F: Future<Output = Result<T, Diagnostic>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(PROGRESS_LINES_MAX);
    let work = job(sender.clone());
    let request: Arc<str> = reply::request_name().into();
    let task = tokio::spawn(REQUEST.scope(request, async move {
        let last = match work.await {
            Ok(last) => last,
            Err(diagnostic) => {
                tracing::warn!(code = %diagnostic.code, "a job failed: {diagnostic}");
                failed(&diagnostic)
            }
        };
        // Nobody is there to read it when this fails.
        let _ = sender.send(last).await;
    }));
    receive(receiver, AbortOnDropHandle::new(task))
}

/// Answers with the lines of a blocking job, which gets a flag that says when nobody wants it any more.
pub(crate) fn blocking_lines<T>(
    job: impl FnOnce(mpsc::Sender<T>, Arc<AtomicBool>) -> Result<T, Diagnostic> + Send + 'static,
    failed: impl FnOnce(&Diagnostic) -> T + Send + 'static,
) -> Response
where
    T: Serialize + Send + 'static,
{
    let cancel = CancelOnDrop::default();
    let (sender, receiver) = mpsc::channel(PROGRESS_LINES_MAX);
    let (flag, own_sender) = (cancel.flag(), sender.clone());
    let request: Arc<str> = reply::request_name().into();
    tokio::task::spawn_blocking(move || {
        let last = REQUEST.sync_scope(request, || {
            job(own_sender, flag).unwrap_or_else(|diagnostic| failed(&diagnostic))
        });
        let _ = sender.blocking_send(last);
    });
    receive(receiver, cancel)
}

/// Marks blocking work as unwanted when whoever waits for it is gone: the reader of its lines, or the task that began it.
#[derive(Default)]
pub(crate) struct CancelOnDrop(Arc<AtomicBool>);

impl CancelOnDrop {
    /// Returns what the work looks at.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn receive<T: Serialize + Send + 'static, G: Send + 'static>(receiver: mpsc::Receiver<T>, guard: G) -> Response {
    let stream = stream::unfold((receiver, guard), |(mut receiver, guard)| async move {
        let value = receiver.recv().await?;
        let mut line = Vec::new();
        reply::push_line(&mut line, &value);
        while let Ok(value) = receiver.try_recv() {
            reply::push_line(&mut line, &value);
        }
        Some((Ok::<_, Infallible>(Bytes::from(line)), (receiver, guard)))
    });
    reply::lines(stream)
}

/// Runs a job whose lines nobody reads. Returns its end.
pub(crate) async fn quiet<T, J, F>(job: J) -> Result<T, Diagnostic>
where
    T: Send + 'static,
    J: FnOnce(mpsc::Sender<T>) -> F,
    F: Future<Output = Result<T, Diagnostic>>,
{
    let (sender, mut receiver) = mpsc::channel(PROGRESS_LINES_MAX);
    let work = job(sender);
    tokio::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return result,
            line = receiver.recv() => if line.is_none() {
                return work.await;
            },
        }
    }
}
