//! What a run is a run of: told at its first start, held against when it is resumed, and kept beside the product.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{FileRef, TrainRequest, TrainSettings};

use crate::checkpoint::Store;
use crate::error::{internal, io};
use crate::folder::write_json;
use crate::prepare::Prepared;
use crate::state::RunState;

/// The file in the run's directory.
const FILE: &str = "run.json";

/// What must not change between a run's starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Seconds since 1970 at the first start: the time that templates are told, so that every start encodes the same tokens.
    pub(crate) started_at: i64,
    base: String,
    adapter: Vec<String>,
    data: Vec<String>,
    validation: Vec<String>,
    template: Option<String>,
    settings: Value,
}

impl Identity {
    /// Returns a text that tells this run from others.
    pub(crate) fn key(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Reads what the run was begun as and proves that the request is the same run; or begins it.
pub(crate) fn settle(request: &TrainRequest, store: &Store) -> Result<Identity, Diagnostic> {
    let path = store.folder().join(FILE);
    let mut asked = Identity {
        started_at: request.started_at as i64,
        base: request.base_digest.clone(),
        adapter: request
            .adapter
            .as_ref()
            .map_or(Vec::new(), |adapter| names(&adapter.files)),
        data: names(&request.data),
        validation: names(&request.validation),
        template: request.template.clone(),
        settings: without_threads(&request.settings)?,
    };
    if request.resume && path.exists() {
        let bytes = std::fs::read(&path).map_err(|error| io("read", &path, &error))?;
        let begun: Identity = serde_json::from_slice(&bytes).map_err(|error| {
            Diagnostic::new(
                "witness::train::run_damaged",
                Kind::Damaged,
                format!("`{}` does not say what the run was begun as", path.display()),
            )
            .cause(error.to_string())
            .hint("start a new run; an adapter of this one can be gone on from")
        })?;
        asked.started_at = begun.started_at;
        if let Some(what) = difference(&begun, &asked) {
            return Err(Diagnostic::new(
                "witness::train::another_run",
                Kind::Conflict,
                format!(
                    "the run in `{}` was begun with another {what}",
                    store.folder().join("").display()
                ),
            )
            .hint("resume it as it was begun, or start a new run"));
        }
        return Ok(begun);
    }
    if !store.steps().is_empty() {
        return Err(Diagnostic::new(
            "witness::train::not_empty",
            Kind::Conflict,
            format!(
                "`{}` holds the checkpoints of another run",
                store.folder().join("").display()
            ),
        )
        .hint("resume that run, or give another directory"));
    }
    store.folder().replace_file(FILE, |path| write_json(path, &asked))?;
    Ok(asked)
}

fn names(files: &[FileRef]) -> Vec<String> {
    files
        .iter()
        .map(|file| format!("{} {}", file.name, file.digest))
        .collect()
}

fn difference(begun: &Identity, asked: &Identity) -> Option<String> {
    for (what, is_same) in [
        ("base", begun.base == asked.base),
        ("adapter to go on from", begun.adapter == asked.adapter),
        ("data", begun.data == asked.data),
        ("validation data", begun.validation == asked.validation),
        ("chat template", begun.template == asked.template),
    ] {
        if !is_same {
            return Some(what.to_owned());
        }
    }
    let keys = begun.settings.as_object().into_iter().flatten().map(|(key, _)| key);
    let keys = keys.chain(asked.settings.as_object().into_iter().flatten().map(|(key, _)| key));
    let mut changed = keys.filter(|key| begun.settings.get(key) != asked.settings.get(key));
    changed.next().map(|key| {
        let value = |settings: &Value| settings.get(key).map_or("nothing".to_owned(), Value::to_string);
        format!("`{key}`: {}, now {}", value(&begun.settings), value(&asked.settings))
    })
}

/// Returns the settings that decide what is computed; the number of threads does not.
fn without_threads(settings: &TrainSettings) -> Result<Value, Diagnostic> {
    let mut value = serde_json::to_value(settings).map_err(|error| internal(error.to_string()))?;
    if let Some(fields) = value.as_object_mut() {
        fields.shift_remove("threads");
    }
    Ok(value)
}

/// Returns what the host keeps beside the product. Equal runs give equal maps.
pub(crate) fn provenance(request: &TrainRequest, prepared: &Prepared, state: &RunState) -> Map<String, Value> {
    let settings = without_threads(&prepared.settings).unwrap_or_default();
    let mut map = Map::new();
    let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
    set(
        "plugin",
        json!({ "name": "train", "version": env!("CARGO_PKG_VERSION") }),
    );
    set(
        "base",
        json!({ "name": request.base_name, "digest": request.base_digest }),
    );
    if let Some(adapter) = &request.adapter {
        set(
            "adapter",
            json!({ "name": adapter.name, "files": names(&adapter.files) }),
        );
    }
    set(
        "data",
        json!({
            "digest": prepared.plan.data_digest,
            "files": names(&request.data),
            "validation": names(&request.validation),
            "rows": prepared.plan.train.n_rows,
            "validation_rows": prepared.plan.validation.n_rows,
            "targets": prepared.plan.train.n_targets,
        }),
    );
    set("method", settings["method"].clone());
    set("seed", json!(prepared.settings.seed));
    set("steps", json!(state.step));
    set("epochs", json!(state.epoch));
    set("train_loss", json!(state.train_loss()));
    if let Some(loss) = state.eval_loss {
        set("eval_loss", json!(loss));
    }
    if let Some(best) = state.best {
        set("best", json!({ "step": best.step, "eval_loss": best.loss }));
    }
    set("settings", settings);
    map
}
