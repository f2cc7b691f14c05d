//! `witness cp`: a second name for a model.

use witness_api::CopyRequest;
use witness_client::Method;

use crate::cli::Cp;
use crate::context::{Context, Outcome};
use crate::render::output;

/// Copies a name.
pub(crate) fn cp(context: &Context, arguments: &Cp) -> Outcome {
    let client = context.daemon()?;
    let request = CopyRequest {
        source: arguments.source.clone(),
        destination: arguments.target.clone(),
    };
    context
        .wait(client.send(Method::POST, "/api/copy", &request))
        .map_err(|refusal| context.explain_missing(&arguments.source, refusal))?;
    output::note(&format!("copied `{}` to `{}`", arguments.source, arguments.target));
    Ok(())
}
