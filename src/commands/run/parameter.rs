//! A parameter as typed text becomes a typed value, by the table that Modelfiles are read with.

use serde_json::Value;
use witness_diagnostics::{Diagnostic, Kind};
use witness_modelfile::{ParameterValue, parameters};

use crate::context::Outcome;

/// Reads a value. The name comes back as it is known; a text becomes a list of texts, so that several `stop`s can be collected.
pub(crate) fn read(name: &str, text: &str) -> Outcome<(String, Value)> {
    let value = parameters::parse_value(name, text)
        .map_err(|error| Diagnostic::new("witness::cli::parameter", Kind::Invalid, error.message).hint(error.hint))?;
    let name = parameters::find(name)
        .map_or(name, |parameter| parameter.name)
        .to_owned();
    let value = match value {
        ParameterValue::Text(text) => Value::from(vec![text]),
        other => other.to_json(),
    };
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_typed_and_names_are_checked() {
        let value = |name, text| read(name, text).map(|(_, value)| value).map_err(|error| error.message);
        assert_eq!(value("temperature", "0.5"), Ok(Value::from(0.5)));
        assert_eq!(value("SEED", "7"), Ok(Value::from(7)));
        assert_eq!(value("stop", "###"), Ok(Value::from(vec!["###"])));
        assert!(value("seed", "often").is_err());
        let unknown = read("temprature", "1").unwrap_err();
        assert!(unknown.hints[0].contains("temperature"), "{:?}", unknown.hints);
    }
}
