//! What is set, by whom, and what it means: for `witness doctor` and for the table in the README.

use std::path::Path;

use serde::Serialize;

use crate::keys::{Default as KeyDefault, KEYS};
use crate::quantity::{format_duration, format_size};
use crate::resolve::{Settings, Source};

/// One setting with its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Described {
    /// Name in the config file.
    pub key: &'static str,
    /// Value as it would be written; empty when unset.
    pub value: String,
    /// Who set it.
    pub source: Source,
    /// Environment variable that sets it.
    pub env_name: &'static str,
    /// One line for people.
    pub help: &'static str,
}

/// Lists every setting with its value and where that came from, in the order of the table.
pub fn describe(settings: &Settings) -> Vec<Described> {
    KEYS.iter()
        .map(|key| Described {
            key: key.name,
            value: value(settings, key.name),
            source: settings.sources.get(key.name).copied().unwrap_or(Source::Default),
            env_name: key.env,
            help: key.help,
        })
        .collect()
}

fn value(settings: &Settings, name: &str) -> String {
    let path = |path: &Path| path.display().to_string();
    match name {
        "home" => path(&settings.home),
        "models" => path(&settings.models),
        "runs" => path(&settings.runs),
        "config" => path(&settings.config_file),
        "host" => settings.host.to_string(),
        "socket" => path(&settings.socket),
        "logs" => path(&settings.logs),
        "plugin_path" => std::env::join_paths(&settings.plugin_path)
            .map(|joined| joined.to_string_lossy().into_owned())
            .unwrap_or_default(),
        "plugins" => path(&settings.user_plugins),
        "keep_alive" => settings.keep_alive.to_string(),
        "max_queue" => settings.queue_max.to_string(),
        "max_loaded_models" => settings.loaded_models_max.to_string(),
        "num_parallel" => settings.parallel.to_string(),
        "kv_cache_type" => settings.kv_cache_type.clone().unwrap_or_default(),
        "context_length" => settings
            .context_length
            .map(|tokens| tokens.to_string())
            .unwrap_or_default(),
        "memory_budget" => settings.memory_budget_bytes.map(format_size).unwrap_or_default(),
        "chat_cache" => format_size(settings.chat_cache_bytes),
        "packed_cache" => format_size(settings.packed_cache_bytes),
        "load_timeout" => format_duration(settings.load_timeout),
        "stall_timeout" => format_duration(settings.stall_timeout),
        "heartbeat" => format_duration(settings.heartbeat),
        "inspect_memory" => format_size(settings.inspect_memory_bytes),
        "inspect_timeout" => format_duration(settings.inspect_timeout),
        "origins" => settings.origins.join(","),
        "log" => settings.log.clone(),
        "isa" => settings.isa.clone().unwrap_or_default(),
        _ => String::new(),
    }
}

/// Writes the table of settings as Markdown, for the README.
pub fn markdown_table() -> String {
    let mut out = String::from("| key | environment | default | meaning |\n| --- | --- | --- | --- |\n");
    for key in KEYS {
        let default = match key.default {
            KeyDefault::Text("") => "none".to_owned(),
            KeyDefault::Text(text) => format!("`{text}`"),
            KeyDefault::Computed(words) | KeyDefault::Unset(words) => words.to_owned(),
        };
        out += &format!("| `{}` | `{}` | {default} | {} |\n", key.name, key.env, key.help);
    }
    out
}
