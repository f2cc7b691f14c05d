//! The base model's files: its shape, its tokenizer and the template that lays out its conversations. Weights are read later, once.

use std::path::PathBuf;
use std::sync::Arc;

use witness_diagnostics::{Diagnostic, Kind};
use witness_formats::FileSet;
use witness_formats::gguf::{Gguf, has_magic};
use witness_formats::hf::{DecoderConfig, GenerationConfig, HfConfig, TokenizerConfig};
use witness_formats::safetensors::SafeTensors;
use witness_plugin_protocol::{FileRef, ModelSpec};
use witness_template::ChatTemplate;
use witness_tokenizer::Tokenizer;

/// Lays out conversations for a model without a template: the texts one after the other, as they are served for such a model.
const PLAIN_TEMPLATE: &str =
    "{% for message in messages %}{{ message.content }}{% if not loop.last %}\n{% endif %}{% endfor %}";

/// Where the weights lie.
pub(crate) enum Weights {
    /// A Hugging Face directory.
    SafeTensors(SafeTensors),
    /// A GGUF file or its parts.
    Gguf(Arc<Gguf>),
    /// Drawn at random.
    Random {
        /// Their standard deviation.
        deviation: f64,
    },
}

/// A file beside the weights.
pub(crate) struct Companion {
    /// Its name in the model's directory.
    pub(crate) name: String,
    /// What it holds.
    pub(crate) content: Content,
}

/// Where a file's content is.
pub(crate) enum Content {
    /// In a file.
    File(PathBuf),
    /// Here.
    Bytes(Vec<u8>),
}

/// An opened base model.
pub(crate) struct Base {
    /// The shape of the graph.
    pub(crate) config: DecoderConfig,
    /// Text to tokens.
    pub(crate) tokenizer: Tokenizer,
    /// The template in use.
    pub(crate) template: Template,
    /// Weights, not read yet.
    pub(crate) weights: Weights,
    /// Files that are no weights: what a whole model is written with.
    pub(crate) companions: Vec<Companion>,
}

/// A template and where it came from.
#[derive(Clone)]
pub(crate) struct Template {
    /// Compiled.
    pub(crate) chat: ChatTemplate,
    /// Whether the model has none and the texts stand as they are.
    pub(crate) is_plain: bool,
}

impl Weights {
    /// Says whether it is a file of the other kind, which may be quantized.
    pub(crate) fn is_gguf(&self) -> bool {
        matches!(self, Weights::Gguf(_))
    }

    /// Returns the bytes of all tensors as they lie; those that lie nowhere are no saving.
    pub(crate) fn stored_bytes(&self) -> u64 {
        match self {
            Weights::SafeTensors(weights) => weights.bytes(),
            Weights::Gguf(gguf) => gguf.tensors().iter().map(|tensor| tensor.bytes).sum(),
            Weights::Random { .. } => u64::MAX,
        }
    }
}

impl Template {
    /// Takes the request's template, else the model's own, else none.
    pub(crate) fn choose(asked: Option<&str>, own: Option<&str>) -> Result<Self, Diagnostic> {
        let source = asked.or(own).unwrap_or(PLAIN_TEMPLATE);
        Ok(Self {
            chat: ChatTemplate::compile(source)?,
            is_plain: asked.or(own).is_none(),
        })
    }
}

/// Makes a set of files of what the host names.
pub(crate) fn file_set(files: &[FileRef], label: &str) -> Result<FileSet, Diagnostic> {
    Ok(FileSet::new(files.iter().map(|file| (file.name.clone(), file.path.clone())))?.with_label(label))
}

impl Base {
    /// Opens the files. `template` is the request's own.
    pub(crate) fn open(model: &ModelSpec, template: Option<&str>) -> Result<Self, Diagnostic> {
        let parts: Vec<PathBuf> = model
            .files
            .iter()
            .filter(|file| has_magic(&file.path))
            .map(|file| file.path.clone())
            .collect();
        if parts.is_empty() {
            Self::open_hf(&model.files, template)
        } else {
            Self::open_gguf(&parts, template)
        }
    }

    fn open_gguf(parts: &[PathBuf], template: Option<&str>) -> Result<Self, Diagnostic> {
        let gguf = Gguf::open(parts)?;
        let mut config = DecoderConfig::from_gguf(&gguf)?;
        config.tie_word_embeddings = gguf.tensor("output.weight").is_none();
        let own = gguf.metadata().opt_str("tokenizer.chat_template")?.map(str::to_owned);
        Ok(Self {
            config,
            tokenizer: Tokenizer::from_gguf(&gguf)?,
            template: Template::choose(template, own.as_deref())?,
            weights: Weights::Gguf(Arc::new(gguf)),
            companions: Vec::new(),
        })
    }

    fn open_hf(files: &[FileRef], template: Option<&str>) -> Result<Self, Diagnostic> {
        let set = file_set(files, "base")?;
        if set.get("config.json").is_none() {
            return Err(Diagnostic::new(
                "witness::train::no_model",
                Kind::Invalid,
                "the base's files hold neither a GGUF model nor a `config.json` beside safetensors",
            )
            .hint("give a model of the registry, a `.gguf` file, or the whole directory of a Hugging Face model"));
        }
        let config = HfConfig::load(&set)?.decoder()?;
        let generation = GenerationConfig::load(&set)?;
        let mut ends = generation.map_or(Vec::new(), |own| own.eos_token_ids);
        if ends.is_empty() {
            ends.clone_from(&config.eos_token_ids);
        }
        let own = TokenizerConfig::load(&set)?.chat_template;
        let is_weight = |name: &str| name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
        Ok(Self {
            tokenizer: Tokenizer::from_hf(&set)?.with_end_of_generation(ends),
            template: Template::choose(template, own.as_deref())?,
            weights: Weights::SafeTensors(SafeTensors::open(&set)?),
            companions: files
                .iter()
                .filter(|file| !is_weight(&file.name))
                .map(|file| Companion {
                    name: file.name.clone(),
                    content: Content::File(file.path.clone()),
                })
                .collect(),
            config,
        })
    }
}
