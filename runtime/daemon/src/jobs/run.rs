//! One run: its directory, its state, its lines. Everything that writes is blocking.
//!
//! **Invariant:** one lock guards state and lines together, and a line is appended before the state that follows from it is written: a kill
//! between the two is made good when the directory is read again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tokio::sync::watch;
use witness_api::{ErrorBody, TrainJob, TrainJobLine, TrainState, rfc3339};
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{FileRef, ModelSpec, TrainRequest};
use witness_registry::{Digest, Lease, ModelName, Registry};

use super::journal::{Extent, Follower, Journal, digest_of};
use super::order::RunOrder;
use super::record::{
    self, CheckpointRecord, DATA, DataRecord, EVENTS, JOB, JobRecord, OUTPUT, STATE, StateRecord, VERSION,
};
use crate::limits::TRAIN_STATE_EVERY;
use crate::models::stored::Stored;

/// Types of lines that only the daemon writes.
const OWN_LINES: &[&str] = &["job", "published", "notice", "end"];
/// What the directory of a run that is being removed is called until it is gone.
const REMOVED: &str = ".removed-";

/// A training run.
pub(crate) struct Run {
    pub(super) job: JobRecord,
    directory: PathBuf,
    inner: Mutex<Inner>,
    stop: watch::Sender<Option<StopReason>>,
}

struct Inner {
    state: StateRecord,
    journal: Journal,
    /// Keeps base and data while the run is under way.
    lease: Option<Lease>,
    state_written: Instant,
}

/// Why a run is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopReason {
    /// Somebody said so.
    Asked,
    /// The daemon goes down.
    Shutdown,
}

impl Run {
    /// Makes the directory of a run.
    pub(super) fn create(runs: &Path, order: RunOrder, now: SystemTime) -> Result<Self, Diagnostic> {
        let (id, directory) = make_directory(runs, now).map_err(|error| storage("made", runs, &error))?;
        let filled = fill(&directory, &id, order, now);
        if filled.is_err() {
            let _ = fs::remove_dir_all(&directory);
        }
        let (job, state, lease) = filled?;
        let journal = Journal::open(&directory.join(EVENTS), Extent::default(), |_| {})
            .map_err(|error| storage("written", &directory, &error))?;
        Ok(Self::of(job, directory, state, journal, Some(lease)))
    }

    fn of(job: JobRecord, directory: PathBuf, state: StateRecord, journal: Journal, lease: Option<Lease>) -> Self {
        Self {
            job,
            directory,
            inner: Mutex::new(Inner {
                state,
                journal,
                lease,
                state_written: Instant::now(),
            }),
            stop: watch::Sender::new(None),
        }
    }

    /// Reads a run from its directory. One that was under way is interrupted.
    fn read(directory: &Path) -> std::io::Result<Self> {
        let job: JobRecord = record::read(&directory.join(JOB))?;
        if job.version != VERSION {
            return Err(std::io::Error::other(format!("it is of version {}", job.version)));
        }
        let mut state: StateRecord = record::read(&directory.join(STATE)).unwrap_or_default();
        let known = Extent {
            lines: state.summary.lines,
            bytes: state.summary.bytes,
            is_over: true,
        };
        let summary = &mut state.summary;
        let journal = Journal::open(&directory.join(EVENTS), known, |event| summary.take(event))?;
        let was_under_way = !state.state.has_ended();
        let run = Self::of(job, directory.to_owned(), state, journal, None);
        if was_under_way {
            run.end(TrainState::Interrupted, None, None);
        }
        Ok(run)
    }

    pub(crate) fn id(&self) -> &str {
        &self.job.id
    }

    /// Returns the name of the model that it makes, as people write it.
    pub(super) fn model(&self) -> String {
        ModelName::parse(&self.job.model).map_or_else(|_| self.job.model.clone(), |name| name.display_typed())
    }

    pub(super) fn is_of(&self, name: &ModelName) -> bool {
        ModelName::parse(&self.job.model).is_ok_and(|own| own == *name)
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.job.memory_bytes
    }

    pub(super) fn is_forced(&self) -> bool {
        self.job.request.force.unwrap_or(false)
    }

    pub(super) fn state(&self) -> TrainState {
        self.inner().state.state
    }

    /// Returns where the plugin keeps what it makes.
    pub(super) fn output(&self) -> PathBuf {
        self.directory.join(OUTPUT)
    }

    /// Returns the checkpoints that are there and the best of them.
    pub(super) fn checkpoints(&self) -> (Vec<CheckpointRecord>, Option<u64>) {
        let summary = &self.inner().state.summary;
        (summary.checkpoints.clone(), summary.best_step)
    }

    /// Returns the run as it is shown.
    pub(crate) fn view(&self) -> TrainJob {
        let inner = self.inner();
        let (state, summary) = (&inner.state, &inner.state.summary);
        TrainJob {
            id: self.job.id.clone(),
            model: self.model(),
            from: self.job.request.from.clone(),
            state: state.state,
            step: summary.step,
            n_steps: summary.n_steps,
            epoch: summary.epoch,
            loss: summary.loss,
            eval_loss: summary.eval_loss,
            best_step: summary.best_step,
            checkpoints: summary.checkpoints.iter().map(|checkpoint| checkpoint.step).collect(),
            n_events: inner.journal.extent().lines,
            created_at: self.job.created_at.clone(),
            started_at: state.started_at.clone(),
            ended_at: state.ended_at.clone(),
            directory: self.directory.clone(),
            error: state.error.clone(),
        }
    }

    /// Returns a reader of its lines.
    pub(crate) fn follow(&self, from: u64, follows: bool) -> Follower {
        self.inner().journal.follow(from, follows)
    }

    /// Asks it to save and end.
    pub(super) fn ask_to_stop(&self, reason: StopReason) {
        self.stop
            .send_if_modified(|asked| asked.is_none() && asked.insert(reason) == &reason);
    }

    /// Returns what tells that it is to stop.
    pub(super) fn stop_requests(&self) -> watch::Receiver<Option<StopReason>> {
        self.stop.subscribe()
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&self) {
        let mut extent = self.inner().journal.watch();
        let _ = extent.wait_for(|extent| extent.is_over).await;
    }

    /// Notes that it waits.
    pub(super) fn queued(&self, reason: Option<String>) {
        let mut inner = self.inner();
        inner.state.ended_at = None;
        inner.state.error = None;
        inner.state.reply = None;
        inner.journal.set_over(false);
        self.change(&mut inner, TrainState::Queued, reason);
    }

    /// Notes that its worker is started. Returns what the plugin is asked for.
    pub(super) fn begin(&self, registry: &Registry) -> Result<TrainRequest, Diagnostic> {
        let mut inner = self.inner();
        let is_resumed = inner.state.started_at.is_some();
        let now = SystemTime::now();
        inner.state.started_at = Some(rfc3339(now));
        self.change(&mut inner, TrainState::Starting, None);
        drop(inner);
        let base = self.job.base.as_ref();
        let (files, adapters) = match self.parent(registry)? {
            Some(parent) => (parent.base.files, parent.adapters),
            None => (Vec::new(), Vec::new()),
        };
        // The name was looked up in the same manifest when the run was made.
        let adapter = self.job.request.adapter.as_ref();
        let adapter = adapter.and_then(|name| adapters.into_iter().find(|adapter| adapter.name == *name));
        let rows = |records: &[DataRecord]| records.iter().map(|record| self.rows(record)).collect();
        Ok(TrainRequest {
            model: ModelSpec { files },
            adapter,
            base_name: base.map(|base| base.name.clone()).unwrap_or_default(),
            base_digest: base.map(|base| base.files_digest.clone()).unwrap_or_default(),
            data: rows(&self.job.data),
            validation: rows(&self.job.validation),
            template: self.job.template.clone(),
            settings: self.job.settings.clone(),
            directory: self.output(),
            resume: is_resumed,
            started_at: now.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            trial: false,
            preview: Vec::new(),
        })
    }

    /// Notes another state while it is under way.
    pub(super) fn set_state(&self, state: TrainState) {
        self.change(&mut self.inner(), state, None);
    }

    /// Appends an event of the plugin's. Returns its type.
    ///
    /// # Errors
    /// The disk does not take it. The run cannot go on then: what it reports would be lost.
    pub(super) fn record(&self, event: Value) -> Result<String, Diagnostic> {
        let mut event = match event {
            Value::Object(event) => event,
            // The worker lets nothing else through.
            other => [("type".to_owned(), "status".into()), ("message".to_owned(), other)]
                .into_iter()
                .collect(),
        };
        let kind = event.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        if OWN_LINES.contains(&kind.as_str()) {
            event = line(&TrainJobLine::Notice {
                message: format!("the plugin sent a line of the type `{kind}`, which is the daemon's own"),
            });
        }
        let mut inner = self.inner();
        inner.append(event)?;
        if kind == "started" && inner.state.state == TrainState::Starting {
            self.change(&mut inner, TrainState::Running, None);
        }
        let is_mark = matches!(kind.as_str(), "checkpoint" | "eval");
        if is_mark {
            inner
                .journal
                .sync()
                .map_err(|error| storage("written", &self.directory, &error))?;
        }
        if is_mark || inner.state_written.elapsed() >= TRAIN_STATE_EVERY {
            self.write_state(&mut inner)
                .map_err(|error| storage("written", &self.directory, &error))?;
        }
        Ok(kind)
    }

    /// Appends a line of the daemon's. What cannot be written is told in the log: the run's own lines decide over it.
    pub(super) fn tell(&self, own: &TrainJobLine) {
        let mut inner = self.inner();
        if let TrainJobLine::Published { .. } = own {
            inner.state.is_published = true;
        }
        if let Err(error) = inner.append(line(own)) {
            tracing::warn!(run = %self.id(), "a line was not written: {error}");
        }
    }

    /// Notes how it ended, or that it will not begin, and lets go of what it held.
    pub(super) fn end(&self, state: TrainState, error: Option<&Diagnostic>, reply: Option<Value>) {
        let mut inner = self.inner();
        inner.state.ended_at = Some(rfc3339(SystemTime::now()));
        inner.state.error = error.map(ErrorBody::from);
        inner.state.reply = reply.clone();
        self.change(&mut inner, state, None);
        let model = inner.state.is_published.then(|| self.model());
        let end = TrainJobLine::End {
            state,
            model,
            error: error.map(ErrorBody::from),
            reply,
        };
        let written = inner.append(line(&end)).and_then(|()| {
            inner
                .journal
                .sync()
                .map_err(|error| storage("written", &self.directory, &error))
        });
        if let Err(error) = written {
            tracing::warn!(run = %self.id(), "the end of the run was not written: {error}");
        }
        if let Err(error) = self.write_state(&mut inner) {
            tracing::warn!(run = %self.id(), "the state of the run was not written: {error}");
        }
        inner.lease = None;
        self.stop.send_replace(None);
        // Last: whoever waits for the end finds everything else done.
        inner.journal.set_over(true);
        tracing::info!(run = %self.id(), model = %self.model(), %state, "training run ended");
    }

    /// Checks that everything is as it was when the run was made, and holds it.
    pub(super) fn prepare_resume(&self, registry: &Registry) -> Result<(), Diagnostic> {
        let digests = self
            .job
            .base
            .as_ref()
            .map(|base| base.manifest.digests())
            .unwrap_or_default();
        let lease = registry.lease(&digests.into_iter().collect::<Vec<_>>());
        self.parent(registry)?;
        for record in self.job.data.iter().chain(&self.job.validation) {
            let path = self.directory.join(DATA).join(&record.file);
            let found = digest_of(&path).map_err(|error| storage("read", &path, &error))?;
            if found != record.digest {
                return Err(Diagnostic::new(
                    "witness::daemon::run_data_changed",
                    Kind::Damaged,
                    format!(
                        "the rows of training run {} are not those that it began with",
                        self.id()
                    ),
                )
                .cause(format!(
                    "`{}` hashes to {found} and not to {}",
                    path.display(),
                    record.digest
                ))
                .hint("start a new run"));
            }
        }
        self.inner().lease = Some(lease);
        Ok(())
    }

    /// Returns the model that it starts from, as it was when the run was made.
    pub(super) fn parent(&self, registry: &Registry) -> Result<Option<Stored>, Diagnostic> {
        let Some(base) = &self.job.base else { return Ok(None) };
        for layer in base.manifest.all_layers() {
            if registry.has_blob(&layer.digest) != Some(layer.size) {
                return Err(Diagnostic::new(
                    "witness::daemon::run_base_gone",
                    Kind::NotFound,
                    format!(
                        "the model `{}` that training run {} starts from is not here any more",
                        base.name,
                        self.id()
                    ),
                )
                .cause(format!("blob `{}` ({}) is missing", layer.digest, layer.media_type))
                .hint("create it again from the same files: they are told by their digests, not by the name"));
            }
        }
        let name = ModelName::parse(&base.name)?;
        Stored::of_manifest(registry, &name, base.manifest.clone(), base.digest, UNIX_EPOCH).map(Some)
    }

    /// Removes its directory.
    pub(super) fn remove(&self) -> Result<(), Diagnostic> {
        let failed = |error: &std::io::Error| storage("removed", &self.directory, error);
        // Under another name first: half of a run must not be read again.
        let away = self.directory.with_file_name(format!("{REMOVED}{}", self.id()));
        fs::rename(&self.directory, &away).map_err(|error| failed(&error))?;
        fs::remove_dir_all(&away).map_err(|error| failed(&error))
    }

    fn rows(&self, record: &DataRecord) -> FileRef {
        FileRef {
            name: record.name.clone(),
            path: self.directory.join(DATA).join(&record.file),
            digest: record.digest.as_str().to_owned(),
            size: record.size,
        }
    }

    /// Goes into another state: line, then document.
    fn change(&self, inner: &mut Inner, state: TrainState, reason: Option<String>) {
        inner.state.state = state;
        let changed = TrainJobLine::Job {
            id: self.job.id.clone(),
            model: self.model(),
            state,
            reason,
        };
        let written = inner.append(line(&changed)).and_then(|()| {
            self.write_state(inner)
                .map_err(|error| storage("written", &self.directory, &error))
        });
        if let Err(error) = written {
            tracing::warn!(run = %self.id(), %state, "the state of the run was not written: {error}");
        }
    }

    fn write_state(&self, inner: &mut Inner) -> std::io::Result<()> {
        inner.state_written = Instant::now();
        record::write(&self.directory.join(STATE), &inner.state)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn append(&mut self, event: Map<String, Value>) -> Result<(), Diagnostic> {
        self.state.version = VERSION;
        self.state.summary.take(&event);
        let appended = self.journal.append(event, &rfc3339(SystemTime::now()));
        let extent = self.journal.extent();
        (self.state.summary.lines, self.state.summary.bytes) = (extent.lines, extent.bytes);
        appended.map_err(|error| storage("written", Path::new(EVENTS), &error))
    }
}

/// Returns a line of the daemon's as an event.
fn line(own: &TrainJobLine) -> Map<String, Value> {
    match serde_json::to_value(own) {
        Ok(Value::Object(event)) => event,
        // Our own type serializes to an object.
        _ => Map::new(),
    }
}

/// Reads every run of a directory, and clears away what was being removed.
pub(super) fn read_all(runs: &Path) -> Vec<Run> {
    let mut all = Vec::new();
    // No directory is no run.
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        if name.starts_with(REMOVED) {
            let _ = fs::remove_dir_all(&path);
        } else if is_id(&name) {
            match Run::read(&path) {
                Ok(run) if run.id() == name => all.push(run),
                Ok(run) => tracing::warn!(path = %path.display(), "it says that it is run {}", run.id()),
                Err(error) => tracing::warn!(path = %path.display(), "a training run cannot be read: {error}"),
            }
        }
    }
    all
}

/// Makes a directory under a new id: the day, and where in the day it was, so that ids sort by age.
fn make_directory(runs: &Path, now: SystemTime) -> std::io::Result<(String, PathBuf)> {
    fs::create_dir_all(runs)?;
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let day: String = rfc3339(now).chars().take(10).filter(char::is_ascii_digit).collect();
    // 86,400 seconds in 65,536 numbers; the next free one where several begin at once.
    let mut number = (seconds % 86_400) * 0x1_0000 / 86_400;
    loop {
        let id = format!("{day}-{number:04x}");
        let directory = runs.join(&id);
        match fs::create_dir(&directory) {
            Ok(()) => return Ok((id, directory)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && number < 0xf_ffff => number += 1,
            Err(error) => return Err(error),
        }
    }
}

fn is_id(name: &str) -> bool {
    name.split_once('-').is_some_and(|(day, number)| {
        day.len() == 8
            && day.bytes().all(|byte| byte.is_ascii_digit())
            && (4..=5).contains(&number.len())
            && number.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Puts everything that a run begins with into its directory.
fn fill(
    directory: &Path,
    id: &str,
    order: RunOrder,
    now: SystemTime,
) -> Result<(JobRecord, StateRecord, Lease), Diagnostic> {
    let failed = |error: &std::io::Error| storage("written", directory, error);
    let data_directory = directory.join(DATA);
    for made in [&data_directory, &directory.join(OUTPUT)] {
        fs::create_dir(made).map_err(|error| failed(&error))?;
    }
    let mut number = 0;
    let mut keep = |files: &[FileRef]| -> Result<Vec<DataRecord>, Diagnostic> {
        let mut records = Vec::with_capacity(files.len());
        for file in files {
            number += 1;
            let name = format!("{number:04}-{}", plain_name(&file.name));
            let target = data_directory.join(&name);
            if fs::hard_link(&file.path, &target).is_err() {
                fs::copy(&file.path, &target).map_err(|error| failed(&error))?;
            }
            records.push(DataRecord {
                name: file.name.clone(),
                file: name,
                digest: Digest::parse(&file.digest)?,
                size: file.size,
            });
        }
        Ok(records)
    };
    let job = JobRecord {
        version: VERSION,
        id: id.to_owned(),
        created_at: rfc3339(now),
        model: order.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        is_new: order.is_new,
        data: keep(&order.data)?,
        validation: keep(&order.validation)?,
        request: order.request,
        settings: order.settings,
        base: order.base,
        architecture: order.architecture,
        template: order.template,
        memory_bytes: order.memory_bytes,
    };
    let mut state = StateRecord {
        version: VERSION,
        ..StateRecord::default()
    };
    state.summary.n_steps = order.n_steps;
    record::sync_directory(&data_directory).map_err(|error| failed(&error))?;
    record::write(&directory.join(STATE), &state).map_err(|error| failed(&error))?;
    record::write(&directory.join(JOB), &job).map_err(|error| failed(&error))?;
    Ok((job, state, order.lease))
}

/// Returns the last part of a name, as a file may be called: its ending tells a plugin what it is.
fn plain_name(name: &str) -> String {
    const BYTES_MAX: usize = 80;
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let plain: Vec<char> = last
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    plain[plain.len().saturating_sub(BYTES_MAX)..].iter().collect()
}

/// What a run's own files do to it.
fn storage(deed: &str, path: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic::new(
        "witness::daemon::run_files",
        Kind::Environment,
        format!("the files of the training run cannot be {deed}"),
    )
    .cause(format!("`{}`: {error}", path.display()))
    .hint("look at the space on its disk and at its permissions; the run can be resumed then")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ids_sort_by_age_and_are_never_used_twice() {
        let runs = tempfile::tempdir().unwrap();
        let day = UNIX_EPOCH + Duration::from_secs(1_795_651_200);
        let mut ids = Vec::new();
        for seconds in [0, 0, 2, 3_600, 86_399, 86_400] {
            ids.push(
                make_directory(runs.path(), day + Duration::from_secs(seconds))
                    .unwrap()
                    .0,
            );
        }
        assert_eq!(ids[..2], ["20261126-0000", "20261126-0001"]);
        assert_eq!(ids[4..], ["20261126-ffff", "20261127-0000"]);
        assert!(ids.is_sorted() && ids.iter().all(|id| is_id(id)), "{ids:?}");
    }

    #[test]
    fn names_of_rows_become_plain_file_names() {
        for (name, plain) in [
            ("rows.jsonl", "rows.jsonl"),
            ("/home/me/my rows.jsonl", "my_rows.jsonl"),
            ("..", ".."),
            ("é/ü.json", "_.json"),
        ] {
            assert_eq!(plain_name(name), plain);
        }
        assert_eq!(plain_name(&"x".repeat(500)).len(), 80);
    }
}
