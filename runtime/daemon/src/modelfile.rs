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
            push(&mut out, format_args!("FROM {}\n", path(&file.path)));
        }
        for adapter in &stored.adapters {
            for file in &adapter.files {
                push(
                    &mut out,
                    format_args!("ADAPTER {} AS {}\n", path(&file.path), adapter.name),
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
    for (name, value) in each(&stored.parameters) {
        let value = value.as_str().map_or_else(|| value.to_string(), quote);
        push(&mut out, format_args!("PARAMETER {name} {value}\n"));
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

/// Returns parameters as `/api/show` lists them: one `name value` a line, names in a column, texts in quotes.
pub(crate) fn parameters(parameters: &Map<String, Value>) -> String {
    let lines: Vec<String> = each(parameters)
        .map(|(name, value)| format!("{name:<30} {value}"))
        .collect();
    lines.join("\n")
}

/// Returns every parameter with its value; a list is one entry per item.
fn each(parameters: &Map<String, Value>) -> impl Iterator<Item = (&str, &Value)> {
    parameters.iter().flat_map(|(name, value)| {
        let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        items.iter().map(move |item| (name.as_str(), item))
    })
}

/// Writes a text as the grammar reads it: bare where that is plain, else in quotes, which know no escapes; a text that quotes cannot hold
/// stands between a word and the same word on a line of its own.
fn quote(text: &str) -> String {
    let is_bare =
        !text.is_empty() && !text.contains(['\n', '\r']) && text.trim() == text && !text.starts_with(['"', '<']);
    if is_bare {
        return text.to_owned();
    }
    if !text.contains(['\n', '"']) {
        return format!("\"{text}\"");
    }
    if !text.contains("\"\"\"") && !text.ends_with('"') {
        return format!("\"\"\"{text}\"\"\"");
    }
    let mut word = "END".to_owned();
    while text.lines().any(|line| line.trim_end() == word) {
        word.push('_');
    }
    format!("<<<{word}\n{text}\n{word}")
}

/// Writes a path; one with blanks stands in quotes.
fn path(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    if text.contains(char::is_whitespace) {
        format!("\"{text}\"")
    } else {
        text
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
        for (text, quoted) in [
            ("You are Mario.", "You are Mario."),
            ("", "\"\""),
            (" a", "\" a\""),
            ("a\n# b", "\"\"\"a\n# b\"\"\""),
            ("\n", "\"\"\"\n\"\"\""),
            ("a\n\"\"\"\nEND", "<<<END_\na\n\"\"\"\nEND\nEND_"),
            ("\"quoted\"", "<<<END\n\"quoted\"\nEND"),
        ] {
            assert_eq!(quote(text), quoted);
        }
    }
}
