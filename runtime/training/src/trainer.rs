//! The optimizer step: gradients of micro-batches, clipping, one step of the optimizer at the schedule's rate; and the state that resumes a run.
//!
//! **Invariant:** a step that meets an infinite or undefined loss or gradient changes no weight and no moment: what the trainer holds is then the last good state.

use witness_formats::hf::DecoderConfig;

use crate::batch::Batch;
use crate::build::{BuildOptions, build};
use crate::decoder::{Decoder, GradientOptions, Recompute};
use crate::error::{Result, TrainingError};
use crate::matmul::Compute;
use crate::method::Method;
use crate::numbers::KeptMemory;
use crate::optimizer::{Optimizer, OptimizerState, clip};
use crate::parameters::{Gradients, Parameters, WeightSource};
use crate::random::Stream;
use crate::real::Real;
use crate::schedule::Schedule;
use crate::stored::BaseStorage;

/// Numbers the stream of dropout below a run's seed.
const DROPOUT: u64 = 3;

/// How a run is made.
#[derive(Clone, Debug)]
pub struct TrainerOptions {
    /// Learning rates.
    pub schedule: Schedule,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// The norm that all gradients together may have; 1.0 by default in Transformers. Nothing: no clipping.
    pub max_grad_norm: Option<f64>,
    /// Whether activations are kept.
    pub recompute: Recompute,
    /// Draws the initial adapter and dropout.
    pub seed: u64,
    /// How many threads compute; nothing: those of the current rayon pool.
    pub n_threads: Option<usize>,
    /// What products are computed in.
    pub compute: Compute,
    /// How the frozen matrices of the base are kept.
    pub base_storage: BaseStorage,
}

/// What one optimizer step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Which, from 0.
    pub step: u64,
    /// The sum of the losses of all targets over their number.
    pub loss: f64,
    /// The norm of the gradients before clipping.
    pub grad_norm: f64,
    /// The learning rate that was used.
    pub learning_rate: f64,
    /// Tokens computed.
    pub n_tokens: usize,
    /// Targets among them.
    pub n_targets: usize,
}

/// A model in training.
#[derive(Debug)]
pub struct Trainer<T = f32> {
    pub(crate) decoder: Decoder,
    pub(crate) parameters: Parameters<T>,
    pub(crate) method: Method,
    pub(crate) optimizer: OptimizerState<T>,
    pub(crate) options: TrainerOptions,
    gradients: Gradients<T>,
    pool: Option<rayon::ThreadPool>,
    _memory: KeptMemory,
}

impl<T: Real> Trainer<T> {
    /// Loads a model to be trained.
    pub fn new(
        config: &DecoderConfig,
        source: &dyn WeightSource,
        method: Method,
        options: TrainerOptions,
    ) -> Result<Trainer<T>> {
        options.optimizer.check()?;
        options.schedule.check()?;
        if let Some(norm) = options.max_grad_norm.filter(|norm| norm.is_nan() || *norm <= 0.0) {
            return Err(TrainingError::setting(
                "max_grad_norm",
                norm,
                "a number above 0, or none for no clipping",
            ));
        }
        let pool = options.n_threads.map(|n_threads| {
            let builder = rayon::ThreadPoolBuilder::new().num_threads(n_threads);
            let builder = builder.thread_name(|index| format!("train-{index}"));
            builder
                .build()
                .map_err(|error| TrainingError::Threads(error.to_string()))
        });
        let build_options = BuildOptions {
            seed: options.seed,
            compute: options.compute,
            base_storage: options.base_storage,
        };
        let (decoder, parameters) = build(config, source, &method, build_options)?;
        Ok(Trainer {
            optimizer: OptimizerState::new(&options.optimizer, &parameters)?,
            gradients: Gradients::new(&parameters),
            pool: pool.transpose()?,
            decoder,
            parameters,
            method,
            options,
            _memory: KeptMemory,
        })
    }

    /// Returns the number of steps made, which is the number of the next one.
    pub fn step_count(&self) -> u64 {
        self.optimizer.n_steps
    }

    /// Returns the model's shape.
    pub fn config(&self) -> &DecoderConfig {
        &self.decoder.config
    }

    /// Returns all weights.
    pub fn parameters(&self) -> &Parameters<T> {
        &self.parameters
    }

    /// Returns all weights, to start from others.
    pub fn parameters_mut(&mut self) -> &mut Parameters<T> {
        &mut self.parameters
    }

    /// Makes one optimizer step over the rows of all micro-batches, which count as one batch.
    ///
    /// Before every layer of both directions it asks `is_stopped`; a step that is stopped changes nothing and returns nothing.
    pub fn step(&mut self, batches: &[Batch], is_stopped: &(dyn Fn() -> bool + Sync)) -> Result<Option<StepReport>> {
        match self.pool.take() {
            Some(pool) => {
                let result = pool.install(|| self.step_here(batches, is_stopped));
                self.pool = Some(pool);
                result
            }
            None => self.step_here(batches, is_stopped),
        }
    }

    fn step_here(&mut self, batches: &[Batch], is_stopped: &(dyn Fn() -> bool + Sync)) -> Result<Option<StepReport>> {
        let step = self.step_count();
        let n_targets: usize = batches.iter().map(Batch::n_targets).sum();
        if n_targets == 0 {
            return Err(TrainingError::Batch(
                "no token of the step's rows is a target".to_owned(),
            ));
        }
        self.gradients.clear();
        let dropout = Stream::new(self.options.seed).child(DROPOUT).child(step);
        let mut sum = 0.0;
        for (index, batch) in (0..).zip(batches) {
            let options = GradientOptions {
                loss_scale: 1.0 / n_targets as f64,
                recompute: self.options.recompute,
                dropout: dropout.child(index),
            };
            let loss = self
                .decoder
                .accumulate(&self.parameters, &mut self.gradients, batch, options, is_stopped)?;
            let Some(loss) = loss else { return Ok(None) };
            sum += loss;
        }
        let loss = sum / n_targets as f64;
        if !loss.is_finite() {
            return Err(not_finite("the loss", step));
        }
        let grad_norm = clip(&mut self.gradients, self.options.max_grad_norm);
        if !grad_norm.is_finite() {
            return Err(not_finite("the gradient", step));
        }
        let learning_rate = self.options.schedule.rate(step);
        self.optimizer.step(
            &self.options.optimizer,
            learning_rate,
            &mut self.parameters,
            &mut self.gradients,
        );
        Ok(Some(StepReport {
            step,
            loss,
            grad_norm,
            learning_rate,
            n_tokens: batches.iter().map(Batch::n_tokens).sum(),
            n_targets,
        }))
    }

    /// Returns the sum of a batch's targets' losses, without dropout; over [`Batch::n_targets`] it is the mean.
    pub fn evaluate(&self, batch: &Batch) -> Result<f64> {
        self.install(|| self.decoder.evaluate(&self.parameters, batch))
    }

    /// As [`Trainer::evaluate`], but asks `is_stopped` before every layer; when it is, returns nothing.
    pub fn evaluate_until(&self, batch: &Batch, is_stopped: &(dyn Fn() -> bool + Sync)) -> Result<Option<f64>> {
        self.install(|| self.decoder.evaluate_until(&self.parameters, batch, is_stopped))
    }

    /// Returns the logits of some tokens of a batch, `[tokens, vocab_size]`.
    ///
    /// # Panics
    /// If a token lies outside the batch.
    pub fn logits(&self, batch: &Batch, tokens: &[usize]) -> Result<Vec<T>> {
        self.install(|| self.decoder.logits(&self.parameters, batch, tokens))
    }

    fn install<R: Send>(&self, run: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(run),
            None => run(),
        }
    }
}

fn not_finite(what: &str, step: u64) -> TrainingError {
    TrainingError::NotFinite {
        what: what.to_owned(),
        step,
    }
}
