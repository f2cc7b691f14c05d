//! Carrying out one run: its worker's events to its lines, the word to stop to the worker, and what it made to the store.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use witness_api::{TrainJobLine, TrainState};
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{TrainOutcome, TrainReply};

use super::publish;
use super::run::{Run, StopReason};
use crate::app::App;
use crate::engine::RunningJob;
use crate::limits::TRAIN_STOP_GRACE;
use crate::models::library::blocking;

/// How a run ended.
struct Ending {
    state: TrainState,
    error: Option<Diagnostic>,
    reply: Option<Value>,
}

impl Ending {
    fn stopped(reason: StopReason, reply: Option<Value>) -> Self {
        let state = match reason {
            StopReason::Asked => TrainState::Stopped,
            StopReason::Shutdown => TrainState::Interrupted,
        };
        Self {
            state,
            error: None,
            reply,
        }
    }

    fn failed(error: Diagnostic, reply: Option<Value>) -> Self {
        Self {
            state: TrainState::Failed,
            error: Some(error),
            reply,
        }
    }
}

/// Carries out a run, from its start to its last line.
pub(super) async fn carry_out(app: Arc<App>, run: Arc<Run>) {
    let ending = attempt(&app, &run)
        .await
        .unwrap_or_else(|error| Ending::failed(error, None));
    let ending = Ending {
        error: ending.error.map(|error| with_way_out(error, &run)),
        ..ending
    };
    let ended = blocking(move || {
        if let Some(error) = &ending.error {
            tracing::warn!(run = %run.id(), code = %error.code, "a training run failed: {error}");
        }
        run.end(ending.state, ending.error.as_ref(), ending.reply);
        Ok::<_, Diagnostic>(())
    });
    let _ = ended.await;
}

/// Says how a run that failed can go on.
fn with_way_out(error: Diagnostic, run: &Run) -> Diagnostic {
    let (checkpoints, _) = run.checkpoints();
    match checkpoints.last() {
        Some(last) => error.hint(format!(
            "its last checkpoint is that of step {}: `witness train resume {}` goes on from there",
            last.step,
            run.id()
        )),
        None => error,
    }
}

async fn attempt(app: &Arc<App>, run: &Arc<Run>) -> Result<Ending, Diagnostic> {
    let mut stop = run.stop_requests();
    let (begun, registry) = (Arc::clone(run), app.library.registry.clone());
    let request = blocking(move || begun.begin(&registry)).await?;
    let purpose = format!("training run {}", run.id());
    let started = tokio::select! {
        training = app.engine.train(&request, &run.job.architecture, &purpose) => training?,
        reason = stopped(&mut stop) => return Ok(Ending::stopped(reason, None)),
    };
    tracing::info!(run = %run.id(), model = %run.model(), pid = started.pid(), plugin = %started.plugin(), "training");
    let plugin = started.plugin();
    let publisher = Publisher::start(app, run);
    let watched = watch_over(started, run, &mut stop, &publisher).await;
    publisher.finish().await;
    let Watched {
        reply,
        asked,
        was_killed,
        fault,
    } = watched;
    if let Some(fault) = fault {
        return Ok(Ending::failed(fault, reply.ok()));
    }
    let reply = match (reply, asked) {
        (Ok(reply), _) => reply,
        (Err(_), Some(reason)) if was_killed => return Ok(Ending::stopped(reason, None)),
        (Err(error), Some(reason)) if error.kind == Kind::Cancelled => {
            tracing::debug!(run = %run.id(), "stopped: {error}");
            return Ok(Ending::stopped(reason, None));
        }
        (Err(error), _) => return Err(error),
    };
    let read: TrainReply = match serde_json::from_value(reply.clone()) {
        Ok(read) => read,
        Err(error) => {
            let diagnostic = Diagnostic::new(
                "witness::daemon::plugin_reply",
                Kind::Plugin,
                format!("plugin `{plugin}` ended the run with what is no report"),
            )
            .cause(error.to_string())
            .hint("report it to the plugin's author");
            return Ok(Ending::failed(diagnostic, Some(reply)));
        }
    };
    if read.outcome == TrainOutcome::Stopped {
        return Ok(Ending::stopped(asked.unwrap_or(StopReason::Asked), Some(reply)));
    }
    match publish::product(app, run, &read, &plugin).await {
        Ok(()) => Ok(Ending {
            state: TrainState::Done,
            error: None,
            reply: Some(reply),
        }),
        Err(error) => Ok(Ending::failed(
            error.hint(format!("what it made lies in `{}`", run.output().display())),
            Some(reply),
        )),
    }
}

/// What came of a worker.
struct Watched {
    reply: Result<Value, Diagnostic>,
    /// Why it was asked to stop, if it was.
    asked: Option<StopReason>,
    /// It did not in the time that it had.
    was_killed: bool,
    /// What happened here, and not there, that ended it.
    fault: Option<Diagnostic>,
}

/// Takes events until the worker has no more.
async fn watch_over(
    mut training: Box<dyn RunningJob>,
    run: &Arc<Run>,
    stop: &mut watch::Receiver<Option<StopReason>>,
    publisher: &Publisher,
) -> Watched {
    let (mut asked, mut fault, mut was_killed) = (None, None, false);
    let mut deadline: Option<Instant> = None;
    loop {
        tokio::select! {
            event = training.next() => {
                let Some(event) = event else { break };
                // After a fault of ours the worker is only given time to save.
                if fault.is_some() {
                    continue;
                }
                let noted = Arc::clone(run);
                match blocking(move || noted.record(event)).await {
                    Ok(kind) if kind == "checkpoint" => publisher.poke(),
                    Ok(_) => {}
                    Err(error) => {
                        fault = Some(error);
                        training.stop();
                        deadline = Some(Instant::now() + TRAIN_STOP_GRACE);
                    }
                }
            }
            reason = stopped(stop), if asked.is_none() => {
                asked = Some(reason);
                training.stop();
                deadline = Some(Instant::now() + TRAIN_STOP_GRACE);
                change(run, |run| run.set_state(TrainState::Stopping)).await;
            }
            () = at(deadline), if !was_killed => {
                was_killed = true;
                training.kill();
                let message = format!(
                    "the plugin did not save and end within {} s and was ended; the last checkpoint is what counts",
                    TRAIN_STOP_GRACE.as_secs()
                );
                change(run, move |run| run.tell(&TrainJobLine::Notice { message })).await;
            }
        }
    }
    Watched {
        reply: training.finish().await,
        asked,
        was_killed,
        fault,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Waits until the run is to stop.
async fn stopped(stop: &mut watch::Receiver<Option<StopReason>>) -> StopReason {
    let reason = stop.wait_for(Option::is_some).await.map(|reason| *reason);
    match reason {
        Ok(Some(reason)) => reason,
        // The sender lives in the run, which this task holds.
        _ => std::future::pending().await,
    }
}

/// Changes a run off the network's threads.
pub(super) async fn change(run: &Arc<Run>, deed: impl FnOnce(&Run) + Send + 'static) {
    let run = Arc::clone(run);
    let done = blocking(move || {
        deed(&run);
        Ok::<_, Diagnostic>(())
    });
    let _ = done.await;
}

/// Stores checkpoints beside the run, one after the other: a trainer does not wait for the store.
struct Publisher {
    pokes: mpsc::Sender<()>,
    task: JoinHandle<()>,
}

impl Publisher {
    fn start(app: &Arc<App>, run: &Arc<Run>) -> Self {
        let (pokes, mut poked) = mpsc::channel(1);
        let (app, run) = (Arc::clone(app), Arc::clone(run));
        let task = tokio::spawn(async move {
            while poked.recv().await.is_some() {
                if let Err(error) = publish::checkpoints(&app, &run).await {
                    tracing::warn!(run = %run.id(), "checkpoints were not stored: {error}");
                    let message = format!("the checkpoints so far were not stored as a model: {error}");
                    change(&run, move |run| run.tell(&TrainJobLine::Notice { message })).await;
                }
            }
        });
        Self { pokes, task }
    }

    /// Says that there is a new checkpoint. One that comes while another is stored is stored with the next.
    fn poke(&self) {
        let _ = self.pokes.try_send(());
    }

    /// Waits until everything that was said is done.
    async fn finish(self) {
        drop(self.pokes);
        let _ = self.task.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Boxed;
    use crate::jobs::order::RunOrder;
    use serde_json::json;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, SystemTime};
    use witness_registry::{OpenOptions, Registry};

    /// A worker that reports a step a second and does not care whether it should stop.
    struct Deaf {
        step: u64,
        was_asked: Arc<AtomicBool>,
        is_killed: Arc<AtomicBool>,
    }

    impl RunningJob for Deaf {
        fn next(&mut self) -> Boxed<'_, Option<Value>> {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if self.is_killed.load(Ordering::SeqCst) {
                    return None;
                }
                self.step += 1;
                Some(json!({"type": "step", "step": self.step}))
            })
        }
        fn stop(&self) {
            self.was_asked.store(true, Ordering::SeqCst);
        }
        fn kill(&self) {
            self.is_killed.store(true, Ordering::SeqCst);
        }
        fn finish(self: Box<Self>) -> Boxed<'static, Result<Value, Diagnostic>> {
            Box::pin(async { Err(Diagnostic::new("a::b", Kind::Plugin, "it was killed")) })
        }
        fn pid(&self) -> u32 {
            1
        }
        fn plugin(&self) -> String {
            "deaf".into()
        }
    }

    // The clock of this test is the runtime's own, which stands still but for sleeps.
    #[tokio::test(start_paused = true)]
    async fn a_run_that_does_not_stop_is_ended_after_its_grace() {
        let home = tempfile::tempdir().unwrap();
        let registry = Registry::open(home.path().join("models"), &OpenOptions::new("test")).unwrap();
        let order = RunOrder::for_tests(&registry);
        let run = Arc::new(Run::create(&home.path().join("runs"), order, SystemTime::now()).unwrap());
        let (was_asked, is_killed) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let deaf = Deaf {
            step: 0,
            was_asked: Arc::clone(&was_asked),
            is_killed: Arc::clone(&is_killed),
        };
        let publisher = Publisher {
            pokes: mpsc::channel(1).0,
            task: tokio::spawn(async {}),
        };
        let mut stop = run.stop_requests();
        let asking = Arc::clone(&run);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(5_500)).await;
            asking.ask_to_stop(StopReason::Asked);
        });
        let began = Instant::now();
        let watched = watch_over(Box::new(deaf), &run, &mut stop, &publisher).await;
        let took = began.elapsed();
        assert_eq!((watched.asked, watched.was_killed), (Some(StopReason::Asked), true));
        assert!(was_asked.load(Ordering::SeqCst) && watched.fault.is_none());
        let grace_end = Duration::from_millis(5_500) + TRAIN_STOP_GRACE;
        assert!(
            took >= grace_end && took <= grace_end + Duration::from_secs(2),
            "{took:?}"
        );
        // What it still reported counts, and the state says that it was stopping.
        assert!(run.view().step >= 30, "{}", run.view().step);
        assert_eq!(run.state(), TrainState::Stopping);
    }
}
