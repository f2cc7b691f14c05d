//! Tensors of the two file formats under one set of names.

use candle_core::DType;
use candle_core::quantized::GgmlDType;
use std::collections::HashMap;
use witness_formats::Dtype;
use witness_formats::gguf::names;
use witness_formats::gguf::rows::{RowOrder, stored_order};
use witness_formats::gguf::{GgmlType, Gguf, TensorInfo};
use witness_formats::hf::{DecoderConfig, HfConfig};
use witness_formats::safetensors::SafeTensors;

use crate::config::Config;
use crate::error::{ModelError, Result};
use crate::load::WeightSource;
use crate::rope::RopeScaling;
use crate::weight::{RawTensor, Storage};

/// Name of GGUF's divisors of the rotary frequencies.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Weights of a Hugging Face directory.
pub struct HfSource<'a> {
    tensors: &'a SafeTensors,
}

/// Weights of a GGUF file.
pub struct GgufSource<'a> {
    gguf: &'a Gguf,
    by_name: HashMap<String, &'a TensorInfo>,
    rows: RowOrder,
}

impl<'a> HfSource<'a> {
    /// Wraps opened files.
    pub fn new(tensors: &'a SafeTensors) -> Self {
        Self { tensors }
    }
}

impl WeightSource for HfSource<'_> {
    fn names(&self) -> Vec<String> {
        self.tensors.iter().map(|(name, _)| name.to_owned()).collect()
    }

    fn tensor(&self, name: &str) -> Option<Result<RawTensor<'_>>> {
        let tensor = self.tensors.tensor(name)?;
        let storage = match tensor.dtype() {
            Dtype::F32 => Storage::Plain(DType::F32),
            Dtype::F16 => Storage::Plain(DType::F16),
            Dtype::BF16 => Storage::Plain(DType::BF16),
            other => Storage::Other(other.name().to_owned()),
        };
        Some(Ok(RawTensor {
            storage,
            shape: tensor.shape().to_vec(),
            bytes: tensor.bytes(),
        }))
    }

    fn row_order(&self) -> RowOrder {
        RowOrder::Halves
    }
}

impl<'a> GgufSource<'a> {
    /// Wraps an opened file.
    pub fn new(gguf: &'a Gguf) -> Result<Self> {
        let architecture = gguf.architecture()?;
        let by_name = gguf
            .tensors()
            .iter()
            .map(|info| {
                (
                    names::to_hf(architecture, &info.name).unwrap_or_else(|| info.name.clone()),
                    info,
                )
            })
            .collect();
        Ok(Self {
            gguf,
            by_name,
            rows: stored_order(architecture),
        })
    }
}

impl WeightSource for GgufSource<'_> {
    fn names(&self) -> Vec<String> {
        self.by_name.keys().cloned().collect()
    }

    fn tensor(&self, name: &str) -> Option<Result<RawTensor<'_>>> {
        let info = *self.by_name.get(name)?;
        let storage = storage_of(info.ggml_type);
        let bytes = match self.gguf.tensor_data(info) {
            Ok(bytes) => bytes,
            Err(_) if matches!(storage, Storage::Other(_)) => &[],
            Err(error) => return Some(Err(error.into())),
        };
        Some(Ok(RawTensor {
            storage,
            shape: info.shape.clone(),
            bytes,
        }))
    }

    fn row_order(&self) -> RowOrder {
        self.rows
    }
}

/// Returns how a GGUF type is computed with.
pub fn storage_of(ggml_type: GgmlType) -> Storage {
    Storage::Blocks(match ggml_type {
        GgmlType::F32 => return Storage::Plain(DType::F32),
        GgmlType::F16 => return Storage::Plain(DType::F16),
        GgmlType::BF16 => return Storage::Plain(DType::BF16),
        GgmlType::Q4_0 => GgmlDType::Q4_0,
        GgmlType::Q4_1 => GgmlDType::Q4_1,
        GgmlType::Q5_0 => GgmlDType::Q5_0,
        GgmlType::Q5_1 => GgmlDType::Q5_1,
        GgmlType::Q8_0 => GgmlDType::Q8_0,
        GgmlType::Q8_1 => GgmlDType::Q8_1,
        GgmlType::Q2_K => GgmlDType::Q2K,
        GgmlType::Q3_K => GgmlDType::Q3K,
        GgmlType::Q4_K => GgmlDType::Q4K,
        GgmlType::Q5_K => GgmlDType::Q5K,
        GgmlType::Q6_K => GgmlDType::Q6K,
        GgmlType::Q8_K => GgmlDType::Q8K,
        kind @ (GgmlType::IQ4_NL | GgmlType::IQ4_XS) => return Storage::Widened(kind),
        other => return Storage::Other(other.name().to_string()),
    })
}

/// Reads what the graph needs from a Hugging Face configuration.
pub fn config_of_hf(config: &HfConfig) -> Result<Config> {
    Config::from_decoder(&config.decoder()?)
}

/// Reads what the graph needs from GGUF metadata and the tensors that count as such.
pub fn config_of_gguf(gguf: &Gguf) -> Result<Config> {
    let mut config = Config::from_decoder(&DecoderConfig::from_gguf(gguf)?)?;
    if let Some(info) = gguf.tensor(ROPE_FACTORS) {
        if config.rope.scaling != RopeScaling::None {
            return Err(ModelError::unsupported(
                format!("`{ROPE_FACTORS}` beside another rope scaling"),
                "convert the model again; a converter writes one or the other",
            ));
        }
        config.rope.scaling = RopeScaling::Factors(gguf.tensor_ref(info)?.to_f32()?);
        config.rope.frequencies(config.head_dim)?;
    }
    config.tied = gguf.tensor("output.weight").is_none();
    Ok(config)
}
