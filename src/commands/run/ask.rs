//! One exchange with the model: the answer is printed as it comes, and Ctrl-C stops the answer, not the program.

use serde::Serialize;
use serde::de::DeserializeOwned;
use witness_api::{ChatResponse, GenerateResponse, Message, Metrics};
use witness_client::Client;

use super::session::Session;
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::progress::Spinner;
use crate::render::quantity::duration;
use crate::render::wrap::Wrap;

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The model ended it.
    Complete,
    /// The user did.
    Interrupted,
}

/// Answers one prompt on its own. The daemon applies the chat template unless the session is raw.
pub(crate) fn once(context: &Context, session: &mut Session, prompt: &str) -> Outcome<Ending> {
    let request = session.generate(prompt);
    exchange::<GenerateResponse>(context, session, "/api/generate", &request).map(|(ending, _)| ending)
}

/// Loads the model without asking anything, so that the first question does not wait for it.
pub(crate) fn load(context: &Context, session: &Session) -> Outcome {
    let client = context.daemon()?;
    let mut request = session.generate("");
    request.stream = Some(false);
    request.raw = None;
    let mut spinner = Spinner::start("loading");
    let loaded = context.wait_or_interrupt(async {
        let answer: GenerateResponse = client.post("/api/generate", &request).await?;
        Ok(answer)
    });
    spinner.stop();
    loaded
        .map(drop)
        .map_err(|refusal| context.explain_missing(&session.model, refusal))
}

/// Continues the talk with what the user said; both turns are kept when an answer came, also an interrupted one.
pub(crate) fn turn(context: &Context, session: &mut Session, said: &str) -> Outcome<Ending> {
    session.messages.push(Message::new("user", said));
    let request = session.chat();
    match exchange::<ChatResponse>(context, session, "/api/chat", &request) {
        Ok((ending, answer)) => {
            session.messages.push(Message::new("assistant", answer));
            Ok(ending)
        }
        Err(refusal) => {
            session.messages.pop();
            Err(refusal)
        }
    }
}

/// A line of a streamed answer.
trait Piece: DeserializeOwned {
    fn text(&self) -> &str;
    fn thinking(&self) -> &str;
    fn metrics(&self) -> Option<&Metrics>;
}

impl Piece for ChatResponse {
    fn text(&self) -> &str {
        &self.message.content
    }
    fn thinking(&self) -> &str {
        self.message.thinking.as_deref().unwrap_or_default()
    }
    fn metrics(&self) -> Option<&Metrics> {
        self.done.then_some(&self.metrics)
    }
}

impl Piece for GenerateResponse {
    fn text(&self) -> &str {
        &self.response
    }
    fn thinking(&self) -> &str {
        self.thinking.as_deref().unwrap_or_default()
    }
    fn metrics(&self) -> Option<&Metrics> {
        self.done.then_some(&self.metrics)
    }
}

/// What an exchange has shown so far.
struct Shown {
    wrap: Wrap,
    spinner: Spinner,
    answer: String,
    metrics: Option<Metrics>,
}

fn exchange<P: Piece>(
    context: &Context,
    session: &Session,
    path: &str,
    request: &impl Serialize,
) -> Outcome<(Ending, String)> {
    let mut shown = Shown {
        wrap: Wrap::new(session.width()),
        spinner: Spinner::start("thinking"),
        answer: String::new(),
        metrics: None,
    };
    let finished = context.wait_or_interrupt(stream::<P>(&context.client, path, request, &mut shown));
    shown.spinner.stop();
    // What was printed must end in a line end also when the stream broke, or the prompt lands behind it.
    let rest = shown.wrap.finish();
    if !shown.answer.is_empty() || finished.is_ok() {
        let end = if shown.answer.ends_with('\n') { "" } else { "\n" };
        output::print(&(rest + end))?;
    }
    let ending = match finished.map_err(|refusal| context.explain_missing(&session.model, refusal))? {
        Some(()) => Ending::Complete,
        None => Ending::Interrupted,
    };
    if let Some(metrics) = &shown.metrics {
        notes(metrics);
        if session.is_verbose {
            output::note(&format!("\n{}", figures(metrics)));
        }
    }
    Ok((ending, shown.answer))
}

async fn stream<P: Piece>(client: &Client, path: &str, request: &impl Serialize, shown: &mut Shown) -> Outcome {
    let mut lines = client.stream::<P>(path, request).await?;
    while let Some(piece) = lines.next().await? {
        if !piece.thinking().is_empty() {
            shown.spinner.stop();
            eprint!("{}", piece.thinking());
        }
        if !piece.text().is_empty() {
            shown.spinner.stop();
            shown.answer.push_str(piece.text());
            output::print(&shown.wrap.push(piece.text()))?;
        }
        if let Some(metrics) = piece.metrics() {
            shown.metrics = Some(metrics.clone());
        }
    }
    Ok(())
}

/// Tells what the model did not see or the daemon did not use.
fn notes(metrics: &Metrics) {
    if metrics.truncated_tokens > 0 {
        output::note(&format!(
            "note: {} tokens of the prompt did not fit the context and were dropped",
            metrics.truncated_tokens
        ));
    }
    for warning in &metrics.ignored_options {
        output::note(&format!("note: {warning}"));
    }
}

/// Returns the figures of an answer, a line each.
fn figures(metrics: &Metrics) -> String {
    let rate = |count: u64, ns: u64| {
        if ns == 0 { 0.0 } else { count as f64 / (ns as f64 / 1e9) }
    };
    let mut lines = vec![
        format!("total duration:       {}", duration(metrics.total_duration)),
        format!("load duration:        {}", duration(metrics.load_duration)),
        format!("prompt eval count:    {} token(s)", metrics.prompt_eval_count),
        format!("prompt eval duration: {}", duration(metrics.prompt_eval_duration)),
        format!(
            "prompt eval rate:     {:.2} tokens/s",
            rate(metrics.prompt_eval_count, metrics.prompt_eval_duration)
        ),
        format!("eval count:           {} token(s)", metrics.eval_count),
        format!("eval duration:        {}", duration(metrics.eval_duration)),
        format!(
            "eval rate:            {:.2} tokens/s",
            rate(metrics.eval_count, metrics.eval_duration)
        ),
    ];
    if let Some(adapter) = &metrics.adapter {
        lines.push(format!("adapter:              {adapter}"));
    }
    if let Some(seed) = metrics.seed {
        lines.push(format!("seed:                 {seed}"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_as_ollamas_do() {
        let metrics = Metrics {
            total_duration: 4_500_000_000,
            load_duration: 20_000_000,
            prompt_eval_count: 26,
            prompt_eval_duration: 130_000_000,
            eval_count: 259,
            eval_duration: 4_232_710_000,
            adapter: Some("pirate".into()),
            ..Metrics::default()
        };
        insta::assert_snapshot!(figures(&metrics), @r"
        total duration:       4.50s
        load duration:        20.0ms
        prompt eval count:    26 token(s)
        prompt eval duration: 130.0ms
        prompt eval rate:     200.00 tokens/s
        eval count:           259 token(s)
        eval duration:        4.23s
        eval rate:            61.19 tokens/s
        adapter:              pirate
        ");
    }
}
