//! `witness compare`: how far forms of a model are from it.

use witness_api::MeasuredModel;

use super::measuring;
use crate::cli::Compare;
use crate::context::{Context, Outcome};
use crate::render::output;

/// Holds models against the first.
pub(crate) fn compare(context: &Context, arguments: &Compare) -> Outcome {
    let models = [&arguments.reference].into_iter().chain(&arguments.others);
    let models = models.map(|name| MeasuredModel {
        model: name.clone(),
        adapter: None,
    });
    let results = measuring::measure(context, models.collect(), &arguments.on, arguments.chunks)?;
    match arguments.json {
        true => output::json(&results),
        false => measuring::print(&results, &arguments.on),
    }
}
