//! A step of a training as the name of an adapter: what is stored for checkpoint 300 is called `checkpoint-300`.

use witness_api::ShowResponse;
use witness_diagnostics::{Diagnostic, Kind};

use crate::commands::show;
use crate::context::{Context, Outcome};

/// Most steps that an error lists.
const STEPS_TOLD_MAX: usize = 20;

const PREFIX: &str = "checkpoint-";

/// Returns the adapter of a checkpoint of a model.
pub(crate) fn adapter(context: &Context, model: &str, step: u64) -> Outcome<String> {
    let facts = show::ask(context, model, false)?;
    of(&facts, model, step)
}

/// The same with what is known of the model.
pub(crate) fn of(facts: &ShowResponse, model: &str, step: u64) -> Outcome<String> {
    let name = format!("{PREFIX}{step}");
    let adapters = facts
        .witness
        .as_ref()
        .map(|ours| ours.adapters.as_slice())
        .unwrap_or_default();
    if adapters.contains(&name) {
        return Ok(name);
    }
    let mut steps: Vec<u64> = adapters
        .iter()
        .filter_map(|adapter| adapter.strip_prefix(PREFIX)?.parse().ok())
        .collect();
    steps.sort_unstable();
    let refusal = Diagnostic::new(
        "witness::cli::no_checkpoint",
        Kind::NotFound,
        format!("`{model}` has no checkpoint of step {step}"),
    );
    let nearest = steps.iter().min_by_key(|known| known.abs_diff(step));
    Err(match nearest {
        None => refusal.hint("it has none at all: a run keeps them every `save_steps` steps"),
        Some(nearest) => {
            let mut told: Vec<String> = steps.iter().take(STEPS_TOLD_MAX).map(u64::to_string).collect();
            if steps.len() > STEPS_TOLD_MAX {
                told.push(format!("and {} more", steps.len() - STEPS_TOLD_MAX));
            }
            refusal
                .hint(format!("did you mean {nearest}?"))
                .hint(format!("there are those of the steps {}", told.join(", ")))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use witness_api::ShowWitness;

    #[test]
    fn a_step_is_an_adapter_or_its_neighbours_are_told() {
        let with = |adapters: &[&str]| ShowResponse {
            witness: Some(ShowWitness {
                adapters: adapters.iter().map(|name| (*name).to_owned()).collect(),
                ..ShowWitness::default()
            }),
            ..ShowResponse::default()
        };
        let facts = with(&["default", "checkpoint-300", "checkpoint-100"]);
        assert_eq!(of(&facts, "m", 300).unwrap(), "checkpoint-300");
        let refusal = of(&facts, "m", 290).unwrap_err();
        insta::assert_snapshot!(witness_diagnostics::render(&refusal, false), @r"
        error[witness::cli::no_checkpoint]: `m` has no checkpoint of step 290
          hint: did you mean 300?
          hint: there are those of the steps 100, 300
        ");
        let refusal = of(&with(&[]), "m", 290).unwrap_err();
        insta::assert_snapshot!(witness_diagnostics::render(&refusal, false), @r"
        error[witness::cli::no_checkpoint]: `m` has no checkpoint of step 290
          hint: it has none at all: a run keeps them every `save_steps` steps
        ");
    }
}
