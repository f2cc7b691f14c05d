//! Numbers that steer loading and sampling. Names are those of Ollama's Modelfile parameters.

use serde::{Deserialize, Serialize};

/// Options that take effect when a model is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LoadOptions {
    /// Context in tokens; nothing = the plugin's default (the smaller of 4096 and what the model was made for).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_ctx: Option<u64>,
    /// Compute threads; nothing = physical cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_thread: Option<u64>,
    /// Sequences that may run at once; nothing = 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_parallel: Option<u64>,
    /// How keys and values are stored; nothing = as the plugin sees fit, which is what its estimate counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache_type: Option<KvCacheType>,
    /// Bytes that keys and values of all sequences may take, though never less than one full context needs; nothing = a full context for each sequence that may run.
    /// With less than that, sequences wait for room, or step back and read again what they had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_bytes: Option<u64>,
}

/// How keys and values are stored. The names are those of ggml's types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KvCacheType {
    /// 32 bits a number.
    #[serde(rename = "f32")]
    F32,
    /// 16 bits.
    #[serde(rename = "f16")]
    F16,
    /// 8 bits, and 16 for a scale of each 32.
    #[serde(rename = "q8_0")]
    Q8_0,
}

impl KvCacheType {
    /// All of them, the most exact first.
    pub const ALL: [KvCacheType; 3] = [KvCacheType::F32, KvCacheType::F16, KvCacheType::Q8_0];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            KvCacheType::F32 => "f32",
            KvCacheType::F16 => "f16",
            KvCacheType::Q8_0 => "q8_0",
        }
    }

    /// Returns the type of a name.
    pub fn named(name: &str) -> Option<KvCacheType> {
        KvCacheType::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Returns the bytes that so many numbers take.
    pub fn bytes_of(self, numbers: u64) -> u64 {
        match self {
            KvCacheType::F32 => numbers.saturating_mul(4),
            KvCacheType::F16 => numbers.saturating_mul(2),
            KvCacheType::Q8_0 => numbers.saturating_add(numbers.div_ceil(32).saturating_mul(2)),
        }
    }
}

/// Options of one generation. Every field is already defaulted by the caller's merge; a missing one means this struct's default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplingOptions {
    /// Softmax temperature; 0 = greedy.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 = all.
    pub top_k: u32,
    /// Keep the smallest set whose probability reaches p; 1 = all.
    pub top_p: f32,
    /// Drop tokens less likely than `min_p` times the most likely; 0 = none.
    pub min_p: f32,
    /// Locally typical sampling; 1 = off.
    pub typical_p: f32,
    /// Tokens that the penalties look back over; 0 = none, -1 = the whole context.
    pub repeat_last_n: i64,
    /// Divides (or multiplies, when negative) the logits of repeated tokens; 1 = off.
    pub repeat_penalty: f32,
    /// Subtracted once from the logit of each repeated token.
    pub presence_penalty: f32,
    /// Subtracted from the logit of a repeated token per occurrence.
    pub frequency_penalty: f32,
    /// Random seed; nothing = a fresh one, reported in [`crate::Started`].
    pub seed: Option<u64>,
    /// Tokens to generate at most; -1 = until the context is full, -2 = the same.
    pub num_predict: i64,
    /// Texts that end the answer; they are not part of it. They match across token borders.
    pub stop: Vec<String>,
    /// Take the token that ends an answer for one like others: as many tokens come as were asked for.
    pub ignore_eos: bool,
}

impl Default for SamplingOptions {
    /// Ollama's documented defaults.
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.9,
            min_p: 0.0,
            typical_p: 1.0,
            repeat_last_n: 64,
            repeat_penalty: 1.1,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
            num_predict: -1,
            stop: Vec::new(),
            ignore_eos: false,
        }
    }
}
