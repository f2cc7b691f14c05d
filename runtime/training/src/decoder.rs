//! The decoder of Llama, Mistral and Qwen2: forward and backward over a packed batch.
//!
//! What a layer keeps for its backward pass, in numbers a token: its input `d`, queries and the attention's output `2 q`, keys and values `2 kv`, one log-sum a
//! head, the middle of the residual stream `d`, gate and up `2 f`, and a rank a LoRA. With [`Recompute::Layers`] only its input `d` is kept, and the layer is
//! computed twice. For the shape of SmolLM2-135M (d 576, q 576, kv 192, f 1536, 30 layers) at 1,024 tokens: 0.72 GB kept, or 0.09 GB recomputed at some 40 % more
//! time (processor time of a LoRA step, x86-64 Linux, 2026-11-22). [`MemoryEstimate`](crate::MemoryEstimate) reckons the whole.
//!
//! Cost: `2 N` floating-point operations a token forward and `2 N` backward for `N` weights, `2 N` more where they are trained. Layers below the lowest trained
//! parameter have no backward pass, and the output matrix is computed for targets alone, by chunks of some hundred rows.

mod layer;
mod output;

use witness_formats::hf::DecoderConfig;

use crate::batch::Batch;
use crate::error::Result;
use crate::linear::{Linear, Pass};
use crate::matmul::Compute;
use crate::numbers::Numbers;
use crate::parameters::{Gradients, ParameterId, Parameters};
use crate::random::Stream;
use crate::real::Real;
use crate::rope::{Frequencies, Rotation};

pub(crate) use output::chunk_rows_max;

/// Whether activations are kept or made again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recompute {
    /// All are kept.
    #[default]
    Nothing,
    /// Those of each layer are made again from its input when its backward pass comes ("gradient checkpointing").
    Layers,
}

/// How one batch enters the gradients.
#[derive(Clone, Copy, Debug)]
pub struct GradientOptions {
    /// What the sum of the targets' losses is multiplied by: one over the number of targets of the whole optimizer step.
    pub loss_scale: f64,
    /// Whether activations are kept.
    pub recompute: Recompute,
    /// The random numbers of dropout.
    pub dropout: Stream,
}

/// A decoder: modules that name their parameters. The parameters themselves are held beside it.
#[derive(Debug)]
pub struct Decoder {
    pub(crate) config: DecoderConfig,
    pub(crate) frequencies: Frequencies,
    pub(crate) embedding: ParameterId,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: ParameterId,
    pub(crate) head: Linear,
    pub(crate) compute: Compute,
}

/// One layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) input_norm: ParameterId,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) o: Linear,
    pub(crate) post_norm: ParameterId,
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) window: Option<usize>,
}

/// What all layers need to know of one pass.
pub(crate) struct Context<'a, T> {
    pub(crate) config: &'a DecoderConfig,
    pub(crate) parameters: &'a Parameters<T>,
    pub(crate) batch: &'a Batch,
    pub(crate) rotation: Rotation<T>,
    pub(crate) pass: Pass,
}

impl Decoder {
    /// Returns the shape of the model.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Adds the gradients of a batch, and returns the sum of its targets' losses.
    ///
    /// Asks `is_stopped` before every layer of both directions; when it is, returns nothing and leaves the gradients half added.
    pub fn accumulate<T: Real>(
        &self,
        parameters: &Parameters<T>,
        gradients: &mut Gradients<T>,
        batch: &Batch,
        options: GradientOptions,
        is_stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<f64>> {
        let context = self.context(parameters, batch, Some(options.dropout))?;
        let lowest = self.lowest_trained(parameters);
        let mut inputs = Vec::with_capacity(self.layers.len());
        let mut tapes = Vec::with_capacity(self.layers.len());
        let mut x = self.embed(parameters, batch);
        for (index, layer) in self.layers.iter().enumerate() {
            if is_stopped() {
                return Ok(None);
            }
            let (next, tape) = layer.forward(&context, &x);
            if index >= lowest {
                inputs.push(std::mem::replace(&mut x, next));
                tapes.push((options.recompute == Recompute::Nothing).then_some(tape));
            } else {
                x = next;
            }
        }
        let (loss, mut dx) = self.loss_backward(&context, gradients, &x, options.loss_scale);
        drop(x);
        let is_embedding_trained = parameters.is_trained(self.embedding);
        for (index, layer) in self.layers.iter().enumerate().skip(lowest).rev() {
            let (Some(input), Some(tape)) = (inputs.pop(), tapes.pop()) else {
                break;
            };
            if is_stopped() {
                return Ok(None);
            }
            let tape = tape.unwrap_or_else(|| layer.forward(&context, &input).1);
            let goes_on = index > lowest || is_embedding_trained;
            layer.backward(&context, gradients, tape, &input, &mut dx, goes_on);
        }
        if let Some(dembedding) = gradients.get_mut(self.embedding) {
            let d = self.config.hidden_size;
            for (id, dx) in batch.ids().iter().zip(dx.chunks_exact(d)) {
                let row = &mut dembedding[*id as usize * d..][..d];
                for (sum, dx) in row.iter_mut().zip(dx) {
                    *sum += *dx;
                }
            }
        }
        Ok(Some(loss))
    }

    /// Returns the sum of a batch's targets' losses, without dropout and without gradients.
    pub fn evaluate<T: Real>(&self, parameters: &Parameters<T>, batch: &Batch) -> Result<f64> {
        let context = self.context(parameters, batch, None)?;
        let x = self.hidden(&context);
        Ok(self.loss(&context, &x))
    }

    /// Returns the logits of some tokens of a batch, `[tokens, vocab_size]`.
    ///
    /// # Panics
    /// If a token lies outside the batch.
    pub fn logits<T: Real>(&self, parameters: &Parameters<T>, batch: &Batch, tokens: &[usize]) -> Result<Vec<T>> {
        let context = self.context(parameters, batch, None)?;
        let x = self.hidden(&context);
        Ok(self.logits_of(&context, &x, tokens))
    }

    fn hidden<T: Real>(&self, context: &Context<'_, T>) -> Numbers<T> {
        let x = self.embed(context.parameters, context.batch);
        self.layers.iter().fold(x, |x, layer| layer.forward(context, &x).0)
    }

    fn context<'a, T: Real>(
        &'a self,
        parameters: &'a Parameters<T>,
        batch: &'a Batch,
        dropout: Option<Stream>,
    ) -> Result<Context<'a, T>> {
        let positions_max = match self.config.rope.scaling {
            witness_formats::hf::RopeScaling::Dynamic { .. } => Some(self.config.max_position_embeddings),
            _ => None,
        };
        batch.check(self.config.vocab_size, positions_max)?;
        Ok(Context {
            config: &self.config,
            parameters,
            batch,
            rotation: self.frequencies.rotation(batch.positions()),
            pass: Pass {
                dropout,
                first_row: 0,
                compute: self.compute,
            },
        })
    }

    fn embed<T: Real>(&self, parameters: &Parameters<T>, batch: &Batch) -> Numbers<T> {
        parameters.rows(self.embedding, batch.ids().iter().map(|id| *id as usize))
    }

    /// As [`Decoder::evaluate`], but asks `is_stopped` before every layer; when it is, returns nothing.
    pub fn evaluate_until<T: Real>(
        &self,
        parameters: &Parameters<T>,
        batch: &Batch,
        is_stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<f64>> {
        let context = self.context(parameters, batch, None)?;
        let mut x = self.embed(parameters, batch);
        for layer in &self.layers {
            if is_stopped() {
                return Ok(None);
            }
            x = layer.forward(&context, &x).0;
        }
        Ok(Some(self.loss(&context, &x)))
    }

    /// Returns the first layer that the backward pass must reach; as many as there are when it is none.
    fn lowest_trained<T: Real>(&self, parameters: &Parameters<T>) -> usize {
        if parameters.is_trained(self.embedding) {
            return 0;
        }
        let trained = self.layers.iter().position(|layer| layer.is_trained(parameters));
        trained.unwrap_or(self.layers.len())
    }
}
