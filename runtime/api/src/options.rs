//! `options` of a request and `parameters` of a model: names, types, and what an unknown name was meant to be.
//!
//! The wire carries a map. [`Options::read`] checks it once: a known name with a value of a wrong type is an error, an unknown name is
//! ignored with a warning (Ollama does so, and editors rely on it), which names the option that was meant when one is close.

use serde_json::{Map, Value};
use witness_diagnostics::{Diagnostic, Kind, near_miss};

/// Every option that is understood or knowingly accepted, sorted.
pub const KNOWN_OPTIONS: &[&str] = &[
    "chat_cache",
    "f16_kv",
    "frequency_penalty",
    "ignore_eos",
    "logits_all",
    "low_vram",
    "main_gpu",
    "min_p",
    "mirostat",
    "mirostat_eta",
    "mirostat_tau",
    "num_batch",
    "num_ctx",
    "num_gpu",
    "num_keep",
    "num_parallel",
    "num_predict",
    "num_thread",
    "numa",
    "penalize_newline",
    "presence_penalty",
    "repeat_last_n",
    "repeat_penalty",
    "seed",
    "stop",
    "temperature",
    "tfs_z",
    "top_k",
    "top_p",
    "typical_p",
    "use_mlock",
    "use_mmap",
    "vocab_only",
];

/// Accepted because clients send them, without effect on this engine.
const WITHOUT_EFFECT: &[&str] = &[
    "f16_kv",
    "logits_all",
    "low_vram",
    "main_gpu",
    "mirostat",
    "mirostat_eta",
    "mirostat_tau",
    "num_batch",
    "num_gpu",
    "num_keep",
    "numa",
    "penalize_newline",
    "tfs_z",
    "use_mlock",
    "use_mmap",
    "vocab_only",
];

/// Options with their types. A missing one is nothing, so that layers of them can be merged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Context in tokens.
    pub num_ctx: Option<u64>,
    /// Compute threads.
    pub num_thread: Option<u64>,
    /// Ours: requests that the model answers at once; nothing = what the daemon's setting says.
    pub num_parallel: Option<u64>,
    /// Ours: whether chats go to disk when the model is unloaded, and come back from there.
    pub chat_cache: Option<bool>,
    /// Softmax temperature.
    pub temperature: Option<f32>,
    /// Keep the k most likely tokens.
    pub top_k: Option<u32>,
    /// Nucleus probability.
    pub top_p: Option<f32>,
    /// Share of the likeliest token's probability below which tokens are dropped.
    pub min_p: Option<f32>,
    /// Locally typical sampling.
    pub typical_p: Option<f32>,
    /// Tokens that penalties look back over.
    pub repeat_last_n: Option<i64>,
    /// Penalty on repetition.
    pub repeat_penalty: Option<f32>,
    /// Penalty on presence.
    pub presence_penalty: Option<f32>,
    /// Penalty on frequency.
    pub frequency_penalty: Option<f32>,
    /// Random seed. A negative one asks for a fresh seed.
    pub seed: Option<i64>,
    /// Tokens to generate at most; negative = until the context is full.
    pub num_predict: Option<i64>,
    /// Texts that end the answer.
    pub stop: Option<Vec<String>>,
    /// Ours: take the token that ends an answer for one like others.
    pub ignore_eos: Option<bool>,
}

impl Options {
    /// Reads a map of options. Returns them with one warning for each that is ignored.
    pub fn read(map: &Map<String, Value>) -> Result<(Self, Vec<String>), Diagnostic> {
        let mut options = Self::default();
        let mut warnings = Vec::new();
        for (name, value) in map {
            if value.is_null() {
                continue;
            }
            if !options.set(name, value)? {
                warnings.push(warning(name));
            }
        }
        Ok((options, warnings))
    }

    /// Sets one option. Returns false when the name has no effect.
    fn set(&mut self, name: &str, value: &Value) -> Result<bool, Diagnostic> {
        match name {
            "num_ctx" => self.num_ctx = Some(count(name, value)?),
            "num_thread" => self.num_thread = Some(count(name, value)?),
            "num_parallel" => self.num_parallel = Some(count(name, value)?),
            "chat_cache" => self.chat_cache = Some(flag(name, value)?),
            "ignore_eos" => self.ignore_eos = Some(flag(name, value)?),
            "temperature" => self.temperature = Some(number(name, value)?),
            "top_k" => self.top_k = Some(whole(name, value)?.clamp(0, i64::from(u32::MAX)) as u32),
            "top_p" => self.top_p = Some(number(name, value)?),
            "min_p" => self.min_p = Some(number(name, value)?),
            "typical_p" => self.typical_p = Some(number(name, value)?),
            "repeat_last_n" => self.repeat_last_n = Some(whole(name, value)?),
            "repeat_penalty" => self.repeat_penalty = Some(number(name, value)?),
            "presence_penalty" => self.presence_penalty = Some(number(name, value)?),
            "frequency_penalty" => self.frequency_penalty = Some(number(name, value)?),
            "seed" => self.seed = Some(whole(name, value)?),
            "num_predict" => self.num_predict = Some(whole(name, value)?),
            "stop" => self.stop = Some(texts(name, value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Returns these options with every missing one taken from `below`.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            num_ctx: self.num_ctx.or(below.num_ctx),
            num_thread: self.num_thread.or(below.num_thread),
            num_parallel: self.num_parallel.or(below.num_parallel),
            chat_cache: self.chat_cache.or(below.chat_cache),
            temperature: self.temperature.or(below.temperature),
            top_k: self.top_k.or(below.top_k),
            top_p: self.top_p.or(below.top_p),
            min_p: self.min_p.or(below.min_p),
            typical_p: self.typical_p.or(below.typical_p),
            repeat_last_n: self.repeat_last_n.or(below.repeat_last_n),
            repeat_penalty: self.repeat_penalty.or(below.repeat_penalty),
            presence_penalty: self.presence_penalty.or(below.presence_penalty),
            frequency_penalty: self.frequency_penalty.or(below.frequency_penalty),
            seed: self.seed.or(below.seed),
            num_predict: self.num_predict.or(below.num_predict),
            stop: self.stop.or(below.stop),
            ignore_eos: self.ignore_eos.or(below.ignore_eos),
        }
    }
}

fn warning(name: &str) -> String {
    if WITHOUT_EFFECT.contains(&name) {
        return format!("option `{name}` has no effect here");
    }
    match near_miss(name, KNOWN_OPTIONS.iter().copied()) {
        Some(meant) => format!("option `{name}` is unknown and ignored; did you mean `{meant}`?"),
        None => format!("option `{name}` is unknown and ignored"),
    }
}

fn wrong(name: &str, wanted: &str, value: &Value) -> Diagnostic {
    Diagnostic::new(
        "witness::api::option_type",
        Kind::Invalid,
        format!("option `{name}` must be {wanted}, not `{value}`"),
    )
    .hint(format!("send `\"{name}\": ...` as {wanted}"))
}

fn number(name: &str, value: &Value) -> Result<f32, Diagnostic> {
    let number = value.as_f64().ok_or_else(|| wrong(name, "a number", value))? as f32;
    if number.is_finite() {
        Ok(number)
    } else {
        Err(wrong(name, "a number that fits 32 bits", value))
    }
}

/// Whole numbers may come as `40.0`, because some clients know only floats.
fn whole(name: &str, value: &Value) -> Result<i64, Diagnostic> {
    value
        .as_i64()
        .or_else(|| {
            value
                .as_f64()
                .filter(|n| n.fract() == 0.0 && n.abs() < 9e15)
                .map(|n| n as i64)
        })
        .ok_or_else(|| wrong(name, "a whole number", value))
}

fn count(name: &str, value: &Value) -> Result<u64, Diagnostic> {
    u64::try_from(whole(name, value)?)
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| wrong(name, "a whole number above 0", value))
}

fn flag(name: &str, value: &Value) -> Result<bool, Diagnostic> {
    value.as_bool().ok_or_else(|| wrong(name, "true or false", value))
}

fn texts(name: &str, value: &Value) -> Result<Vec<String>, Diagnostic> {
    if let Some(one) = value.as_str() {
        return Ok(vec![one.to_owned()]);
    }
    value
        .as_array()
        .and_then(|list| list.iter().map(|item| item.as_str().map(str::to_owned)).collect())
        .ok_or_else(|| wrong(name, "a text or a list of texts", value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<(Options, Vec<String>), Diagnostic> {
        Options::read(value.as_object().unwrap())
    }

    #[test]
    fn known_names_are_sorted_for_the_reader() {
        assert!(KNOWN_OPTIONS.is_sorted());
        assert!(WITHOUT_EFFECT.iter().all(|name| KNOWN_OPTIONS.contains(name)));
    }

    #[test]
    fn types_are_checked_and_unknown_names_are_named() {
        let (options, warnings) = read(json!({
            "temperature": 0, "top_k": 40.0, "seed": -1, "stop": "\n", "num_ctx": 128, "top_p": null,
            "temprature": 1, "mirostat": 2, "banana": 1
        }))
        .unwrap();
        assert_eq!(options.temperature, Some(0.0));
        assert_eq!(options.top_k, Some(40));
        assert_eq!(options.seed, Some(-1));
        assert_eq!(options.stop, Some(vec!["\n".to_owned()]));
        assert_eq!(options.num_ctx, Some(128));
        assert_eq!(options.top_p, None);
        assert_eq!(
            warnings,
            [
                "option `temprature` is unknown and ignored; did you mean `temperature`?",
                "option `mirostat` has no effect here",
                "option `banana` is unknown and ignored",
            ]
        );
        for (value, message) in [
            (
                json!({"temperature": "hot"}),
                "option `temperature` must be a number, not `\"hot\"`",
            ),
            (json!({"seed": 1.5}), "option `seed` must be a whole number, not `1.5`"),
            (
                json!({"num_ctx": 0}),
                "option `num_ctx` must be a whole number above 0, not `0`",
            ),
            (
                json!({"ignore_eos": 1}),
                "option `ignore_eos` must be true or false, not `1`",
            ),
            (
                json!({"stop": [1]}),
                "option `stop` must be a text or a list of texts, not `[1]`",
            ),
        ] {
            assert_eq!(read(value).unwrap_err().message, message);
        }
    }

    #[test]
    fn the_upper_layer_wins() {
        let upper = Options {
            seed: Some(1),
            ..Options::default()
        };
        let lower = Options {
            seed: Some(2),
            top_k: Some(3),
            ..Options::default()
        };
        assert_eq!(
            upper.over(lower),
            Options {
                seed: Some(1),
                top_k: Some(3),
                ..Options::default()
            }
        );
    }
}
