//! How much memory a run takes at most, reckoned before it starts.
//!
//! The sum of what [`Trainer`] and [`Decoder`] keep, plus the working buffers of the widest moment, which is either the loss or one layer's backward pass.
//!
//! [`Trainer`]: crate::Trainer
//! [`Decoder`]: crate::Decoder

use witness_formats::hf::DecoderConfig;

use crate::decoder::{Recompute, chunk_rows_max};

/// What a run consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRequest {
    /// All weights, adapter included.
    pub n_weights: usize,
    /// The trained ones among them.
    pub n_trained: usize,
    /// What the optimizer remembers: [`Optimizer::state_bytes`](crate::Optimizer::state_bytes) of the trained ones.
    pub state_bytes: usize,
    /// Tokens of the largest micro-batch.
    pub n_tokens: usize,
    /// The sum of the ranks of one layer's adapters.
    pub layer_ranks: usize,
    /// Whether activations are kept.
    pub recompute: Recompute,
}

/// Where the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Weights.
    pub weight_bytes: usize,
    /// Gradients of the trained ones, and what the optimizer remembers.
    pub optimizer_bytes: usize,
    /// What layers keep for the backward pass.
    pub activation_bytes: usize,
    /// Buffers of one layer, and a chunk of logits.
    pub working_bytes: usize,
}

impl MemoryEstimate {
    /// Reckons a run in f32.
    pub fn new(config: &DecoderConfig, request: MemoryRequest) -> MemoryEstimate {
        const F32: usize = size_of::<f32>();
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
        // Input, q and the attention's output, k and v, log-sums, the middle, gate and up, h of the adapters.
        let tape = 2 * d + 2 * q + 2 * kv + config.n_heads + 2 * f + request.layer_ranks;
        let n_layers = config.n_layers;
        let kept = match request.recompute {
            Recompute::Nothing => n_layers.saturating_mul(tape),
            Recompute::Layers => n_layers.saturating_mul(d).saturating_add(tape),
        };
        // The gradient of the stream, a normalised input and its gradient; besides either two of width f or four of the attention's; and the packed left factor of
        // a product, at most of width f.
        let working = 3 * d + (2 * f).max(4 * q + 4 * kv) + f;
        let logits = request
            .n_tokens
            .min(chunk_rows_max::<f32>(config.vocab_size))
            .saturating_mul(config.vocab_size)
            .saturating_mul(F32);
        let of_tokens = |numbers: usize| request.n_tokens.saturating_mul(numbers).saturating_mul(F32);
        MemoryEstimate {
            weight_bytes: request.n_weights.saturating_mul(F32),
            optimizer_bytes: request
                .n_trained
                .saturating_mul(F32)
                .saturating_add(request.state_bytes),
            activation_bytes: of_tokens(kept),
            working_bytes: of_tokens(working).saturating_add(logits),
        }
    }

    /// Returns the sum.
    pub fn bytes(&self) -> usize {
        let parts = [
            self.weight_bytes,
            self.optimizer_bytes,
            self.activation_bytes,
            self.working_bytes,
        ];
        parts.into_iter().fold(0, usize::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use witness_formats::hf::HfConfig;

    use super::*;

    // SmolLM2-135M's shape at 1,024 tokens took 1.37 GB kept and 0.73 GB recomputed (peak resident set, x86-64 Linux, 2026-11-22).
    // The estimate must not be below that by more than a tenth, nor above it by more than a quarter.
    #[test]
    fn the_estimate_is_near_the_measured_peak() {
        let text = r#"{"model_type": "llama", "num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
            "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": true}"#;
        let config = HfConfig::parse("config.json", text.as_bytes())
            .unwrap()
            .decoder()
            .unwrap();
        for (recompute, measured) in [(Recompute::Nothing, 1.372e9), (Recompute::Layers, 0.732e9)] {
            let request = MemoryRequest {
                n_weights: 136_358_208,
                n_trained: 1_843_200,
                state_bytes: 2 * 4 * 1_843_200,
                n_tokens: 1_024,
                layer_ranks: 64,
                recompute,
            };
            let estimate = MemoryEstimate::new(&config, request);
            let ratio = estimate.bytes() as f64 / measured;
            assert!((0.9..1.25).contains(&ratio), "{ratio} {estimate:?}");
        }
    }
}
