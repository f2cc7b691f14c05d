//! `witness merge`: a model whose weights hold an adapter.

use witness_api::CreateRequest;

use super::run::checkpoint;
use super::{following, names};
use crate::cli::Merge;
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::progress::Bars;

/// Makes the model.
pub(crate) fn merge(context: &Context, arguments: &Merge) -> Outcome {
    let client = context.daemon()?;
    let adapter = match arguments.checkpoint {
        Some(step) => checkpoint::adapter(context, &arguments.name, step)?,
        // An empty name is the adapter that answers.
        None => arguments.adapter.clone().unwrap_or_default(),
    };
    let target = arguments.target.clone();
    let name = target.unwrap_or_else(|| names::with_ending(&arguments.name, "-merged"));
    let request = CreateRequest {
        model: name.clone(),
        from: Some(arguments.name.clone()),
        merge: Some(adapter),
        quantize: arguments.quantize.clone(),
        ..CreateRequest::default()
    };
    output::note(&format!("making `{name}` of `{}`", arguments.name));
    let bars = Bars::new();
    let made = context.wait_or_interrupt(following::make(client, &bars, &request));
    bars.clear();
    following::end(context, made, &name, Some(&arguments.name))
}
