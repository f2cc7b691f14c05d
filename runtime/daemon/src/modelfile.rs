//! The Modelfile that makes a stored model again, and its parameters as `/api/show` lists them. The grammar is `witness-modelfile`'s; this
//! says what belongs into one.
//!
//! A model made of GGUF files names their blobs. A model made of a directory's files has no one path, so it names itself: `FROM` a name
//! inherits files and adapters alike.

use serde_json::{Map, Value};
use witness_modelfile::{Instruction, Modelfile, ParameterValue, Role};
use witness_registry::media;

use crate::models::stored::Stored;

/// Returns the text of a Modelfile.
pub(crate) fn print(stored: &Stored) -> String {
    let typed = stored.name.display_typed();
    let is_of_directories = stored.manifest.layers.iter().any(|layer| {
        matches!(
            layer.media_type.as_str(),
            media::WITNESS_MODEL_FILE | media::WITNESS_ADAPTER_FILE
        )
    });
    let is_draft_one_file = stored.draft.as_ref().is_none_or(|draft| draft.files.len() == 1);
    let is_of_blobs = !is_of_directories && is_draft_one_file;
    let (note, sources) = if is_of_blobs && !stored.base.files.is_empty() {
        (
            format!("# To build on this model instead of its files:\n# FROM {typed}\n"),
            sources(stored),
        )
    } else {
        let adapters: String = stored
            .adapters
            .iter()
            .map(|adapter| format!("# adapter: {}\n", adapter.name))
            .chain(stored.draft.iter().map(|draft| format!("# draft: {}\n", draft.name)))
            .collect();
        (
            format!("# Its files, adapters and draft come with its name.\n{adapters}"),
            vec![Instruction::From(typed.clone())],
        )
    };
    let modelfile: Modelfile = sources.into_iter().chain(texts(stored)).collect();
    format!("# Modelfile of `{typed}`, printed by `witness show --modelfile`\n{note}\n{modelfile}")
}

fn sources(stored: &Stored) -> Vec<Instruction> {
    let from = stored
        .base
        .files
        .iter()
        .map(|file| Instruction::From(file.path.display().to_string()));
    let adapters = stored.adapters.iter().flat_map(|adapter| {
        adapter.files.iter().map(|file| Instruction::Adapter {
            path: file.path.display().to_string(),
            name: Some(adapter.name.clone()),
        })
    });
    let draft = stored.draft.iter().flat_map(|draft| &draft.files);
    let draft = draft.map(|file| Instruction::Draft(file.path.display().to_string()));
    from.chain(adapters).chain(draft).collect()
}

fn texts(stored: &Stored) -> Vec<Instruction> {
    let mut all = Vec::new();
    all.extend(
        stored
            .config
            .witness
            .as_ref()
            .and_then(|witness| witness.requires.clone())
            .map(Instruction::Requires),
    );
    all.extend(stored.template.clone().map(Instruction::Template));
    all.extend(stored.system.clone().map(Instruction::System));
    all.extend(each(&stored.parameters).filter_map(|(name, value)| {
        Some(Instruction::Parameter {
            name: name.to_owned(),
            value: parameter(value)?,
        })
    }));
    all.extend(stored.messages.iter().filter_map(|message| {
        // The grammar knows no tool's turn; the model keeps it in its layer.
        let role = Role::ALL.into_iter().find(|role| role.as_str() == message.role)?;
        Some(Instruction::Message {
            role,
            content: message.content.clone(),
        })
    }));
    all.extend(stored.licenses.iter().cloned().map(Instruction::License));
    all
}

/// Returns a value in the grammar's types; what none of them holds was not written by us.
fn parameter(value: &Value) -> Option<ParameterValue> {
    match value {
        Value::Bool(flag) => Some(ParameterValue::Boolean(*flag)),
        Value::String(text) => Some(ParameterValue::Text(text.clone())),
        Value::Number(number) => number
            .as_i64()
            .map(ParameterValue::Integer)
            .or_else(|| number.as_f64().map(ParameterValue::Float)),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
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
}
