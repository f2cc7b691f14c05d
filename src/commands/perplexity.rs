//! `witness perplexity`: how well a model foretells a text.

use witness_api::{MeasureRequest, MeasuredModel};

use super::measuring::{self, Followed};
use crate::cli::Perplexity;
use crate::context::{Context, Outcome};
use crate::render::progress::Bars;
use crate::render::{measured, output};

/// Measures one model.
pub(crate) fn perplexity(context: &Context, arguments: &Perplexity) -> Outcome {
    let client = context.daemon()?;
    let bars = Bars::new();
    let mut followed = Followed::default();
    let ended = context.wait_or_interrupt(async {
        let on = &arguments.on;
        let request = MeasureRequest {
            models: vec![MeasuredModel {
                model: arguments.name.clone(),
                adapter: arguments.adapter.clone(),
            }],
            text: measuring::text(client, &bars, &on.text, &on.cut, arguments.chunks).await?,
        };
        followed.follow(&bars, client.measure(&request).await).await
    });
    bars.clear();
    let results = followed.end(context, ended, &[&arguments.name])?;
    if arguments.json {
        return output::json(&results.first());
    }
    output::print(&measured::table(&results, output::width()))?;
    output::note(&measured::basis(&results, &arguments.on.text.to_string_lossy()));
    Ok(())
}
