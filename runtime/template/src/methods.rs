//! Python's methods on strings, lists and dicts. Those of the engine's companion crate serve, behind guards for what would allocate
//! without bound or answer otherwise than Python.

use minijinja::value::{Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};

use crate::{limits, python};

/// Calls a method that the engine itself does not know.
pub(crate) fn call(state: &mut State, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    if value.kind() == ValueKind::String {
        let text = value.as_str().unwrap_or_default();
        match method {
            "strip" | "lstrip" | "rstrip" => return strip(text, method, arguments),
            "split" | "rsplit" => return split(text, method, arguments),
            "replace" => check_replace(text, arguments)?,
            "join" => return join(text, arguments),
            "format" => check_format(text)?,
            "removeprefix" => {
                let (prefix,): (&str,) = from_args(arguments)?;
                return Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)));
            }
            "removesuffix" => {
                let (suffix,): (&str,) = from_args(arguments)?;
                return Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)));
            }
            "partition" | "rpartition" => return partition(text, method, arguments),
            "splitlines" => check_pieces(text.matches(['\n', '\r']).count())?,
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)
}

fn too_large() -> Error {
    Error::new(
        ErrorKind::OutOfFuel,
        "a method of a string would make too large a value",
    )
}

fn check_pieces(n_pieces: usize) -> Result<(), Error> {
    if n_pieces >= limits::METHOD_PIECES_MAX {
        Err(too_large())
    } else {
        Ok(())
    }
}

/// What Python's `str.strip` removes by default.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

fn strip(text: &str, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (characters,): (Option<&str>,) = from_args(arguments)?;
    let is_stripped = |c: char| match characters {
        Some(characters) => characters.contains(c),
        None => is_blank(c),
    };
    Ok(Value::from(match method {
        "lstrip" => text.trim_start_matches(is_stripped),
        "rstrip" => text.trim_end_matches(is_stripped),
        _ => text.trim_matches(is_stripped),
    }))
}

fn split(text: &str, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (separator, splits_max): (Option<&str>, Option<i64>) = from_args(arguments)?;
    // As many pieces as wanted, the rest in the last one.
    let n_max = splits_max
        .and_then(|n| usize::try_from(n).ok())
        .map_or(usize::MAX, |n| n.saturating_add(1));
    let from_end = method == "rsplit";
    let Some(separator) = separator else {
        return split_at_blanks(text, n_max, from_end);
    };
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "split: empty separator"));
    }
    check_pieces(text.matches(separator).count().min(n_max))?;
    Ok(if from_end {
        let mut pieces: Vec<Value> = text.rsplitn(n_max, separator).map(Value::from).collect();
        pieces.reverse();
        Value::from(pieces)
    } else {
        Value::from(text.splitn(n_max, separator).map(Value::from).collect::<Vec<_>>())
    })
}

/// Splits at runs of blanks; no piece is empty.
fn split_at_blanks(text: &str, n_max: usize, from_end: bool) -> Result<Value, Error> {
    let mut pieces = Vec::new();
    let mut rest = text.trim_matches(is_blank);
    while !rest.is_empty() {
        let border = if from_end {
            rest.rfind(is_blank)
                .map(|at| at + rest[at..].chars().next().map_or(1, char::len_utf8))
        } else {
            rest.find(is_blank)
        };
        match border {
            Some(at) if pieces.len() + 1 < n_max => {
                let (before, behind) = rest.split_at(at);
                let (piece, remaining) = if from_end { (behind, before) } else { (before, behind) };
                pieces.push(Value::from(piece));
                rest = remaining.trim_matches(is_blank);
            }
            _ => {
                pieces.push(Value::from(rest));
                break;
            }
        }
        check_pieces(pieces.len())?;
    }
    if from_end {
        pieces.reverse();
    }
    Ok(Value::from(pieces))
}

fn check_replace(text: &str, arguments: &[Value]) -> Result<(), Error> {
    let (old, new, _count): (&str, &str, Option<i32>) = from_args(arguments)?;
    let n_bytes = text
        .matches(old)
        .count()
        .checked_mul(new.len())
        .and_then(|added| added.checked_add(text.len()));
    match n_bytes {
        Some(n_bytes) if n_bytes <= limits::METHOD_BYTES_MAX => Ok(()),
        _ => Err(too_large()),
    }
}

/// Refuses widths and precisions of more than four digits, and those that come from another argument: either makes one number a gigabyte.
fn check_format(text: &str) -> Result<(), Error> {
    let mut n_digits = 0;
    let mut is_in_field = false;
    for c in text.replace("{{", "").replace("}}", "").chars() {
        n_digits = if c.is_ascii_digit() { n_digits + 1 } else { 0 };
        if is_in_field && (c == '{' || n_digits > 4) {
            return Err(too_large());
        }
        is_in_field = c == '{' || (is_in_field && c != '}');
    }
    Ok(())
}

fn join(separator: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (values,): (&Value,) = from_args(arguments)?;
    let mut out = String::new();
    for (i, value) in values.try_iter()?.enumerate() {
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(&python::str(&value)?);
        if out.len() > limits::METHOD_BYTES_MAX {
            return Err(too_large());
        }
    }
    Ok(Value::from(out))
}

fn partition(text: &str, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(arguments)?;
    let found = if method == "partition" {
        text.split_once(separator)
    } else {
        text.rsplit_once(separator)
    };
    let parts = match found {
        Some((before, behind)) => [before, separator, behind],
        None if method == "partition" => [text, "", ""],
        None => ["", "", text],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}
