//! `witness compare`: how far forms of a model are from it.

use witness_api::{MeasureRequest, MeasuredModel};

use super::measuring::{self, Followed};
use crate::cli::Compare;
use crate::context::{Context, Outcome};
use crate::render::progress::Bars;
use crate::render::{measured, output};

/// Holds models against the first.
pub(crate) fn compare(context: &Context, arguments: &Compare) -> Outcome {
    let client = context.daemon()?;
    let bars = Bars::new();
    let mut followed = Followed::default();
    let names: Vec<&str> = [&arguments.reference]
        .into_iter()
        .chain(&arguments.others)
        .map(String::as_str)
        .collect();
    let ended = context.wait_or_interrupt(async {
        let on = &arguments.on;
        let request = MeasureRequest {
            models: names
                .iter()
                .map(|&name| MeasuredModel {
                    model: name.to_owned(),
                    adapter: None,
                })
                .collect(),
            text: measuring::text(client, &bars, &on.text, &on.cut, arguments.chunks).await?,
        };
        followed.follow(&bars, client.measure(&request).await).await
    });
    bars.clear();
    let results = followed.end(context, ended, &names)?;
    if arguments.json {
        return output::json(&results);
    }
    output::print(&measured::table(&results, output::width()))?;
    output::note(&measured::basis(&results, &arguments.on.text.to_string_lossy()));
    Ok(())
}
