//! From a request's prompt to token ids: render, tokenize, begin once, fit the context.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{GenerateRequest, Message, Prompt};
use witness_template::{ChatTemplate, CivilTime, RenderInput};
use witness_tokenizer::{Encode, Tokenizer};

/// A prompt ready to run.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) tokens: Vec<u32>,
    pub(crate) truncated: usize,
}

/// Makes tokens of a request's prompt. `template` is the model's own, or why it cannot be used.
pub(crate) fn tokens(
    request: &GenerateRequest,
    tokenizer: &Tokenizer,
    template: &Result<ChatTemplate, Diagnostic>,
) -> Result<Vec<u32>, Diagnostic> {
    match &request.prompt {
        Prompt::Tokens { ids } => Ok(ids.clone()),
        Prompt::Text {
            text,
            context,
            add_special,
        } => {
            let mut ids = context.clone();
            ids.extend(encode(tokenizer, text, *add_special && context.is_empty())?);
            Ok(ids)
        }
        Prompt::Chat {
            messages,
            tools,
            template: own,
            variables,
        } => {
            let compiled = own.as_deref().map(ChatTemplate::compile).transpose()?;
            let template = match &compiled {
                Some(own) => own,
                None => template.as_ref().map_err(Clone::clone)?,
            };
            let text = render(template, messages, tools, variables, tokenizer)?;
            encode(tokenizer, &text, true)
        }
    }
}

/// Tokenizes text in which special tokens are recognised, and begins it with BOS once where the tokenizer wants one. Nothing is
/// appended: the text is to be continued.
fn encode(tokenizer: &Tokenizer, text: &str, begins: bool) -> Result<Vec<u32>, Diagnostic> {
    let mut ids = tokenizer.encode(
        text,
        Encode {
            add_special: false,
            parse_special: true,
        },
    )?;
    if let Some(bos) = tokenizer
        .bos()
        .filter(|bos| begins && tokenizer.adds_bos() && ids.first() != Some(bos))
    {
        ids.insert(0, bos);
    }
    Ok(ids)
}

fn render(
    template: &ChatTemplate,
    messages: &[Message],
    tools: &[Value],
    variables: &Map<String, Value>,
    tokenizer: &Tokenizer,
) -> Result<String, Diagnostic> {
    let messages = Value::Array(messages.iter().map(message).collect());
    let tools = (!tools.is_empty()).then(|| Value::Array(tools.to_vec()));
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs());
    let mut input = RenderInput::new(
        &messages,
        CivilTime::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX)),
    );
    input.tools = tools.as_ref();
    input.bos_token = Some(tokenizer.bos_token());
    input.eos_token = Some(tokenizer.eos_token());
    input.variables = (!variables.is_empty()).then_some(variables);
    Ok(template.render(&input)?)
}

/// Spells a message the way templates expect it.
fn message(message: &Message) -> Value {
    let mut fields = Map::new();
    fields.insert("role".to_owned(), json!(message.role));
    fields.insert("content".to_owned(), json!(message.content));
    if let Some(thinking) = &message.thinking {
        fields.insert("reasoning_content".to_owned(), json!(thinking));
        fields.insert("thinking".to_owned(), json!(thinking));
    }
    if !message.tool_calls.is_empty() {
        let calls = message
            .tool_calls
            .iter()
            .map(|call| json!({"type": "function", "function": call.function}));
        fields.insert("tool_calls".to_owned(), calls.collect());
    }
    if let Some(name) = &message.tool_name {
        fields.insert("name".to_owned(), json!(name));
        fields.insert("tool_name".to_owned(), json!(name));
    }
    Value::Object(fields)
}

/// Checks a prompt against the vocabulary and the context, and drops its oldest tokens where the request allows it.
///
/// A prompt that must be cut leaves room for the answer: `num_predict` tokens, at most a quarter of the context. BOS stays.
pub(crate) fn fit(
    mut tokens: Vec<u32>,
    request: &GenerateRequest,
    limits: Limits,
    bos: Option<u32>,
) -> Result<Ready, Diagnostic> {
    if tokens.is_empty() {
        return Err(Diagnostic::new(
            "witness::serve::empty_prompt",
            Kind::Invalid,
            "the prompt has no tokens",
        )
        .hint("give a prompt; this model's tokenizer adds nothing to an empty one"));
    }
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= limits.vocab_size) {
        let message = format!(
            "token {token} of the prompt is outside the vocabulary of {} tokens",
            limits.vocab_size
        );
        return Err(Diagnostic::new("witness::serve::bad_token", Kind::Invalid, message)
            .hint("token ids (`context`) can only be given back to the model that they came from"));
    }
    let n_tokens = tokens.len();
    if n_tokens <= limits.num_ctx {
        return Ok(Ready { tokens, truncated: 0 });
    }
    if !request.truncate {
        let message = format!("the prompt has {n_tokens} tokens, the context holds {}", limits.num_ctx);
        return Err(
            Diagnostic::new("witness::serve::prompt_too_long", Kind::Invalid, message)
                .hint(format!(
                    "set `num_ctx` to more than {n_tokens} (the model was made for {})",
                    limits.context_length
                ))
                .hint("or set `truncate` to drop the oldest tokens"),
        );
    }
    let wanted = usize::try_from(request.sampling.num_predict).unwrap_or(usize::MAX);
    let room = wanted.min(limits.num_ctx / 4);
    let keep = usize::from(bos.is_some() && tokens.first().copied() == bos);
    let dropped = n_tokens - (limits.num_ctx - room).max(keep + 1);
    tokens.drain(keep..keep + dropped);
    Ok(Ready {
        tokens,
        truncated: dropped,
    })
}

/// What a prompt must fit into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) num_ctx: usize,
    pub(crate) context_length: usize,
    pub(crate) vocab_size: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use witness_plugin_protocol::SamplingOptions;

    fn request(truncate: bool, num_predict: i64) -> GenerateRequest {
        GenerateRequest {
            prompt: Prompt::Tokens { ids: Vec::new() },
            adapter: None,
            draft: None,
            sampling: SamplingOptions {
                num_predict,
                ..SamplingOptions::default()
            },
            format: None,
            top_logprobs: None,
            truncate,
            return_prompt_ids: false,
        }
    }

    const LIMITS: Limits = Limits {
        num_ctx: 16,
        context_length: 64,
        vocab_size: 100,
    };

    #[test]
    fn a_prompt_that_fits_is_left_alone() {
        let ready = fit((0..16).collect(), &request(false, -1), LIMITS, None).unwrap();
        assert_eq!((ready.tokens.len(), ready.truncated), (16, 0));
    }

    #[test]
    fn a_long_prompt_is_refused_with_both_counts() {
        let error = fit((0..17).collect(), &request(false, -1), LIMITS, None).unwrap_err();
        assert_eq!(
            (error.code.as_str(), error.kind),
            ("witness::serve::prompt_too_long", Kind::Invalid)
        );
        assert!(error.message.contains("17") && error.message.contains("16"), "{error}");
    }

    /// The newest tokens stay, BOS stays, and there is room for what is to be predicted.
    #[test]
    fn a_long_prompt_is_cut_from_its_oldest_end_on_request() {
        for (num_predict, bos, expected, truncated) in [
            (-1, None, (48..60).collect::<Vec<u32>>(), 48),
            (2, None, (46..60).collect(), 46),
            (-1, Some(0), std::iter::once(0).chain(49..60).collect(), 48),
            (-1, Some(7), (48..60).collect(), 48),
        ] {
            let ready = fit((0..60).collect(), &request(true, num_predict), LIMITS, bos).unwrap();
            assert_eq!((ready.tokens, ready.truncated), (expected, truncated));
        }
    }

    #[test]
    fn nothing_and_foreign_tokens_are_refused() {
        assert_eq!(
            fit(Vec::new(), &request(true, 1), LIMITS, None).unwrap_err().code,
            "witness::serve::empty_prompt"
        );
        assert_eq!(
            fit(vec![100], &request(true, 1), LIMITS, None).unwrap_err().code,
            "witness::serve::bad_token"
        );
    }
}
