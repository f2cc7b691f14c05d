//! A GGUF file before it is written: all its metadata, and its tensors as sources that are read when they are written.

use std::{io::Write, sync::Arc};

use witness_formats::{
    Dtype, FileSet,
    gguf::{GgmlType, OwnedValue, Writer},
    hf::{GenerationConfig, HfConfig},
    safetensors::SafeTensors,
};

use crate::{
    ConversionError, Result,
    error::excerpt,
    family::{Family, Shape},
    general::{self, NameParts},
    metadata,
    tensor::OutputTensor,
    vocabulary,
    weights::Weights,
};

/// How much of a tensor is held at a time while it is written, in bytes.
const CHUNK_BYTES: usize = 8 << 20;
const EMBEDDING: &str = "model.embed_tokens.weight";
const OUTPUT: &str = "lm_head.weight";
/// The version of the block formats, which every file with or without blocks says.
const QUANTIZATION_VERSION: u32 = 2;

/// A type that every weight of a file can have without being quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the name of the type")]
pub enum DenseType {
    F32,
    F16,
    BF16,
}

impl DenseType {
    /// Returns the tensor type.
    pub fn ggml_type(self) -> GgmlType {
        match self {
            DenseType::F32 => GgmlType::F32,
            DenseType::F16 => GgmlType::F16,
            DenseType::BF16 => GgmlType::BF16,
        }
    }

    /// Returns the number in `general.file_type`.
    pub fn file_type(self) -> u32 {
        match self {
            DenseType::F32 => 0,
            DenseType::F16 => 1,
            DenseType::BF16 => 32,
        }
    }
}

/// A GGUF file that can be written.
#[derive(Debug)]
pub struct GgufPlan {
    /// Which family the model is of.
    pub family: Family,
    /// Every key but `general.file_type`, in the order of the file.
    pub metadata: Vec<(String, OwnedValue)>,
    /// The tensors, in the order of the file.
    pub tensors: Vec<OutputTensor>,
}

impl GgufPlan {
    /// Plans the conversion of a Hugging Face directory with its own weights. `name` is what the model is called; nothing takes the last
    /// part of the set's label, which is its directory's name.
    pub fn from_hf(files: &FileSet, name: Option<&str>) -> Result<GgufPlan> {
        let weights = SafeTensors::open(files)?;
        GgufPlan::from_hf_with(files, name, Arc::new(weights))
    }

    /// Plans the same with other weights under the names of the directory's, such as those of a [`crate::Merged`], or the numbers that a quantized form stands for.
    pub fn from_hf_with(files: &FileSet, name: Option<&str>, weights: Arc<dyn Weights>) -> Result<GgufPlan> {
        let config = HfConfig::load(files)?;
        let family = Family::of(&config)?;
        metadata::refuse_what_changes_the_arithmetic(&config, family, weights.as_ref())?;
        let shape = family.shape(config.fields())?;
        let mut shape = shape;
        if (shape.tied || family.norm_shift() != 0.0) && !is_output_the_embedding(weights.as_ref(), family)? {
            shape.tied = false;
        }
        let described = metadata::describe(&config, family, &shape)?;
        let mut tensors = described.tensors;
        for source in weights.names() {
            if let Some(tensor) = output(&weights, &source, family, &shape)? {
                tensors.push(tensor);
            }
        }
        if shape.tied && weights.describe(EMBEDDING).is_none() && weights.describe(OUTPUT).is_some() {
            // Some writers keep the one matrix under the name of the output.
            tensors.push(OutputTensor::stored(&weights, OUTPUT, "token_embd.weight".to_owned())?);
        }
        check_complete(weights.label(), &tensors, family, &shape)?;
        let parameters: u64 = tensors
            .iter()
            .map(|tensor| tensor.described.shape.iter().product::<usize>() as u64)
            .sum();
        let mut keys = vec![
            ("general.architecture".to_owned(), family.architecture().into()),
            ("general.type".to_owned(), "model".into()),
        ];
        if let Some(generation) = GenerationConfig::load(files)? {
            keys.extend(general::sampling(&generation));
        }
        keys.extend(names(files, &config, name, parameters).keys());
        keys.extend(described.keys);
        keys.push(("general.quantization_version".to_owned(), QUANTIZATION_VERSION.into()));
        keys.extend(vocabulary::describe(files, &config.raw, family, shape.vocab_size)?);
        Ok(GgufPlan {
            family,
            metadata: keys,
            tensors,
        })
    }

    /// Starts the file with a type for each tensor, in order; `file_type` is the number in `general.file_type`. The caller writes the data.
    pub fn writer(&self, file_type: u32, types: &[GgmlType]) -> Result<Writer> {
        if types.len() != self.tensors.len() {
            return Err(ConversionError::malformed(
                "the GGUF file being written",
                "the types of its tensors",
                self.tensors.len().to_string(),
                types.len().to_string(),
            ));
        }
        let mut writer = Writer::new();
        for (key, value) in &self.metadata {
            writer.set(key, value.clone())?;
            if key == "general.type" {
                writer.set("general.file_type", file_type)?;
            }
        }
        for (tensor, kind) in self.tensors.iter().zip(types) {
            writer.tensor(&tensor.name, &tensor.described.shape, *kind)?;
        }
        Ok(writer)
    }

    /// Returns the type of each tensor in a file of a dense type: vectors stay F32.
    pub fn dense_types(&self, dense: DenseType) -> Vec<GgmlType> {
        self.tensors
            .iter()
            .map(|tensor| tensor.stored_as(dense.ggml_type()))
            .collect()
    }

    /// Writes the file without quantizing. Holds a few megabytes at a time.
    pub fn write<W: Write>(&self, dense: DenseType, sink: W) -> Result<W> {
        let types = self.dense_types(dense);
        let mut body = self.writer(dense.file_type(), &types)?.begin(sink)?;
        for (tensor, kind) in self.tensors.iter().zip(types) {
            for rows in chunks(tensor) {
                body.write(&tensor.rows_as(kind.dense().unwrap_or(Dtype::F32), rows)?)?;
            }
        }
        Ok(body.finish()?)
    }
}

/// Cuts a tensor into ranges of rows of a bounded size.
pub(crate) fn chunks(tensor: &OutputTensor) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
    let n_rows = tensor.described.n_rows();
    let step = (CHUNK_BYTES / tensor.described.row_bytes().max(1)).max(1);
    (0..n_rows)
        .step_by(step)
        .map(move |start| start..(start + step).min(n_rows))
}

/// Says whether a model that ties its output to its embedding has no output, or the same numbers again: a merge may have made it another.
fn is_output_the_embedding(weights: &dyn Weights, family: Family) -> Result<bool> {
    let (output, embedding) = (OUTPUT, EMBEDDING);
    let (Some(described), Some(_)) = (weights.describe(output), weights.describe(embedding)) else {
        return Ok(true);
    };
    let mut is_same = weights.describe(embedding).as_ref() == Some(&described);
    let step = (CHUNK_BYTES / described.row_bytes().max(1)).max(1);
    for start in (0..described.n_rows()).step_by(step) {
        let rows = start..(start + step).min(described.n_rows());
        is_same = is_same && weights.rows(output, rows.clone())? == weights.rows(embedding, rows)?;
    }
    if !is_same && family.norm_shift() != 0.0 {
        return Err(ConversionError::unsupported(
            weights.label(),
            "its output is not its embedding, and GGUF's Gemma has no output of its own",
            "use the model in its Hugging Face form",
        ));
    }
    Ok(is_same)
}

/// Makes the output of one source tensor; nothing for those that no GGUF file has.
fn output(weights: &Arc<dyn Weights>, source: &str, family: Family, shape: &Shape) -> Result<Option<OutputTensor>> {
    let is_known_waste = source.ends_with(".rotary_emb.inv_freq")
        || source.ends_with(".attention.masked_bias")
        || source.ends_with(".attention.bias")
        // A tied output that was saved beside the embedding: the same numbers a second time.
        || (source == OUTPUT && (shape.tied || family.norm_shift() != 0.0));
    if is_known_waste {
        return Ok(None);
    }
    let name = witness_formats::gguf::names::from_hf(family.architecture(), source).ok_or_else(|| {
        ConversionError::unsupported(
            weights.label(),
            format!(
                "tensor `{}` has no place in a GGUF file of architecture `{}`",
                excerpt(source),
                family.architecture()
            ),
            "only plain models of the family are converted; merge adapters first, and leave other modules out",
        )
    })?;
    let mut tensor = OutputTensor::stored(weights, source, name)?;
    let expected = expected_shape(&tensor.name, shape);
    if let Some(expected) = expected.filter(|expected| *expected != tensor.described.shape) {
        return Err(ConversionError::tensor(
            weights.label(),
            source,
            format!("{expected:?}, as config.json says"),
            format!("{:?}", tensor.described.shape),
        ));
    }
    if !matches!(
        tensor.described.dtype,
        Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64
    ) {
        return Err(ConversionError::unsupported(
            weights.label(),
            format!(
                "tensor `{}` has elements of type {}",
                excerpt(source),
                tensor.described.dtype.name()
            ),
            "export the model with dtype float32, float16 or bfloat16",
        ));
    }
    if family.row_order() != witness_formats::gguf::rows::RowOrder::Halves {
        let n_heads = match source.rsplit('.').nth(1) {
            Some("q_proj") => Some(shape.n_heads),
            Some("k_proj") => Some(shape.n_kv_heads),
            _ => None,
        };
        if let Some(n_heads) = n_heads {
            tensor = tensor.turned(n_heads, family.row_order())?;
        }
    }
    if family.norm_shift() != 0.0 && source.ends_with("norm.weight") {
        tensor = tensor.shifted(family.norm_shift());
    }
    Ok(Some(tensor))
}

/// Returns the shape that the configuration asks for; nothing for tensors whose shape follows from none of its numbers.
fn expected_shape(name: &str, shape: &Shape) -> Option<Vec<usize>> {
    let (q, kv) = (shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim);
    let tail = name
        .rsplit_once("blk.")
        .map_or(name, |(_, rest)| rest.split_once('.').map_or(rest, |(_, tail)| tail));
    Some(match tail {
        "token_embd.weight" | "output.weight" => vec![shape.vocab_size, shape.hidden],
        "attn_q.weight" => vec![q, shape.hidden],
        "attn_k.weight" | "attn_v.weight" => vec![kv, shape.hidden],
        "attn_qkv.weight" => vec![q + 2 * kv, shape.hidden],
        "attn_output.weight" => vec![shape.hidden, q],
        "ffn_gate.weight" => vec![shape.inner, shape.hidden],
        "ffn_down.weight" => vec![shape.hidden, shape.inner],
        "attn_q.bias" => vec![q],
        "attn_k.bias" | "attn_v.bias" => vec![kv],
        "attn_q_norm.weight" | "attn_k_norm.weight" => vec![shape.head_dim],
        norm if norm.ends_with("norm.weight") => vec![shape.hidden],
        _ => return None,
    })
}

/// Refuses a model of which a layer or an end is missing.
fn check_complete(label: &str, tensors: &[OutputTensor], family: Family, shape: &Shape) -> Result<()> {
    let has = |name: &str| tensors.iter().any(|tensor| tensor.name == name);
    let mut needed = vec!["token_embd.weight".to_owned(), "output_norm.weight".to_owned()];
    if !shape.tied && family.norm_shift() == 0.0 {
        needed.push("output.weight".to_owned());
    }
    let attention = if family == Family::Phi3 {
        &["attn_qkv"][..]
    } else {
        &["attn_q", "attn_k", "attn_v", "ffn_gate"]
    };
    for layer in 0..shape.n_layers {
        let inner = ["attn_norm", "ffn_norm", "attn_output", "ffn_up", "ffn_down"]
            .iter()
            .chain(attention);
        needed.extend(inner.map(|module| format!("blk.{layer}.{module}.weight")));
    }
    match needed.iter().find(|name| !has(name)) {
        None => Ok(()),
        Some(name) => {
            let source =
                witness_formats::gguf::names::to_hf(family.architecture(), name).unwrap_or_else(|| name.clone());
            Err(ConversionError::missing(label, format!("tensor `{source}`")))
        }
    }
}

/// Guesses the parts of the model's name from the configuration, then from the name itself.
fn names(files: &FileSet, config: &HfConfig, name: Option<&str>, parameters: u64) -> NameParts {
    let count = i64::try_from(parameters).unwrap_or(i64::MAX);
    let from_config = config.fields().opt_str("_name_or_path").ok().flatten();
    // A path on somebody's disk is no name.
    let from_config = from_config.filter(|path| !path.is_empty() && path.matches('/').count() <= 1);
    let label = files
        .label()
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default();
    let mut parts = from_config.map_or_else(NameParts::default, |id| NameParts::of(id, count));
    parts = parts.or(NameParts::of(name.unwrap_or(label), count));
    if let Some(name) = name {
        // What the caller says is the name as it is.
        parts.name = Some(name.to_owned());
    }
    parts.size_label = parts.size_label.or_else(|| Some(general::size_label(parameters)));
    parts
}
