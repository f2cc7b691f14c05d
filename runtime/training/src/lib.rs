//! Training mathematics: forward and backward of one decoder graph, losses, optimizers and the step that ties them, without an autograd.
//!
//! What: full training, LoRA, rsLoRA and DoRA of Llama, Mistral and Qwen2 over packed rows of tokens, equal to Transformers with PEFT. What not: no data files, no
//! tokenizer, no templates, no clock, no recipe, no jobs; the caller brings rows and gets losses, weights and files.
//!
//! | module | knows |
//! | --- | --- |
//! | [`Batch`] | rows packed without padding, targets shifted inside each |
//! | [`Method`], [`LoraMethod`] | what is trained, in the words of PEFT's LoraConfig |
//! | [`Decoder`] | the graph, forward and backward; memory and cost are sketched there |
//! | [`Stored`], [`GgufWeights`] | frozen matrices as they lie: bf16, f16, blocks of GGUF |
//! | [`Schedule`], [`Optimizer`] | rates and moments, as Transformers, torch and bitsandbytes compute them |
//! | [`Trainer`] | the optimizer step, evaluation, resume |
//! | [`Census`], [`MemoryEstimate`] | how much there is to train, and how much memory a run will take |
//! | [`output`] | PEFT directories, whole models, checkpoints on disk |
//!
//! Every loop is generic over [`Real`]: f32 trains, f64 proves the gradients by finite differences.
//!
//! **Invariant:** the same inputs give the same bits, with any number of threads: no sum is ever split among them.
//!
//! ```no_run
//! use witness_formats::{FileSet, hf::HfConfig, safetensors::SafeTensors};
//! use witness_training::{Batch, Decay, LoraMethod, Method, Optimizer, Sample, Schedule, Trainer, TrainerOptions};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let files = FileSet::from_directory("model".as_ref())?;
//! let schedule = Schedule { learning_rate: 2e-4, decay: Decay::Cosine, warmup_steps: 10, n_steps: 100 };
//! let options = TrainerOptions {
//!     schedule,
//!     optimizer: Optimizer::default(),
//!     max_grad_norm: Some(1.0),
//!     recompute: Default::default(),
//!     seed: 42,
//!     n_threads: None,
//!     compute: Default::default(),
//!     base_storage: Default::default(),
//! };
//! let method = Method::Lora(Box::new(LoraMethod::new(16, 32.0, &["q_proj", "v_proj"])?));
//! let config = HfConfig::load(&files)?.decoder()?;
//! let mut trainer: Trainer = Trainer::new(&config, &SafeTensors::open(&files)?, method, options)?;
//! let batch = Batch::pack([Sample { ids: &[1, 2, 3], is_target: &[false, true, true] }])?;
//! let report = trainer.step(&[batch], &|| false)?;
//! println!("{report:?}");
//! trainer.write_adapter("adapter".as_ref(), Some("model"))?;
//! # Ok(())
//! # }
//! ```

mod attention;
mod batch;
mod build;
mod census;
mod decoder;
mod error;
mod kernels;
mod linear;
mod matmul;
mod memory;
mod method;
mod nf4;
mod numbers;
mod optimizer;
pub mod output;
mod parameters;
mod product;
mod random;
mod real;
mod rope;
mod schedule;
mod stored;
mod trainer;

pub use batch::{BATCH_TOKENS_MAX, Batch, Sample};
pub use build::{BuildOptions, RandomWeights, build};
pub use census::Census;
pub use decoder::{Decoder, GradientOptions, Recompute};
pub use error::{Result, TrainingError};
pub use matmul::Compute;
pub use memory::{MemoryEstimate, MemoryRequest};
pub use method::{LoraMethod, Method};
pub use optimizer::{Adafactor, AdamW, Lion, Optimizer, Sgd};
pub use parameters::{Gradients, Parameter, Parameters, WeightSource};
pub use random::Stream;
pub use real::Real;
pub use schedule::{Decay, DecayShape, Schedule};
pub use stored::{BaseStorage, GgufWeights, Rows, Stored};
pub use trainer::{StepReport, Trainer, TrainerOptions};
