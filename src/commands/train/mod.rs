//! `witness train`: a recipe becomes a run of the daemon, which is watched until it ends.
//!
//! Layout, in reading order: `order` (flags, files and Modelfiles to one recipe) -> `base` (which model it starts from) and `rows` (which
//! files it learns from, checked and stored) -> `show` (what would be done) or `watch` (what is being done) · `jobs` (the verbs about runs).

mod base;
mod jobs;
mod order;
mod rows;
mod show;
mod watch;

use std::process::ExitCode;

use witness_api::{ExportRequest, TrainRequest};
use witness_client::Client;
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{TrainPlan, TrainProduct, TrainReply};

use crate::cli::{Train, TrainStart, TrainVerb};
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::progress::{Bars, Spinner};
pub(crate) use order::Order;
pub(crate) use rows::{plan_text, rows_in};
pub(crate) use show::histogram;

/// Starts a run, or does one of the verbs about runs.
pub(crate) fn train(context: &Context, arguments: &Train) -> Outcome<ExitCode> {
    match &arguments.verb {
        Some(TrainVerb::List(arguments)) => jobs::list(context, arguments)?,
        Some(TrainVerb::Logs(arguments)) => jobs::logs(context, arguments)?,
        Some(TrainVerb::Stop(arguments)) => jobs::stop(context, arguments)?,
        Some(TrainVerb::Resume(arguments)) => jobs::resume(context, arguments)?,
        Some(TrainVerb::Rm(arguments)) => jobs::rm(context, arguments)?,
        None => start(context, &arguments.start)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn start(context: &Context, arguments: &TrainStart) -> Outcome {
    let order = Order::of_flags(arguments)?;
    let deed = &arguments.deed;
    if deed.json && !deed.show_recipe && !deed.estimate {
        return Err(invalid("`--json` says nothing about a run").hint("add `--show-recipe` or `--estimate`"));
    }
    if deed.show_recipe || deed.estimate {
        return foresee(context, order, deed.estimate, deed.json);
    }
    order.warn();
    run(context, order, deed.detach, deed.force)
}

/// Prints what would be done. Starts nothing; a base that is a path is stored, since only so it can be looked into.
fn foresee(context: &Context, mut order: Order, is_estimate: bool, is_json: bool) -> Outcome {
    if !order.can_be_planned() {
        order.require(is_estimate)?;
        return show::recipe(&order, None, None, is_json);
    }
    let planned = prepare(context, &mut order).and_then(|mut request| {
        request.trial = is_estimate.then_some(true);
        let spinner = Spinner::start(if is_estimate {
            "trying a step"
        } else {
            "counting tokens"
        });
        let plan: TrainPlan = context
            .wait(context.client.train_plan(&request))
            .map_err(|refusal| explain(context, &request, refusal))?;
        drop(spinner);
        order.settle(plan.n_steps);
        Ok(plan)
    });
    match planned {
        Ok(plan) => show::recipe(&order, Some(&plan), budget(context), is_json),
        // What the recipe means is an answer, also where the data or the base are not fit for it yet.
        Err(refusal) if !is_estimate && !is_json => {
            show::recipe(&order, None, None, is_json)?;
            Err(refusal)
        }
        Err(refusal) => Err(refusal),
    }
}

fn budget(context: &Context) -> Option<u64> {
    let status: witness_api::StatusResponse = context.wait(context.client.get("/api/witness/status")).ok()?;
    (status.memory_budget_bytes > 0).then_some(status.memory_budget_bytes)
}

/// Carries an order out.
pub(crate) fn run(context: &Context, mut order: Order, is_detached: bool, is_forced: bool) -> Outcome {
    order.require(true)?;
    let mut request = prepare(context, &mut order)?;
    if order.recipe.depends_on_length() {
        let spinner = Spinner::start("counting steps");
        let plan: TrainPlan = context
            .wait(context.client.train_plan(&request))
            .map_err(|refusal| explain(context, &request, refusal))?;
        drop(spinner);
        order.settle(plan.n_steps);
        request.settings = order.settings()?;
    }
    request.force = is_forced.then_some(true);
    if is_detached {
        let job = context
            .wait(context.client.train_start(&request))
            .map_err(|refusal| explain(context, &request, refusal))?;
        output::line(&job.id)?;
        output::note(&format!(
            "the run makes `{}`; watch it with `witness train logs {} -f`",
            job.model, job.id
        ));
        if let Some(directory) = &order.recipe.output_dir {
            output::note(&format!(
                "`witness export {} {directory}` writes its adapter out once it is there",
                job.model
            ));
        }
        return Ok(());
    }
    let ending =
        watch::watch(context, context.client.train(&request)).map_err(|refusal| explain(context, &request, refusal))?;
    let reply = ending.finish()?;
    finish(context, &order, reply, is_forced)
}

/// Finds and stores everything that a run is made from.
fn prepare(context: &Context, order: &mut Order) -> Outcome<TrainRequest> {
    let rows = rows::Rows::find(order)?;
    let model = order.model.clone().unwrap_or_default();
    let client = context.daemon()?;
    let bars = Bars::new();
    let from = base::find(context, &bars, order, &model)?;
    let (data, validation) = rows.store(context, client, &bars)?;
    bars.clear();
    Ok(TrainRequest {
        model,
        from,
        data,
        validation,
        settings: order.settings()?,
        recipe: Some(order.record()),
        ..order.parts.clone()
    })
}

/// Adds to a refusal what helps a person who trains.
fn explain(context: &Context, request: &TrainRequest, refusal: Diagnostic) -> Diagnostic {
    match &request.from {
        Some(from) if refusal.kind == Kind::NotFound => context.explain_missing(from, refusal),
        _ => refusal,
    }
}

/// Says what is there now, and writes the adapter out where the recipe wants it.
fn finish(context: &Context, order: &Order, reply: Option<TrainReply>, is_forced: bool) -> Outcome {
    let model = order.model.as_deref().unwrap_or_default();
    output::note(&format!("`{model}` is ready; ask it with `witness run {model}`"));
    let Some(reply) = reply else {
        return Ok(());
    };
    if let [first, .., last] = reply.checkpoints.as_slice() {
        output::note(&format!(
            "it can answer from each of {} checkpoints too, from step {first} to {last}: `witness run {model} --checkpoint {first}`",
            reply.checkpoints.len()
        ));
    }
    let Some(directory) = order.output_dir()? else {
        return Ok(());
    };
    if reply.product != TrainProduct::Adapter {
        output::note("`output_dir` holds nothing: only adapters are written out");
        return Ok(());
    }
    let request = ExportRequest {
        model: model.to_owned(),
        directory: directory.clone(),
        force: is_forced,
        ..ExportRequest::default()
    };
    match export(context, &context.client, &request) {
        Ok(files) => output::note(&format!("wrote {} files to `{}`", files.len(), directory.display())),
        // The run succeeded; only the copy is missing.
        Err(refusal) => {
            output::note(&format!(
                "warning: nothing was written to `{}`: {refusal}",
                directory.display()
            ));
            output::note(&format!(
                "`witness export {model} <DIR>` writes the adapter to another folder"
            ));
        }
    }
    Ok(())
}

pub(crate) fn export(context: &Context, client: &Client, request: &ExportRequest) -> Outcome<Vec<String>> {
    context.wait(client.export(request)).map(|answer| answer.files)
}

pub(crate) fn invalid(message: impl Into<String>) -> Diagnostic {
    Diagnostic::new("witness::cli::argument", Kind::Invalid, message)
}
