//! The files of a model, opened and recognised; what differs between the two formats is decided here and nowhere else in this plugin.

use std::path::PathBuf;

use witness_diagnostics::{Diagnostic, Kind};
use witness_formats::FileSet;
use witness_formats::gguf::{Gguf, has_magic};
use witness_formats::hf::{GenerationConfig, HfConfig, TokenizerConfig};
use witness_formats::safetensors::SafeTensors;
use witness_model::packed::PackedForm;
use witness_model::source::{GgufSource, HfSource, config_of_gguf, config_of_hf};
use witness_model::{Config, Model};
use witness_plugin_protocol::FileRef;
use witness_tokenizer::Tokenizer;

/// Template for a model that has none: the texts one after the other, which is what a base model continues.
const PLAIN_TEMPLATE: &str =
    "{% for message in messages %}{{ message.content }}{% if not loop.last %}\n{% endif %}{% endfor %}";

/// Opened files of one model.
pub(crate) enum Bundle {
    /// A GGUF file or its parts.
    Gguf { gguf: Gguf, parts: Vec<PathBuf> },
    /// A Hugging Face directory.
    Hf {
        files: FileSet,
        config: HfConfig,
        tensors: SafeTensors,
        tokenizer_config: Box<TokenizerConfig>,
        generation: Box<Option<GenerationConfig>>,
    },
}

/// Makes a set of files of what the host names. `label` stands for the directory in messages.
pub(crate) fn file_set(files: &[FileRef], label: &str) -> Result<FileSet, Diagnostic> {
    Ok(FileSet::new(files.iter().map(|file| (file.name.clone(), file.path.clone())))?.with_label(label))
}

impl Bundle {
    /// Opens files without reading weights.
    pub(crate) fn open(files: &[FileRef]) -> Result<Self, Diagnostic> {
        let parts: Vec<_> = files
            .iter()
            .filter(|file| has_magic(&file.path))
            .map(|file| file.path.clone())
            .collect();
        if !parts.is_empty() {
            return Ok(Bundle::Gguf {
                gguf: Gguf::open(&parts)?,
                parts,
            });
        }
        let files = file_set(files, "model")?;
        if files.get("config.json").is_none() {
            return Err(Diagnostic::new(
                "witness::serve::no_model",
                Kind::Invalid,
                "the files hold neither a GGUF model nor a `config.json` beside safetensors",
            )
            .hint("give a `.gguf` file, or the whole directory of a Hugging Face model"));
        }
        Ok(Bundle::Hf {
            config: HfConfig::load(&files)?,
            tensors: SafeTensors::open(&files)?,
            tokenizer_config: Box::new(TokenizerConfig::load(&files)?),
            generation: Box::new(GenerationConfig::load(&files)?),
            files,
        })
    }

    /// Returns `gguf` or `safetensors`.
    pub(crate) fn format(&self) -> &'static str {
        match self {
            Bundle::Gguf { .. } => "gguf",
            Bundle::Hf { .. } => "safetensors",
        }
    }

    /// Returns the architecture as the file names it.
    pub(crate) fn architecture(&self) -> Result<String, Diagnostic> {
        Ok(match self {
            Bundle::Gguf { gguf, .. } => gguf.architecture()?.to_owned(),
            Bundle::Hf { config, .. } => config.model_type.clone(),
        })
    }

    /// Returns the configuration of the decoder graph.
    pub(crate) fn config(&self) -> Result<Config, Diagnostic> {
        Ok(match self {
            Bundle::Gguf { gguf, .. } => config_of_gguf(gguf)?,
            Bundle::Hf { config, .. } => config_of_hf(config)?,
        })
    }

    /// Checks every tensor against the configuration, reading none.
    pub(crate) fn check(&self, config: &Config) -> Result<(), Diagnostic> {
        match self {
            Bundle::Gguf { gguf, .. } => witness_model::load::check(config, &GgufSource::new(gguf)?)?,
            Bundle::Hf { tensors, .. } => witness_model::load::check(config, &HfSource::new(tensors))?,
        };
        Ok(())
    }

    /// Reads the weights, or takes them from their packed form as far as it has them.
    pub(crate) fn load(&self, config: Config, packed: Option<&PackedForm>) -> Result<Model, Diagnostic> {
        Ok(match self {
            Bundle::Gguf { gguf, .. } => Model::load_packed(config, &GgufSource::new(gguf)?, packed)?,
            Bundle::Hf { tensors, .. } => Model::load_packed(config, &HfSource::new(tensors), packed)?,
        })
    }

    /// Reads the tokenizer, with the ends that the model's own files add.
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer, Diagnostic> {
        Ok(match self {
            Bundle::Gguf { gguf, .. } => Tokenizer::from_gguf(gguf)?,
            Bundle::Hf {
                files,
                config,
                generation,
                ..
            } => {
                let mut ends = generation
                    .as_ref()
                    .as_ref()
                    .map_or(Vec::new(), |own| own.eos_token_ids.clone());
                if ends.is_empty() && config.family().is_some() {
                    ends = config.decoder()?.eos_token_ids;
                }
                Tokenizer::from_hf(files)?.with_end_of_generation(ends)
            }
        })
    }

    /// Returns the model's own chat template.
    pub(crate) fn chat_template(&self) -> Result<Option<String>, Diagnostic> {
        Ok(match self {
            Bundle::Gguf { gguf, .. } => gguf.metadata().opt_str("tokenizer.chat_template")?.map(str::to_owned),
            Bundle::Hf { tokenizer_config, .. } => tokenizer_config.chat_template.clone(),
        })
    }
}

/// Returns the template to render with when neither the request nor the model names one.
pub(crate) fn plain_template() -> &'static str {
    PLAIN_TEMPLATE
}
