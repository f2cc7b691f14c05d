//! `witness show`: what a model is made of.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::Value;
use witness_api::{ShowRequest, ShowResponse, ShowWitness};

use super::list::short_id;
use crate::cli::Show;
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::quantity::{ago, size};
use crate::render::table::one_line;

/// Lines of a long text shown in the overview; `--system`, `--license` and so on print it whole.
const EXCERPT_LINES: usize = 3;

/// Shows a model, or one part of it.
pub(crate) fn show(context: &Context, arguments: &Show) -> Outcome {
    let answer = ask(context, &arguments.name, arguments.verbose)?;
    let part = &arguments.part;
    let chosen = [
        (part.modelfile, &answer.modelfile),
        (part.parameters, &answer.parameters),
        (part.template, &answer.template),
        (part.system, &answer.system),
        (part.license, &answer.license),
    ];
    if let Some((_, text)) = chosen.iter().find(|(is_chosen, _)| *is_chosen) {
        return print_whole(text);
    }
    if arguments.json {
        return output::json(&answer);
    }
    output::print(&overview(&answer, arguments.verbose, SystemTime::now()))
}

/// Asks the daemon about a model.
pub(crate) fn ask(context: &Context, name: &str, is_verbose: bool) -> Outcome<ShowResponse> {
    let client = context.daemon()?;
    let request = ShowRequest {
        model: name.to_owned(),
        verbose: Some(is_verbose),
    };
    context
        .wait(client.post("/api/show", &request))
        .map_err(|refusal| context.explain_missing(name, refusal))
}

/// Prints a text with exactly one line end behind it.
pub(crate) fn print_whole(text: &str) -> Outcome {
    if text.is_empty() {
        return Ok(());
    }
    output::line(text.strip_suffix('\n').unwrap_or(text))
}

/// Returns the facts about a model as indented sections.
pub(crate) fn overview(answer: &ShowResponse, is_verbose: bool, now: SystemTime) -> String {
    let mut sections = vec![section("Model", &model_facts(answer, now))];
    if let Some(ours) = &answer.witness {
        sections.push(section("Adapters", &adapters(&ours.adapters, &ours.adapter_info)));
        sections.push(section("Draft", &draft(ours)));
        sections.push(section("Notes", &paragraph(&ours.notes.join("\n"), usize::MAX)));
    }
    sections.push(section(
        "Capabilities",
        &paragraph(&answer.capabilities.join("\n"), usize::MAX),
    ));
    sections.push(section("Parameters", &parameters(&answer.parameters)));
    sections.push(section("System", &paragraph(&answer.system, EXCERPT_LINES)));
    sections.push(section("License", &paragraph(&answer.license, EXCERPT_LINES)));
    if is_verbose {
        let metadata: Vec<Fact> = sorted(&answer.model_info);
        sections.push(section("Metadata", &metadata));
    }
    sections.retain(|section| !section.is_empty());
    sections.join("\n")
}

type Fact = (String, String);

fn model_facts(answer: &ShowResponse, now: SystemTime) -> Vec<Fact> {
    let info = |ending: &str| {
        let found = answer.model_info.iter().find(|(key, _)| key.ends_with(ending));
        found.map(|(_, value)| plain(value)).unwrap_or_default()
    };
    let mut facts: Vec<Fact> = vec![
        ("architecture".into(), answer.details.family.clone()),
        ("parameters".into(), answer.details.parameter_size.clone()),
        ("context length".into(), info(".context_length")),
        ("embedding length".into(), info(".embedding_length")),
        ("quantization".into(), answer.details.quantization_level.clone()),
        ("format".into(), answer.details.format.clone()),
        ("from".into(), answer.details.parent_model.clone()),
        ("modified".into(), ago(&answer.modified_at, now)),
    ];
    if let Some(ours) = &answer.witness {
        facts.push(("digest".into(), short_id(&ours.digest)));
        facts.push(("requires".into(), ours.requires.clone().unwrap_or_default()));
    }
    facts
}

fn adapters(names: &[String], infos: &[Value]) -> Vec<Fact> {
    let fact = |name: &String| {
        let info = infos
            .iter()
            .find(|info| info.get("name").and_then(Value::as_str) == Some(name));
        (
            name.clone(),
            info.map(describe_adapter).unwrap_or_else(|| "-".to_owned()),
        )
    };
    names.iter().map(fact).collect()
}

fn draft(ours: &ShowWitness) -> Vec<Fact> {
    let Some(name) = &ours.draft else { return Vec::new() };
    let field = |key: &str| ours.draft_info.get(key).map(plain).unwrap_or_default();
    let bytes = ours.draft_info.get("bytes").and_then(Value::as_u64);
    let bytes = bytes.map(size).unwrap_or_default();
    let about = format!("{} {} ({bytes})", field("architecture"), field("quantization"));
    vec![(name.clone(), about)]
}

fn describe_adapter(info: &Value) -> String {
    let field = |key: &str| info.get(key).map(plain).unwrap_or_default();
    let bytes = info.get("bytes").and_then(Value::as_u64).map(size).unwrap_or_default();
    format!(
        "{} rank {} alpha {} on {} ({} pairs, {bytes})",
        field("format"),
        field("rank"),
        field("alpha"),
        field("targets"),
        field("pairs")
    )
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Null => String::new(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 => format!("{float}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

fn sorted(map: &serde_json::Map<String, Value>) -> Vec<Fact> {
    let sorted: BTreeMap<&String, &Value> = map.iter().collect();
    sorted
        .into_iter()
        .map(|(key, value)| (key.clone(), plain(value)))
        .collect()
}

/// Splits the lines of `name value`, which the API pads for its own table.
fn parameters(text: &str) -> Vec<Fact> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| match line.trim().split_once(char::is_whitespace) {
            Some((name, value)) => (name.to_owned(), value.trim().to_owned()),
            None => (line.trim().to_owned(), String::new()),
        })
        .collect()
}

fn paragraph(text: &str, lines_max: usize) -> Vec<Fact> {
    let mut lines: Vec<Fact> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| (line.trim_end().to_owned(), String::new()))
        .collect();
    if lines.len() > lines_max {
        lines.truncate(lines_max);
        lines.push(("...".to_owned(), String::new()));
    }
    lines
}

/// Returns a titled block; empty when there are no facts. A fact without a value is a line of its own.
fn section(title: &str, facts: &[Fact]) -> String {
    let is_list = facts.iter().all(|(_, value)| value.is_empty());
    let label_width = facts.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    let mut lines = String::new();
    for (label, value) in facts {
        if is_list {
            lines += &format!("  {}\n", one_line(label));
        } else if !value.is_empty() {
            lines += &format!("  {label:<label_width$}   {}\n", one_line(value));
        }
    }
    if lines.is_empty() {
        lines
    } else {
        format!("{title}\n{lines}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use witness_api::ModelDetails;

    #[test]
    fn the_overview_names_base_adapters_and_texts() {
        let answer = ShowResponse {
            parameters: "temperature                    0\nstop \"<|end|>\"".into(),
            system: "one\ntwo\nthree\nfour".into(),
            details: ModelDetails {
                family: "llama".into(),
                parameter_size: "240K".into(),
                quantization_level: "BF16".into(),
                format: "safetensors".into(),
                ..ModelDetails::default()
            },
            model_info: json!({"llama.context_length": 1024, "llama.embedding_length": 96})
                .as_object()
                .unwrap()
                .clone(),
            capabilities: vec!["completion".into()],
            modified_at: "1970-01-01T00:00:00Z".into(),
            witness: Some(ShowWitness {
                digest: "8a2cf0b1d4e56f7081".into(),
                adapters: vec!["pirate".into()],
                adapter_info: vec![json!({
                    "name": "pirate", "format": "peft", "rank": 1, "alpha": 1.0, "targets": ["o_proj"], "pairs": 1, "bytes": 640
                })],
                draft: Some("parrot".into()),
                draft_info: json!({"architecture": "llama", "quantization": "Q8_0", "bytes": 8000})
                    .as_object()
                    .unwrap()
                    .clone(),
                ..ShowWitness::default()
            }),
            ..ShowResponse::default()
        };
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(120);
        insta::assert_snapshot!(overview(&answer, false, now), @r#"
        Model
          architecture       llama
          parameters         240K
          context length     1024
          embedding length   96
          quantization       BF16
          format             safetensors
          modified           2 minutes ago
          digest             8a2cf0b1d4e5

        Adapters
          pirate   peft rank 1 alpha 1 on o_proj (1 pairs, 640 B)

        Draft
          parrot   llama Q8_0 (8.0 kB)

        Capabilities
          completion

        Parameters
          temperature   0
          stop          "<|end|>"

        System
          one
          two
          three
          ...
        "#);
    }
}
