//! From a value as written to the value of a setting: other programs' spellings included, with what was expected when it is neither.

use serde_json::{Map, Number, Value as Json};
use witness_diagnostics::near_miss;

use crate::node::{Node, Value};

/// What a value should have been, in words, and what to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) what: String,
    pub(crate) hint: String,
}

impl Expected {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            hint: String::new(),
        }
    }
}

pub(crate) type Reading<T> = Result<T, Expected>;

/// Returns `true` or `false`; Python's and YAML 1.1's words for them too.
pub(crate) fn flag(node: &Node) -> Reading<bool> {
    match &node.value {
        Value::Bool(flag) => Ok(*flag),
        Value::Number(number) if number.as_f64() == Some(0.0) => Ok(false),
        Value::Number(number) if number.as_f64() == Some(1.0) => Ok(true),
        Value::Text(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            _ => Err(Expected::new("true or false")),
        },
        _ => Err(Expected::new("true or false")),
    }
}

/// Returns a number; a text that is one counts, since `2e-4` is a text to YAML 1.1.
pub(crate) fn number(node: &Node) -> Option<f64> {
    let number = match &node.value {
        Value::Number(number) => number.as_f64(),
        Value::Text(text) => text.trim().replace('_', "").parse::<f64>().ok(),
        _ => None,
    };
    number.filter(|number| number.is_finite())
}

/// Returns a number within bounds.
pub(crate) fn number_within(node: &Node, min: f64, max: f64) -> Reading<f64> {
    let bounds = match (min, max) {
        (f64::MIN, f64::MAX) => "a number".to_owned(),
        (min, f64::MAX) => format!("a number of {min} or more"),
        (min, max) => format!("a number from {min} to {max}"),
    };
    number(node)
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| Expected::new(bounds))
}

/// Returns a whole number of at least `min`.
pub(crate) fn count(node: &Node, min: u64) -> Reading<u64> {
    let number = match &node.value {
        Value::Number(number) if number.is_u64() => number.as_u64(),
        Value::Text(text) if text.trim().parse::<u64>().is_ok() => text.trim().parse().ok(),
        // Below 2^53 every whole f64 is exact; no setting is larger but a seed, which is written in digits.
        _ => number(node)
            .filter(|number| number.fract() == 0.0 && (0.0..9e15).contains(number))
            .map(|number| number as u64),
    };
    number
        .filter(|number| *number >= min)
        .ok_or_else(|| Expected::new(format!("a whole number of {min} or more")))
}

/// Returns a text; a number or flag as its text.
pub(crate) fn text(node: &Node) -> Reading<String> {
    match &node.value {
        Value::Text(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        _ => Err(Expected::new("a text")),
    }
}

/// Returns a list of texts; one text is split at its commas.
pub(crate) fn texts(node: &Node) -> Reading<Vec<String>> {
    let expected = || Expected::new("a list of texts, as in `[one, two]`");
    match &node.value {
        Value::List(items) => items.iter().map(|item| text(item).map_err(|_| expected())).collect(),
        Value::Text(text) => Ok(text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()),
        _ => Err(expected()),
    }
}

/// Returns one of some words, whatever its case.
pub(crate) fn word(node: &Node, words: &[&str]) -> Reading<String> {
    let expected = |hint: Option<&str>| Expected {
        what: format!("one of {}", words.join(", ")),
        hint: hint.map(|near| format!("did you mean `{near}`?")).unwrap_or_default(),
    };
    // `eval_strategy: no` is a flag to YAML.
    let said = match &node.value {
        Value::Bool(false) => "no".to_owned(),
        Value::Null => "none".to_owned(),
        _ => text(node).map_err(|_| expected(None))?,
    };
    let said = said.trim();
    words
        .iter()
        .find(|word| word.eq_ignore_ascii_case(said))
        .map(|word| (*word).to_owned())
        .ok_or_else(|| expected(near_miss(said, words.iter().copied())))
}

/// Returns a map as JSON; a text that holds a JSON or YAML map counts, as Transformers' command line takes it.
pub(crate) fn map(node: &Node) -> Reading<Map<String, Json>> {
    let parsed = match &node.value {
        Value::Text(text) => crate::node::parse_value(text).to_json(),
        _ => node.to_json(),
    };
    match parsed {
        Json::Object(map) => Ok(map),
        _ => Err(Expected::new("a map, as in `{key: value}`")),
    }
}

/// Returns a number as JSON: whole numbers without a point.
pub(crate) fn json_number(number: f64) -> Json {
    if number.fract() == 0.0 && number.abs() < 9e15 {
        return Json::from(number as i64);
    }
    Number::from_f64(number).map_or(Json::Null, Json::Number)
}
