//! The config file: TOML, one level, only keys of the table.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use witness_diagnostics::near_misses;

use crate::error::SettingsError;
use crate::keys::{self, KEYS};
use crate::resolve::{Raw, Source};

/// A config file is a page of text; anything longer is a mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads the file. A missing one is empty unless somebody asked for it by name.
pub(crate) fn read(path: &Path, is_named: bool) -> Result<BTreeMap<&'static str, Raw>, SettingsError> {
    let unreadable = |source| SettingsError::FileUnreadable {
        path: path.to_owned(),
        source,
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_named => return Ok(BTreeMap::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    let bytes = text.len() as u64;
    if bytes > FILE_BYTES_MAX {
        return Err(SettingsError::FileTooLong {
            path: path.to_owned(),
            bytes,
            bytes_max: FILE_BYTES_MAX,
        });
    }
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<BTreeMap<&'static str, Raw>, SettingsError> {
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| SettingsError::FileSyntax {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    let origin = format!("`{}`", path.display());
    table
        .into_iter()
        .map(|(name, value)| {
            let key = keys::find(&name)
                .filter(|key| key.name != "config")
                .ok_or_else(|| unknown(&name, &origin))?;
            let shown = value.to_string();
            let raw = to_raw(value).ok_or_else(|| SettingsError::Value {
                key: key.name,
                origin: origin.clone(),
                layer: Source::File,
                value: shown,
                expected: "a text, a number, or a list of texts".into(),
            })?;
            Ok((key.name, raw))
        })
        .collect()
}

/// Makes the error for a key that the table does not have.
pub(crate) fn unknown(name: &str, origin: &str) -> SettingsError {
    SettingsError::UnknownKey {
        key: name.to_owned(),
        origin: origin.to_owned(),
        near: near_misses(name, KEYS.iter().map(|key| key.name)),
    }
}

fn to_raw(value: toml::Value) -> Option<Raw> {
    Some(match value {
        toml::Value::String(text) => Raw::Text(text.into()),
        toml::Value::Integer(number) => Raw::Text(number.to_string().into()),
        toml::Value::Float(number) => Raw::Text(number.to_string().into()),
        toml::Value::Array(items) => Raw::List(
            items
                .into_iter()
                .map(|item| match item {
                    toml::Value::String(text) => Some(text.into()),
                    _ => None,
                })
                .collect::<Option<_>>()?,
        ),
        _ => return None,
    })
}
