//! A measurement that the daemon makes, followed to its end: by `perplexity`, `compare`, `imatrix` and `quantize --suggest`.

use std::path::Path;

use indicatif::ProgressBar;
use witness_api::{MeasureLine, MeasureRequest, Measured, MeasuredModel, MeasuredText};
use witness_client::{Client, ClientError, Lines};
use witness_diagnostics::Diagnostic;

use super::following;
use crate::cli::{Chunks, Cut, OnText};
use crate::context::{Context, Outcome};
use crate::render::progress::Bars;
use crate::render::table::one_line;
use crate::render::{measured, output};

/// Stores the text and returns what a request says of it.
pub(crate) async fn text(
    client: &Client,
    bars: &Bars,
    path: &Path,
    cut: &Cut,
    chunks: Chunks,
) -> Outcome<MeasuredText> {
    Ok(MeasuredText {
        text: following::store_one(client, bars, path).await?,
        text_name: following::file_name(path),
        context: cut.context,
        chunks: chunks.0,
        num_thread: cut.threads,
    })
}

/// Measures models on a text: one by itself, or the others against the first.
pub(crate) fn measure(
    context: &Context,
    models: Vec<MeasuredModel>,
    on: &OnText,
    chunks: Chunks,
) -> Outcome<Vec<Measured>> {
    let client = context.daemon()?;
    let bars = Bars::new();
    let mut followed = Followed::default();
    let names: Vec<String> = models.iter().map(|model| model.model.clone()).collect();
    let ended = context.wait_or_interrupt(async {
        let text = text(client, &bars, &on.text, &on.cut, chunks).await?;
        let request = MeasureRequest { models, text };
        followed.follow(&bars, client.measure(&request).await).await
    });
    bars.clear();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    followed.end(context, ended, &names)
}

/// Prints what was measured, and on what it rests.
pub(crate) fn print(results: &[Measured], on: &OnText) -> Outcome {
    output::print(&measured::table(results, output::width()))?;
    output::note(&measured::basis(results, &on.text.to_string_lossy()));
    Ok(())
}

/// How far a measurement has come.
#[derive(Default)]
pub(crate) struct Followed {
    /// The last line that said anything of a model.
    last: Option<MeasureLine>,
}

impl Followed {
    /// Draws what is told and returns what was found.
    pub(crate) async fn follow(
        &mut self,
        bars: &Bars,
        lines: Result<Lines<MeasureLine>, ClientError>,
    ) -> Outcome<Vec<Measured>> {
        let mut lines = lines?;
        let mut step = String::new();
        let mut drawn: Option<ProgressBar> = None;
        let mut results = Vec::new();
        while let Some(line) = lines.next().await? {
            if let Some(warning) = line.status.strip_prefix("warning: ") {
                bars.say(&format!("warning: {}", one_line(warning)));
                continue;
            }
            results.clone_from(&line.results);
            if line.status == "success" {
                continue;
            }
            if line.status != step {
                step.clone_from(&line.status);
                if let Some(bar) = drawn.take() {
                    bar.finish_and_clear();
                }
                drawn = Some(bars.step(&step));
            }
            if line.total > 0 {
                let is_new = drawn.as_ref().is_none_or(|bar| bar.length() != Some(line.total));
                if is_new && let Some(spinner) = drawn.replace(bars.steps(line.total)) {
                    spinner.finish_and_clear();
                }
                if let Some(bar) = &drawn {
                    bar.set_position(line.completed);
                    bar.set_message(one_line(&said(&line)));
                }
                self.last = Some(line);
            }
        }
        Ok(results)
    }

    /// Says how it ended. `names` are those that were asked for.
    pub(crate) fn end(
        self,
        context: &Context,
        ended: Outcome<Option<Vec<Measured>>>,
        names: &[&str],
    ) -> Outcome<Vec<Measured>> {
        match ended {
            Ok(Some(results)) => Ok(results),
            Ok(None) => {
                if let Some(line) = self.last.filter(|line| line.completed > 0) {
                    output::note(&format!(
                        "{}: {} of {} pieces",
                        one_line(&said(&line)),
                        line.completed,
                        line.total
                    ));
                }
                Err(following::interrupted("the measurement was broken off".to_owned()))
            }
            Err(refusal) => Err(explain(context, names, refusal)),
        }
    }
}

/// Adds to "no such model" what the name in it may have meant.
fn explain(context: &Context, names: &[&str], refusal: Diagnostic) -> Diagnostic {
    let meant = names.iter().find(|name| refusal.message.contains(&format!("`{name}")));
    following::explain(context, meant.or(names.first()).copied(), refusal)
}

/// What a line says, without the count.
fn said(line: &MeasureLine) -> String {
    let mut said = line.status.clone();
    if let Some(perplexity) = line.perplexity {
        said += &format!("  perplexity {perplexity:.4}");
    }
    if let Some(divergence) = line.divergence {
        said += &format!("  KL {divergence:.5}");
    }
    said
}
