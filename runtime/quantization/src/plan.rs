//! Which type each tensor of a model gets: what llama-quantize does for a mixture's name.
//!
//! Source: `tensor_allows_quantization`, `llama_tensor_get_type` and `tensor_type_fallback` of llama.cpp (llama-quant.cpp), held by recorded choices in
//! tests/mixtures.rs. The rules count: the third `ffn_down`, the second `attn_v`. So they need all tensors at once, in the reference's order, which [`plan`]
//! brings them into itself.

mod rules;
mod tensors;

use regex::Regex;
use witness_formats::gguf::{GgmlType, Gguf, TensorInfo};

use crate::error::{QuantizationError, Result};
use crate::mixture::Mixture;
use rules::Counters;
use tensors::{Part, is_kept, reference_order};

/// What the rules ask about a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    /// GGUF's name of the architecture, such as `llama`.
    pub architecture: String,
    /// How many layers it has: `<architecture>.block_count`.
    pub n_layers: usize,
    /// How many heads of attention the first layer has.
    pub n_heads: usize,
    /// How many of keys and values.
    pub n_kv_heads: usize,
    /// How many experts a layer has; 0 for a model without.
    pub n_experts: usize,
}

/// A tensor that is to get a type.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// GGUF's name, such as `blk.0.attn_q.weight`.
    pub name: &'a str,
    /// Row-major shape: `[out, in]`, or `[experts, out, in]`.
    pub shape: &'a [usize],
    /// The type that it has, which it keeps where nothing is quantized.
    pub kind: GgmlType,
}

/// A type for tensors whose name a pattern finds.
#[derive(Clone, Debug)]
pub struct Override {
    pattern: Regex,
    kind: GgmlType,
}

/// What may be asked for besides a mixture.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// The type of the output matrix; that of the token embeddings too where they are one matrix and `token_embeddings` says nothing.
    pub output: Option<GgmlType>,
    /// The type of the token embeddings.
    pub token_embeddings: Option<GgmlType>,
    /// Types by pattern, of which the first that matches counts. As in the reference, they have no say in F32, F16 and BF16.
    pub overrides: Vec<Override>,
    /// Whether all tensors get the mixture's base type, without its rules.
    pub pure: bool,
    /// Whether the output matrix stays as it is.
    pub leave_output: bool,
    /// Whether there is an importance matrix; some rules differ then.
    pub has_importance: bool,
}

/// The type that a tensor gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The type.
    pub kind: GgmlType,
    /// Whether the rules leave this tensor alone, so that it keeps the type that it has.
    pub is_kept: bool,
    /// Whether the type is a substitute because rows are not made of whole blocks of the one that was wanted.
    pub is_substitute: bool,
    /// Whether the reference refuses to make this without an importance matrix, for what comes out is of no use.
    pub needs_importance: bool,
}

/// The types of all tensors of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// One choice a tensor, in the order that the tensors were given in.
    pub choices: Vec<Choice>,
    /// How many bytes the data of all tensors will take, without the padding between them.
    pub bytes: u64,
    /// How many numbers they hold.
    pub numbers: u64,
}

impl ModelFacts {
    /// Reads what the rules ask from the metadata of a file.
    pub fn of(gguf: &Gguf) -> std::result::Result<ModelFacts, witness_formats::FormatError> {
        let architecture = gguf.architecture()?.to_owned();
        let metadata = gguf.metadata();
        // One number, or one a layer, of which the reference looks at the first.
        let first = |name: &str| -> std::result::Result<Option<usize>, witness_formats::FormatError> {
            let key = format!("{architecture}.{name}");
            let is_array = metadata.get(&key).is_some_and(|value| value.as_array().is_some());
            let number = if is_array {
                metadata
                    .array(&key)?
                    .i64s()?
                    .first()
                    .and_then(|number| u64::try_from(*number).ok())
            } else {
                metadata.opt_u64(&key)?
            };
            Ok(number.map(|number| usize::try_from(number).unwrap_or(usize::MAX)))
        };
        let n_heads = first("attention.head_count")?.unwrap_or(0);
        Ok(ModelFacts {
            n_layers: first("block_count")?.unwrap_or(0),
            n_heads,
            n_kv_heads: first("attention.head_count_kv")?.unwrap_or(n_heads),
            n_experts: first("expert_count")?.unwrap_or(0),
            architecture,
        })
    }
}

impl<'a> From<&'a TensorInfo> for Tensor<'a> {
    fn from(tensor: &'a TensorInfo) -> Tensor<'a> {
        Tensor {
            name: &tensor.name,
            shape: &tensor.shape,
            kind: tensor.ggml_type,
        }
    }
}

impl Tensor<'_> {
    /// Returns the length of a row, the numbers that blocks are made of.
    fn n_columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Returns the number of dimensions, not counting leading ones of 1.
    fn n_dimensions(&self) -> usize {
        let leading = self.shape.iter().take_while(|length| **length == 1).count();
        (self.shape.len() - leading).max(1)
    }

    fn numbers(&self) -> u64 {
        self.shape.iter().map(|length| *length as u64).product()
    }
}

impl Override {
    /// Takes a regular expression that is searched in a tensor's name. Capitals are lowered, as the reference does.
    pub fn new(pattern: &str, kind: GgmlType) -> Result<Override> {
        let lower = pattern.to_ascii_lowercase();
        let pattern = Regex::new(&lower).map_err(|error| QuantizationError::Pattern {
            pattern: pattern.to_owned(),
            why: error.to_string(),
        })?;
        Ok(Override { pattern, kind })
    }

    /// Reads `pattern=type`, such as `ffn_down=q6_k`.
    pub fn parse(text: &str) -> Result<Override> {
        let Some((pattern, kind)) = text.split_once('=').filter(|(pattern, _)| !pattern.is_empty()) else {
            return Err(QuantizationError::Pattern {
                pattern: text.to_owned(),
                why: "it is not of the form `pattern=type`".to_owned(),
            });
        };
        Override::new(pattern, crate::mixture::parse_type(kind)?)
    }
}

/// Chooses a type for each tensor of a model.
///
/// Where `output` or `token_embeddings` of the options does not fit the rows, a substitute is taken as for any other; the reference stops there.
///
/// # Errors
/// If a model has experts and the name of one of its feed-forward tensors does not say its layer.
pub fn plan(mixture: Mixture, facts: &ModelFacts, tensors: &[Tensor<'_>], options: &PlanOptions) -> Result<Plan> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by(|a, b| reference_order(tensors[*a].name, tensors[*b].name));
    let mut counters = Counters::new(mixture, facts, tensors, options);
    let kept = Choice {
        kind: mixture.base(),
        is_kept: true,
        is_substitute: false,
        needs_importance: false,
    };
    let mut choices = vec![kept; tensors.len()];
    for at in order {
        choices[at] = choose(&mut counters, &tensors[at])?;
    }
    let each = || tensors.iter().zip(&choices);
    Ok(Plan {
        bytes: each().map(|(tensor, choice)| bytes(tensor, choice.kind)).sum(),
        numbers: tensors.iter().map(Tensor::numbers).sum(),
        choices,
    })
}

impl Plan {
    /// Returns how many bits a number takes on average.
    pub fn bits_per_number(&self) -> f64 {
        8.0 * self.bytes as f64 / self.numbers.max(1) as f64
    }
}

fn choose(counters: &mut Counters<'_>, tensor: &Tensor<'_>) -> Result<Choice> {
    let (facts, options, mixture) = (counters.facts, counters.options, counters.mixture);
    if is_kept(tensor, facts, options) {
        return Ok(Choice {
            kind: tensor.kind,
            is_kept: true,
            is_substitute: false,
            needs_importance: false,
        });
    }
    let part = Part::of(tensor.name);
    let overridden = options.overrides.iter().find(|one| one.pattern.is_match(tensor.name));
    let is_named = tensor.name == "per_layer_token_embd.weight" && overridden.is_some();
    let wanted = match part {
        Part::TokenEmbeddings if options.token_embeddings.is_some() && !is_named => options.token_embeddings,
        Part::Output if options.output.is_some() => options.output,
        _ => None,
    };
    let wanted = match wanted {
        Some(kind) => kind,
        None if !mixture.base().is_quantized() => mixture.base(),
        None => match overridden {
            Some(one) => one.kind,
            None if options.pure => mixture.base(),
            None => counters.rule(tensor, part)?,
        },
    };
    let kind = fitting(wanted, tensor.n_columns());
    let is_matrix_of_tokens = matches!(part, Part::TokenEmbeddings | Part::Output);
    let is_of_few_bits = match kind {
        GgmlType::IQ1_S | GgmlType::IQ1_M => true,
        GgmlType::IQ2_XXS | GgmlType::IQ2_XS | GgmlType::IQ2_S | GgmlType::IQ3_XXS => true,
        GgmlType::Q2_K => mixture == Mixture::Q2_K_S,
        _ => false,
    };
    Ok(Choice {
        kind,
        is_kept: false,
        is_substitute: kind != wanted,
        needs_importance: is_of_few_bits && !is_matrix_of_tokens,
    })
}

/// Returns the type, or the one that stands in for it where rows are not whole blocks of it.
fn fitting(kind: GgmlType, n_columns: usize) -> GgmlType {
    if kind.row_bytes(n_columns).is_some() {
        return kind;
    }
    let smaller = match kind {
        GgmlType::IQ1_S
        | GgmlType::IQ1_M
        | GgmlType::IQ2_XXS
        | GgmlType::IQ2_XS
        | GgmlType::IQ2_S
        | GgmlType::IQ3_XXS
        | GgmlType::IQ3_S
        | GgmlType::IQ4_XS => GgmlType::IQ4_NL,
        GgmlType::Q2_K | GgmlType::Q3_K | GgmlType::TQ1_0 | GgmlType::TQ2_0 => GgmlType::Q4_0,
        GgmlType::Q4_K => GgmlType::Q5_0,
        GgmlType::Q5_K => GgmlType::Q5_1,
        GgmlType::Q6_K => GgmlType::Q8_0,
        other => other,
    };
    match smaller.row_bytes(n_columns) {
        Some(_) => smaller,
        None => GgmlType::F16,
    }
}

fn bytes(tensor: &Tensor<'_>, kind: GgmlType) -> u64 {
    let n_columns = tensor.n_columns();
    let rows = tensor.numbers() / (n_columns as u64).max(1);
    kind.row_bytes(n_columns).unwrap_or(0) * rows
}
