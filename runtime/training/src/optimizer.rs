//! Optimizers: what moves weights along their gradients, what each remembers of a weight, and clipping by the global norm.
//!
//! | optimizer | remembers, bytes a weight (f32) | follows |
//! | --- | --- | --- |
//! | [`AdamW`] | two moments, 8 | torch |
//! | [`AdamW`] in 8 bits | two moments, 2.03 | bitsandbytes |
//! | [`Lion`] | one moment, 4 | bitsandbytes and the paper |
//! | [`Adafactor`] | sums of a matrix's rows and columns, next to nothing | Transformers |
//! | [`Sgd`] | nothing, or with momentum 4 | torch |
//!
//! **Invariants:** an update is the same to the bit with any number of threads; what is saved of a memory and read back goes on to the bit.

mod adafactor;
mod adamw;
mod adamw8bit;
mod lion;
mod sgd;

use crate::error::{Result, TrainingError};
use crate::kernels::{dot, scale, vectorised};
use crate::parameters::{Gradients, Parameter, Parameters};
use crate::real::Real;

pub use adafactor::Adafactor;
pub use adamw::AdamW;
pub use lion::Lion;
pub use sgd::Sgd;

use adafactor::Factors;
use adamw::Moments;
use adamw8bit::Moments8bit;

/// Which optimizer, with its constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// Adam with decoupled decay.
    AdamW(AdamW),
    /// The same with moments in 8 bits by blocks. Embeddings and parameters of fewer than 4,096 values keep theirs in full, as Transformers and bitsandbytes
    /// have it.
    AdamW8bit(AdamW),
    /// Steps of one size along the sign of a moment.
    Lion(Lion),
    /// Second moments of matrices as products of their rows' and columns' means.
    Adafactor(Adafactor),
    /// Straight down the gradient.
    Sgd(Sgd),
}

impl Default for Optimizer {
    fn default() -> Self {
        Optimizer::AdamW(AdamW::default())
    }
}

impl Optimizer {
    /// Returns the name that saved states bear.
    pub fn name(&self) -> &'static str {
        match self {
            Optimizer::AdamW(_) => "adamw",
            Optimizer::AdamW8bit(_) => "adamw_8bit",
            Optimizer::Lion(_) => "lion",
            Optimizer::Adafactor(_) => "adafactor",
            Optimizer::Sgd(_) => "sgd",
        }
    }

    /// Returns about how many bytes it remembers of so many trained weights: at most that, where they are large matrices.
    pub fn state_bytes(&self, n_trained: usize) -> usize {
        const F32: usize = size_of::<f32>();
        match self {
            Optimizer::AdamW(_) => n_trained.saturating_mul(2 * F32),
            Optimizer::AdamW8bit(_) => n_trained.saturating_mul(2).saturating_add(n_trained / 32),
            Optimizer::Lion(_) => n_trained.saturating_mul(F32),
            Optimizer::Adafactor(adafactor) if adafactor.beta1.is_some() => n_trained.saturating_mul(F32 + 1),
            Optimizer::Adafactor(_) => n_trained / 8,
            Optimizer::Sgd(sgd) if sgd.momentum > 0.0 => n_trained.saturating_mul(F32),
            Optimizer::Sgd(_) => 0,
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Optimizer::AdamW(adamw) | Optimizer::AdamW8bit(adamw) => adamw.check(),
            Optimizer::Lion(lion) => lion.check(),
            Optimizer::Adafactor(adafactor) => adafactor.check(),
            Optimizer::Sgd(sgd) => sgd.check(),
        }
    }
}

const FIRST_MOMENT: &str = "first_moment";
const SECOND_MOMENT: &str = "second_moment";
const MOMENTUM: &str = "momentum";

/// What an optimizer remembers of one trained parameter.
#[derive(Clone, Debug)]
enum Memory<T> {
    Nothing,
    AdamW(Moments<T>),
    AdamW8bit(Moments8bit),
    Lion(Vec<T>),
    Adafactor(Factors<T>),
    Sgd(Vec<T>),
}

/// One array of a memory, as it is saved.
#[derive(Debug)]
pub(crate) struct Array<'a, T> {
    /// What it is, such as `first_moment`.
    pub(crate) kind: &'static str,
    /// Its shape.
    pub(crate) shape: Vec<usize>,
    /// Its numbers.
    pub(crate) values: Values<'a, T>,
}

/// The numbers of an [`Array`].
#[derive(Debug)]
pub(crate) enum Values<'a, T> {
    /// In the type of the computation.
    Real(&'a [T]),
    /// In f32 whatever that type.
    F32(&'a [f32]),
    /// Bytes.
    U8(&'a [u8]),
}

/// Where the arrays of a memory come from when it is made: zeros for a new run, a file for one that goes on.
pub(crate) trait ArraySource<T> {
    /// Returns the array of a kind and shape in the type of the computation.
    fn real(&self, kind: &str, shape: &[usize]) -> Result<Vec<T>>;
    /// Returns an array of f32.
    fn f32(&self, kind: &str, shape: &[usize]) -> Result<Vec<f32>>;
    /// Returns an array of bytes.
    fn u8(&self, kind: &str, shape: &[usize]) -> Result<Vec<u8>>;
}

/// A new run's arrays.
struct Zeros;

impl<T: Real> ArraySource<T> for Zeros {
    fn real(&self, _kind: &str, shape: &[usize]) -> Result<Vec<T>> {
        Ok(vec![T::ZERO; shape.iter().product()])
    }

    fn f32(&self, _kind: &str, shape: &[usize]) -> Result<Vec<f32>> {
        Ok(vec![0.0; shape.iter().product()])
    }

    fn u8(&self, _kind: &str, shape: &[usize]) -> Result<Vec<u8>> {
        Ok(vec![0; shape.iter().product()])
    }
}

impl<T: Real> Memory<T> {
    fn make(optimizer: &Optimizer, parameter: &Parameter<T>, source: &dyn ArraySource<T>) -> Result<Memory<T>> {
        let shape = &parameter.shape;
        Ok(match optimizer {
            Optimizer::AdamW8bit(_) if adamw8bit::is_quantized(parameter) => {
                Memory::AdamW8bit(Moments8bit::make(shape, source)?)
            }
            Optimizer::AdamW(_) | Optimizer::AdamW8bit(_) => Memory::AdamW(Moments {
                first: source.real(FIRST_MOMENT, shape)?,
                second: source.real(SECOND_MOMENT, shape)?,
            }),
            Optimizer::Lion(_) => Memory::Lion(source.real(FIRST_MOMENT, shape)?),
            Optimizer::Adafactor(adafactor) => Memory::Adafactor(Factors::make(adafactor, shape, source)?),
            Optimizer::Sgd(sgd) if sgd.momentum > 0.0 => Memory::Sgd(source.real(MOMENTUM, shape)?),
            Optimizer::Sgd(_) => Memory::Nothing,
        })
    }

    fn arrays(&self, shape: &[usize]) -> Vec<Array<'_, T>> {
        let whole = |kind, values| Array {
            kind,
            shape: shape.to_vec(),
            values: Values::Real(values),
        };
        match self {
            Memory::Nothing => Vec::new(),
            Memory::AdamW(Moments { first, second }) => {
                vec![whole(FIRST_MOMENT, first), whole(SECOND_MOMENT, second)]
            }
            Memory::AdamW8bit(moments) => moments.arrays(shape),
            Memory::Lion(moment) => vec![whole(FIRST_MOMENT, moment)],
            Memory::Adafactor(factors) => factors.arrays(shape),
            Memory::Sgd(momentum) => vec![whole(MOMENTUM, momentum)],
        }
    }
}

/// What an optimizer remembers of all trained parameters, in their order.
#[derive(Clone, Debug)]
pub(crate) struct OptimizerState<T> {
    memories: Vec<Memory<T>>,
    /// Steps made.
    pub(crate) n_steps: u64,
}

impl<T: Real> OptimizerState<T> {
    /// Returns the memory of a run that has made no step.
    pub(crate) fn new(optimizer: &Optimizer, parameters: &Parameters<T>) -> Result<OptimizerState<T>> {
        OptimizerState::make(optimizer, parameters, 0, |_| Zeros)
    }

    /// Returns the memory of a run that has made some steps, from the source that there is for each parameter.
    pub(crate) fn make<'a, S: ArraySource<T>>(
        optimizer: &Optimizer,
        parameters: &'a Parameters<T>,
        n_steps: u64,
        source: impl Fn(&'a Parameter<T>) -> S,
    ) -> Result<OptimizerState<T>> {
        let memories = parameters.trained();
        let memories = memories.map(|parameter| Memory::make(optimizer, parameter, &source(parameter)));
        Ok(OptimizerState {
            memories: memories.collect::<Result<_>>()?,
            n_steps,
        })
    }

    /// Moves every trained parameter by one step of rate `rate`. May use the gradients as room to work in.
    pub(crate) fn step(
        &mut self,
        optimizer: &Optimizer,
        rate: f64,
        parameters: &mut Parameters<T>,
        gradients: &mut Gradients<T>,
    ) {
        self.n_steps += 1;
        let step = self.n_steps;
        for ((parameter, gradient), memory) in parameters.trained_with(gradients).zip(&mut self.memories) {
            match (optimizer, memory) {
                (Optimizer::AdamW(adamw) | Optimizer::AdamW8bit(adamw), Memory::AdamW(moments)) => {
                    moments.update(adamw, rate, step, parameter, gradient);
                }
                (Optimizer::AdamW8bit(adamw), Memory::AdamW8bit(moments)) => {
                    moments.update(adamw, rate, step, parameter, gradient);
                }
                (Optimizer::Lion(lion), Memory::Lion(moment)) => lion.update(rate, moment, parameter, gradient),
                (Optimizer::Adafactor(adafactor), Memory::Adafactor(factors)) => {
                    factors.update(adafactor, rate, step, parameter, gradient);
                }
                (Optimizer::Sgd(sgd), Memory::Sgd(momentum)) => sgd.update(rate, Some(momentum), parameter, gradient),
                (Optimizer::Sgd(sgd), Memory::Nothing) => sgd.update(rate, None, parameter, gradient),
                (optimizer, memory) => unreachable!("the memory of {optimizer:?} is {memory:?}"),
            }
        }
    }

    /// Returns every trained parameter with the arrays of its memory, in one order.
    pub(crate) fn arrays<'a>(
        &'a self,
        parameters: &'a Parameters<T>,
    ) -> impl Iterator<Item = (&'a Parameter<T>, Vec<Array<'a, T>>)> {
        let pairs = parameters.trained().zip(&self.memories);
        pairs.map(|(parameter, memory)| (parameter, memory.arrays(&parameter.shape)))
    }
}

/// Returns what a weight keeps of itself where decay is decoupled.
fn kept<T: Real>(parameter: &Parameter<T>, rate: f64, weight_decay: f64) -> T {
    match parameter.is_decayed {
        true => T::from_f64(1.0 - rate * weight_decay),
        false => T::ONE,
    }
}

fn check_shares(shares: &[(&'static str, f64)]) -> Result<()> {
    match shares.iter().find(|(_, share)| !(0.0..1.0).contains(share)) {
        Some((key, share)) => Err(TrainingError::setting(key, share, "a number from 0 to below 1")),
        None => Ok(()),
    }
}

fn check_from_zero(values: &[(&'static str, f64)]) -> Result<()> {
    match values.iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0)) {
        Some((key, value)) => Err(TrainingError::setting(key, value, "a number from 0")),
        None => Ok(()),
    }
}

/// Returns the norm of all gradients together, and scales them so that it is at most `norm_max`, where one is given.
pub(crate) fn clip<T: Real>(gradients: &mut Gradients<T>, norm_max: Option<f64>) -> f64 {
    let square: f64 = gradients.iter().map(square_of).sum();
    let norm = square.sqrt();
    if let Some(norm_max) = norm_max {
        let factor = (norm_max / (norm + 1e-6)).min(1.0);
        if factor < 1.0 {
            for gradient in gradients.iter_mut() {
                scale(gradient, T::from_f64(factor));
            }
        }
    }
    norm
}

/// Sums squares by blocks whose sums are added in f64, in one order whatever the threads.
fn square_of<T: Real>(values: &[T]) -> f64 {
    values
        .chunks(1_024)
        .map(|block| {
            vectorised(
                #[inline(always)]
                || dot(block, block),
            )
            .to_f64()
        })
        .sum()
}

#[cfg(test)]
mod tests;
