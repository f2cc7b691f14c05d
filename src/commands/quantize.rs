//! `witness quantize`: a smaller model of a model. The daemon has a plugin do it; here is what is asked for and what is told.

use witness_api::{CreateRequest, QuantizeFields, StringMap};
use witness_client::SourceFile;

use super::{following, names, train::invalid};
use crate::cli::Quantize;
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::plan;
use crate::render::progress::Bars;

/// Makes the model, or shows what it would be.
pub(crate) fn quantize(context: &Context, arguments: &Quantize) -> Outcome {
    let target = arguments.target.clone();
    let name = target.unwrap_or_else(|| names::with_type(&arguments.name, &arguments.to));
    let mut request = request(arguments, &name)?;
    let client = context.daemon()?;
    let bars = Bars::new();
    if !arguments.dry_run {
        output::note(&format!("making `{name}` of `{}`", arguments.name));
    }
    let ended = context.wait_or_interrupt(async {
        if let Some(path) = &arguments.imatrix {
            let file = SourceFile {
                name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                path: path.clone(),
            };
            let digests = following::store(client, &bars, &[&file], false).await?;
            request.quantize_options.get_or_insert_default().imatrix = digests.into_iter().next();
        }
        match arguments.dry_run {
            true => Ok(Some(client.plan(&request).await?)),
            false => following::make(client, &bars, &request).await.map(|()| None),
        }
    });
    bars.clear();
    match ended {
        Ok(Some(Some(plan))) if arguments.json => output::json(&plan),
        Ok(Some(Some(plan))) => {
            for warning in &plan.warnings {
                output::warn(warning);
            }
            output::print(&plan::text(&plan, &name, output::width()))
        }
        ended => {
            let made = ended.map(|ended| ended.map(|_| ()));
            following::end(context, made, &name, Some(&arguments.name))
        }
    }
}

fn request(arguments: &Quantize, name: &str) -> Outcome<CreateRequest> {
    for (index, (pattern, _)) in arguments.tensor_types.iter().enumerate() {
        if arguments.tensor_types[..index]
            .iter()
            .any(|(known, _)| known == pattern)
        {
            return Err(invalid(format!("`--tensor-type` names the pattern `{pattern}` twice")).hint("leave one out"));
        }
    }
    let fields = QuantizeFields {
        imatrix: None,
        tensor_types: StringMap(arguments.tensor_types.clone()),
        output_type: arguments.output_tensor_type.clone(),
        embedding_type: arguments.token_embedding_type.clone(),
        pure: arguments.pure,
        requantize: arguments.allow_requantize,
    };
    Ok(CreateRequest {
        model: name.to_owned(),
        from: Some(arguments.name.clone()),
        quantize: Some(arguments.to.clone()),
        quantize_options: (fields != QuantizeFields::default()).then_some(fields),
        ..CreateRequest::default()
    })
}
