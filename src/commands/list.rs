//! `witness list`: the models that are here.

use std::time::SystemTime;

use witness_api::{ListModel, ListResponse};

use crate::cli::List;
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::quantity::{ago, size};
use crate::render::table::Table;

/// Digits of a digest that are shown; enough to tell models apart.
const ID_DIGITS: usize = 12;

/// Lists models, all or those whose name contains a text.
pub(crate) fn list(context: &Context, arguments: &List) -> Outcome {
    let client = context.daemon()?;
    let mut answer: ListResponse = context.wait(client.get("/api/tags"))?;
    if let Some(filter) = &arguments.filter {
        let filter = filter.to_lowercase();
        answer
            .models
            .retain(|model| model.name.to_lowercase().contains(&filter));
    }
    if arguments.json {
        return output::json(&answer);
    }
    output::print(&table(&answer.models, SystemTime::now()).render(output::width()))?;
    for model in &answer.models {
        if let Some(damage) = &model.damage {
            output::note(&format!(
                "`{}` is damaged: {damage} (`witness fsck` says more)",
                model.name
            ));
        }
    }
    Ok(())
}

fn table(models: &[ListModel], now: SystemTime) -> Table {
    let mut table = Table::new(["NAME", "ID", "SIZE", "ADAPTERS", "MODIFIED"]);
    for model in models {
        let state = match &model.damage {
            Some(_) => "damaged".to_owned(),
            None => ago(&model.modified_at, now),
        };
        table.row([
            model.name.clone(),
            short_id(&model.digest),
            size(model.size),
            dash(&model.adapters.join(", ")),
            state,
        ]);
    }
    table
}

/// Returns the first digits of a digest, with or without its algorithm before them.
pub(crate) fn short_id(digest: &str) -> String {
    let digits = digest.rsplit(':').next().unwrap_or(digest);
    dash(&digits.chars().take(ID_DIGITS).collect::<String>())
}

/// Returns the text, or a dash where there is none.
pub(crate) fn dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_model_is_named_among_the_sound_ones() {
        let sound = ListModel {
            name: "quick:latest".into(),
            digest: "8a2cf0b1d4e56f7081".into(),
            size: 480_000,
            modified_at: "1970-01-01T00:00:00Z".into(),
            adapters: vec!["pirate".into()],
            ..ListModel::default()
        };
        let damaged = ListModel {
            name: "old:v1".into(),
            damage: Some("the manifest ends early".into()),
            ..ListModel::default()
        };
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(7200);
        insta::assert_snapshot!(table(&[sound, damaged], now).render(None), @r"
        NAME           ID             SIZE     ADAPTERS   MODIFIED
        quick:latest   8a2cf0b1d4e5   480 kB   pirate     2 hours ago
        old:v1         -              0 B      -          damaged
        ");
    }
}
