//! `witness quantize`: a smaller model of a model. The daemon has a plugin do it; here is what is asked for and what is told.

use witness_api::{CreateRequest, QuantizeFields, StringMap, SuggestRequest};

use super::measuring::{self, Followed};
use super::{following, names, show, train::invalid};
use crate::cli::Quantize;
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::progress::Bars;
use crate::render::{measured, plan};

/// Makes the model, or shows what it would be.
pub(crate) fn quantize(context: &Context, arguments: &Quantize) -> Outcome {
    let Some(to) = &arguments.to else {
        return suggest(context, arguments);
    };
    let target = arguments.target.clone();
    let name = target.unwrap_or_else(|| names::with_type(&arguments.name, to));
    let mut request = request(arguments, to, &name)?;
    let client = context.daemon()?;
    let bars = Bars::new();
    if !arguments.dry_run {
        output::note(&format!("making `{name}` of `{}`", arguments.name));
    }
    let ended = context.wait_or_interrupt(async {
        if let Some(path) = &arguments.imatrix {
            request.quantize_options.get_or_insert_default().imatrix =
                Some(following::store_one(client, &bars, path).await?);
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
            let is_made = matches!(made, Ok(Some(())));
            following::end(context, made, &name, Some(&arguments.name))?;
            match is_made && arguments.json {
                true => output::json(&account(context, arguments, &name)?),
                false => Ok(()),
            }
        }
    }
}

/// What was made, for programs: the model as the daemon knows it now.
fn account(context: &Context, arguments: &Quantize, name: &str) -> Outcome<serde_json::Value> {
    let shown = show::ask(context, name, false)?;
    let witness = shown.witness.unwrap_or_default();
    let files = witness.files.iter();
    let files: Vec<_> = files
        .map(|(name, digest)| serde_json::json!({ "name": name, "digest": digest }))
        .collect();
    Ok(serde_json::json!({
        "model": name,
        "from": arguments.name,
        "format": shown.details.format,
        "quantization": shown.details.quantization_level,
        "digest": witness.digest,
        "files": files,
    }))
}

fn request(arguments: &Quantize, to: &str, name: &str) -> Outcome<CreateRequest> {
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
        quantize: Some(to.to_owned()),
        quantize_options: (fields != QuantizeFields::default()).then_some(fields),
        ..CreateRequest::default()
    })
}

/// Tries types, and makes nothing.
fn suggest(context: &Context, arguments: &Quantize) -> Outcome {
    let client = context.daemon()?;
    let fields = &arguments.suggest;
    let path = fields.text.clone().unwrap_or_default();
    let bars = Bars::new();
    let mut followed = Followed::default();
    let ended = context.wait_or_interrupt(async {
        let request = SuggestRequest {
            model: arguments.name.clone(),
            types: fields.types.clone(),
            memory_bytes: fields.memory,
            imatrix: match &arguments.imatrix {
                Some(path) => Some(following::store_one(client, &bars, path).await?),
                None => None,
            },
            text: measuring::text(client, &bars, &path, &fields.cut, fields.chunks).await?,
        };
        followed.follow(&bars, client.suggest(&request).await).await
    });
    bars.clear();
    let results = followed.end(context, ended, &[&arguments.name])?;
    if arguments.json {
        return output::json(&results);
    }
    output::print(&measured::suggestion(&results, output::width()))?;
    output::note(&measured::basis(&results, &path.to_string_lossy()));
    if let Some(best) = results.first() {
        output::note(&format!(
            "nearest of those that fit: `witness quantize {} {}`",
            arguments.name, best.model
        ));
    }
    Ok(())
}
