//! Filters, tests and functions that Hugging Face adds to Jinja, or that Python's Jinja has and the engine decides otherwise.

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};

use crate::generation;
use crate::python::{self, JsonLayout};

/// Widest indentation of `tojson`, in spaces. Each line carries it once a level.
const INDENT_MAX: i64 = 64;

/// The source of an error made by `raise_exception`, by which it is told from the engine's own.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(pub(crate) String);

/// Adds everything to an environment.
pub(crate) fn add_to(environment: &mut Environment<'_>) {
    environment.add_function("raise_exception", raise_exception);
    environment.add_function(generation::FUNCTION, generation_block);
    environment.add_function("cycler", minijinja_contrib::globals::cycler);
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment.add_filter("tojson", to_json);
    environment.add_filter("string", |value: &Value| python::str(value));
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
