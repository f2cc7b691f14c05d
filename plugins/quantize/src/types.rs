//! Which type each tensor of the file gets, and what is refused.

use witness_diagnostics::Diagnostic;
use witness_formats::gguf::GgmlType;
use witness_plugin_protocol::QuantizeOptions;
use witness_quantization::{Mixture, Override, PlanOptions, Tensor, parse_type, plan};

use crate::base::{Model, NF4, blocks_in_the_way};
use crate::error::{Result, refused};
use crate::imatrix::Imatrix;

/// The types of a file.
pub(crate) struct Types {
    /// One for each piece, in order.
    pub(crate) kinds: Vec<GgmlType>,
    /// The one word for it, and its number in `general.file_type`.
    pub(crate) name: String,
    pub(crate) file_type: Option<u32>,
    /// What should be known.
    pub(crate) warnings: Vec<String>,
}

impl Types {
    /// Chooses.
    pub(crate) fn choose(
        model: &Model,
        quantization: Option<&str>,
        options: &QuantizeOptions,
        imatrix: Option<&Imatrix>,
    ) -> Result<Types> {
        let Some(name) = quantization else {
            if model.merged_blocks && !options.requantize {
                return Err(blocks_in_the_way("merging into it", &model.storage)
                    .hint("or name the type that the merged model is to have with `--quantize`"));
            }
            return Ok(Types {
                kinds: model.pieces.iter().map(|piece| piece.kind).collect(),
                name: model.storage.clone(),
                file_type: model.file_type,
                warnings: Vec::new(),
            });
        };
        if name.eq_ignore_ascii_case(NF4) {
            return Err(refused("file_type", "a GGUF file has no type NF4").hint(
                "write a Hugging Face directory (`--to safetensors`), or take Q4_K_M, which is of the same size",
            ));
        }
        let mixture: Mixture = name.parse()?;
        if model.was_four_bit && mixture.base().is_quantized() && !options.requantize {
            return Err(blocks_in_the_way("making it another type", NF4));
        }
        let tensors: Vec<Tensor<'_>> = model
            .pieces
            .iter()
            .map(|piece| Tensor {
                name: &piece.name,
                shape: &piece.shape,
                kind: piece.kind,
            })
            .collect();
        let plan = plan(
            mixture,
            &model.facts,
            &tensors,
            &plan_options(options, imatrix.is_some())?,
        )?;
        let mut warnings = Vec::new();
        let (mut substitutes, mut unweighed) = (Vec::new(), Vec::new());
        for (piece, choice) in model.pieces.iter().zip(&plan.choices) {
            if choice.is_kept || choice.kind == piece.kind {
                continue;
            }
            // A merge decoded what it changed: that is one quantization, and the wish says which.
            if piece.kind.is_quantized() && !options.requantize {
                return Err(blocks_in_the_way("making it another type", &model.storage));
            }
            if choice.is_substitute {
                substitutes.push(format!("{} ({})", piece.name, choice.kind.name()));
            }
            let importance = imatrix.and_then(|imatrix| imatrix.of(&piece.name));
            if choice.needs_importance && importance.is_none() {
                return Err(needs_importance(&piece.name, mixture));
            }
            if imatrix.is_some() && importance.is_none() && choice.kind.is_quantized() {
                unweighed.push(piece.name.as_str());
            }
        }
        if !substitutes.is_empty() {
            warnings.push(format!(
                "rows of {} tensors are not whole blocks of the type that {mixture} gives them; they get another: {}",
                substitutes.len(),
                some_of(&substitutes),
            ));
        }
        if !unweighed.is_empty() {
            warnings.push(format!(
                "the importance matrix says nothing of {} tensors: {}",
                unweighed.len(),
                some_of(&unweighed)
            ));
        }
        Ok(Types {
            kinds: plan.choices.iter().map(|choice| choice.kind).collect(),
            name: mixture.name().to_owned(),
            file_type: Some(mixture.file_type()),
            warnings,
        })
    }
}

fn plan_options(options: &QuantizeOptions, has_importance: bool) -> Result<PlanOptions> {
    let kind = |name: &Option<String>| name.as_deref().map(parse_type).transpose();
    let overrides = options
        .tensor_types
        .iter()
        .map(|one| Override::new(&one.pattern, parse_type(&one.kind)?));
    Ok(PlanOptions {
        output: kind(&options.output_type)?,
        token_embeddings: kind(&options.embedding_type)?,
        overrides: overrides.collect::<std::result::Result<_, _>>()?,
        pure: options.pure,
        leave_output: false,
        has_importance,
    })
}

fn needs_importance(tensor: &str, mixture: Mixture) -> Diagnostic {
    refused(
        "needs_importance",
        format!("`{tensor}` as {mixture} is of no use without an importance matrix"),
    )
    .hint("give one with `--imatrix FILE`, or take a larger type")
}

/// Names a few of many.
fn some_of<T: AsRef<str>>(names: &[T]) -> String {
    let first: Vec<&str> = names.iter().take(4).map(AsRef::as_ref).collect();
    match names.len() > first.len() {
        true => format!("{}, ..", first.join(", ")),
        false => first.join(", "),
    }
}
