//! A run as it goes: a bar with what matters, and above it what happened. Lines alone where there is no terminal.
//!
//! Ctrl-C asks the run to write a checkpoint and end, and the watching goes on until it has; a second one leaves the run to itself.

use std::future::Future;

use indicatif::ProgressBar;
use tokio::signal::unix::{SignalKind, signal};
use witness_api::{TrainJobLine, TrainLine, TrainState};
use witness_client::{Client, ClientError, Lines};
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{TrainEvent, TrainPlan, TrainReply};

use super::rows::plan_text;
use crate::context::{Context, Outcome};
use crate::render::progress::Bars;
use crate::render::quantity::size;
use crate::render::table::one_line;

/// How much of the speed shown is that of the last step: the rest is history.
const SPEED_FRESHNESS: f64 = 0.2;

/// How a run ended, or was left.
pub(crate) struct Ending {
    id: String,
    step: u64,
    how: How,
}

enum How {
    Ended {
        state: TrainState,
        error: Option<Diagnostic>,
        reply: Option<Box<TrainReply>>,
    },
    Left,
    Lost,
}

impl Ending {
    /// Returns the reply of a run that was made to its end; another ending is an error that says how to go on.
    pub(crate) fn finish(self) -> Outcome<Option<TrainReply>> {
        let Ending { id, step, how } = self;
        let resume = format!("`witness train resume {id}` goes on from the last checkpoint");
        let cancelled = |message: String| Diagnostic::new("witness::cli::train_stopped", Kind::Cancelled, message);
        match how {
            How::Ended {
                state: TrainState::Done,
                reply,
                ..
            } => Ok(reply.map(|reply| *reply)),
            How::Ended {
                state: TrainState::Failed,
                error,
                ..
            } => {
                let error = error.unwrap_or_else(|| {
                    Diagnostic::new(
                        "witness::cli::train_failed",
                        Kind::Plugin,
                        format!("the run `{id}` failed"),
                    )
                });
                let has_way = error.hints.iter().any(|hint| hint.contains("train resume"));
                Err(if has_way {
                    error
                } else {
                    error.hint(format!("`witness train logs {id}` tells what it did; {resume}"))
                })
            }
            How::Ended { state, .. } => {
                Err(cancelled(format!("the run `{id}` is {state} after step {step}")).hint(resume))
            }
            How::Left => Err(
                cancelled(format!("the run `{id}` goes on without being watched")).hint(format!(
                    "watch it again with `witness train logs {id} -f`; end it with `witness train stop {id}`"
                )),
            ),
            How::Lost => Err(Diagnostic::new(
                "witness::cli::train_lost",
                Kind::Environment,
                format!("the lines of the run `{id}` broke off at step {step}"),
            )
            .hint(format!("`witness train list` says how it stands; {resume}"))),
        }
    }
}

/// Watches a run until it ends or is left.
pub(crate) fn watch(
    context: &Context,
    lines: impl Future<Output = Result<Lines<TrainLine>, ClientError>>,
) -> Outcome<Ending> {
    let mut screen = Screen::new();
    let ending = context.block_on(follow(&context.client, lines, &mut screen));
    screen.clear();
    ending
}

async fn follow(
    client: &Client,
    lines: impl Future<Output = Result<Lines<TrainLine>, ClientError>>,
    screen: &mut Screen,
) -> Outcome<Ending> {
    let mut interrupts = signal(SignalKind::interrupt()).map_err(|error| {
        Diagnostic::new(
            "witness::cli::signals",
            Kind::Environment,
            "Ctrl-C cannot be waited for",
        )
        .cause(error.to_string())
        .hint("add `--detach`, and stop the run with `witness train stop`")
    })?;
    let mut lines = tokio::select! {
        lines = lines => lines?,
        _ = interrupts.recv() => return Err(Diagnostic::new(
            "witness::cli::interrupted",
            Kind::Cancelled,
            "no run was begun",
        ).hint("`witness train list` shows it if it was after all")),
    };
    let mut is_stopping = false;
    loop {
        tokio::select! {
            line = lines.next() => match line {
                Ok(Some(line)) => {
                    if let Some(how) = screen.line(&line) {
                        return Ok(screen.ending(how));
                    }
                }
                Ok(None) => return Ok(screen.ending(How::Lost)),
                // Before its first line there is no run to go on with.
                Err(error) if screen.id.is_empty() => return Err(error.into()),
                Err(ClientError::Broken { .. }) => return Ok(screen.ending(How::Lost)),
                Err(error) => return Err(error.into()),
            },
            _ = interrupts.recv() => {
                if is_stopping || screen.id.is_empty() {
                    return Ok(screen.ending(How::Left));
                }
                is_stopping = true;
                screen.say("stopping: the run writes a checkpoint first (Ctrl-C again leaves it to itself)");
                client.train_stop(&screen.id).await?;
            }
        }
    }
}

/// What is on the screen.
struct Screen {
    bars: Bars,
    bar: Option<ProgressBar>,
    status: Option<ProgressBar>,
    id: String,
    step: u64,
    teller: Teller,
    speed: Speed,
}

impl Screen {
    fn new() -> Self {
        Self {
            bars: Bars::new(),
            bar: None,
            status: None,
            id: String::new(),
            step: 0,
            teller: Teller::default(),
            speed: Speed::default(),
        }
    }

    fn clear(&mut self) {
        self.end_status();
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.bars.clear();
    }

    fn ending(&self, how: How) -> Ending {
        Ending {
            id: self.id.clone(),
            step: self.step,
            how,
        }
    }

    fn say(&self, text: &str) {
        self.bars.say(text);
    }

    fn end_status(&mut self) {
        if let Some(status) = self.status.take() {
            status.finish_and_clear();
        }
    }

    /// Shows one line; returns how the run ended, if it says so.
    fn line(&mut self, line: &TrainLine) -> Option<How> {
        if let Some(own) = line.of_daemon() {
            return self.own(own);
        }
        // An event of a later version is not worth ending the watching.
        let event: TrainEvent = line.read().ok()?;
        self.event(&event);
        None
    }

    fn own(&mut self, line: TrainJobLine) -> Option<How> {
        if let TrainJobLine::Job { id, .. } = &line {
            self.id.clone_from(id);
        }
        if let Some(text) = self.teller.own(&line) {
            self.say(&text);
        }
        match line {
            TrainJobLine::End {
                state, error, reply, ..
            } => Some(How::Ended {
                state,
                error: error.map(Diagnostic::from),
                reply: reply.and_then(|reply| serde_json::from_value(reply).ok()).map(Box::new),
            }),
            _ => None,
        }
    }

    fn event(&mut self, event: &TrainEvent) {
        let text = self.teller.event(event);
        match event {
            TrainEvent::Started { plan, resumed_from } => {
                self.end_status();
                self.step = *resumed_from;
                self.say(&text.unwrap_or_default());
                let bar = self.bars.steps(plan.n_steps);
                bar.set_position(*resumed_from);
                bar.reset_eta();
                self.bar = Some(bar);
            }
            TrainEvent::Status { message } => {
                self.end_status();
                self.status = Some(self.bars.step(message));
            }
            TrainEvent::Step { step, .. } => {
                self.end_status();
                self.step = *step;
                self.speed.add(event);
                if let Some(bar) = &self.bar {
                    bar.set_message(step_message(event, self.speed.tokens_per_second));
                    bar.set_position(*step);
                }
            }
            // The bar says it already.
            TrainEvent::Log { .. } if self.bars.is_drawn() => {}
            TrainEvent::Evaluating { done, total } => {
                if let Some(bar) = &self.bar {
                    bar.set_message(format!("measuring {done}/{total}"));
                }
            }
            _ => {
                if let Some(text) = text {
                    self.say(&text);
                }
            }
        }
    }
}

/// Tokens a second, smoothed.
#[derive(Default)]
struct Speed {
    tokens_per_second: f64,
}

impl Speed {
    fn add(&mut self, event: &TrainEvent) {
        let TrainEvent::Step { n_tokens, seconds, .. } = event else {
            return;
        };
        if *seconds <= 0.0 {
            return;
        }
        let now = *n_tokens as f64 / seconds;
        self.tokens_per_second = match self.tokens_per_second {
            0.0 => now,
            before => before + SPEED_FRESHNESS * (now - before),
        };
    }
}

fn step_message(event: &TrainEvent, tokens_per_second: f64) -> String {
    let TrainEvent::Step {
        loss,
        grad_norm,
        learning_rate,
        ..
    } = event
    else {
        return String::new();
    };
    format!("loss {loss:.4}  lr {learning_rate:.2e}  grad {grad_norm:.3}  {tokens_per_second:.0} tokens/s")
}

/// The lines of a run as lines for people, nothing of it twice.
#[derive(Default)]
pub(crate) struct Teller {
    n_steps: u64,
    /// Warnings of the plan, which the run may repeat.
    warnings: Vec<String>,
    published: Option<u64>,
}

impl Teller {
    /// Returns an event in words; nothing for those that only move a bar.
    pub(crate) fn event(&mut self, event: &TrainEvent) -> Option<String> {
        match event {
            TrainEvent::Started { plan, .. } => {
                self.n_steps = plan.n_steps;
                self.warnings.clone_from(&plan.warnings);
            }
            TrainEvent::Warning { message } => {
                if self.warnings.contains(message) {
                    return None;
                }
                self.warnings.push(message.clone());
            }
            _ => {}
        }
        event_text(event, self.n_steps)
    }

    /// Returns a line of the daemon's own in words; nothing for states that the next line tells better.
    pub(crate) fn own(&mut self, line: &TrainJobLine) -> Option<String> {
        if let TrainJobLine::Published { step, .. } = line
            && self.published.replace(*step) == Some(*step)
        {
            return None;
        }
        own_text(line)
    }
}

fn event_text(event: &TrainEvent, n_steps: u64) -> Option<String> {
    let of = |step: &u64| match n_steps {
        0 => format!("step {step}"),
        n_steps => format!("step {step}/{n_steps}"),
    };
    let best = |is_best: &bool| if *is_best { ", the best so far" } else { "" };
    Some(match event {
        TrainEvent::Started { plan, resumed_from } => started(plan, *resumed_from),
        TrainEvent::Status { message } => one_line(message),
        TrainEvent::Warning { message } => format!("warning: {}", one_line(message)),
        TrainEvent::Step { .. } | TrainEvent::Evaluating { .. } => return None,
        TrainEvent::Log { step, epoch, values } => {
            let mut text = format!("{} (epoch {epoch:.2})", of(step));
            for (name, value) in values
                .iter()
                .filter(|(name, _)| !matches!(name.as_str(), "epoch" | "step"))
            {
                text += &match value.as_f64() {
                    Some(0.0) => format!("  {name} 0"),
                    Some(number) if number.abs() < 1e-3 => format!("  {name} {number:.2e}"),
                    Some(number) => format!("  {name} {number:.4}"),
                    None => format!("  {name} {value}"),
                };
            }
            one_line(&text)
        }
        TrainEvent::Eval {
            step,
            loss,
            is_best,
            seconds,
            ..
        } => format!(
            "{}: loss {loss:.4} on the validation rows{} ({seconds:.1}s)",
            of(step),
            best(is_best)
        ),
        TrainEvent::Checkpoint {
            step,
            directory,
            removed,
            is_best,
            ..
        } => {
            let removed: Vec<String> = removed.iter().map(u64::to_string).collect();
            let gone = match removed.as_slice() {
                [] => String::new(),
                _ => format!("; removed that of step {}", removed.join(", ")),
            };
            format!("{}: wrote `{}`{}{gone}", of(step), one_line(directory), best(is_best))
        }
    })
}

fn started(plan: &TrainPlan, resumed_from: u64) -> String {
    let mut text = format!(
        "{}; {} steps, at most {}",
        plan_text(&plan.train),
        plan.n_steps,
        size(plan.memory_bytes)
    );
    if plan.validation.n_rows > 0 {
        text += &format!("\nmeasured on {}", plan_text(&plan.validation));
    }
    if resumed_from > 0 {
        text += &format!("\ngoing on after step {resumed_from}");
    }
    for warning in &plan.warnings {
        text += &format!("\nwarning: {}", one_line(warning));
    }
    text
}

fn own_text(line: &TrainJobLine) -> Option<String> {
    match line {
        TrainJobLine::Job {
            id,
            state: TrainState::Queued,
            reason: Some(reason),
            ..
        } => Some(format!("the run `{id}` waits: {}", one_line(reason))),
        TrainJobLine::Job {
            id,
            state: TrainState::Starting,
            ..
        } => Some(format!("the run `{id}` starts")),
        TrainJobLine::Job { .. } | TrainJobLine::End { .. } => None,
        TrainJobLine::Published { model, step, .. } => Some(format!("`{model}` answers from step {step} now")),
        TrainJobLine::Notice { message } => Some(one_line(message)),
    }
}
