//! `witness run NAME --estimate`: the memory that a model takes, before it takes it.

use witness_api::{EstimateRequest, EstimateResponse};

use super::session::Session;
use crate::cli::Run;
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::quantity::size;

/// Prints the estimate. Nothing is loaded.
pub(crate) fn estimate(context: &Context, arguments: &Run) -> Outcome {
    let session = Session::new(arguments)?;
    let client = context.daemon()?;
    let request = EstimateRequest {
        model: arguments.name.clone(),
        num_ctx: session.parameters.get("num_ctx").and_then(serde_json::Value::as_u64),
    };
    let answer: EstimateResponse = context
        .wait(client.post("/api/witness/estimate", &request))
        .map_err(|refusal| context.explain_missing(&arguments.name, refusal))?;
    if arguments.json {
        return output::json(&answer);
    }
    output::print(&text(&answer))
}

fn text(answer: &EstimateResponse) -> String {
    let sequences = match answer.num_parallel {
        0 | 1 => String::new(),
        count => format!(" x {count} sequences"),
    };
    let verdict = match (answer.is_loaded, answer.fits) {
        (true, _) => "it is loaded".to_owned(),
        (false, true) => "it fits".to_owned(),
        (false, false) => "it does not fit beside what is loaded; idle models give way first".to_owned(),
    };
    let draft = match answer.draft_bytes {
        0 => String::new(),
        bytes => format!("  draft      {:>9}\n", size(bytes)),
    };
    format!(
        "{}\n  weights    {:>9}\n  cache      {:>9}   {} tokens{sequences}\n  adapters   {:>9}\n{draft}  overhead   {:>9}\n  in all     {:>9}   of {} ({} in use): {verdict}\n",
        answer.model,
        size(answer.weights_bytes),
        size(answer.kv_bytes),
        answer.num_ctx,
        size(answer.adapter_bytes),
        size(answer.overhead_bytes),
        size(answer.total_bytes),
        size(answer.budget_bytes),
        size(answer.used_bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_sum_and_verdict_are_shown() {
        let answer = EstimateResponse {
            model: "mine".into(),
            num_ctx: 4096,
            weights_bytes: 4_700_000_000,
            kv_bytes: 512_000_000,
            adapter_bytes: 40_000_000,
            overhead_bytes: 100_000_000,
            total_bytes: 5_352_000_000,
            budget_bytes: 16_000_000_000,
            fits: true,
            ..EstimateResponse::default()
        };
        insta::assert_snapshot!(text(&answer), @r"
        mine
          weights       4.7 GB
          cache         512 MB   4096 tokens
          adapters       40 MB
          overhead      100 MB
          in all        5.4 GB   of 16 GB (0 B in use): it fits
        ");
    }
}
