//! `witness ps`: the models that are loaded.

use std::time::SystemTime;

use witness_api::{ProcessModel, ProcessResponse};

use super::list::{dash, short_id};
use crate::cli::Listing;
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::quantity::{size, until};
use crate::render::table::Table;

/// Lists loaded models. Without a daemon nothing is loaded; none is started to say so.
pub(crate) fn ps(context: &Context, arguments: &Listing) -> Outcome {
    let answer = match context.wait(context.client.get::<ProcessResponse>("/api/ps")) {
        Ok(answer) => answer,
        Err(refusal) if refusal.code == "witness::client::not_running" => {
            output::note("no daemon is running");
            ProcessResponse::default()
        }
        Err(refusal) => return Err(refusal),
    };
    if arguments.json {
        return output::json(&answer);
    }
    output::print(&table(&answer.models, SystemTime::now()).render(output::width()))?;
    for model in &answer.models {
        for note in &model.notes {
            output::warn(&format!("{}: {note}", model.name));
        }
    }
    Ok(())
}

fn table(models: &[ProcessModel], now: SystemTime) -> Table {
    let mut table = Table::new(["NAME", "ID", "SIZE", "CONTEXT", "ADAPTERS", "DRAFTS", "UNTIL"]);
    for model in models {
        let until = match model.running {
            Some(running) if running > 0 => format!("answering {running}"),
            _ => until(&model.expires_at, now),
        };
        table.row([
            model.name.clone(),
            short_id(&model.digest),
            size(model.size),
            model.context_length.to_string(),
            dash(&model.adapters.join(", ")),
            dash(&model.drafts.join(", ")),
            until,
        ]);
    }
    table
}
