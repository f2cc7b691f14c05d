//! `witness plugin list|show|check`: the plugins that the daemon finds, and why it refuses others.

use std::process::ExitCode;

use serde_json::Value;
use witness_api::{PluginCheckRequest, PluginReport, PluginsResponse};
use witness_diagnostics::{Diagnostic, Kind, near_misses};

use super::list::dash;
use crate::cli::{Plugin, PluginCheck, PluginShow};
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::table::Table;

/// Runs a verb of `plugin`.
pub(crate) fn plugin(context: &Context, verb: &Plugin) -> Outcome<ExitCode> {
    match verb {
        Plugin::List(arguments) => list(context, arguments.json).map(|()| ExitCode::SUCCESS),
        Plugin::Show(arguments) => show(context, arguments).map(|()| ExitCode::SUCCESS),
        Plugin::Check(arguments) => check(context, arguments),
    }
}

fn list(context: &Context, is_json: bool) -> Outcome {
    let answer = plugins(context)?;
    if is_json {
        return output::json(&answer);
    }
    let mut table = Table::new(["NAME", "VERSION", "ROLES", "ARCHITECTURES", "SCORE", "FILE"]);
    for report in &answer.plugins {
        if let Some(descriptor) = &report.descriptor {
            table.row([
                text(descriptor, "name"),
                text(descriptor, "version"),
                dash(&texts(descriptor, "roles")),
                dash(&texts(descriptor, "architectures")),
                descriptor
                    .get("score")
                    .map(Value::to_string)
                    .unwrap_or_else(|| "0".to_owned()),
                report.path.display().to_string(),
            ]);
        }
    }
    output::print(&table.render(output::width()))?;
    for report in &answer.plugins {
        if let Some(refusal) = &report.refused {
            output::note(&format!("refused `{}`: {refusal}", report.path.display()));
        }
    }
    if answer.plugins.is_empty() {
        let directories: Vec<String> = answer
            .directories
            .iter()
            .map(|dir| format!("`{}`", dir.display()))
            .collect();
        output::note(&format!("no plugin in {}", directories.join(", ")));
        output::note("build them with `cargo build --workspace`, or name their directory in WITNESS_PLUGIN_PATH");
    }
    Ok(())
}

fn show(context: &Context, arguments: &PluginShow) -> Outcome {
    let answer = plugins(context)?;
    let name_of = |report: &PluginReport| report.descriptor.as_ref().map(|descriptor| text(descriptor, "name"));
    let found = answer.plugins.iter().find(|report| {
        name_of(report).as_deref() == Some(&arguments.name) || report.path.as_os_str() == arguments.name.as_str()
    });
    let Some(report) = found else {
        let names: Vec<String> = answer.plugins.iter().filter_map(name_of).collect();
        let mut missing = Diagnostic::new(
            "witness::cli::plugin_not_found",
            Kind::NotFound,
            format!("no plugin `{}` is here", arguments.name),
        );
        for meant in near_misses(&arguments.name, names.iter().map(String::as_str)) {
            missing = missing.hint(format!("did you mean `{meant}`?"));
        }
        return Err(missing.hint("`witness plugin list` shows what is here, and what was refused"));
    };
    print(report, arguments.json)
}

/// Checks one file. A refusal is the answer, and also the exit code.
fn check(context: &Context, arguments: &PluginCheck) -> Outcome<ExitCode> {
    let path = std::path::absolute(&arguments.path).map_err(|error| {
        Diagnostic::new("witness::cli::path", Kind::Invalid, "that is no path").cause(error.to_string())
    })?;
    let client = context.daemon()?;
    let request = PluginCheckRequest { path };
    let report: PluginReport = context.wait(client.post("/api/witness/plugins/check", &request))?;
    match &report.refused {
        Some(refusal) if !arguments.json => Err(refusal.clone()),
        refusal => {
            let code = refusal.as_ref().map_or(0, |refusal| refusal.kind.exit_code());
            print(&report, arguments.json)?;
            Ok(ExitCode::from(code))
        }
    }
}

fn plugins(context: &Context) -> Outcome<PluginsResponse> {
    let client = context.daemon()?;
    context.wait(client.get("/api/witness/plugins"))
}

fn print(report: &PluginReport, is_json: bool) -> Outcome {
    if is_json {
        return output::json(report);
    }
    if let Some(refusal) = &report.refused {
        return Err(refusal.clone());
    }
    let empty = Value::Null;
    let descriptor = report.descriptor.as_ref().unwrap_or(&empty);
    let mut out = format!("{} {}\n", text(descriptor, "name"), text(descriptor, "version"));
    let mut fact = |label: &str, value: String| {
        if !value.is_empty() {
            out += &format!("  {label:<14} {value}\n");
        }
    };
    fact("about", text(descriptor, "about"));
    fact("roles", texts(descriptor, "roles"));
    fact("architectures", texts(descriptor, "architectures"));
    fact("formats", formats(descriptor));
    fact("devices", texts(descriptor, "devices"));
    fact("needs", texts(descriptor, "isa"));
    fact(
        "score",
        descriptor.get("score").map(Value::to_string).unwrap_or_default(),
    );
    fact(
        "protocol",
        descriptor.get("protocol").map(Value::to_string).unwrap_or_default(),
    );
    fact("file", report.path.display().to_string());
    output::print(&out)
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn texts(value: &Value, key: &str) -> String {
    let items = value
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

fn formats(descriptor: &Value) -> String {
    let rules = descriptor
        .get("formats")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    rules
        .iter()
        .map(|rule| text(rule, "name"))
        .collect::<Vec<_>>()
        .join(", ")
}
