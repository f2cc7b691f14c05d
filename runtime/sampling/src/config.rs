//! The options of the chain and their checks. Names and defaults are those of Ollama's Modelfile parameters.

use crate::SamplingError;

/// How to choose tokens. The fields are documented with the stage they steer in the [crate] page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerConfig {
    /// Softmax temperature; 0 or less = greedy.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 = all.
    pub top_k: u32,
    /// Keep the smallest set whose probability reaches p; 1 or more = all.
    pub top_p: f32,
    /// Drop tokens less likely than `min_p` times the most likely; 0 or less = none.
    pub min_p: f32,
    /// Locally typical sampling; 1 or more = off.
    pub typical_p: f32,
    /// How many of the last tokens the penalties look at; 0 = none, negative = all.
    pub repeat_last_n: i64,
    /// Divides the logit of a repeated token when positive, multiplies it when not; 1 = off.
    pub repeat_penalty: f32,
    /// Subtracted once from the logit of each repeated token; 0 = off.
    pub presence_penalty: f32,
    /// Subtracted from the logit of a repeated token for each time it occurred; 0 = off.
    pub frequency_penalty: f32,
}

impl Default for SamplerConfig {
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
        }
    }
}

impl SamplerConfig {
    /// Options that always take the most likely token and change no logit.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            repeat_penalty: 1.0,
            ..Self::default()
        }
    }

    /// Refuses what no stage can work with: numbers that are not finite, and a repeat penalty that is not positive.
    /// What is merely outside its range (a `top_p` of 1.2) acts as the nearest end of that range, as in Ollama.
    pub(crate) fn check(&self) -> Result<(), SamplingError> {
        for (name, value) in [
            ("temperature", self.temperature),
            ("top_p", self.top_p),
            ("min_p", self.min_p),
            ("typical_p", self.typical_p),
            ("repeat_penalty", self.repeat_penalty),
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ] {
            if !value.is_finite() {
                return Err(SamplingError::Option {
                    name,
                    value,
                    wanted: "a finite number",
                });
            }
        }
        if self.repeat_penalty <= 0.0 {
            return Err(SamplingError::Option {
                name: "repeat_penalty",
                value: self.repeat_penalty,
                wanted: "larger than 0 (1 switches it off)",
            });
        }
        Ok(())
    }
}
