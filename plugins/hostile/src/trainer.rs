//! The well-behaved trainer: it learns nothing, and does everything around learning as the messages of the role `train` say.
//!
//! A line of a data file is a row, but for directives: `step_ms N` (pause of a step), `burn N` (spin on N threads during the pause),
//! `memory_bytes N` (what the plan says), `mode phase:deed` as everywhere in this plugin.
//!
//! The loss of a step depends on its number alone, so that a run that was stopped and resumed reports what one run would have.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use witness_plugin_sdk::protocol::{
    RowCounts, TrainAlternative, TrainEvent, TrainMethod, TrainOutcome, TrainPlan, TrainProduct, TrainReply,
    TrainRequest,
};
use witness_plugin_sdk::{Diagnostic, Job, JobEvents, Kind};

use crate::good::MAGIC;
use crate::mode::{Phase, deed, panic_if_asked};

/// The trainer.
pub struct Drill;

impl Job for Drill {
    fn plan(request: Value) -> Result<Value, Diagnostic> {
        panic_if_asked(Phase::Plan);
        let request: TrainRequest = read(request)?;
        Ok(json!(Run::new(request)?.plan()))
    }

    fn run(request: Value, events: &mut JobEvents<'_>) -> Result<Value, Diagnostic> {
        panic_if_asked(Phase::Run);
        let request: TrainRequest = read(request)?;
        let reply = Run::new(request)?.go(events)?;
        let mut reply = json!(reply);
        match deed(Phase::Run).as_deref() {
            Some("lie_files") => reply["files"] = json!(["not_there.safetensors"]),
            Some("lie_path") => reply["files"] = json!(["../state.json"]),
            Some("lie_directory") => reply["directory"] = json!("../.."),
            _ => {}
        }
        Ok(reply)
    }
}

fn read(request: Value) -> Result<TrainRequest, Diagnostic> {
    serde_json::from_value(request).map_err(|error| {
        Diagnostic::new("hostile::request", Kind::Internal, "the request cannot be read").cause(error.to_string())
    })
}

/// A run with its data read.
struct Run {
    request: TrainRequest,
    n_rows: u64,
    step_pause: Duration,
    burn_threads: u64,
    memory_bytes: u64,
    n_steps: u64,
}

impl Run {
    fn new(request: TrainRequest) -> Result<Self, Diagnostic> {
        let mut run = Self {
            request,
            n_rows: 0,
            step_pause: Duration::ZERO,
            burn_threads: 0,
            memory_bytes: 1 << 20,
            n_steps: 0,
        };
        for file in run.request.data.clone() {
            let text = fs::read_to_string(&file.path).map_err(|error| failed(&file.path, &error))?;
            for line in text.lines() {
                run.take_line(line);
            }
        }
        if run.n_rows == 0 {
            return Err(
                Diagnostic::new("hostile::no_rows", Kind::Invalid, "the data has no row to learn from").hint("add one"),
            );
        }
        let settings = &run.request.settings;
        let by_epochs = (run.n_rows as f64 * settings.num_epochs / settings.micro_batch_size.max(1) as f64).ceil();
        run.n_steps = settings.max_steps.unwrap_or(by_epochs as u64).max(1);
        Ok(run)
    }

    fn take_line(&mut self, line: &str) {
        let number = |key: &str| line.strip_prefix(key).and_then(|rest| rest.trim().parse::<u64>().ok());
        if let Some(milliseconds) = number("step_ms ") {
            self.step_pause = Duration::from_millis(milliseconds);
        } else if let Some(threads) = number("burn ") {
            self.burn_threads = threads;
        } else if let Some(bytes) = number("memory_bytes ") {
            self.memory_bytes = bytes;
        } else if !line.trim().is_empty() && !line.starts_with("mode ") {
            self.n_rows += 1;
        }
    }

    fn plan(&self) -> TrainPlan {
        TrainPlan {
            settings: self.request.settings.clone(),
            architecture: "hostile".into(),
            n_weights: 1,
            n_trained: 1,
            n_modules: 1,
            train: RowCounts {
                n_rows: self.n_rows,
                ..RowCounts::default()
            },
            n_steps: self.n_steps,
            steps_per_epoch: self.n_steps,
            n_tokens: self.n_rows,
            memory_bytes: self.memory_bytes,
            alternatives: vec![TrainAlternative {
                change: "gradient_checkpointing: true".into(),
                memory_bytes: self.memory_bytes / 2,
            }],
            seconds: self.request.trial.then_some(1.5),
            data_digest: format!("sha256:{:064}", self.n_rows),
            ..TrainPlan::default()
        }
    }

    fn go(&self, events: &mut JobEvents<'_>) -> Result<TrainReply, Diagnostic> {
        let first = if self.request.resume { self.newest() } else { 0 };
        events.report(&TrainEvent::Started {
            plan: Box::new(self.plan()),
            resumed_from: first,
        });
        let mut kept: Vec<u64> = self.checkpoints();
        let (mut step, mut last_loss, mut is_stopped) = (first, loss_of(first), false);
        while step < self.n_steps {
            if events.should_stop() && deed(Phase::Run).as_deref() != Some("ignore_stop") {
                is_stopped = true;
                break;
            }
            let began = Instant::now();
            self.work(events);
            step += 1;
            last_loss = loss_of(step);
            events.report(&TrainEvent::Step {
                step,
                epoch: step as f64 / self.n_steps as f64,
                loss: last_loss,
                grad_norm: 1.0,
                learning_rate: 1e-4,
                n_tokens: 10,
                n_targets: 5,
                seconds: began.elapsed().as_secs_f64(),
            });
            let save_steps = (self.request.settings.save_steps as u64).max(1);
            if step.is_multiple_of(save_steps) && step < self.n_steps {
                self.save(step, &mut kept, events)?;
            }
        }
        if is_stopped && step > 0 {
            self.save(step, &mut kept, events)?;
        }
        self.finish(step, last_loss, is_stopped, kept)
    }

    /// Passes the time of a step. A real trainer looks about once a second whether it should stop; this one does while it spins.
    fn work(&self, events: &JobEvents<'_>) {
        let end = Instant::now() + self.step_pause;
        if self.burn_threads == 0 {
            std::thread::sleep(self.step_pause);
            return;
        }
        std::thread::scope(|scope| {
            for _ in 1..self.burn_threads {
                scope.spawn(|| while Instant::now() < end {});
            }
            while Instant::now() < end {
                std::hint::black_box(events.should_stop());
            }
        });
    }

    fn finish(
        &self,
        step: u64,
        last_loss: f64,
        is_stopped: bool,
        checkpoints: Vec<u64>,
    ) -> Result<TrainReply, Diagnostic> {
        let is_full = self.request.settings.method == TrainMethod::Full;
        let directory = self.request.directory.join("final");
        fs::create_dir_all(&directory).map_err(|error| failed(&directory, &error))?;
        let files = if is_full {
            write(
                &directory.join("trained.hostile"),
                &format!("{MAGIC}\nloss {last_loss}\n"),
            )?;
            vec!["trained.hostile".to_owned()]
        } else {
            self.write_adapter(&directory, step)?
        };
        let mut provenance = Map::new();
        provenance.insert("plugin".into(), json!("hostile"));
        provenance.insert("seed".into(), json!(self.request.settings.seed));
        provenance.insert("base".into(), json!(self.request.base_digest));
        Ok(TrainReply {
            outcome: if is_stopped {
                TrainOutcome::Stopped
            } else {
                TrainOutcome::Finished
            },
            steps: step,
            product: if is_full {
                TrainProduct::Model
            } else {
                TrainProduct::Adapter
            },
            directory: "final".into(),
            files,
            train_loss: last_loss,
            eval_loss: None,
            best_step: None,
            checkpoints,
            provenance,
        })
    }

    /// Writes a checkpoint whole or not at all, and removes those beyond the limit.
    fn save(&self, step: u64, kept: &mut Vec<u64>, events: &mut JobEvents<'_>) -> Result<(), Diagnostic> {
        let name = format!("checkpoint-{step}");
        let (target, draft) = (self.path_of(step), self.request.directory.join(format!("{name}.draft")));
        for old in [&draft, &target] {
            if old.exists() {
                fs::remove_dir_all(old).map_err(|error| failed(old, &error))?;
            }
        }
        fs::create_dir_all(&draft).map_err(|error| failed(&draft, &error))?;
        let is_full = self.request.settings.method == TrainMethod::Full;
        let files = if is_full {
            Vec::new()
        } else {
            self.write_adapter(&draft, step)?
        };
        write(&draft.join("state.json"), &json!({ "step": step }).to_string())?;
        fs::rename(&draft, &target).map_err(|error| failed(&target, &error))?;
        if !kept.contains(&step) {
            kept.push(step);
        }
        let mut removed = Vec::new();
        let limit = self.request.settings.save_total_limit.unwrap_or(u64::MAX).max(1);
        while kept.len() as u64 > limit {
            let oldest = kept.remove(0);
            let path = self.path_of(oldest);
            fs::remove_dir_all(&path).map_err(|error| failed(&path, &error))?;
            removed.push(oldest);
        }
        events.report(&TrainEvent::Checkpoint {
            step,
            directory: name,
            files,
            removed,
            is_best: true,
        });
        Ok(())
    }

    fn write_adapter(&self, directory: &Path, step: u64) -> Result<Vec<String>, Diagnostic> {
        let config = json!({ "peft_type": "LORA", "r": 1, "base_model_name_or_path": self.request.base_name });
        write(&directory.join("adapter_config.json"), &config.to_string())?;
        write(
            &directory.join("adapter_model.safetensors"),
            &format!("weights after {step} steps"),
        )?;
        Ok(vec!["adapter_config.json".into(), "adapter_model.safetensors".into()])
    }

    fn path_of(&self, step: u64) -> PathBuf {
        self.request.directory.join(format!("checkpoint-{step}"))
    }

    /// Returns the steps of the whole checkpoints, rising.
    fn checkpoints(&self) -> Vec<u64> {
        let mut steps: Vec<u64> = fs::read_dir(&self.request.directory)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().join("state.json").exists())
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("checkpoint-")?.parse().ok())
            .collect();
        steps.sort_unstable();
        steps
    }

    fn newest(&self) -> u64 {
        self.checkpoints().last().copied().unwrap_or(0)
    }
}

/// Returns what a step's loss is made out to be.
pub fn loss_of(step: u64) -> f64 {
    4.0 / (step as f64 + 1.0)
}

fn write(path: &Path, text: &str) -> Result<(), Diagnostic> {
    fs::write(path, text).map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic::new(
        "hostile::file",
        Kind::Environment,
        format!("`{}` cannot be used", path.display()),
    )
    .cause(error.to_string())
}
