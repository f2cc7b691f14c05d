//! The request for a run, checked: names, digests, settings; then what a plugin says about it, and whether it fits into memory.

use std::sync::Arc;

use serde_json::{Map, Value};
use witness_api::{DataFile, TrainRequest as Request};
use witness_diagnostics::{Diagnostic, Kind, near_miss};
use witness_plugin_protocol::{
    AdapterSpec, FileRef, ModelSpec, TrainAlternative, TrainPlan, TrainRequest, TrainSettings,
};
use witness_registry::{Digest, Lease, ModelName, Registry, RegistryError};

use super::record::BaseRecord;
use crate::app::App;
use crate::create::order::{check_parameters, parse_digest};
use crate::limits::TRAIN_FILES_MAX;
use crate::models::actor::human_bytes;
use crate::models::library::{blocking, parse_name, shutting_down};
use crate::models::stored::Stored;
use crate::reply::invalid;
use crate::template::Template;
use crate::turn::choose_adapter;

/// A run to be made.
pub(crate) struct RunOrder {
    /// The model that it makes; nothing in a request for a plan alone.
    pub(super) name: Option<ModelName>,
    pub(super) is_new: bool,
    pub(super) request: Request,
    pub(super) settings: TrainSettings,
    pub(super) base: Option<BaseRecord>,
    pub(super) architecture: String,
    pub(super) template: Option<String>,
    /// Adapter of the base to go on from.
    pub(super) adapter: Option<AdapterSpec>,
    /// As the plugin gets them, the paths those of blobs.
    pub(super) base_files: Vec<FileRef>,
    pub(super) data: Vec<FileRef>,
    pub(super) validation: Vec<FileRef>,
    pub(super) memory_bytes: u64,
    pub(super) n_steps: u64,
    /// Keeps every blob named here from the collector.
    pub(super) lease: Lease,
}

impl RunOrder {
    /// Returns an order of nothing.
    #[cfg(test)]
    pub(super) fn for_tests(registry: &Registry) -> Self {
        Self {
            name: ModelName::parse("made").ok(),
            is_new: true,
            request: Request::default(),
            settings: TrainSettings::default(),
            base: None,
            architecture: String::new(),
            template: None,
            adapter: None,
            base_files: Vec::new(),
            data: Vec::new(),
            validation: Vec::new(),
            memory_bytes: 0,
            n_steps: 0,
            lease: registry.lease(&[]),
        }
    }

    /// Checks a request.
    pub(crate) async fn read(app: &Arc<App>, request: Request) -> Result<Self, Diagnostic> {
        let name = match request.model.as_str() {
            "" if request.plans() => None,
            text => Some(parse_name(text)?),
        };
        let settings = settings_of(&request.settings)?;
        if let Some(parameters) = &request.parameters {
            check_parameters(parameters)?;
        }
        let parent = match request.from.as_deref().filter(|from| !from.is_empty()) {
            Some(from) => Some(app.library.stored(from).await?),
            None => None,
        };
        check_base(parent.as_deref(), &settings)?;
        let asked_adapter = request.adapter.as_deref().filter(|name| !name.is_empty());
        let adapter = match (&parent, asked_adapter) {
            (Some(parent), Some(name)) => choose_adapter(parent, Some(name))?,
            (None, Some(name)) => {
                return Err(invalid(
                    "train_from",
                    format!("the adapter `{name}` is one of no model: the request names none in `from`"),
                ));
            }
            (_, None) => None,
        };
        let info = match &parent {
            Some(parent) => Some(app.library.info(parent).await?),
            None => None,
        };
        let own = info.as_ref().and_then(|info| info.chat_template.as_deref());
        let asked = request.template.as_deref().filter(|text| !text.is_empty());
        let layer = asked.or(parent.as_ref().and_then(|parent| parent.template.as_deref()));
        // As an answer is laid out, so are the rows.
        let template = match Template::choose(layer, own) {
            Template::Jinja(text) => Some(text),
            Template::Own | Template::Plain => None,
        };
        let architecture = info.map(|info| info.architecture.clone()).unwrap_or_default();
        let registry = app.library.registry.clone();
        blocking(move || {
            let mut digests: Vec<Digest> = parent.as_ref().map(|parent| parent.digests()).unwrap_or_default();
            for file in request.data.iter().chain(&request.validation) {
                digests.push(parse_digest(&file.name, &file.digest)?);
            }
            let lease = registry.lease(&digests);
            let data = data_files(&registry, &request.data)?;
            if data.is_empty() {
                return Err(
                    invalid("train_data", "the request names no file of rows to learn from").hint(
                        "upload one and name it: `\"data\": [{\"name\": \"rows.jsonl\", \"digest\": \"sha256:..\"}]`",
                    ),
                );
            }
            Ok::<_, Diagnostic>(Self {
                is_new: name
                    .as_ref()
                    .is_some_and(|name| matches!(registry.manifest(name), Err(RegistryError::NotFound { .. }))),
                name,
                settings,
                base: parent.as_ref().map(|parent| base_record(parent)),
                base_files: parent
                    .as_ref()
                    .map(|parent| parent.base.files.clone())
                    .unwrap_or_default(),
                architecture,
                template,
                adapter,
                data,
                validation: data_files(&registry, &request.validation)?,
                memory_bytes: 0,
                n_steps: 0,
                lease,
                request,
            })
        })
        .await
    }

    /// Asks the plugin what the run would do and take.
    pub(crate) async fn plan(&mut self, app: &App) -> Result<Value, Diagnostic> {
        let request = TrainRequest {
            model: ModelSpec {
                files: self.base_files.clone(),
            },
            adapter: self.adapter.clone(),
            base_name: self.base.as_ref().map(|base| base.name.clone()).unwrap_or_default(),
            base_digest: self
                .base
                .as_ref()
                .map(|base| base.files_digest.clone())
                .unwrap_or_default(),
            data: self.data.clone(),
            validation: self.validation.clone(),
            template: self.template.clone(),
            settings: self.settings.clone(),
            directory: Default::default(),
            resume: false,
            started_at: 0.0,
            trial: self.request.trial.unwrap_or(false),
            preview: self.request.preview.clone(),
        };
        let (plugin, plan) = app.engine.plan_training(&request, &self.architecture).await?;
        let read: TrainPlan = serde_json::from_value(plan.clone()).map_err(|error| {
            Diagnostic::new(
                "witness::daemon::plugin_reply",
                Kind::Plugin,
                format!("the plan of plugin `{plugin}` cannot be read"),
            )
            .cause(error.to_string())
            .hint("report it to the plugin's author")
        })?;
        self.memory_bytes = read.memory_bytes;
        self.n_steps = read.n_steps;
        Ok(plan)
    }

    /// Refuses a run that does not fit into memory, unless the request insists.
    pub(crate) async fn refuse_if_too_large(&self, app: &App, plan: &Value) -> Result<(), Diagnostic> {
        let alternatives: Vec<TrainAlternative> = plan
            .get("alternatives")
            .and_then(|list| serde_json::from_value(list.clone()).ok())
            .unwrap_or_default();
        let is_forced = self.request.force.unwrap_or(false);
        refuse_what_does_not_fit(app, self.memory_bytes, &alternatives, is_forced).await
    }
}

/// Refuses what takes more memory than loaded models leave of the budget.
pub(super) async fn refuse_what_does_not_fit(
    app: &App,
    memory_bytes: u64,
    alternatives: &[TrainAlternative],
    is_forced: bool,
) -> Result<(), Diagnostic> {
    if is_forced {
        return Ok(());
    }
    let snapshot = app.models.snapshot().await.ok_or_else(shutting_down)?;
    let free_bytes = app.memory_budget_bytes.saturating_sub(snapshot.used_bytes);
    if memory_bytes <= free_bytes {
        return Ok(());
    }
    let mut diagnostic = Diagnostic::new(
        "witness::daemon::train_memory",
        Kind::Environment,
        format!(
            "the run needs about {} of memory and {} may be used",
            human_bytes(memory_bytes),
            human_bytes(free_bytes)
        ),
    )
    .cause(format!(
        "the budget is {}, of which loaded models take {}",
        human_bytes(app.memory_budget_bytes),
        human_bytes(snapshot.used_bytes)
    ));
    for alternative in alternatives {
        let fits = if alternative.memory_bytes <= free_bytes {
            ""
        } else {
            ", still too much"
        };
        let bytes = human_bytes(alternative.memory_bytes);
        diagnostic = diagnostic.hint(format!("with `{}` it takes about {bytes}{fits}", alternative.change));
    }
    if snapshot.used_bytes > 0 && memory_bytes <= app.memory_budget_bytes {
        diagnostic = diagnostic.hint("it fits when loaded models are gone: `witness stop NAME` unloads one");
    }
    Err(diagnostic.hint("to start it all the same, say `\"force\": true` (`--force`)"))
}

fn check_base(parent: Option<&Stored>, settings: &TrainSettings) -> Result<(), Diagnostic> {
    match (parent, &settings.scratch) {
        (None, None) => Err(invalid("train_from", "the request names no model to start from")
            .hint("name one in `from`, or describe a new one in `settings.scratch`")),
        (Some(parent), Some(_)) => Err(invalid(
            "train_from",
            format!(
                "both `from` (`{}`) and `settings.scratch` say what the run starts from",
                parent.name
            ),
        )
        .hint("leave one of them out")),
        (Some(parent), None) if parent.base.files.is_empty() => Err(Diagnostic::new(
            "witness::daemon::no_weights",
            Kind::Unsupported,
            format!("model `{}` has no weights", parent.name),
        )),
        _ => Ok(()),
    }
}

fn base_record(parent: &Stored) -> BaseRecord {
    BaseRecord {
        name: parent.name.to_string(),
        digest: parent.digest,
        manifest: parent.manifest.clone(),
        files_digest: format!("sha256:{}", parent.base_key),
    }
}

fn data_files(registry: &Registry, files: &[DataFile]) -> Result<Vec<FileRef>, Diagnostic> {
    if files.len() > TRAIN_FILES_MAX {
        return Err(invalid(
            "files_many",
            format!("{} files of rows; at most {TRAIN_FILES_MAX} are taken", files.len()),
        )
        .hint("join them: `witness data merge`"));
    }
    files.iter().map(|file| data_file(registry, file)).collect()
}

/// Finds the blob of a file of rows. Its name is told in messages and leads nowhere.
fn data_file(registry: &Registry, file: &DataFile) -> Result<FileRef, Diagnostic> {
    if file.name.is_empty() || file.name.len() > 4096 || file.name.chars().any(char::is_control) {
        return Err(invalid(
            "file_name",
            format!("`{}` is no name for a file of rows", file.name.escape_debug()),
        )
        .hint("use 1 to 4096 bytes without control characters"));
    }
    let digest = parse_digest(&file.name, &file.digest)?;
    let size = registry.has_blob(&digest).ok_or_else(|| {
        Diagnostic::new(
            "witness::daemon::no_blob",
            Kind::Invalid,
            format!("blob `{digest}` of the file `{}` is not here", file.name),
        )
        .hint(format!("upload it first: POST /api/blobs/{digest}"))
    })?;
    Ok(FileRef {
        name: file.name.clone(),
        path: registry.blob_path(&digest),
        digest: digest.as_str().to_owned(),
        size,
    })
}

/// Reads settings. An unknown key is told with those that are close to it, and a value of the wrong kind with its key.
fn settings_of(object: &Map<String, Value>) -> Result<TrainSettings, Diagnostic> {
    let whole = |object: Map<String, Value>| serde_json::from_value::<TrainSettings>(Value::Object(object));
    let Err(error) = whole(object.clone()) else {
        return whole(object.clone()).map_err(|error| setting_wrong("settings", &error.to_string()));
    };
    for (key, value) in object {
        let one: Map<String, Value> = [(key.clone(), value.clone())].into_iter().collect();
        if let Err(error) = whole(one) {
            return Err(setting_wrong(key, &error.to_string()));
        }
    }
    Err(setting_wrong("settings", &error.to_string()))
}

fn setting_wrong(key: &str, fault: &str) -> Diagnostic {
    // "unknown field `x`, expected one of `a`, `b`": of the settings themselves, or of an object inside.
    let mut names = fault.split('`').skip(1).step_by(2);
    match (fault.starts_with("unknown field"), names.next()) {
        (true, Some(unknown)) => {
            let place = if unknown == key {
                String::new()
            } else {
                format!(" in `{key}`")
            };
            let mut diagnostic = invalid(
                "setting_unknown",
                format!("there is no training setting `{}`{place}", unknown.escape_debug()),
            );
            if let Some(near) = near_miss(unknown, names) {
                diagnostic = diagnostic.hint(format!("did you mean `{near}`?"));
            }
            diagnostic.hint("`witness train --help` lists the settings")
        }
        _ => invalid(
            "setting_wrong",
            format!("the training setting `{key}` cannot be read: {fault}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fault(settings: Value) -> Diagnostic {
        settings_of(settings.as_object().unwrap()).unwrap_err()
    }

    #[test]
    fn wrong_settings_are_named() {
        let unknown = fault(json!({"seed": 1, "lerning_rate": 1e-4}));
        assert_eq!(unknown.message, "there is no training setting `lerning_rate`");
        assert_eq!(unknown.hints[0], "did you mean `learning_rate`?");
        let inside = fault(json!({"scratch": {"tokenizer": {"vocabsize": 1}}}));
        assert_eq!(inside.message, "there is no training setting `vocabsize` in `scratch`");
        assert_eq!(inside.hints[0], "did you mean `vocab_size`?");
        let kind = fault(json!({"seed": 1, "num_epochs": "three"}));
        assert!(
            kind.message.contains("`num_epochs`") && kind.message.contains("three"),
            "{kind:?}"
        );
        let variant = fault(json!({"method": "dora"}));
        assert!(
            variant.message.contains("`method`") && variant.message.contains("qlora"),
            "{variant:?}"
        );
        assert_eq!(settings_of(json!({"seed": 7}).as_object().unwrap()).unwrap().seed, 7);
    }
}
