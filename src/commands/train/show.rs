//! What would be done: the settings by what they are about, what became of every key, and the plan of the daemon.

use serde_json::{Value, json};
use witness_dataset::statistics::{Bar, draw};
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{TrainPlan, TrainSettings};
use witness_recipe::{Fate, Group, SETTINGS};

use super::order::Order;
use super::rows::plan_text;
use crate::context::Outcome;
use crate::render::output;
use crate::render::quantity::{duration, size};
use crate::render::table::one_line;

/// Longest bar of the histogram, in columns.
const BAR_COLUMNS: usize = 40;

/// Prints an order, and its plan when there is one.
pub(crate) fn recipe(order: &Order, plan: Option<&TrainPlan>, budget_bytes: Option<u64>, is_json: bool) -> Outcome {
    // The plan has every default of the plugin filled in.
    let settings = plan.map_or(&order.recipe.settings, |plan| &plan.settings);
    if is_json {
        return output::json(&json!({
            "dialect": order.recipe.dialect,
            "base": order.recipe.base,
            "model": order.model,
            "output_dir": order.recipe.output_dir,
            "data": order.recipe.data,
            "validation": order.recipe.validation,
            "settings": settings,
            "account": order.recipe.account,
            "warnings": order.recipe.warnings,
            "memory_budget_bytes": budget_bytes,
            "plan": plan,
        }));
    }
    let mut text = head(order);
    text += &groups(settings)?;
    text += &account(order);
    for warning in &order.recipe.warnings {
        text += &format!("warning: {}\n", one_line(warning));
    }
    if let Some(plan) = plan {
        text += &plan_lines(plan, budget_bytes);
    }
    output::print(&text)
}

fn head(order: &Order) -> String {
    let recipe = &order.recipe;
    let paths = |sources: &[witness_recipe::DataSource]| {
        let paths: Vec<&str> = sources.iter().map(|source| source.path.as_str()).collect();
        paths.join(", ")
    };
    let none = || "-".to_owned();
    let base = match (&recipe.base, &recipe.settings.scratch) {
        (Some(base), _) => base.clone(),
        (None, Some(_)) => "made from nothing".to_owned(),
        (None, None) => none(),
    };
    let mut facts = vec![
        ("base", base),
        ("model", order.model.clone().unwrap_or_else(none)),
        ("data", paths(&recipe.data)),
        ("validation", paths(&recipe.validation)),
        ("output", recipe.output_dir.clone().unwrap_or_default()),
        ("keys of", recipe.dialect.name().to_owned()),
    ];
    facts.retain(|(_, value)| !value.is_empty());
    lines(&facts)
}

fn lines(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    facts
        .iter()
        .map(|(name, value)| format!("  {name:<width$}  {}\n", one_line(value)))
        .collect()
}

/// Returns the settings, those that belong together under a heading.
fn groups(settings: &TrainSettings) -> Outcome<String> {
    let fields = serde_json::to_value(settings).map_err(|error| {
        Diagnostic::new(
            "witness::cli::settings",
            Kind::Internal,
            "the settings have no JSON form",
        )
        .cause(error.to_string())
    })?;
    let mut text = String::new();
    for group in [Group::Method, Group::Data, Group::Optimization, Group::Watching] {
        let mut facts: Vec<(String, String)> = Vec::new();
        for setting in SETTINGS.iter().filter(|setting| setting.group == group) {
            match fields.get(setting.name) {
                None | Some(Value::Null) => {}
                Some(Value::Object(inner)) => {
                    facts.extend(
                        inner
                            .iter()
                            .map(|(key, value)| (format!("{}.{key}", setting.name), plain(value))),
                    );
                }
                Some(value) => facts.push((setting.name.to_owned(), plain(value))),
            }
        }
        let facts: Vec<(&str, String)> = facts
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()))
            .collect();
        text += &format!("\n{}\n{}", group.title(), lines(&facts));
    }
    Ok(text)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            let items: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

/// Returns every key with what became of it.
fn account(order: &Order) -> String {
    let entries = &order.recipe.account;
    if entries.is_empty() {
        return String::new();
    }
    let mut text = String::from("\nkeys\n");
    let name = |entry: &witness_recipe::Account| one_line(&format!("{}: {}", entry.key, entry.value));
    let width = entries
        .iter()
        .map(|entry| name(entry).chars().count())
        .max()
        .unwrap_or(0)
        .min(48);
    for entry in entries {
        let mark = match entry.fate {
            Fate::Honoured { .. } => "->",
            Fate::NoEffect { .. } => "--",
            Fate::Overridden { .. } => "<-",
        };
        let name = name(entry);
        let padding = " ".repeat(width.saturating_sub(name.chars().count()));
        text += &format!("  {name}{padding}  {mark} {}\n", one_line(&entry.fate.text()));
    }
    text
}

/// Returns what the plan says.
pub(crate) fn plan_lines(plan: &TrainPlan, budget_bytes: Option<u64>) -> String {
    let mut facts = vec![
        (
            "trains",
            format!(
                "{} of {} weights in {} modules",
                plan.n_trained, plan.n_weights, plan.n_modules
            ),
        ),
        ("rows", plan_text(&plan.train)),
    ];
    if plan.validation.n_rows > 0 {
        facts.push(("measured on", plan_text(&plan.validation)));
    }
    facts.push((
        "steps",
        format!(
            "{} ({} an epoch), {} tokens in all",
            plan.n_steps, plan.steps_per_epoch, plan.n_tokens
        ),
    ));
    let memory = match budget_bytes {
        Some(budget) if budget < plan.memory_bytes => {
            format!(
                "{} at most, and {} is what may be used: it does not fit",
                size(plan.memory_bytes),
                size(budget)
            )
        }
        Some(budget) => format!("{} at most, of {}", size(plan.memory_bytes), size(budget)),
        None => format!("{} at most", size(plan.memory_bytes)),
    };
    facts.push(("memory", memory));
    if let Some(seconds) = plan.seconds {
        facts.push((
            "time",
            format!("about {} on this machine", duration((seconds * 1e9) as u64)),
        ));
    }
    let mut text = format!("\nplan\n{}", lines(&facts));
    for other in &plan.alternatives {
        text += &format!(
            "  less memory: `{}` takes {}\n",
            one_line(&other.change),
            size(other.memory_bytes)
        );
    }
    for warning in &plan.warnings {
        text += &format!("warning: {}\n", one_line(warning));
    }
    text
}

/// Draws the lengths of rows in tokens.
pub(crate) fn histogram(bars: &[[u64; 2]]) -> String {
    let width = match bars {
        [first, second, ..] => second[0].saturating_sub(first[0]).max(1),
        _ => 1,
    };
    let bars: Vec<Bar> = bars
        .iter()
        .map(|[from, count]| Bar {
            from: *from,
            to: from + width - 1,
            count: *count,
        })
        .collect();
    draw(&bars, BAR_COLUMNS)
}
