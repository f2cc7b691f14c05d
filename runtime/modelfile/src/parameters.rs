//! Every option that a Modelfile, a request or the chat's `/set parameter` can name: one table with type, range and meaning.
//!
//! The names are Ollama's. What this program does not honour is in the table too, so that Ollama's Modelfiles parse: its
//! [`Parameter::effect`] says so.

use std::ops::RangeInclusive;

use serde_json::Value as Json;
use witness_diagnostics::near_miss;

/// The typed value of an option.
#[derive(Clone, Debug, PartialEq)]
pub enum ParameterValue {
    /// A whole number.
    Integer(i64),
    /// A finite number.
    Float(f64),
    /// Yes or no.
    Boolean(bool),
    /// A text: one `stop`.
    Text(String),
    /// Several texts: every `stop` of a plan.
    Texts(Vec<String>),
}

impl ParameterValue {
    /// Returns the value as the APIs carry it.
    pub fn to_json(&self) -> Json {
        match self {
            ParameterValue::Integer(number) => Json::from(*number),
            ParameterValue::Float(number) => Json::from(*number),
            ParameterValue::Boolean(flag) => Json::from(*flag),
            ParameterValue::Text(text) => Json::from(text.as_str()),
            ParameterValue::Texts(texts) => Json::from(texts.as_slice()),
        }
    }
}

/// The type of an option and what it may be.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// A whole number within bounds.
    Integer(RangeInclusive<i64>),
    /// A number within bounds.
    Float(RangeInclusive<f64>),
    /// `true` or `false`.
    Boolean,
    /// A text; the option may be given several times.
    Texts,
}

/// When an option takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// With each answer.
    Generation,
    /// When the model is loaded.
    Load,
    /// Never: known for the sake of Ollama's Modelfiles.
    None,
}

/// One option.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Its type and bounds.
    pub value_type: Type,
    /// When it takes effect.
    pub effect: Effect,
    /// What it does, in one line.
    pub help: &'static str,
}

/// An option or value that is not in the table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParameterError {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

impl From<ParameterError> for witness_diagnostics::Diagnostic {
    fn from(error: ParameterError) -> Self {
        Self::new(
            "witness::modelfile::parameter",
            witness_diagnostics::Kind::Invalid,
            error.message,
        )
        .hint(error.hint)
    }
}

const fn row(name: &'static str, value_type: Type, effect: Effect, help: &'static str) -> Parameter {
    Parameter {
        name,
        value_type,
        effect,
        help,
    }
}

const ANY_FLOAT: RangeInclusive<f64> = f64::MIN..=f64::MAX;
const FROM_ZERO: RangeInclusive<f64> = 0.0..=f64::MAX;
const SHARE: RangeInclusive<f64> = 0.0..=1.0;
const U32: RangeInclusive<i64> = 0..=u32::MAX as i64;
const ANY_INTEGER: RangeInclusive<i64> = i64::MIN..=i64::MAX;

/// Every option.
pub const TABLE: [Parameter; 33] = [
    row(
        "temperature",
        Type::Float(FROM_ZERO),
        Effect::Generation,
        "softmax temperature; 0 = always the most likely token",
    ),
    row(
        "top_k",
        Type::Integer(U32),
        Effect::Generation,
        "keep the k most likely tokens; 0 = all",
    ),
    row(
        "top_p",
        Type::Float(SHARE),
        Effect::Generation,
        "keep the smallest set of tokens whose probability reaches p; 1 = all",
    ),
    row(
        "min_p",
        Type::Float(SHARE),
        Effect::Generation,
        "drop tokens less likely than p times the most likely; 0 = none",
    ),
    row(
        "typical_p",
        Type::Float(SHARE),
        Effect::Generation,
        "keep the tokens of typical surprise up to probability p; 1 = off",
    ),
    row(
        "repeat_last_n",
        Type::Integer(-1..=U32_MAX),
        Effect::Generation,
        "tokens that the penalties look back over; 0 = none, -1 = the whole context",
    ),
    row(
        "repeat_penalty",
        Type::Float(f64::MIN_POSITIVE..=f64::MAX),
        Effect::Generation,
        "divides the logits of repeated tokens; 1 = off",
    ),
    row(
        "presence_penalty",
        Type::Float(ANY_FLOAT),
        Effect::Generation,
        "subtracted once from the logit of a repeated token; 0 = off",
    ),
    row(
        "frequency_penalty",
        Type::Float(ANY_FLOAT),
        Effect::Generation,
        "subtracted from the logit of a token for each repetition; 0 = off",
    ),
    row(
        "seed",
        Type::Integer(ANY_INTEGER),
        Effect::Generation,
        "the same seed gives the same answer; -1 = a fresh one each time",
    ),
    row(
        "num_predict",
        Type::Integer(-2..=U32_MAX),
        Effect::Generation,
        "most tokens of an answer; -1 or -2 = until the context is full",
    ),
    row(
        "stop",
        Type::Texts,
        Effect::Generation,
        "a text that ends the answer and is not part of it; may be repeated",
    ),
    row("num_ctx", Type::Integer(1..=U32_MAX), Effect::Load, "context in tokens"),
    row(
        "num_thread",
        Type::Integer(0..=4096),
        Effect::Load,
        "compute threads; 0 = one for each physical core",
    ),
    row(
        "num_keep",
        Type::Integer(-1..=U32_MAX),
        Effect::None,
        "tokens of the prompt that shifting the context keeps; contexts are never shifted here",
    ),
    row(
        "num_batch",
        Type::Integer(U32),
        Effect::None,
        "tokens of a prompt that are run at once; chosen by the plugin here",
    ),
    row(
        "num_gpu",
        Type::Integer(ANY_INTEGER),
        Effect::None,
        "layers on the GPU; decided by which plugin serves the model here",
    ),
    row(
        "main_gpu",
        Type::Integer(ANY_INTEGER),
        Effect::None,
        "the GPU that small tensors are on",
    ),
    row(
        "num_gqa",
        Type::Integer(ANY_INTEGER),
        Effect::None,
        "groups of attention heads; read from the model here",
    ),
    row(
        "use_mmap",
        Type::Boolean,
        Effect::None,
        "map the weights; always done here",
    ),
    row(
        "use_mlock",
        Type::Boolean,
        Effect::None,
        "keep the weights from being swapped out",
    ),
    row("numa", Type::Boolean, Effect::None, "place memory by NUMA node"),
    row("low_vram", Type::Boolean, Effect::None, "use less memory of the GPU"),
    row("f16_kv", Type::Boolean, Effect::None, "keep keys and values in f16"),
    row(
        "logits_all",
        Type::Boolean,
        Effect::None,
        "return logits of every token",
    ),
    row("vocab_only", Type::Boolean, Effect::None, "load the vocabulary alone"),
    row(
        "penalize_newline",
        Type::Boolean,
        Effect::None,
        "let the penalties count line breaks; they always do here",
    ),
    row(
        "tfs_z",
        Type::Float(ANY_FLOAT),
        Effect::None,
        "tail free sampling; removed from Ollama too",
    ),
    row(
        "mirostat",
        Type::Integer(0..=2),
        Effect::None,
        "Mirostat sampling; removed from Ollama too",
    ),
    row(
        "mirostat_tau",
        Type::Float(ANY_FLOAT),
        Effect::None,
        "target entropy of Mirostat",
    ),
    row(
        "mirostat_eta",
        Type::Float(ANY_FLOAT),
        Effect::None,
        "learning rate of Mirostat",
    ),
    row(
        "rope_frequency_base",
        Type::Float(ANY_FLOAT),
        Effect::None,
        "base of the rotary embedding; read from the model here",
    ),
    row(
        "rope_frequency_scale",
        Type::Float(ANY_FLOAT),
        Effect::None,
        "scale of the rotary embedding; read from the model here",
    ),
];

const U32_MAX: i64 = u32::MAX as i64;

/// Returns the option of that name; case does not matter.
pub fn find(name: &str) -> Option<&'static Parameter> {
    TABLE.iter().find(|parameter| parameter.name.eq_ignore_ascii_case(name))
}

/// Returns the typed value of an option given as text; for `stop` the text itself.
///
/// # Errors
/// [`ParameterError`] with the near miss of an unknown name, or with the type and the bounds that a value misses.
pub fn parse_value(name: &str, text: &str) -> Result<ParameterValue, ParameterError> {
    let parameter = find(name).ok_or_else(|| unknown(name))?;
    let name = parameter.name;
    let wrong = |wanted: String| ParameterError {
        message: format!("`{text}` is not a value of `{name}`, which takes {wanted}"),
        hint: format!("`{name}`: {}", parameter.help),
    };
    match &parameter.value_type {
        Type::Integer(bounds) => match text.parse::<i64>() {
            Ok(number) if bounds.contains(&number) => Ok(ParameterValue::Integer(number)),
            _ => Err(wrong(integers(bounds))),
        },
        Type::Float(bounds) => match text.parse::<f64>() {
            Ok(number) if bounds.contains(&number) => Ok(ParameterValue::Float(number)),
            _ => Err(wrong(floats(bounds))),
        },
        // The spellings that Ollama's parser takes.
        Type::Boolean => match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(ParameterValue::Boolean(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(ParameterValue::Boolean(false)),
            _ => Err(wrong("`true` or `false`".to_owned())),
        },
        Type::Texts if text.is_empty() => Err(wrong("a text that is not empty".to_owned())),
        Type::Texts => Ok(ParameterValue::Text(text.to_owned())),
    }
}

fn unknown(name: &str) -> ParameterError {
    let names = TABLE.iter().map(|parameter| parameter.name);
    let hint = match near_miss(name, names) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let honoured = TABLE.iter().filter(|parameter| parameter.effect != Effect::None);
            format!(
                "the options are {}",
                honoured.map(|parameter| parameter.name).collect::<Vec<_>>().join(", ")
            )
        }
    };
    ParameterError {
        message: format!("`{name}` is not an option"),
        hint,
    }
}

fn integers(bounds: &RangeInclusive<i64>) -> String {
    match (*bounds.start(), *bounds.end()) {
        (i64::MIN, _) => "a whole number".to_owned(),
        (least, U32_MAX) => format!("a whole number of {least} or more"),
        (least, most) => format!("a whole number from {least} to {most}"),
    }
}

fn floats(bounds: &RangeInclusive<f64>) -> String {
    match (*bounds.start(), *bounds.end()) {
        (f64::MIN, _) => "a number".to_owned(),
        (f64::MIN_POSITIVE, _) => "a number above 0".to_owned(),
        (least, f64::MAX) => format!("a number of {least} or more"),
        (least, most) => format!("a number from {least} to {most}"),
    }
}
