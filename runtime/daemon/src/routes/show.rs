//! `POST /api/show`: everything about a stored model.

use std::sync::Arc;

use axum::extract::State;
use serde_json::{Map, Value};
use witness_api::{Message, ShowRequest, ShowResponse, ShowWitness, rfc3339};
use witness_plugin_protocol::ModelInfo;
use witness_registry::media;

use crate::app::App;
use crate::body::Json;
use crate::draft;
use crate::modelfile;
use crate::models::stored::Stored;
use crate::reckon::details;
use crate::reply::{self, Reply};
use crate::template::Template;

/// Bytes of a metadata value beyond which it is left out unless the request says `verbose`.
const VALUE_BYTES_MAX: usize = 4096;

pub(super) async fn show(State(app): State<Arc<App>>, Json(request): Json<ShowRequest>) -> Reply {
    let stored = app.library.stored(&request.model).await?;
    let mut notes = Vec::new();
    // A model whose files nobody can read is still shown: the notes say why.
    let info = match app.library.info(&stored).await {
        Ok(info) => info,
        Err(error) => {
            notes.push(format!("its files could not be looked into: {error}"));
            Arc::default()
        }
    };
    let own = info.chat_template.as_deref();
    notes.extend(Template::note(stored.template.as_deref(), own).map(str::to_owned));
    if stored.manifest.layers_of(media::PROJECTOR).next().is_some() {
        notes.push("its projector is not used: images are not supported yet".to_owned());
    }
    notes.extend(draft::note(&app, &stored).await);
    let witness = stored.config.witness.as_ref();
    let mut capabilities = info.capabilities.clone();
    if capabilities.is_empty() {
        capabilities.push("completion".into());
    }
    let answer = ShowResponse {
        license: stored.licenses.join("\n"),
        modelfile: modelfile::print(&stored),
        parameters: modelfile::parameters(&stored.parameters),
        template: stored
            .template
            .clone()
            .or_else(|| own.map(str::to_owned))
            .unwrap_or_default(),
        system: stored.system.clone().unwrap_or_default(),
        details: details(&stored, &info),
        messages: stored
            .messages
            .iter()
            .map(|m| Message::new(m.role.clone(), m.content.clone()))
            .collect(),
        model_info: model_info(&info.metadata, request.verbose.unwrap_or(false)),
        capabilities,
        modified_at: rfc3339(stored.modified),
        witness: Some(ShowWitness {
            digest: stored.digest.as_str().to_owned(),
            adapters: stored.adapters.iter().map(|adapter| adapter.name.clone()).collect(),
            adapter_info: witness
                .map(|witness| {
                    witness
                        .adapters
                        .iter()
                        .filter_map(|info| serde_json::to_value(info).ok())
                        .collect()
                })
                .unwrap_or_default(),
            draft: stored.draft.as_ref().map(|draft| draft.name.clone()),
            draft_info: witness
                .and_then(|witness| witness.draft.as_ref())
                .map(draft_info)
                .unwrap_or_default(),
            notes,
            requires: witness.and_then(|witness| witness.requires.clone()),
            training: witness.and_then(|witness| witness.training.clone()),
            files: files(&stored),
        }),
    };
    Ok(reply::json(&answer))
}

/// The facts about a draft that people choose one by; the rest is in its own model's answer.
fn draft_info(info: &ModelInfo) -> Map<String, Value> {
    let facts = [
        ("architecture", Value::from(info.architecture.clone())),
        ("parameter_count", info.parameter_count.into()),
        ("quantization", info.quantization.clone().into()),
        ("bytes", info.memory.weights_bytes.into()),
    ];
    facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)).collect()
}

fn files(stored: &Stored) -> Vec<(String, String)> {
    stored
        .base
        .files
        .iter()
        .map(|file| (file.name.clone(), file.digest.clone()))
        .collect()
}

/// Long values (vocabularies, merges) are nulls unless asked for, as Ollama has it.
fn model_info(metadata: &Map<String, Value>, is_verbose: bool) -> Map<String, Value> {
    let is_long = |value: &Value| match value {
        Value::Array(items) => items.len() > 64,
        Value::String(text) => text.len() > VALUE_BYTES_MAX,
        _ => false,
    };
    metadata
        .iter()
        .map(|(key, value)| {
            (
                key.clone(),
                if !is_verbose && is_long(value) {
                    Value::Null
                } else {
                    value.clone()
                },
            )
        })
        .collect()
}
