//! `POST /api/generate`.

use std::sync::Arc;

use axum::extract::State;
use witness_api::GenerateRequest;
use witness_plugin_protocol::{Message, Prompt};

use crate::answer::{self, Shape};
use crate::app::App;
use crate::body::Json;
use crate::reply::{Failure, Reply, invalid};
use crate::template::Template;
use crate::turn::{Common, Turn};

pub(super) async fn generate(State(app): State<Arc<App>>, Json(request): Json<GenerateRequest>) -> Reply {
    let has_ids = request.prompt_ids.as_ref().is_some_and(|ids| !ids.is_empty());
    let returns_context = !request.is_raw() && !has_ids;
    let shape = Shape::Generate { returns_context };
    let turn = Turn::prepare(&app, &request.model, common(&request)).await?;
    if !has_ids && request.prompt.is_empty() && request.suffix.as_deref().unwrap_or_default().is_empty() {
        return load_or_unload(&app, request.model, shape, turn, request.keep_alive).await;
    }
    refuse_what_is_not_there(&request)?;
    let prompt = prompt(&app, &turn, &request)?;
    let running = turn.run(&app, prompt, returns_context).await?;
    if request.streams() {
        Ok(answer::stream(&app, request.model, shape, running))
    } else {
        answer::whole(&app, request.model, shape, running).await
    }
}

/// A request without a prompt loads the model; with a keep-alive of zero it unloads it.
pub(super) async fn load_or_unload(
    app: &Arc<App>,
    model: String,
    shape: Shape,
    turn: Turn,
    keep_alive: Option<witness_api::KeepAlive>,
) -> Reply {
    if keep_alive.is_some_and(witness_api::KeepAlive::is_zero) {
        app.models.unload(&turn.stored.base_key).await;
        return answer::lifecycle(model, shape, "unload", std::time::Duration::ZERO);
    }
    let ready = turn.ready(app).await?;
    answer::lifecycle(model, shape, "load", ready.load_time)
}

fn common(request: &GenerateRequest) -> Common<'_> {
    Common {
        options: request.options.as_ref(),
        keep_alive: request.keep_alive,
        format: request.format.as_ref(),
        adapter: request.adapter.as_deref(),
        logprobs: request.logprobs.unwrap_or(false),
        top_logprobs: request.top_logprobs,
        truncate: request.truncate.unwrap_or(false),
    }
}

fn refuse_what_is_not_there(request: &GenerateRequest) -> Result<(), Failure> {
    if request.suffix.as_deref().is_some_and(|suffix| !suffix.is_empty()) {
        return Err(
            invalid("no_insert", format!("`{}` does not support insert", request.model))
                .hint("leave `suffix` out of the request")
                .into(),
        );
    }
    if request.images.as_ref().is_some_and(|images| !images.is_empty()) {
        return Err(no_images(&request.model));
    }
    Ok(())
}

/// Refuses images.
pub(super) fn no_images(model: &str) -> Failure {
    invalid("no_images", format!("`{model}` does not take images"))
        .hint("leave `images` out of the request")
        .into()
}

/// Lays out the prompt: as it stands when raw, as a conversation of one message when there is a template, else as plain text.
fn prompt(app: &App, turn: &Turn, request: &GenerateRequest) -> Result<Prompt, Failure> {
    let context = request.context.clone().unwrap_or_default();
    if let Some(ids) = request.prompt_ids.as_ref().filter(|ids| !ids.is_empty()) {
        if !request.prompt.is_empty() || !context.is_empty() {
            return Err(
                invalid("prompt_ids", "`prompt_ids` stands in place of `prompt` and `context`")
                    .hint("send one of them")
                    .into(),
            );
        }
        return Ok(Prompt::Tokens { ids: ids.clone() });
    }
    let variables = turn.think(request.think.as_ref())?;
    if request.is_raw() {
        if [&request.template, &request.system]
            .iter()
            .any(|text| text.as_deref().is_some_and(|text| !text.is_empty()))
            || !context.is_empty()
        {
            return Err(invalid("raw", "raw mode does not support template, system, or context").into());
        }
        return Ok(Prompt::Text {
            text: request.prompt.clone(),
            context,
            add_special: true,
        });
    }
    let system = request
        .system
        .clone()
        .or_else(|| turn.stored.system.clone())
        .filter(|system| !system.is_empty());
    let template = match turn.template(request.template.as_deref()) {
        Template::Jinja(text) => Some(text),
        Template::Own => None,
        Template::Plain => {
            let system = system.filter(|_| context.is_empty());
            let parts: Vec<String> = system.into_iter().chain([request.prompt.clone()]).collect();
            let add_special = context.is_empty();
            return Ok(Prompt::Text {
                text: parts.join("\n\n"),
                context,
                add_special,
            });
        }
    };
    let mut messages = if context.is_empty() {
        let system = system.map(|content| Message {
            role: "system".into(),
            content,
            ..Message::default()
        });
        system
            .into_iter()
            .chain(turn.stored.messages.iter().map(super::chat::to_protocol))
            .collect()
    } else {
        app.contexts.recall(&turn.stored.base_key, &context).ok_or_else(|| {
            invalid("context", "the `context` is not one that this daemon handed out lately")
                .cause("the model has a chat template, so the messages behind the ids are needed and they are not remembered")
                .hint("send the conversation as messages to `/api/chat`")
        })?
    };
    messages.push(Message {
        role: "user".into(),
        content: request.prompt.clone(),
        ..Message::default()
    });
    Ok(Prompt::Chat {
        messages,
        tools: Vec::new(),
        template,
        variables,
    })
}
