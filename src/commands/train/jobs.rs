//! The verbs about runs: list, logs, stop, resume, rm.

use std::time::SystemTime;

use serde_json::json;
use witness_api::{TrainJob, TrainJobLine, TrainLine, TrainState};
use witness_diagnostics::{Diagnostic, Kind, near_misses};
use witness_plugin_protocol::TrainEvent;

use super::watch::{self, Teller};
use crate::cli::{TrainList, TrainLogs, TrainOne, TrainResume, TrainRm};
use crate::commands::list::dash;
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::quantity::ago;
use crate::render::table::Table;

/// Lists the runs.
pub(crate) fn list(context: &Context, arguments: &TrainList) -> Outcome {
    let client = context.daemon()?;
    let jobs = context.wait(client.train_jobs())?;
    if arguments.json {
        return output::json(&json!({ "jobs": jobs }));
    }
    output::print(&table(&jobs, SystemTime::now()).render(output::width()))
}

fn table(jobs: &[TrainJob], now: SystemTime) -> Table {
    let mut table = Table::new(["ID", "MODEL", "STATE", "STEP", "LOSS", "VALIDATION", "CREATED"]);
    let loss = |loss: Option<f64>| loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.4}"));
    for job in jobs {
        let step = match job.n_steps {
            0 => dash(""),
            n_steps => format!("{}/{n_steps}", job.step),
        };
        table.row([
            job.id.clone(),
            job.model.clone(),
            job.state.to_string(),
            step,
            loss(job.loss),
            loss(job.eval_loss),
            ago(&job.created_at, now),
        ]);
    }
    table
}

/// Prints what a run reported.
pub(crate) fn logs(context: &Context, arguments: &TrainLogs) -> Outcome {
    let client = context.daemon()?;
    let printed = context.wait_or_interrupt(async {
        let mut lines = client
            .train_events(&arguments.id, arguments.from, arguments.follow)
            .await?;
        let mut teller = Teller::default();
        while let Some(line) = lines.next().await? {
            match arguments.json {
                true => output::line(&serde_json::to_string(&line).unwrap_or_default())?,
                false => {
                    if let Some(text) = text(&line, &mut teller) {
                        output::line(&text)?;
                    }
                }
            }
        }
        Ok(())
    });
    // Ctrl-C ends the looking on, as it does with `tail -f`.
    printed
        .map(drop)
        .map_err(|refusal| explain(context, &arguments.id, refusal))
}

/// Returns a line for people.
fn text(line: &TrainLine, teller: &mut Teller) -> Option<String> {
    if let Some(own) = line.of_daemon() {
        return match &own {
            TrainJobLine::End { state, error, .. } => Some(match error {
                Some(error) => format!("{state}: {}", error.error),
                None => state.to_string(),
            }),
            _ => teller.own(&own),
        };
    }
    let event: TrainEvent = line.read().ok()?;
    teller.event(&event)
}

/// Asks a run to end.
pub(crate) fn stop(context: &Context, arguments: &TrainOne) -> Outcome {
    let client = context.daemon()?;
    let job = context
        .wait(client.train_stop(&arguments.id))
        .map_err(|refusal| explain(context, &arguments.id, refusal))?;
    output::note(&match job.state {
        TrainState::Stopping => format!("the run `{}` writes a checkpoint and ends", job.id),
        state => format!("the run `{}` is {state}", job.id),
    });
    Ok(())
}

/// Lets a run go on.
pub(crate) fn resume(context: &Context, arguments: &TrainResume) -> Outcome {
    let client = context.daemon()?;
    let before = context
        .wait(client.train_job(&arguments.id))
        .map_err(|refusal| explain(context, &arguments.id, refusal))?;
    let job = context.wait(client.train_resume(&before.id))?;
    if arguments.detach {
        output::line(&job.id)?;
        return Ok(());
    }
    // Only what comes from now on: the rest was seen, or is in the logs.
    let ending = watch::watch(context, context.client.train_events(&job.id, before.n_events, true))?;
    ending.finish()?;
    output::note(&format!("`{0}` is ready; ask it with `witness run {0}`", job.model));
    Ok(())
}

/// Removes runs.
pub(crate) fn rm(context: &Context, arguments: &TrainRm) -> Outcome {
    let client = context.daemon()?;
    for id in &arguments.ids {
        context
            .wait(client.train_remove(id))
            .map_err(|refusal| explain(context, id, refusal))?;
        output::note(&format!("removed the run `{id}`"));
    }
    Ok(())
}

/// Adds near misses to a "no such run".
fn explain(context: &Context, id: &str, mut refusal: Diagnostic) -> Diagnostic {
    if refusal.kind != Kind::NotFound || refusal.hints.iter().any(|hint| hint.contains("did you mean")) {
        return refusal;
    }
    let jobs = context.wait(context.client.train_jobs()).unwrap_or_default();
    let names = jobs.iter().flat_map(|job| [job.id.as_str(), job.model.as_str()]);
    let mut near: Vec<String> = near_misses(id, names).iter().map(|name| format!("`{name}`")).collect();
    near.dedup();
    if !near.is_empty() {
        refusal.hints.insert(0, format!("did you mean {}?", near.join(" or ")));
    }
    if !refusal.hints.iter().any(|hint| hint.contains("train list")) {
        refusal.hints.push("`witness train list` shows the runs".to_owned());
    }
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn runs_are_a_table() {
        let running = TrainJob {
            id: "20261126-7f3a".into(),
            model: "expert".into(),
            state: TrainState::Running,
            step: 40,
            n_steps: 300,
            loss: Some(1.25),
            created_at: "1970-01-01T00:00:00Z".into(),
            ..TrainJob::default()
        };
        let queued = TrainJob {
            id: "20261126-0b11".into(),
            model: "other:v2".into(),
            created_at: "1970-01-01T01:00:00Z".into(),
            ..TrainJob::default()
        };
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(7200);
        insta::assert_snapshot!(table(&[running, queued], now).render(None), @r"
        ID              MODEL      STATE     STEP     LOSS     VALIDATION   CREATED
        20261126-7f3a   expert     running   40/300   1.2500   -            2 hours ago
        20261126-0b11   other:v2   queued    -        -        -            1 hour ago
        ");
    }

    #[test]
    fn lines_read_as_sentences() {
        let mut teller = Teller::default();
        let mut said = String::new();
        for event in [
            json!({"type": "job", "id": "a1", "model": "m", "state": "queued", "reason": "another run goes first"}),
            json!({"type": "job", "id": "a1", "model": "m", "state": "starting"}),
            json!({"type": "job", "id": "a1", "model": "m", "state": "running"}),
            json!({"type": "started", "resumed_from": 0, "plan": {"n_steps": 6, "memory_bytes": 2_000_000_000_u64, "warnings": ["the warm-up is long"],
                "train": {"n_rows": 19, "n_tokens": 4000, "n_targets": 1500, "tokens_max": 400, "n_dropped": 1}, "validation": {"n_rows": 3}}}),
            json!({"type": "warning", "message": "the warm-up is long"}),
            json!({"type": "warning", "message": "another"}),
            json!({"type": "step", "step": 1, "epoch": 0.5, "loss": 2.0, "grad_norm": 1.0, "learning_rate": 1e-4, "n_tokens": 5, "n_targets": 2, "seconds": 0.1}),
            json!({"type": "log", "step": 2, "epoch": 1.0, "values": {"loss": 1.5, "grad_norm": 0.25, "learning_rate": 2e-4, "epoch": 1.0}}),
            json!({"type": "eval", "step": 2, "epoch": 1.0, "loss": 1.4, "is_best": true, "seconds": 0.5}),
            json!({"type": "checkpoint", "step": 4, "directory": "checkpoint-4", "files": [], "removed": [2], "is_best": false}),
            json!({"type": "published", "model": "m", "adapters": ["default"], "step": 4}),
            json!({"type": "published", "model": "m", "adapters": ["default"], "step": 4}),
            json!({"type": "notice", "message": "the disk is\nnearly full"}),
            json!({"type": "hologram", "step": 5}),
            json!({"type": "end", "state": "failed", "error": {"error": "the loss is not a number", "code": "a::b"}}),
        ] {
            let Value::Object(event) = event else {
                panic!("an object")
            };
            let line = TrainLine {
                event,
                ..TrainLine::default()
            };
            if let Some(text) = text(&line, &mut teller) {
                said += &text;
                said.push('\n');
            }
        }
        insta::assert_snapshot!(said, @r"
        the run `a1` waits: another run goes first
        the run `a1` starts
        19 rows, 4000 tokens, 1500 of them learned, 400 in the longest; 1 too long and left out; 6 steps, at most 2.0 GB
        measured on 3 rows, 0 tokens, 0 of them learned, 0 in the longest
        warning: the warm-up is long
        warning: another
        step 2/6 (epoch 1.00)  loss 1.5000  grad_norm 0.2500  learning_rate 2.00e-4
        step 2/6: loss 1.4000 on the validation rows, the best so far (0.5s)
        step 4/6: wrote `checkpoint-4`; removed that of step 2
        `m` answers from step 4 now
        the disk is nearly full
        failed: the loss is not a number
        ");
    }
}
