//! Values printed as Python prints them: `str`, `repr` and `json.dumps`.
//!
//! Templates print conversations, and models were trained on what Python printed. All writing goes through [`Bounded`], so a small value
//! that stands for a huge text (a list that holds the same list many times, many levels deep) ends with an error, not with the memory.

use std::fmt::{self, Write};

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

use crate::limits;

/// Text that refuses to grow beyond [`limits::OUTPUT_BYTES_MAX`].
#[derive(Default)]
pub(crate) struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > limits::OUTPUT_BYTES_MAX {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// Layout of [`json_dumps`], as the keyword arguments of Python's function.
pub(crate) struct JsonLayout {
    pub(crate) ensure_ascii: bool,
    pub(crate) indent: Option<String>,
    pub(crate) item_separator: String,
    pub(crate) key_separator: String,
    pub(crate) sort_keys: bool,
}

/// Returns `str(value)`.
pub(crate) fn str(value: &Value) -> Result<String, Error> {
    bounded(|out| write_str(out, value, 0))
}

/// Returns `json.dumps(value, ...)`.
pub(crate) fn json_dumps(value: &Value, layout: &JsonLayout) -> Result<String, Error> {
    bounded(|out| write_json(out, value, layout, 0))
}

fn bounded(write: impl FnOnce(&mut Bounded) -> Result<(), Error>) -> Result<String, Error> {
    let mut out = Bounded::default();
    write(&mut out)?;
    Ok(out.0)
}

fn check_depth(depth: usize) -> Result<(), Error> {
    if depth > limits::VALUE_DEPTH_MAX {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "a value is nested too deeply to be printed",
        ));
    }
    Ok(())
}

fn write_str(out: &mut Bounded, value: &Value, depth: usize) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(()),
        ValueKind::String => Ok(out.write_str(value.as_str().unwrap_or_default())?),
        _ => write_repr(out, value, depth),
    }
}

fn write_repr(out: &mut Bounded, value: &Value, depth: usize) -> Result<(), Error> {
    check_depth(depth)?;
    match value.kind() {
        ValueKind::Undefined => out.write_str("Undefined")?,
        ValueKind::None => out.write_str("None")?,
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" })?,
        ValueKind::Number => write_number(out, value, ["nan", "inf"])?,
        ValueKind::String => write_quoted(out, value.as_str().unwrap_or_default())?,
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if is_tuple(value) { ('(', ')') } else { ('[', ']') };
            out.write_char(open)?;
            let mut n_items = 0;
            for item in value.try_iter()? {
                if n_items > 0 {
                    out.write_str(", ")?;
                }
                write_repr(out, &item, depth + 1)?;
                n_items += 1;
            }
            if open == '(' && n_items == 1 {
                out.write_char(',')?;
            }
            out.write_char(close)?;
        }
        ValueKind::Map => {
            out.write_char('{')?;
            for (i, key) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.write_str(", ")?;
                }
                write_repr(out, &key, depth + 1)?;
                out.write_str(": ")?;
                write_repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.write_char('}')?;
        }
        _ => write!(out, "{value}")?,
    }
    Ok(())
}

fn is_tuple(value: &Value) -> bool {
    value.downcast_object_ref::<minijinja::value::Tuple>().is_some()
}

/// Writes an integer, or a float as the shortest text that reads back, with an exponent below 1e-4 and from 1e16 on.
fn write_number(out: &mut Bounded, value: &Value, [nan, infinity]: [&str; 2]) -> fmt::Result {
    if value.is_integer() {
        return write!(out, "{value}");
    }
    let number = f64::try_from(value.clone()).unwrap_or(f64::NAN);
    if number.is_nan() {
        return out.write_str(nan);
    }
    if number.is_infinite() {
        return write!(out, "{}{infinity}", if number < 0.0 { "-" } else { "" });
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return write!(out, "{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = number.to_string();
    write!(out, "{plain}{}", if plain.contains('.') { "" } else { ".0" })
}

/// Writes a string as Python's `repr` does: in single quotes, or in double ones when only those need no escape.
fn write_quoted(out: &mut Bounded, text: &str) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.write_char(quote)?;
    for c in text.chars() {
        match c {
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            c if c == quote => write!(out, "\\{c}")?,
            '\0'..='\x1f' | '\x7f'..='\u{a0}' | '\u{ad}' => write!(out, "\\x{:02x}", u32::from(c))?,
            '\u{2000}'..='\u{200f}'
            | '\u{2028}'..='\u{202f}'
            | '\u{205f}'..='\u{206f}'
            | '\u{3000}'
            | '\u{e000}'..='\u{f8ff}'
            | '\u{feff}' => {
                write!(out, "\\u{:04x}", u32::from(c))?;
            }
            c => out.write_char(c)?,
        }
    }
    out.write_char(quote)
}

fn write_json(out: &mut Bounded, value: &Value, layout: &JsonLayout, depth: usize) -> Result<(), Error> {
    check_depth(depth)?;
    match value.kind() {
        ValueKind::None => out.write_str("null")?,
        ValueKind::Bool => out.write_str(if value.is_true() { "true" } else { "false" })?,
        ValueKind::Number => write_number(out, value, ["NaN", "Infinity"])?,
        ValueKind::String => write_json_text(out, value.as_str().unwrap_or_default(), layout.ensure_ascii)?,
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?;
            write_level(out, ['[', ']'], layout, depth, items, |out, item| {
                write_json(out, &item, layout, depth + 1)
            })?;
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if layout.sort_keys {
                keys.sort();
            }
            write_level(out, ['{', '}'], layout, depth, keys.into_iter(), |out, key| {
                match key.kind() {
                    ValueKind::String => write_json(out, &key, layout, depth + 1)?,
                    _ => {
                        let mut text = Bounded::default();
                        write_json(&mut text, &key, layout, depth + 1)?;
                        write_json_text(out, &text.0, layout.ensure_ascii)?;
                    }
                }
                out.write_str(&layout.key_separator)?;
                write_json(out, &value.get_item(&key)?, layout, depth + 1)
            })?;
        }
        kind => {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                format!("tojson: {kind} cannot be written as JSON"),
            ));
        }
    }
    Ok(())
}

fn write_level<T>(
    out: &mut Bounded,
    [open, close]: [char; 2],
    layout: &JsonLayout,
    depth: usize,
    items: impl Iterator<Item = T>,
    mut write_item: impl FnMut(&mut Bounded, T) -> Result<(), Error>,
) -> Result<(), Error> {
    let new_line = |out: &mut Bounded, depth: usize| match &layout.indent {
        None => Ok(()),
        Some(indent) => {
            out.write_char('\n')?;
            (0..depth).try_for_each(|_| out.write_str(indent))
        }
    };
    out.write_char(open)?;
    let mut is_empty = true;
    for item in items {
        if !is_empty {
            out.write_str(&layout.item_separator)?;
        }
        is_empty = false;
        new_line(out, depth + 1)?;
        write_item(out, item)?;
    }
    if !is_empty {
        new_line(out, depth)?;
    }
    Ok(out.write_char(close)?)
}

fn write_json_text(out: &mut Bounded, text: &str, ensure_ascii: bool) -> fmt::Result {
    out.write_char('"')?;
    let mut units = [0u16; 2];
    for c in text.chars() {
        match c {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            '\x08' => out.write_str("\\b")?,
            '\x0c' => out.write_str("\\f")?,
            '\0'..='\x1f' => write!(out, "\\u{:04x}", u32::from(c))?,
            c if ensure_ascii && !c.is_ascii() => {
                for unit in c.encode_utf16(&mut units) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
            c => out.write_char(c)?,
        }
    }
    out.write_char('"')
}
