//! `witness rm`: models go by name.

use witness_api::DeleteRequest;
use witness_client::Method;

use crate::cli::Rm;
use crate::context::{Context, Outcome};
use crate::render::output;

/// Removes every model named. One that cannot be removed does not keep the others; the first failure is returned, the rest is printed.
pub(crate) fn rm(context: &Context, arguments: &Rm) -> Outcome {
    let client = context.daemon()?;
    let mut first_failure = None;
    for name in &arguments.names {
        let request = DeleteRequest { model: name.clone() };
        match context.wait(client.send(Method::DELETE, "/api/delete", &request)) {
            Ok(()) => output::note(&format!("removed `{name}`")),
            Err(refusal) => {
                let refusal = context.explain_missing(name, refusal);
                match &first_failure {
                    None => first_failure = Some(refusal),
                    Some(_) => output::error(&refusal),
                }
            }
        }
    }
    first_failure.map_or(Ok(()), Err)
}
