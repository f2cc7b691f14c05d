//! Typed, bounded access to one JSON object, with errors that name the file and the field.

use serde_json::{Map, Value};

use crate::{FormatError, Result, error::excerpt};

/// One JSON object of one file, read field by field; null counts as absent.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    pub(crate) file: &'a str,
    pub(crate) map: &'a Map<String, Value>,
}

/// Parses a file whose top is an object.
pub(crate) fn parse_object(file: &str, bytes: &[u8]) -> Result<Map<String, Value>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(bytes).map_err(|error| {
        FormatError::malformed(
            file,
            format!("line {} column {}", error.line(), error.column()),
            "a JSON object",
            excerpt(&error.to_string()),
        )
    })
}

impl<'a> Fields<'a> {
    /// Takes an object; `file` is what errors call it.
    pub fn new(file: &'a str, map: &'a Map<String, Value>) -> Fields<'a> {
        Fields { file, map }
    }

    /// Returns what errors call the file.
    pub fn file(&self) -> &'a str {
        self.file
    }

    /// Says whether a field is there, even as null.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Returns a field that is there and not null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, expected: impl Into<String>, found: &Value) -> FormatError {
        FormatError::malformed(self.file, format!("`{key}`"), expected, excerpt(&found.to_string()))
    }

    fn typed<T>(&self, key: &str, expected: &str, convert: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => convert(value).map(Some).ok_or_else(|| self.wrong(key, expected, value)),
        }
    }

    /// Returns an integer from `least` to `most`. 16.0 counts as 16, as Python's writers may leave it.
    pub fn opt_count(&self, key: &str, least: u64, most: u64) -> Result<Option<usize>> {
        self.typed(key, &format!("an integer from {least} to {most}"), |value| {
            let number = whole(value)?;
            (least..=most)
                .contains(&number)
                .then_some(usize::try_from(number).ok()?)
        })
    }

    /// The same with a default for an absent field.
    pub fn count_or(&self, key: &str, default: usize, least: u64, most: u64) -> Result<usize> {
        Ok(self.opt_count(key, least, most)?.unwrap_or(default))
    }

    /// Returns a finite number.
    pub fn opt_number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a finite number", |value| {
            value.as_f64().filter(|number| number.is_finite())
        })
    }

    /// Returns a finite number above zero.
    pub fn opt_positive(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number above 0", |value| {
            value.as_f64().filter(|number| number.is_finite() && *number > 0.0)
        })
    }

    /// Returns a truth value.
    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// Returns a string.
    pub fn opt_str(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// Returns a nested object.
    pub fn opt_object(&self, key: &str) -> Result<Option<Fields<'a>>> {
        let map = self.typed(key, "an object", Value::as_object)?;
        Ok(map.map(|map| Fields { file: self.file, map }))
    }

    /// Returns a list of strings.
    pub fn opt_strings(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.typed(key, "a list of strings", |value| {
            value
                .as_array()?
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect()
        })
    }

    /// Returns a list of finite numbers above zero, at most `most` of them.
    pub fn opt_positives(&self, key: &str, most: usize) -> Result<Option<Vec<f64>>> {
        self.typed(key, &format!("a list of at most {most} numbers above 0"), |value| {
            let list = value.as_array().filter(|list| list.len() <= most)?;
            list.iter()
                .map(|item| item.as_f64().filter(|number| number.is_finite() && *number > 0.0))
                .collect()
        })
    }

    /// Returns one token id or a list of them, at most 4096.
    pub fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        const IDS_MAX: usize = 4096;
        let id = |value: &Value| whole(value).and_then(|number| u32::try_from(number).ok());
        let ids = self.typed(key, "a token id or a list of token ids", |value| match value {
            Value::Array(list) if list.len() <= IDS_MAX => list.iter().map(id).collect(),
            // Some configurations write -1 for "there is none".
            Value::Number(number) if number.as_i64().is_some_and(|number| number < 0) => Some(Vec::new()),
            single => Some(vec![id(single)?]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    /// Returns the first of the token ids.
    pub fn token_id(&self, key: &str) -> Result<Option<u32>> {
        Ok(self.token_ids(key)?.first().copied())
    }
}

/// Returns a JSON number that is a whole one and not negative, written with or without a fraction.
pub(crate) fn whole(value: &Value) -> Option<u64> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    value.as_u64().or_else(|| {
        let number = value.as_f64()?;
        (number.fract() == 0.0 && (0.0..=EXACT_MAX).contains(&number)).then_some(number as u64)
    })
}
