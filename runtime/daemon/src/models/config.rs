//! The config blob of a model: Ollama's fields, and under `witness` what only we know.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use witness_api::ModelDetails;
use witness_plugin_protocol::{AdapterInfo, ModelInfo};
use witness_registry::Digest;

/// The config blob. Fields of other programs are ignored when read and not carried over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ConfigBlob {
    pub(crate) model_format: String,
    pub(crate) model_family: String,
    pub(crate) model_families: Option<Vec<String>>,
    /// Number of parameters for people: `8.0B`.
    pub(crate) model_type: String,
    /// Quantization: `Q4_K_M`.
    pub(crate) file_type: String,
    pub(crate) architecture: String,
    pub(crate) os: String,
    pub(crate) rootfs: RootFs,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) witness: Option<WitnessConfig>,
}

/// The layers once more, as OCI wants them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RootFs {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) diff_ids: Vec<String>,
}

/// What a plugin found out when the model was made, so that nothing needs to be opened again to list, show or schedule it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct WitnessConfig {
    /// Version of the program that wrote this.
    pub(crate) version: String,
    /// Plugin that inspected the files.
    pub(crate) plugin: String,
    /// The base.
    pub(crate) info: Option<ModelInfo>,
    /// The adapters, in order.
    pub(crate) adapters: Vec<AdapterInfo>,
    /// The draft.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) draft: Option<ModelInfo>,
    /// Model that this one was made from.
    pub(crate) parent: String,
    /// Version of the program that the model needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) requires: Option<String>,
    /// The training run that made it: its name, what it started from and what it was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) training: Option<Map<String, Value>>,
    /// How the base was made of another form: from what digests, by which plugin, to what type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) made: Option<Map<String, Value>>,
}

impl ConfigBlob {
    /// Makes the config of a new model.
    pub(crate) fn new(info: &ModelInfo, witness: WitnessConfig, layers: &[Digest]) -> Self {
        Self {
            model_format: info.format.clone(),
            model_family: info.architecture.clone(),
            model_families: Some(vec![info.architecture.clone()]),
            model_type: human_count(info.parameter_count),
            file_type: info.quantization.clone(),
            // As Ollama writes it, whatever the machine: nothing in a model depends on it.
            architecture: "amd64".into(),
            os: "linux".into(),
            rootfs: RootFs {
                kind: "layers".into(),
                diff_ids: layers.iter().map(|digest| digest.as_str().to_owned()).collect(),
            },
            witness: Some(witness),
        }
    }

    /// Returns the details that listings show.
    pub(crate) fn details(&self) -> ModelDetails {
        ModelDetails {
            parent_model: self
                .witness
                .as_ref()
                .map(|witness| witness.parent.clone())
                .unwrap_or_default(),
            format: self.model_format.clone(),
            family: self.model_family.clone(),
            families: self.model_families.clone(),
            parameter_size: self.model_type.clone(),
            quantization_level: self.file_type.clone(),
        }
    }
}

/// Writes a number of parameters as Ollama does: `8B`, `7.6B`, `494.03M`, `260K`.
pub(crate) fn human_count(count: u64) -> String {
    let with = |unit: u64, decimals: usize, letter: char| {
        let value = count as f64 / unit as f64;
        if value.fract() == 0.0 {
            format!("{value:.0}{letter}")
        } else {
            format!("{value:.decimals$}{letter}")
        }
    };
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => with(1_000, 0, 'K'),
        1_000_000..1_000_000_000 => with(1_000_000, 2, 'M'),
        _ => with(1_000_000_000, 1, 'B'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_for_people() {
        for (count, text) in [
            (0, "0"),
            (999, "999"),
            (260_032, "260K"),
            (494_032_768, "494.03M"),
            (1_000_000, "1M"),
            (8_030_261_248, "8.0B"),
            (7_000_000_000, "7B"),
        ] {
            assert_eq!(human_count(count), text);
        }
    }

    #[test]
    fn a_config_that_ollama_wrote_is_read() {
        let config: ConfigBlob = serde_json::from_str(
            r#"{"model_format":"gguf","model_family":"llama","model_families":null,"model_type":"8.0B","file_type":"Q4_0",
                "architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:a"]},"renderer":"x"}"#,
        )
        .unwrap();
        assert_eq!(config.details().parameter_size, "8.0B");
        assert!(config.witness.is_none());
    }
}
