//! Training runs: what was asked for, what runs, what waits, and everything that a run has reported.
//!
//! ```text
//! Order (request checked, planned, fits) -> Run (a directory) -> queue -> work: worker's events -> journal -> followers
//!                                                                          checkpoints, product -> publish -> create
//! ```
//! `record` is what lies on disk, `journal` the lines of a run, `run` one run with its state, `work` carries one out, `publish` stores what
//! it made. This file is the table of all runs: one runs at a time, the others wait.
//!
//! **Invariants**
//! - A line is on disk before anybody is shown it; followers read the file, so none is slow for another.
//! - What a run made becomes a model through the code that makes models; a run that fails leaves every model as it was.
//! - The daemon opens no row and no weight: it moves names, digests and the plugin's reports.
//! - Whatever happens to a run's directory or disk is that run's trouble.
//!
//! The table is read at the first question about a run, so that a start costs nothing. Runs that were under way when the daemon ended are
//! `interrupted` then: their directories hold everything up to there, and they go on when somebody asks.

mod journal;
pub(crate) mod order;
mod publish;
mod record;
mod run;
mod work;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::OnceCell;
use witness_api::{TrainJob, TrainState};
use witness_diagnostics::{Diagnostic, Kind, near_miss};
use witness_registry::ModelName;

use crate::app::App;
use crate::limits::{TRAIN_QUEUE_MAX, TRAIN_RUNS_MAX};
use crate::models::library::{blocking, shutting_down};
pub(crate) use journal::{Follower, Lines};
use order::RunOrder;
pub(crate) use run::Run;

/// All runs.
pub(crate) struct Jobs {
    directory: PathBuf,
    table: Mutex<Table>,
    loaded: OnceCell<()>,
    /// Held while a run is queued, stopped or removed, so that each is done to what the one before left.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Table {
    /// By id, which is by age.
    runs: BTreeMap<String, Arc<Run>>,
    queue: VecDeque<Arc<Run>>,
    running: Option<Arc<Run>>,
    is_closing: bool,
}

impl Jobs {
    /// Makes a table over a directory of runs. Reads nothing yet.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            table: Mutex::default(),
            loaded: OnceCell::new(),
            changing: tokio::sync::Mutex::new(()),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the directory, once. A run that cannot be read is told in the log and left alone.
    async fn load(&self) -> Result<(), Diagnostic> {
        let read = || async {
            let directory = self.directory.clone();
            let runs = blocking(move || Ok::<_, Diagnostic>(run::read_all(&directory))).await?;
            let mut table = self.table();
            for run in runs {
                table.runs.insert(run.id().to_owned(), Arc::new(run));
            }
            Ok::<_, Diagnostic>(())
        };
        self.loaded.get_or_try_init(read).await.map(drop)
    }

    /// Lists all runs, the newest first.
    pub(crate) async fn list(&self) -> Result<Vec<TrainJob>, Diagnostic> {
        self.load().await?;
        let runs: Vec<Arc<Run>> = self.table().runs.values().rev().cloned().collect();
        Ok(runs.iter().map(|run| run.view()).collect())
    }

    /// Finds a run by its id, by the name of its model (the newest of it), or by the beginning of its id.
    pub(crate) async fn find(&self, text: &str) -> Result<Arc<Run>, Diagnostic> {
        self.load().await?;
        let table = self.table();
        if let Some(run) = table.runs.get(text) {
            return Ok(Arc::clone(run));
        }
        if let Ok(name) = ModelName::parse(text)
            && let Some(run) = table.runs.values().rev().find(|run| run.is_of(&name))
        {
            return Ok(Arc::clone(run));
        }
        let begins: Vec<&Arc<Run>> = table.runs.values().filter(|run| run.id().starts_with(text)).collect();
        match begins.as_slice() {
            [only] if !text.is_empty() => Ok(Arc::clone(only)),
            [_, _, ..] if !text.is_empty() => {
                let ids: Vec<&str> = begins.iter().map(|run| run.id()).collect();
                Err(Diagnostic::new(
                    "witness::daemon::run_ambiguous",
                    Kind::Invalid,
                    format!("{} training runs begin with `{text}`", ids.len()),
                )
                .hint(format!("write more of one of {}", ids.join(", "))))
            }
            _ => Err(not_found(&table, text)),
        }
    }

    /// Makes a run of an order and queues it.
    pub(crate) async fn submit(self: &Arc<Self>, app: &Arc<App>, order: RunOrder) -> Result<Arc<Run>, Diagnostic> {
        self.load().await?;
        let _changing = self.changing.lock().await;
        self.refuse_when_full()?;
        let directory = self.directory.clone();
        let now = SystemTime::now();
        let run = blocking(move || Run::create(&directory, order, now)).await?;
        let run = Arc::new(run);
        self.table().runs.insert(run.id().to_owned(), Arc::clone(&run));
        self.enqueue(app, Arc::clone(&run)).await?;
        Ok(run)
    }

    fn refuse_when_full(&self) -> Result<(), Diagnostic> {
        let table = self.table();
        if table.is_closing {
            return Err(shutting_down());
        }
        if table.queue.len() >= TRAIN_QUEUE_MAX {
            return Err(Diagnostic::new(
                "witness::daemon::train_queue_full",
                Kind::Busy,
                format!("{TRAIN_QUEUE_MAX} training runs wait already"),
            )
            .hint("stop one of them, or wait; `witness train list` shows them"));
        }
        if table.runs.len() >= TRAIN_RUNS_MAX {
            return Err(Diagnostic::new(
                "witness::daemon::train_runs_many",
                Kind::Conflict,
                format!("{TRAIN_RUNS_MAX} training runs are kept already"),
            )
            .hint("remove old ones: `witness train remove ID`; models that they made stay"));
        }
        Ok(())
    }

    /// Puts a run at the end of the queue and starts it when nothing else runs.
    async fn enqueue(self: &Arc<Self>, app: &Arc<App>, run: Arc<Run>) -> Result<(), Diagnostic> {
        let ahead = {
            let table = self.table();
            let last = table.queue.back().or(table.running.as_ref());
            last.filter(|last| !Arc::ptr_eq(last, &run))
                .map(|last| last.id().to_owned())
        };
        let reason = ahead.map(|id| format!("waits for run {id}"));
        let queued = Arc::clone(&run);
        blocking(move || {
            queued.queued(reason);
            Ok::<_, Diagnostic>(())
        })
        .await?;
        let is_closing = {
            let mut table = self.table();
            if !table.is_closing {
                table.queue.push_back(Arc::clone(&run));
            }
            table.is_closing
        };
        if is_closing {
            work::change(&run, |run| run.end(TrainState::Interrupted, None, None)).await;
            return Err(shutting_down());
        }
        self.pump(app);
        Ok(())
    }

    /// Starts the next run, unless one runs.
    fn pump(self: &Arc<Self>, app: &Arc<App>) {
        let run = {
            let mut table = self.table();
            if table.running.is_some() || table.is_closing {
                return;
            }
            let Some(run) = table.queue.pop_front() else { return };
            table.running = Some(Arc::clone(&run));
            run
        };
        let (jobs, app) = (Arc::clone(self), Arc::clone(app));
        tokio::spawn(async move {
            // In a task of its own, so that a fault of ours there does not stop the queue.
            let work = tokio::spawn(work::carry_out(Arc::clone(&app), Arc::clone(&run)));
            if let Err(error) = work.await {
                let fault = Diagnostic::new("witness::daemon::task", Kind::Internal, "the run's task broke off")
                    .cause(error.to_string());
                work::change(&run, move |run| run.end(TrainState::Failed, Some(&fault), None)).await;
            }
            jobs.table().running = None;
            jobs.pump(&app);
        });
    }

    /// Asks a run to save and end; one that waits ends at once.
    pub(crate) async fn stop(&self, run: &Arc<Run>) -> Result<(), Diagnostic> {
        let _changing = self.changing.lock().await;
        let was_waiting = {
            let mut table = self.table();
            let before = table.queue.len();
            table.queue.retain(|queued| !Arc::ptr_eq(queued, run));
            table.queue.len() < before
        };
        if was_waiting {
            work::change(run, |run| run.end(TrainState::Stopped, None, None)).await;
            return Ok(());
        }
        let state = run.state();
        if state.has_ended() {
            return Err(Diagnostic::new(
                "witness::daemon::run_ended",
                Kind::Conflict,
                format!("training run {} is not running: it is {state}", run.id()),
            ));
        }
        run.ask_to_stop(run::StopReason::Asked);
        Ok(())
    }

    /// Lets a run go on from its newest checkpoint.
    pub(crate) async fn resume(self: &Arc<Self>, app: &Arc<App>, run: &Arc<Run>) -> Result<(), Diagnostic> {
        let _changing = self.changing.lock().await;
        self.refuse_when_full()?;
        let state = run.state();
        if !state.can_resume() {
            let diagnostic = Diagnostic::new(
                "witness::daemon::run_not_resumable",
                Kind::Conflict,
                format!("training run {} cannot go on: it is {state}", run.id()),
            );
            return Err(match state {
                TrainState::Done => diagnostic.hint("start a new run; it may start from the model that this one made"),
                _ => diagnostic.hint(format!("see what it does with `witness train logs {}`", run.id())),
            });
        }
        order::refuse_what_does_not_fit(app, run.memory_bytes(), &[], run.is_forced()).await?;
        let (checked, registry) = (Arc::clone(run), app.library.registry.clone());
        blocking(move || checked.prepare_resume(&registry)).await?;
        self.enqueue(app, Arc::clone(run)).await
    }

    /// Removes a run that does not run, with everything that lies in its directory.
    pub(crate) async fn remove(&self, run: &Arc<Run>) -> Result<(), Diagnostic> {
        let _changing = self.changing.lock().await;
        {
            let mut table = self.table();
            let state = run.state();
            if !state.has_ended() {
                return Err(Diagnostic::new(
                    "witness::daemon::run_running",
                    Kind::Conflict,
                    format!("training run {} is {state}", run.id()),
                )
                .hint(format!("stop it first: `witness train stop {}`", run.id())));
            }
            table.runs.remove(run.id());
        }
        let run = Arc::clone(run);
        blocking(move || run.remove()).await
    }

    /// Interrupts what waits and what runs, and returns when it has saved.
    pub(crate) async fn close(&self) {
        let (waiting, running) = {
            let mut table = self.table();
            table.is_closing = true;
            (std::mem::take(&mut table.queue), table.running.clone())
        };
        if let Some(run) = &running {
            run.ask_to_stop(run::StopReason::Shutdown);
        }
        for run in waiting {
            work::change(&run, |run| run.end(TrainState::Interrupted, None, None)).await;
        }
        if let Some(run) = running {
            run.ended().await;
        }
    }
}

fn not_found(table: &Table, text: &str) -> Diagnostic {
    let mut diagnostic = Diagnostic::new(
        "witness::daemon::run_not_found",
        Kind::NotFound,
        format!("there is no training run `{}`", text.escape_debug()),
    );
    let models: Vec<String> = table.runs.values().map(|run| run.model()).collect();
    let known = table
        .runs
        .keys()
        .map(String::as_str)
        .chain(models.iter().map(String::as_str));
    if let Some(near) = near_miss(text, known) {
        diagnostic = diagnostic.hint(format!("did you mean `{near}`?"));
    }
    diagnostic.hint("run `witness train list` to see all of them")
}
