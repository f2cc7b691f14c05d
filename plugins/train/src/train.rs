//! The plugin's calls.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;
use witness_diagnostics::{Diagnostic, Kind};
use witness_instructions::Isa;
use witness_plugin_protocol::{TrainPlan, TrainRequest};
use witness_plugin_sdk::{Job, JobEvents};
use witness_template::CivilTime;

use crate::prepare::prepare;
use crate::trial;

/// The trainer.
pub struct CpuTrain;

impl Job for CpuTrain {
    fn plan(request: Value) -> Result<Value, Diagnostic> {
        Isa::hold_to_setting()?;
        encode(&plan(&decode(request)?)?)
    }

    fn run(request: Value, events: &mut JobEvents<'_>) -> Result<Value, Diagnostic> {
        Isa::hold_to_setting()?;
        encode(&crate::run::run(&decode(request)?, events)?)
    }
}

/// Says what a request would do and take, without doing it.
///
/// # Errors
/// The request is refused.
pub fn plan(request: &TrainRequest) -> Result<TrainPlan, Diagnostic> {
    let seconds = if request.started_at > 0.0 {
        request.started_at as i64
    } else {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    };
    let prepared = prepare(request, CivilTime::from_unix(seconds), None, &|| false)?;
    let prepared = prepared.ok_or_else(|| crate::error::internal("a plan was stopped that nobody stopped"))?;
    let mut plan = prepared.plan.clone();
    if request.trial {
        plan.seconds = Some(trial::seconds(&prepared)?);
    }
    Ok(plan)
}

fn decode(request: Value) -> Result<TrainRequest, Diagnostic> {
    serde_json::from_value(request).map_err(|error| {
        Diagnostic::new(
            "witness::train::bad_request",
            Kind::Invalid,
            "the request of a training run cannot be read",
        )
        .cause(error.to_string())
        .hint("see the settings that a recipe may hold: `witness train --show-recipe`")
    })
}

fn encode(value: &impl Serialize) -> Result<Value, Diagnostic> {
    serde_json::to_value(value).map_err(|error| crate::error::internal(error.to_string()))
}
