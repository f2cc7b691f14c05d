//! What a run makes: a PEFT directory, or the files of a whole model that loads by itself.

use std::path::Path;

use serde_json::{Map, Value, json};
use witness_diagnostics::Diagnostic;
use witness_formats::Dtype;
use witness_plugin_protocol::{SaveDtype, TrainMethod, TrainProduct, TrainSettings};
use witness_training::Trainer;

use crate::base::{Base, Content};
use crate::error::{internal, io};
use crate::folder::{copy_file, write_file, write_json};

/// The configuration of a whole model, of which the storage type is changed.
const CONFIG: &str = "config.json";

/// Says what a run makes.
pub(crate) fn kind(settings: &TrainSettings) -> TrainProduct {
    match settings.method {
        _ if settings.scratch.is_some() => TrainProduct::Model,
        TrainMethod::Full => TrainProduct::Model,
        TrainMethod::Lora | TrainMethod::Qlora => TrainProduct::Adapter,
    }
}

/// What is written.
pub(crate) struct Contents<'a> {
    pub(crate) trainer: &'a Trainer,
    pub(crate) base: &'a Base,
    pub(crate) settings: &'a TrainSettings,
    /// What an adapter names as its base.
    pub(crate) base_name: &'a str,
}

impl Contents<'_> {
    /// Writes the product's files into a directory in the making.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), Diagnostic> {
        match kind(self.settings) {
            TrainProduct::Adapter => {
                let base_name = Some(self.base_name).filter(|name| !name.is_empty());
                Ok(self.trainer.write_adapter(directory, base_name)?)
            }
            TrainProduct::Model => self.write_model(directory),
        }
    }

    fn write_model(&self, directory: &Path) -> Result<(), Diagnostic> {
        let (dtype, name) = match self.settings.save_dtype {
            SaveDtype::F32 => (Dtype::F32, "float32"),
            SaveDtype::BF16 => (Dtype::BF16, "bfloat16"),
        };
        self.trainer.write_model_as(directory, dtype)?;
        for companion in &self.base.companions {
            let target = directory.join(&companion.name);
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent).map_err(|error| io("created", parent, &error))?;
            }
            match &companion.content {
                content if companion.name == CONFIG => write_json(&target, &config(content, name)?)?,
                Content::File(path) => copy_file(path, &target)?,
                Content::Bytes(bytes) => write_file(&target, bytes)?,
            }
        }
        Ok(())
    }
}

/// Returns the base's configuration with the storage type that is written.
fn config(content: &Content, dtype: &str) -> Result<Map<String, Value>, Diagnostic> {
    let config = match content {
        Content::File(path) => {
            let bytes = std::fs::read(path).map_err(|error| io("read", path, &error))?;
            serde_json::from_slice(&bytes)
        }
        Content::Bytes(bytes) => serde_json::from_slice(bytes),
    };
    let mut config: Map<String, Value> =
        config.map_err(|error| internal(format!("`{CONFIG}` was read before and now is not: {error}")))?;
    let key = if config.contains_key("torch_dtype") {
        "torch_dtype"
    } else {
        "dtype"
    };
    config.insert(key.to_owned(), json!(dtype));
    Ok(config)
}
