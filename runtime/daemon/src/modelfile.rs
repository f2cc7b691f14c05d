//! Prints the Modelfile that makes a stored model again. The grammar belongs to another room; this writes its simplest forms only.
//!
//! A model made of one GGUF file names its blob. A model made of a directory's files has no one path, so it names itself: `FROM` a name
//! inherits files and adapters alike.

use std::fmt::Write;

use serde_json::{Map, Value};
use witness_registry::media;

use crate::models::stored::Stored;

/// Returns the text of a Modelfile.
pub(crate) fn print(stored: &Stored) -> String {
    let typed = stored.name.display_typed();
    let mut out = format!("# Modelfile of `{typed}`, printed by `witness show --modelfile`\n");
    let has_blobs_only = stored.manifest.layers_of(media::WITNESS_MODEL_FILE).next().is_none()
        && stored.manifest.layers_of(media::WITNESS_ADAPTER_FILE).next().is_none();
    if has_blobs_only && !stored.base.files.is_empty() {
        push(
            &mut out,
            format_args!("# To build on this model instead of its files:\n# FROM {typed}\n\n"),
        );
        for file in &stored.base.files {
            push(&mut out, format_args!("FROM {}\n", file.path.display()));
        }
        for adapter in &stored.adapters {
            for file in &adapter.files {
                push(
                    &mut out,
                    format_args!("ADAPTER {} {}\n", adapter.name, file.path.display()),
                );
            }
        }
    } else {
        push(
            &mut out,
            format_args!("# Its files and adapters come with its name.\n\nFROM {typed}\n"),
        );
        for adapter in &stored.adapters {
            push(&mut out, format_args!("# adapter: {}\n", adapter.name));
        }
    }
    if let Some(template) = &stored.template {
        push(&mut out, format_args!("TEMPLATE {}\n", quote(template)));
    }
    if let Some(system) = &stored.system {
        push(&mut out, format_args!("SYSTEM {}\n", quote(system)));
    }
    for line in parameter_lines(&stored.parameters) {
        push(&mut out, format_args!("PARAMETER {line}\n"));
    }
    for message in &stored.messages {
        push(
            &mut out,
            format_args!("MESSAGE {} {}\n", message.role, quote(&message.content)),
        );
    }
    for license in &stored.licenses {
        push(&mut out, format_args!("LICENSE {}\n", quote(license)));
    }
    if let Some(requires) = stored
        .config
        .witness
        .as_ref()
        .and_then(|witness| witness.requires.as_ref())
    {
        push(&mut out, format_args!("REQUIRES {requires}\n"));
    }
    out
}

/// Returns parameters as `/api/show` lists them: one `name value` a line, names in a column.
pub(crate) fn parameters(parameters: &Map<String, Value>) -> String {
    let lines: Vec<String> = parameters
        .iter()
        .flat_map(|(name, value)| {
            values(value)
                .into_iter()
                .map(move |value| format!("{name:<30} {value}"))
        })
        .collect();
    lines.join("\n")
}

fn parameter_lines(parameters: &Map<String, Value>) -> Vec<String> {
    parameters
        .iter()
        .flat_map(|(name, value)| values(value).into_iter().map(move |value| format!("{name} {value}")))
        .collect()
}

/// A list is one line per item; texts are quoted as JSON, which the grammar reads.
fn values(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(values).collect(),
        other => vec![other.to_string()],
    }
}

/// Puts a text between triple quotes, which keep everything but themselves; short plain ones stay bare.
fn quote(text: &str) -> String {
    let is_plain = !text.is_empty() && text.trim() == text && !text.contains(['\n', '\r', '"', '#']);
    if is_plain {
        text.to_owned()
    } else {
        format!("\"\"\"{text}\"\"\"")
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parameters_are_one_a_line() {
        let map = json!({"stop": ["<s>", "a \"b\""], "temperature": 0.5});
        assert_eq!(
            parameters(map.as_object().unwrap()),
            "stop                           \"<s>\"\nstop                           \"a \\\"b\\\"\"\ntemperature                    0.5"
        );
    }

    #[test]
    fn texts_that_could_be_misread_are_quoted() {
        assert_eq!(quote("You are Mario."), "You are Mario.");
        assert_eq!(quote(""), "\"\"\"\"\"\"");
        assert_eq!(quote("a\n# b"), "\"\"\"a\n# b\"\"\"");
    }
}
