//! The base of a request: its files opened, and an adapter merged into it where one is named.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use witness_conversion::{ConversionError, Family, GgufPlan, HfPlan, Merged, Weights};
use witness_diagnostics::{Diagnostic, Kind};
use witness_formats::adapter::{Adapter, Heads};
use witness_formats::gguf::{GgmlType, Gguf, OwnedValue, has_magic, names};
use witness_formats::hf::HfConfig;
use witness_formats::safetensors::SafeTensors;
use witness_formats::{Dtype, FileSet};
use witness_plugin_protocol::{AdapterSpec, FileRef, TransformRequest};
use witness_quantization::{Mixture, ModelFacts};

use crate::error::{Result, cannot_write, refused};
use crate::four_bit::Decoded;
use crate::pieces::Piece;

/// The name of bitsandbytes' 4 bits.
pub(crate) const NF4: &str = "NF4";

/// An opened base.
pub(crate) enum Base {
    /// A GGUF file, or its parts in order.
    Gguf(Vec<PathBuf>),
    /// A Hugging Face directory.
    Hf(FileSet),
}

/// A GGUF file that is to be written.
pub(crate) struct Model {
    /// Every key but those of the quantization, in order.
    pub(crate) metadata: Vec<(String, OwnedValue)>,
    pub(crate) facts: ModelFacts,
    pub(crate) pieces: Vec<Piece>,
    /// The one word for how most of it is stored now.
    pub(crate) storage: String,
    /// The number in `general.file_type` that says so.
    pub(crate) file_type: Option<u32>,
    /// Whether a merge changed tensors that are blocks.
    pub(crate) merged_blocks: bool,
    /// Whether numbers come of a quantized form of a directory, though no piece is one of blocks.
    pub(crate) was_four_bit: bool,
}

/// A Hugging Face directory that is to be written.
pub(crate) struct Directory {
    /// Small files by name.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    pub(crate) weights: Arc<dyn Weights>,
    /// The architecture in GGUF's spelling.
    pub(crate) architecture: String,
    /// The one word for how most of it is stored now.
    pub(crate) storage: String,
    /// Whether weights were blocks.
    pub(crate) was_quantized: bool,
}

impl Base {
    /// Looks at the files of a request.
    pub(crate) fn open(request: &TransformRequest) -> Result<Base> {
        let files = &request.model.files;
        let parts: Vec<PathBuf> = files
            .iter()
            .filter(|file| has_magic(&file.path))
            .map(|file| file.path.clone())
            .collect();
        match parts.is_empty() {
            false => Ok(Base::Gguf(parts)),
            true => Ok(Base::Hf(file_set(files, &request.model_name)?)),
        }
    }

    /// Returns query heads and key-value heads, and the family: what an adapter of this base needs to be understood.
    pub(crate) fn about(&self) -> Result<(Family, Heads)> {
        match self {
            Base::Hf(files) => {
                let config = HfConfig::load(files)?;
                let n_heads = config.fields().count_or("num_attention_heads", 32, 1, 4_096)?;
                let n_kv_heads = config.fields().count_or("num_key_value_heads", n_heads, 1, 4_096)?;
                Ok((Family::of(&config)?, Heads { n_heads, n_kv_heads }))
            }
            Base::Gguf(parts) => {
                let plan = HfPlan::from_gguf(Gguf::open(parts)?, Box::new(decode))?;
                let (n_heads, n_kv_heads) = plan.heads;
                Ok((plan.family, Heads { n_heads, n_kv_heads }))
            }
        }
    }

    /// Returns the GGUF file that it becomes, before anything is quantized. `scratch` takes small files where a merge needs them.
    pub(crate) fn model(&self, request: &TransformRequest, scratch: &Path) -> Result<Model> {
        let name = Some(request.model_name.as_str()).filter(|name| !name.is_empty());
        let mut model = match (self, &request.adapter) {
            (Base::Hf(files), adapter) => {
                let (weights, was_four_bit) = weights_of(files)?;
                let weights = match adapter {
                    None => weights,
                    Some(adapter) => Arc::new(Merged::new(weights, open_adapter(adapter)?, self.about()?.1)?),
                };
                let model = Model::of_plan(GgufPlan::from_hf_with(files, name, weights)?)?;
                Model { was_four_bit, ..model }
            }
            (Base::Gguf(parts), None) => Model::of_file(&Arc::new(Gguf::open(parts)?))?,
            (Base::Gguf(parts), Some(adapter)) => {
                let gguf = Arc::new(Gguf::open(parts)?);
                let adapter = open_adapter(adapter)?;
                let changed = changed_by(&adapter, &gguf)?;
                let directory = merged_directory(parts, adapter)?;
                let files = written(&directory.files, scratch)?;
                let made = GgufPlan::from_hf_with(&files, name, directory.weights)?;
                Model::of_file(&gguf)?.with_merged(made, &changed)
            }
        };
        if let Some(template) = &request.template {
            set(&mut model.metadata, "tokenizer.chat_template", template.as_str().into());
        }
        Ok(model)
    }

    /// Returns the Hugging Face directory that it becomes.
    pub(crate) fn directory(&self, request: &TransformRequest) -> Result<Directory> {
        match (self, &request.adapter) {
            (Base::Gguf(parts), Some(adapter)) => merged_directory(parts, open_adapter(adapter)?),
            (Base::Gguf(parts), None) => {
                let gguf = Gguf::open(parts)?;
                let (storage, was_quantized) = (gguf.file_type(), has_blocks(&gguf));
                let plan = HfPlan::from_gguf(gguf, Box::new(decode))?;
                Ok(Directory::of(plan, storage, was_quantized))
            }
            (Base::Hf(files), adapter) => {
                let (family, heads) = self.about()?;
                let (base, was_quantized) = weights_of(files)?;
                let mut small = small_files(files)?;
                let mut storage = storage_of(base.as_ref()).name().to_owned();
                if was_quantized {
                    edit_config(&mut small, |config| {
                        config.shift_remove("quantization_config");
                    })?;
                    storage = NF4.to_owned();
                }
                let weights = match adapter {
                    None => base,
                    Some(adapter) => {
                        let merged = Merged::new(base, open_adapter(adapter)?, heads)?;
                        if merged.unties_embedding() {
                            edit_config(&mut small, |config| {
                                config.insert("tie_word_embeddings".to_owned(), false.into());
                            })?;
                        }
                        Arc::new(merged)
                    }
                };
                Ok(Directory {
                    files: small,
                    architecture: family.architecture().to_owned(),
                    storage,
                    was_quantized,
                    weights,
                })
            }
        }
    }
}

impl Model {
    fn of_file(gguf: &Arc<Gguf>) -> Result<Model> {
        let metadata = gguf.metadata().iter();
        let kept = metadata.filter(|(key, _)| !key.starts_with("split.") && *key != "general.file_type");
        let file_type = gguf.metadata().opt_u32("general.file_type")?;
        Ok(Model {
            metadata: kept.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            facts: ModelFacts::of(gguf)?,
            pieces: gguf
                .tensors()
                .iter()
                .map(|tensor| Piece::stored(gguf, tensor))
                .collect(),
            storage: gguf.file_type(),
            file_type,
            merged_blocks: false,
            was_four_bit: false,
        })
    }

    fn of_plan(plan: GgufPlan) -> Result<Model> {
        let mut counts = std::collections::BTreeMap::<&'static str, (GgmlType, u64)>::new();
        for tensor in plan.tensors.iter().filter(|tensor| !tensor.stays_f32()) {
            let dtype = tensor.described.dtype;
            let numbers: usize = tensor.described.shape.iter().product();
            counts.entry(dtype.name()).or_insert((dense_of(dtype), 0)).1 += numbers as u64;
        }
        let most = counts.into_values().max_by_key(|(_, numbers)| *numbers);
        let file = most.map_or(GgmlType::F32, |(kind, _)| kind);
        let number = |key: &str| {
            let key = format!("{}.{key}", plan.family.architecture());
            let value = plan.metadata.iter().find(|(name, _)| *name == key);
            value.and_then(|(_, value)| match value {
                OwnedValue::U32(number) => Some(*number as usize),
                OwnedValue::U64(number) => usize::try_from(*number).ok(),
                _ => None,
            })
        };
        let n_heads = number("attention.head_count").unwrap_or(0);
        Ok(Model {
            facts: ModelFacts {
                architecture: plan.family.architecture().to_owned(),
                n_layers: number("block_count").unwrap_or(0),
                n_heads,
                n_kv_heads: number("attention.head_count_kv").unwrap_or(n_heads),
                n_experts: 0,
            },
            storage: file.name(),
            file_type: Some(file.name().parse::<Mixture>()?.file_type()),
            pieces: plan
                .tensors
                .iter()
                .map(|tensor| Piece::made(tensor.clone(), file))
                .collect(),
            metadata: plan.metadata,
            merged_blocks: false,
            was_four_bit: false,
        })
    }

    /// Takes the merged tensors into a file's own order and metadata; an output that the file had not comes last. Blocks that a merge changes become F32.
    fn with_merged(mut self, plan: GgufPlan, changed: &[String]) -> Model {
        for tensor in plan.tensors {
            let kind = dense_of(tensor.described.dtype);
            match self.pieces.iter_mut().find(|piece| piece.name == tensor.name) {
                Some(piece) if changed.contains(&tensor.name) => {
                    self.merged_blocks |= piece.kind.is_quantized();
                    *piece = Piece::made(tensor, kind);
                }
                None if tensor.name == "output.weight" => self.pieces.push(Piece::made(tensor, kind)),
                _ => {}
            }
        }
        self
    }

    /// Returns the bytes of all tensors as they are.
    pub(crate) fn bytes(&self) -> u64 {
        let bytes = self.pieces.iter().map(|piece| piece.bytes_as(piece.kind).unwrap_or(0));
        bytes.sum()
    }
}

impl Directory {
    fn of(plan: HfPlan, storage: String, was_quantized: bool) -> Directory {
        Directory {
            architecture: plan.family.architecture().to_owned(),
            files: plan
                .files
                .into_iter()
                .map(|(name, text)| (name, text.into_bytes()))
                .collect(),
            weights: plan.weights,
            storage,
            was_quantized,
        }
    }
}

/// Merges an adapter into a GGUF base, as a directory.
fn merged_directory(parts: &[PathBuf], adapter: Adapter) -> Result<Directory> {
    let gguf = Gguf::open(parts)?;
    let (storage, was_quantized) = (gguf.file_type(), has_blocks(&gguf));
    let plan = HfPlan::from_gguf(gguf, Box::new(decode))?;
    let (n_heads, n_kv_heads) = plan.heads;
    let was_tied = plan.weights.describe("lm_head.weight").is_none();
    let merged = Merged::new(Arc::clone(&plan.weights), adapter, Heads { n_heads, n_kv_heads })?;
    let is_tied = was_tied && !merged.unties_embedding();
    Ok(Directory::of(
        plan.with_weights(Arc::new(merged), is_tied),
        storage,
        was_quantized,
    ))
}

/// Returns the GGUF names of what an adapter changes.
fn changed_by(adapter: &Adapter, gguf: &Gguf) -> Result<Vec<String>> {
    let architecture = gguf.architecture()?;
    let pairs = adapter.pairs().iter().map(|pair| &pair.module);
    let modules = pairs.chain(adapter.saved().iter().map(|saved| &saved.module));
    let parts = modules.flat_map(|module| ["weight", "bias"].map(|part| format!("{module}.{part}")));
    Ok(parts.filter_map(|name| names::from_hf(architecture, &name)).collect())
}

/// Opens an adapter of either form.
pub(crate) fn open_adapter(adapter: &AdapterSpec) -> Result<Adapter> {
    Ok(Adapter::open(&file_set(&adapter.files, &adapter.name)?)?)
}

fn file_set(files: &[FileRef], label: &str) -> Result<FileSet> {
    let pairs = files.iter().map(|file| (file.name.clone(), file.path.clone()));
    Ok(FileSet::new(pairs)?.with_label(label))
}

/// Makes numbers of blocks.
fn decode(kind: GgmlType, bytes: &[u8]) -> std::result::Result<Vec<f32>, ConversionError> {
    let numbers = kind.block_bytes().zip(kind.block_elements());
    let numbers = numbers.map_or(0, |(block_bytes, elements)| bytes.len() / block_bytes * elements);
    let mut values = vec![0.0; numbers];
    witness_quantization::decode(kind, bytes, &mut values).map_err(|error| ConversionError::Unsupported {
        model: kind.name(),
        what: error.to_string(),
        hint: "use a file of the same model in another quantization".to_owned(),
    })?;
    Ok(values)
}

fn has_blocks(gguf: &Gguf) -> bool {
    gguf.tensors().iter().any(|tensor| tensor.ggml_type.is_quantized())
}

/// Returns the dense type that most numbers have.
pub(crate) fn storage_of(weights: &dyn Weights) -> Dtype {
    let mut counts: Vec<(Dtype, usize)> = Vec::new();
    for described in weights.names().iter().filter_map(|name| weights.describe(name)) {
        let numbers: usize = described.shape.iter().product();
        match counts.iter_mut().find(|(dtype, _)| *dtype == described.dtype) {
            Some((_, count)) => *count += numbers,
            None => counts.push((described.dtype, numbers)),
        }
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.map_or(Dtype::F32, |(dtype, _)| dtype)
}

/// Returns the type that plain numbers are written in; F32 holds what no type of weights does.
fn dense_of(dtype: Dtype) -> GgmlType {
    GgmlType::of_weights(dtype).unwrap_or(GgmlType::F32)
}

/// Sets a key where it is, or at the end.
pub(crate) fn set(metadata: &mut Vec<(String, OwnedValue)>, key: &str, value: OwnedValue) {
    match metadata.iter_mut().find(|(known, _)| known == key) {
        Some((_, known)) => *known = value,
        None => metadata.push((key.to_owned(), value)),
    }
}

/// The most that a file beside the weights may take.
const SMALL_FILE_BYTES_MAX: u64 = 256 << 20;

/// Reads the files of a directory that are no weights.
fn small_files(files: &FileSet) -> Result<Vec<(String, Vec<u8>)>> {
    let names = files.iter().map(|(name, _)| name);
    let names = names.filter(|name| !name.ends_with(".safetensors") && !name.ends_with(".safetensors.index.json"));
    names
        .map(|name| Ok((name.to_owned(), files.read(name, SMALL_FILE_BYTES_MAX)?)))
        .collect()
}

/// Writes small files for those who read files.
fn written(files: &[(String, Vec<u8>)], scratch: &Path) -> Result<FileSet> {
    let mut pairs = Vec::new();
    for (name, bytes) in files {
        let path = scratch.join(name);
        let parent = path.parent().unwrap_or(scratch);
        std::fs::create_dir_all(parent).map_err(|error| cannot_write(parent, &error))?;
        std::fs::write(&path, bytes).map_err(|error| cannot_write(&path, &error))?;
        pairs.push((name.clone(), path));
    }
    Ok(FileSet::new(pairs)?)
}

/// Changes config.json.
pub(crate) fn edit_config(
    files: &mut [(String, Vec<u8>)],
    edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>),
) -> Result<()> {
    let config = files.iter_mut().find(|(name, _)| name == "config.json");
    let Some((_, bytes)) = config else { return Ok(()) };
    let mut json: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(bytes)
        .map_err(|error| refused("config", "`config.json` is no JSON object").cause(error.to_string()))?;
    edit(&mut json);
    *bytes = format!("{:#}\n", serde_json::Value::Object(json)).into_bytes();
    Ok(())
}

/// Opens a directory's weights: those in NF4 as numbers, and whether there are such.
fn weights_of(files: &FileSet) -> Result<(Arc<dyn Weights>, bool)> {
    let tensors = SafeTensors::open(files)?;
    Ok(match Decoded::open(&tensors)? {
        Some(decoded) => (Arc::new(decoded), true),
        None => (Arc::new(tensors), false),
    })
}

/// A base that cannot be changed in the asked way because its numbers are blocks.
pub(crate) fn blocks_in_the_way(what: &str, storage: &str) -> Diagnostic {
    Diagnostic::new(
        "witness::quantize::blocks",
        Kind::Unsupported,
        format!("the base is stored as {storage}, and {what} would add the loss of a second quantization"),
    )
    .hint("take the base in F16, BF16 or F32, or allow it with `--allow-requantize` (`\"requantize\": true`)")
}
