//! `witness perplexity`: how well a model foretells a text.

use witness_api::MeasuredModel;

use super::measuring;
use crate::cli::Perplexity;
use crate::context::{Context, Outcome};
use crate::render::output;

/// Measures one model.
pub(crate) fn perplexity(context: &Context, arguments: &Perplexity) -> Outcome {
    let model = MeasuredModel {
        model: arguments.name.clone(),
        adapter: arguments.adapter.clone(),
    };
    let results = measuring::measure(context, vec![model], &arguments.on, arguments.chunks)?;
    match arguments.json {
        true => output::json(&results.first()),
        false => measuring::print(&results, &arguments.on),
    }
}
