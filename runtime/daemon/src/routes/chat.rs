//! `POST /api/chat`.

use std::sync::Arc;

use axum::extract::State;
use serde_json::Value;
use witness_api::{ChatRequest, Message as WireMessage};
use witness_diagnostics::near_miss;
use witness_plugin_protocol::{Message, Prompt, ToolCall, ToolFunction};

use super::generate::{load_or_unload, no_images};
use crate::answer::{self, Shape};
use crate::app::App;
use crate::body::Json;
use crate::reply::{Failure, Reply, invalid};
use crate::template::Template;
use crate::turn::{Common, Turn};

const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

pub(super) async fn chat(State(app): State<Arc<App>>, Json(request): Json<ChatRequest>) -> Reply {
    let turn = Turn::prepare(&app, &request.model, common(&request)).await?;
    if request.messages.is_empty() {
        return load_or_unload(&app, request.model, Shape::Chat, turn, request.keep_alive).await;
    }
    let prompt = prompt(&turn, &request)?;
    let running = turn.run(&app, prompt, false).await?;
    if request.streams() {
        Ok(answer::stream(&app, request.model, Shape::Chat, running))
    } else {
        answer::whole(&app, request.model, Shape::Chat, running).await
    }
}

fn common(request: &ChatRequest) -> Common<'_> {
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

/// Lays out the conversation: the model's system message unless the request brings one, the model's own messages, the request's.
fn prompt(turn: &Turn, request: &ChatRequest) -> Result<Prompt, Failure> {
    for message in &request.messages {
        check(message, &request.model)?;
    }
    let tools = request.tools.clone().unwrap_or_default();
    if !tools.is_empty() && !turn.can("tools") {
        return Err(
            invalid("no_tools", format!("`{}` does not support tools", request.model))
                .hint("leave `tools` out of the request, or use a model whose chat template knows tools")
                .into(),
        );
    }
    let variables = turn.think(request.think.as_ref())?;
    let mut messages: Vec<Message> = turn
        .stored
        .messages
        .iter()
        .chain(&request.messages)
        .map(to_protocol)
        .collect();
    let brings_system = request.messages.first().is_some_and(|message| message.role == "system");
    if let (Some(system), false) = (
        turn.stored.system.as_ref().filter(|system| !system.is_empty()),
        brings_system,
    ) {
        messages.insert(
            0,
            Message {
                role: "system".into(),
                content: system.clone(),
                ..Message::default()
            },
        );
    }
    let template = match turn.template(request.template.as_deref()) {
        Template::Jinja(text) => Some(text),
        Template::Own => None,
        Template::Plain => {
            let text = messages
                .iter()
                .map(|message| message.content.as_str())
                .collect::<Vec<_>>()
                .join("\n\n");
            return Ok(Prompt::Text {
                text,
                context: Vec::new(),
                add_special: true,
            });
        }
    };
    Ok(Prompt::Chat {
        messages,
        tools,
        template,
        variables,
    })
}

fn check(message: &WireMessage, model: &str) -> Result<(), Failure> {
    if !ROLES.contains(&message.role.as_str()) {
        let mut diagnostic = invalid(
            "role",
            format!(
                "a message has the role `{}`, which is none of {}",
                message.role,
                ROLES.join(", ")
            ),
        );
        if let Some(near) = near_miss(&message.role, ROLES) {
            diagnostic = diagnostic.hint(format!("did you mean `{near}`?"));
        }
        return Err(diagnostic.into());
    }
    if message.images.as_ref().is_some_and(|images| !images.is_empty()) {
        return Err(no_images(model));
    }
    Ok(())
}

/// Converts a message from the wire.
pub(super) fn to_protocol(message: &WireMessage) -> Message {
    Message {
        role: message.role.clone(),
        content: message.content.clone(),
        thinking: message.thinking.clone(),
        tool_calls: message
            .tool_calls
            .iter()
            .map(|call| ToolCall {
                function: ToolFunction {
                    name: call.function.name.clone(),
                    arguments: Value::Object(call.function.arguments.clone()),
                },
            })
            .collect(),
        tool_name: message.tool_name.clone(),
    }
}
