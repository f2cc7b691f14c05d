//! Filters, tests and functions that Hugging Face adds to Jinja, or that Python's Jinja has and the engine decides otherwise.

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};

use crate::python::{self, JsonLayout};
use crate::{keep, rewrite};

/// Widest indentation of `tojson`, in spaces. Each line carries it once a level.
const INDENT_MAX: i64 = 64;

/// The source of an error made by `raise_exception`, by which it is told from the engine's own.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(pub(crate) String);

/// Adds everything to an environment.
pub(crate) fn add_to(environment: &mut Environment<'_>) {
    environment.add_function("raise_exception", raise_exception);
    environment.add_function(rewrite::GENERATION, generation_block);
    environment.add_function(rewrite::KEEP, keep::keep);
    environment.add_filter("tojson", to_json);
    environment.add_filter("string", |value: &Value| python::str(value));
    environment.add_filter("int", to_int);
    environment.add_filter("float", to_float);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = python::str(message)?;
    Err(Error::new(ErrorKind::InvalidOperation, "the template raised an exception").with_source(Refusal(message)))
}

/// Returns what the block inside a generation tag writes.
fn generation_block(state: &mut State, arguments: Kwargs) -> Result<Value, Error> {
    let caller: Value = arguments.get("caller")?;
    caller.call(state, &[])
}

/// `tojson` as Hugging Face defines it: `json.dumps(x, ensure_ascii=False, indent=.., separators=.., sort_keys=..)`.
fn to_json(value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let argument = |position: usize, name: &str| -> Result<Option<Value>, Error> {
        let given = match positional.get(position) {
            Some(given) => Some(given.clone()),
            None => named.get::<Option<Value>>(name)?,
        };
        Ok(given.filter(|given| !given.is_none() && !given.is_undefined()))
    };
    let indent = match argument(1, "indent")? {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(i64::try_from(indent)?.clamp(0, INDENT_MAX) as usize),
        }),
    };
    let (item_separator, key_separator) = match argument(2, "separators")? {
        Some(pair) => (
            python::str(&pair.get_item(&Value::from(0))?)?,
            python::str(&pair.get_item(&Value::from(1))?)?,
        ),
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let layout = JsonLayout {
        ensure_ascii: argument(0, "ensure_ascii")?.is_some_and(|flag| flag.is_true()),
        indent,
        item_separator,
        key_separator,
        sort_keys: argument(3, "sort_keys")?.is_some_and(|flag| flag.is_true()),
    };
    named.assert_all_used()?;
    python::json_dumps(value, &layout)
}

/// `int` as Jinja defines it: what is no number becomes the default.
fn to_int(value: &Value, default: Option<Value>, base: Option<u32>, named: Kwargs) -> Result<Value, Error> {
    let default = or_named(default, "default", &named)?.unwrap_or(Value::from(0));
    let base = match base {
        Some(base) => base,
        None => named.get::<Option<u32>>("base")?.unwrap_or(10),
    };
    named.assert_all_used()?;
    let parsed = match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => return Ok(value.clone()),
        ValueKind::Number => f64::try_from(value.clone()).ok().and_then(truncated),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            integer_of(text, base).or_else(|| float_of(text).and_then(truncated))
        }
        _ => None,
    };
    Ok(parsed.map_or(default, Value::from))
}

/// `float` as Jinja defines it: what is no number becomes the default.
fn to_float(value: &Value, default: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let default = or_named(default, "default", &named)?.unwrap_or(Value::from(0.0));
    named.assert_all_used()?;
    let parsed = match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        ValueKind::String => float_of(value.as_str().unwrap_or_default()),
        _ => None,
    };
    Ok(parsed.map_or(default, Value::from))
}

fn or_named(positional: Option<Value>, name: &str, named: &Kwargs) -> Result<Option<Value>, Error> {
    match positional {
        Some(given) => Ok(Some(given)),
        None => named.get(name),
    }
}

fn truncated(number: f64) -> Option<i128> {
    number.is_finite().then_some(number as i128)
}

/// Python allows single underscores between digits.
fn without_underscores(text: &str) -> Option<String> {
    let text = text.trim();
    let is_misplaced = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    (!is_misplaced).then(|| text.replace('_', ""))
}

fn integer_of(text: &str, base: u32) -> Option<i128> {
    let text = without_underscores(text)?;
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    let prefix = match base {
        2 => "0b",
        8 => "0o",
        16 => "0x",
        _ => "",
    };
    let digits = digits.strip_prefix(prefix).unwrap_or(digits);
    if !(2..=36).contains(&base) || digits.starts_with(['+', '-']) {
        return None;
    }
    i128::from_str_radix(digits, base).ok().map(|number| sign * number)
}

fn float_of(text: &str) -> Option<f64> {
    without_underscores(text)?.parse().ok()
}

/// In Python nothing is not iterable; in the engine it is.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// In Python whatever has a length and items is a sequence: strings and dicts too.
fn is_sequence(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Undefined | ValueKind::Seq | ValueKind::String | ValueKind::Map
    )
}
