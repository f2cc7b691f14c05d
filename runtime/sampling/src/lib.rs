//! From logits to a token: the sampling chain, log probabilities, stop texts and the JSON constraint.
//!
//! Pure: no I/O, no clock, no randomness but the seed that is passed in. It knows nothing of tokenizers or models; a token is its id and,
//! where the JSON constraint needs them, its bytes.
//!
//! # The chain
//! The order of the stages is that of llama.cpp and Ollama, and each stage sees what the one before it left:
//!
//! 1. **penalties** over the last `repeat_last_n` tokens: repeat (divide or multiply), then frequency and presence (subtract);
//! 2. **mask**, when one is given: a token that it refuses does not exist for the stages below;
//! 3. **top_k**: the k largest logits;
//! 4. **typical_p**: those whose surprise is closest to the entropy, until their probability exceeds `typical_p`;
//! 5. **top_p**: the most likely until their probability reaches `top_p`;
//! 6. **min_p**: those at least `min_p` times as likely as the most likely;
//! 7. **temperature**, then one draw. A temperature of 0 skips stages 3 to 7: the largest logit wins, the lowest id on ties.
//!
//! **Invariant:** the same seed, options, logits and history give the same tokens on every platform. The generator is ChaCha8 and the
//! exponentials and logarithms are this crate's own, made of operations that IEEE 754 defines exactly.
//!
//! # Cost
//! With `top_k` of 40 over 150,000 tokens: one pass that checks every logit and keeps a heap of 40; nothing of the vocabulary's size is
//! allocated or sorted. With `top_k` of 0 the nucleus of `top_p` is found in batches, and without `top_p` the drawn token is found by halving; only
//! `top_k` of 0 with `typical_p` sorts the vocabulary. A mask is asked about candidates in order of probability until enough are found, not about every token.
//!
//! ```
//! use witness_sampling::{Sampler, SamplerConfig};
//! let mut sampler = Sampler::new(SamplerConfig { temperature: 0.0, ..SamplerConfig::default() }, 42)?;
//! let choice = sampler.sample(&mut [0.1, 2.5, -1.0], &[], None)?;
//! assert_eq!(choice.token, 1);
//! # Ok::<(), witness_sampling::SamplingError>(())
//! ```

mod chain;
mod config;
mod error;
pub mod json;
mod logprob;
mod math;
mod penalty;
mod select;
pub mod stops;

pub use chain::{Choice, Sampler};
pub use config::SamplerConfig;
pub use error::SamplingError;
pub use logprob::{LogProbs, log_softmax_of, top_logprobs};
