//! `witness imatrix`: which columns of a model's matrices count, for a better small model.

use std::path::PathBuf;

use witness_api::{ImatrixRequest, MeasuredModel};

use super::measuring::{self, Followed};
use crate::cli::{ImatrixArguments, ImatrixFormat};
use crate::context::{Context, Outcome};
use crate::render::progress::Bars;
use crate::render::{measured, output};

/// Writes the file. The daemon does it, and the plugin that serves the model weighs.
pub(crate) fn imatrix(context: &Context, arguments: &ImatrixArguments) -> Outcome {
    let client = context.daemon()?;
    let file = arguments.output.clone().unwrap_or_else(|| file_of(&arguments.name));
    let file = std::path::absolute(&file).unwrap_or(file);
    let bars = Bars::new();
    let mut followed = Followed::default();
    let ended = context.wait_or_interrupt(async {
        let on = &arguments.on;
        let request = ImatrixRequest {
            model: MeasuredModel {
                model: arguments.name.clone(),
                // What is quantized is the base.
                adapter: Some("base".to_owned()),
            },
            text: measuring::text(client, &bars, &on.text, &on.cut, arguments.chunks).await?,
            file: file.clone(),
            form: arguments.form.map(|form| match form {
                ImatrixFormat::Gguf => "gguf".to_owned(),
                ImatrixFormat::Dat => "dat".to_owned(),
            }),
            force: arguments.force,
        };
        followed.follow(&bars, client.imatrix(&request).await).await
    });
    bars.clear();
    let results = followed.end(context, ended, &[&arguments.name])?;
    let matrices = results.first().map_or(0, |measured| measured.matrices);
    output::note(&measured::basis(&results, &arguments.on.text.to_string_lossy()));
    output::note(&format!(
        "wrote the importance of {matrices} matrices to `{}`; quantize with `witness quantize {} q4_K_M --imatrix {}`",
        file.display(),
        arguments.name,
        file.display()
    ));
    Ok(())
}

/// A file's name for a model's.
fn file_of(name: &str) -> PathBuf {
    PathBuf::from(format!("{}.imatrix.gguf", name.replace(['/', ':'], "-")))
}
