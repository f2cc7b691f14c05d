//! The loop: steps, logs, evaluations, checkpoints, in Transformers' order, and what ends it.
//!
//! After a step: log, evaluate, save, each when it is due. What a checkpoint holds is the state after all of that, so that a run that goes on from
//! it does next what the uninterrupted run did next, to the bit. A stop request is heard within a layer's work; the step is then given up,
//! its weights untouched, and made again on resume.

use std::time::Instant;

use serde_json::{Map, Value, json};
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{TrainEvent, TrainOutcome, TrainReply, TrainRequest, When};
use witness_recipe::interval;
use witness_template::CivilTime;
use witness_training::{Batch, Sample as Row, StepReport, Trainer, TrainingError};

use crate::batches::Epoch;
use crate::checkpoint::Store;
use crate::evaluate::{Evaluation, evaluate};
use crate::identity;
use crate::prepare::{Prepared, prepare};
use crate::progress::{Progress, during};
use crate::state::{Patience, RunState};
use crate::watch::{Watch, Watched};
use crate::{product, scratch};

/// Rows that an error names at most.
const PLACES_MAX: usize = 32;

/// Runs a request to its end, or until it is told to stop.
///
/// # Errors
/// The request is refused, the run cannot go on (a loss that is not finite, a disk that is full), or its files are damaged. What was
/// written before stays, and can be gone on from.
pub fn run(request: &TrainRequest, progress: &mut dyn Progress) -> Result<TrainReply, Diagnostic> {
    let mut store = Store::open(&request.directory)?;
    let identity = identity::settle(request, &store)?;
    progress.emit(&status("reading the data"));
    let now = CivilTime::from_unix(identity.started_at);
    let kept = scratch::kept(store.folder())?;
    let prepared = during(&*progress, |is_stopped| prepare(request, now, kept, is_stopped))?;
    let Some(prepared) = prepared else {
        return not_begun(request, &store);
    };
    if request.settings.scratch.is_some() {
        scratch::keep(store.folder(), &prepared.base)?;
    }
    progress.emit(&status("loading the base"));
    let mut trainer = during(&*progress, |_| prepared.trainer())?;
    let state = match request.resume {
        true => store.resume(&mut trainer, progress)?,
        false => None,
    };
    let resumed_from = state.as_ref().map_or(0, |state| state.step);
    let state = state.unwrap_or_else(RunState::new);
    progress.emit(&TrainEvent::Started {
        plan: Box::new(prepared.plan.clone()),
        resumed_from,
    });
    for message in &prepared.plan.warnings {
        progress.emit(&TrainEvent::Warning {
            message: message.clone(),
        });
    }
    let watched = Watched {
        directory: &request.directory,
        settings: &prepared.settings,
        identity: &identity.key(),
        name: &request.base_name,
        resumed_from,
        facts: identity::provenance(request, &prepared, &state),
    };
    let watch = Watch::open(&watched, progress);
    let mut run = Run {
        request,
        due: Due::new(&prepared),
        prepared: &prepared,
        trainer,
        state,
        store,
        progress,
        watch,
        epoch: None,
    };
    let result = run.go();
    let outcome = match &result {
        Ok(reply) if reply.outcome == TrainOutcome::Stopped => witness_trackers::Outcome::Stopped,
        Ok(_) => witness_trackers::Outcome::Finished,
        Err(_) => witness_trackers::Outcome::Failed,
    };
    run.watch.finish(outcome, run.progress);
    result
}

fn status(message: &str) -> TrainEvent {
    TrainEvent::Status {
        message: message.to_owned(),
    }
}

/// Ends a run that was told to stop before it could begin: what earlier starts left is what there is.
fn not_begun(request: &TrainRequest, store: &Store) -> Result<TrainReply, Diagnostic> {
    let newest = store.newest();
    let directory = newest.map_or_else(String::new, crate::folder::checkpoint_name);
    Ok(TrainReply {
        outcome: TrainOutcome::Stopped,
        steps: newest.unwrap_or(0),
        product: product::kind(&request.settings),
        files: match newest {
            Some(_) => store.product_files(&directory)?,
            None => Vec::new(),
        },
        directory,
        train_loss: 0.0,
        eval_loss: None,
        best_step: None,
        checkpoints: store.steps().to_vec(),
        provenance: Map::new(),
    })
}

/// When what is due, in steps.
struct Due {
    n_steps: u64,
    log: u64,
    logs_first: bool,
    evaluation: (When, u64),
    save: (When, u64),
    saves_best: bool,
}

impl Due {
    fn new(prepared: &Prepared) -> Self {
        let settings = &prepared.settings;
        let n_steps = prepared.extent.n_steps;
        let measures = match prepared.data.validation.samples.is_empty() {
            true => When::No,
            false => settings.eval_strategy,
        };
        Self {
            n_steps,
            log: settings.logging_steps.max(1),
            logs_first: settings.logging_first_step,
            evaluation: (measures, interval(settings.eval_steps.unwrap_or(1.0), n_steps)),
            save: (settings.save_strategy, interval(settings.save_steps, n_steps)),
            saves_best: settings.load_best_model_at_end || settings.save_strategy == When::Best,
        }
    }

    fn logs(&self, step: u64) -> bool {
        step.is_multiple_of(self.log) || (self.logs_first && step == 1)
    }

    fn evaluates(&self, step: u64, ends_epoch: bool) -> bool {
        match self.evaluation {
            (When::Steps, every) => step.is_multiple_of(every),
            (When::Epoch, _) => ends_epoch,
            (When::No | When::Best, _) => false,
        }
    }

    /// With `steps`, the last step is saved too. A best one is saved wherever it may be wanted at the end.
    fn saves(&self, step: u64, ends_epoch: bool, is_best: bool) -> bool {
        let by_strategy = match self.save {
            (When::Steps, every) => step.is_multiple_of(every) || step == self.n_steps,
            (When::Epoch, _) => ends_epoch,
            (When::No | When::Best, _) => false,
        };
        by_strategy || (is_best && self.saves_best)
    }
}

/// Whether to go on.
enum Next {
    Step,
    Stop,
}

struct Run<'a> {
    request: &'a TrainRequest,
    prepared: &'a Prepared,
    due: Due,
    trainer: Trainer,
    state: RunState,
    store: Store,
    progress: &'a mut dyn Progress,
    watch: Watch,
    /// The epoch at hand, and how many of its steps are made.
    epoch: Option<(Epoch, usize)>,
}

impl Run<'_> {
    fn go(&mut self) -> Result<TrainReply, Diagnostic> {
        self.find_place();
        if self.state.evaluation_due {
            let is_end = self.ends_epoch();
            if let Next::Stop = self.evaluate_and_save(is_end)? {
                return self.stopped();
            }
        }
        while self.state.outcome.is_none() && self.state.step < self.due.n_steps {
            if self.progress.should_stop() {
                return self.stopped();
            }
            if let Next::Stop = self.step()? {
                return self.stopped();
            }
        }
        self.finished()
    }

    /// Finds the epoch that the next step belongs to, or the last one when it was just ended.
    fn find_place(&mut self) {
        let mut left = self.state.step;
        for number in 0.. {
            let epoch = self.prepared.batches.epoch(number);
            let n = epoch.steps.len() as u64;
            if left <= n {
                self.epoch = Some((epoch, left as usize));
                return;
            }
            left -= n;
        }
    }

    fn ends_epoch(&self) -> bool {
        let ends = self
            .epoch
            .as_ref()
            .is_some_and(|(epoch, made)| *made == epoch.steps.len());
        ends || self.state.step == self.due.n_steps
    }

    /// Makes one step and everything that is due after it.
    fn step(&mut self) -> Result<Next, Diagnostic> {
        let (epoch, made) = match self.epoch.take() {
            Some((epoch, made)) if made < epoch.steps.len() => (epoch, made),
            Some((epoch, _)) => (self.prepared.batches.epoch(epoch.number + 1), 0),
            None => (self.prepared.batches.epoch(0), 0),
        };
        let computed = self.prepared.batches.computed(&epoch.steps[made]);
        let batches = self.pack(&computed)?;
        let started = Instant::now();
        let trainer = &mut self.trainer;
        let outcome = during(&*self.progress, |is_stopped| trainer.step(&batches, is_stopped));
        let report = match outcome {
            Ok(Some(report)) => report,
            Ok(None) => {
                self.epoch = Some((epoch, made));
                return Ok(Next::Stop);
            }
            Err(error) => return Err(self.failed_step(error, &computed)),
        };
        let epochs_done = epoch.done(made + 1);
        self.epoch = Some((epoch, made + 1));
        self.state.take_step(report.loss, epochs_done);
        self.progress
            .emit(&step_event(&self.state, &report, started.elapsed().as_secs_f64()));
        let step = self.state.step;
        if self.due.logs(step) {
            let values = self.state.log(report.grad_norm, report.learning_rate);
            self.emit_log(values);
        }
        let ends_epoch = self.ends_epoch();
        self.state.evaluation_due = self.due.evaluates(step, ends_epoch);
        self.evaluate_and_save(ends_epoch)
    }

    fn emit_log(&mut self, values: Map<String, Value>) {
        self.tell(&TrainEvent::Log {
            step: self.state.step,
            epoch: self.state.epoch,
            values,
        });
    }

    /// Emits an event that trackers want too.
    fn tell(&mut self, event: &TrainEvent) {
        self.progress.emit(event);
        self.watch.tell(event, self.progress);
    }

    /// Measures and saves, where they are due.
    fn evaluate_and_save(&mut self, ends_epoch: bool) -> Result<Next, Diagnostic> {
        let mut is_best = false;
        if self.state.evaluation_due {
            let measured = Evaluation {
                samples: &self.prepared.data.validation.samples,
                batch_rows: self.prepared.settings.eval_batch_size.unwrap_or(1),
            };
            let started = Instant::now();
            let Some(loss) = evaluate(&self.trainer, &measured, self.progress)? else {
                return Ok(Next::Stop);
            };
            if !loss.is_finite() {
                return Err(self.not_finite("the loss of the validation rows", &[]));
            }
            let settings = &self.prepared.settings;
            let patience = Patience {
                most: settings.early_stopping_patience,
                threshold: settings.early_stopping_threshold,
            };
            is_best = self.state.take_evaluation(loss, patience);
            self.tell(&TrainEvent::Eval {
                step: self.state.step,
                epoch: self.state.epoch,
                loss,
                is_best,
                seconds: started.elapsed().as_secs_f64(),
            });
        }
        if self.due.saves(self.state.step, ends_epoch, is_best) {
            self.save()?;
        }
        Ok(Next::Step)
    }

    fn save(&mut self) -> Result<(), Diagnostic> {
        let limit = self.prepared.settings.save_total_limit;
        let contents = product::Contents {
            trainer: &self.trainer,
            base: &self.prepared.base,
            settings: &self.prepared.settings,
            base_name: &self.request.base_name,
        };
        let event = self.store.save(&self.state, &contents, limit);
        let event = event.map_err(|diagnostic| self.with_last_good(diagnostic))?;
        self.progress.emit(&event);
        Ok(())
    }

    /// Packs rows into the batches that are computed.
    fn pack(&self, computed: &[Vec<u32>]) -> Result<Vec<Batch>, Diagnostic> {
        let samples = &self.prepared.data.train.samples;
        let batch = |rows: &Vec<u32>| {
            Batch::pack(rows.iter().map(|row| {
                let encoded = &samples[*row as usize].encoded;
                Row {
                    ids: &encoded.ids,
                    is_target: &encoded.is_target,
                }
            }))
        };
        let batches: Result<Vec<Batch>, TrainingError> = computed.iter().map(batch).collect();
        Ok(batches?)
    }

    fn failed_step(&self, error: TrainingError, computed: &[Vec<u32>]) -> Diagnostic {
        match error {
            TrainingError::NotFinite { what, .. } => {
                let rows: Vec<u32> = computed.iter().flatten().copied().collect();
                self.not_finite(&what, &rows)
            }
            other => self.with_last_good(other.into()),
        }
    }

    /// Says that a number is infinite or none, at which step, of which rows, and what is left.
    fn not_finite(&self, what: &str, rows: &[u32]) -> Diagnostic {
        // A step that fails is not counted as made.
        let step = self.state.step + u64::from(!rows.is_empty());
        let message = format!("{what} is not a finite number at step {step}");
        let mut diagnostic = Diagnostic::new("witness::train::not_finite", Kind::Invalid, message);
        if !rows.is_empty() {
            let samples = &self.prepared.data.train.samples;
            let mut places: Vec<&str> = Vec::new();
            for row in rows {
                let place = &*samples[*row as usize].place;
                if places.last() != Some(&place) {
                    places.push(place);
                }
            }
            let more = places.len().saturating_sub(PLACES_MAX);
            places.truncate(PLACES_MAX);
            let mut told = format!("the step's rows are {}", places.join(", "));
            if more > 0 {
                told.push_str(&format!(" and {more} more"));
            }
            diagnostic = diagnostic.cause(told);
        }
        self.with_last_good(diagnostic)
            .hint("lower `learning_rate`, clip gradients (`max_grad_norm: 1.0`), or look at these rows for what no text should hold")
    }

    fn with_last_good(&self, diagnostic: Diagnostic) -> Diagnostic {
        match self.store.newest() {
            Some(step) => diagnostic.cause(format!(
                "the last good checkpoint is `checkpoint-{step}`; it is untouched"
            )),
            None => diagnostic.cause("no checkpoint was written before"),
        }
    }

    /// Ends a run that was told to stop: what was made is saved.
    fn stopped(&mut self) -> Result<TrainReply, Diagnostic> {
        if self.state.step == 0 {
            return not_begun(self.request, &self.store);
        }
        if !self.store.holds(&self.state) {
            self.save()?;
        }
        let directory = crate::folder::checkpoint_name(self.state.step);
        let files = self.store.product_files(&directory)?;
        Ok(self.reply(TrainOutcome::Stopped, directory, files, None))
    }

    /// Ends a run that is over: the product is the best or the last state.
    fn finished(&mut self) -> Result<TrainReply, Diagnostic> {
        let wants_best = self.prepared.settings.load_best_model_at_end;
        let best = self.state.best.map(|best| best.step);
        let best = best.filter(|step| wants_best && *step != self.state.step);
        let contents = product::Contents {
            trainer: &self.trainer,
            base: &self.prepared.base,
            settings: &self.prepared.settings,
            base_name: &self.request.base_name,
        };
        let files = self.store.finish(&contents, best);
        let files = files.map_err(|diagnostic| self.with_last_good(diagnostic))?;
        let mut values = Map::new();
        values.insert("train_loss".to_owned(), json!(self.state.train_loss()));
        self.emit_log(values);
        let outcome = self.state.outcome.unwrap_or(TrainOutcome::Finished);
        Ok(self.reply(outcome, crate::folder::FINAL.to_owned(), files, best))
    }

    fn reply(&self, outcome: TrainOutcome, directory: String, files: Vec<String>, best: Option<u64>) -> TrainReply {
        TrainReply {
            outcome,
            steps: self.state.step,
            product: product::kind(&self.prepared.settings),
            directory,
            files,
            train_loss: self.state.train_loss(),
            eval_loss: self.state.eval_loss,
            best_step: best,
            checkpoints: self.store.steps().to_vec(),
            provenance: identity::provenance(self.request, self.prepared, &self.state),
        }
    }
}

fn step_event(state: &RunState, report: &StepReport, seconds: f64) -> TrainEvent {
    TrainEvent::Step {
        step: state.step,
        epoch: state.epoch,
        loss: report.loss,
        grad_norm: report.grad_norm,
        learning_rate: report.learning_rate,
        n_tokens: report.n_tokens as u64,
        n_targets: report.n_targets as u64,
        seconds,
    }
}
