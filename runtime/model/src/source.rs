//! Tensors of the two file formats under one set of names.

use std::collections::HashMap;
use witness_formats::Dtype;
use witness_formats::gguf::names;
use witness_formats::gguf::rows::{RowOrder, stored_order};
use witness_formats::gguf::{GgmlType, Gguf, TensorInfo};
use witness_formats::hf::four_bit::FourBit;
use witness_formats::hf::{DecoderConfig, HfConfig};
use witness_formats::safetensors::SafeTensors;
use witness_quantization::Nf4Matrix;

use crate::config::Config;
use crate::error::{ModelError, Result};
use crate::load::WeightSource;
use crate::rope::RopeScaling;
use crate::weight::{PlainType, RawTensor, Storage};

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
        let names = self.tensors.iter().map(|(name, _)| name);
        let names = names.filter(|name| !FourBit::is_part(self.tensors, name));
        names.map(str::to_owned).collect()
    }

    fn tensor(&self, name: &str) -> Option<Result<RawTensor<'_>>> {
        let tensor = self.tensors.tensor(name)?;
        match FourBit::of(self.tensors, name) {
            Ok(None) => {}
            Ok(Some(stored)) => return Some(decoded(&stored)),
            Err(error) => return Some(Err(error.into())),
        }
        let storage = match tensor.dtype() {
            Dtype::F32 => Storage::Plain(PlainType::F32),
            Dtype::F16 => Storage::Plain(PlainType::F16),
            Dtype::BF16 => Storage::Plain(PlainType::BF16),
            other => Storage::Other(other.name().to_owned()),
        };
        Some(Ok(RawTensor {
            storage,
            shape: tensor.shape().to_vec(),
            bytes: tensor.bytes().into(),
        }))
    }

    fn row_order(&self) -> RowOrder {
        RowOrder::Halves
    }

    fn release(&self, name: &str) {
        if let Some(tensor) = self.tensors.tensor(name) {
            tensor.release();
        }
    }
}

/// Decodes a matrix in 4 bits of bitsandbytes, which products here have no kernel for: 16 bits a weight, rounded as bitsandbytes rounds before its own product.
fn decoded(stored: &FourBit) -> Result<RawTensor<'static>> {
    let matrix = Nf4Matrix::of_stored(stored)?;
    let dtype = match stored.dtype {
        Dtype::F16 => PlainType::F16,
        Dtype::BF16 => PlainType::BF16,
        _ => PlainType::F32,
    };
    let mut bytes = Vec::with_capacity(matrix.n_out() * matrix.n_in() * dtype.size_in_bytes());
    let mut row = vec![0.0f32; matrix.n_in()];
    for at in 0..matrix.n_out() {
        matrix.dequantize_rows(at..at + 1, &mut row);
        match dtype {
            PlainType::F16 => bytes.extend(row.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes())),
            PlainType::BF16 => bytes.extend(row.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes())),
            _ => bytes.extend(row.iter().flat_map(|value| value.to_le_bytes())),
        }
    }
    Ok(RawTensor {
        storage: Storage::Plain(dtype),
        shape: stored.shape.to_vec(),
        bytes: bytes.into(),
    })
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
            bytes: bytes.into(),
        }))
    }

    fn row_order(&self) -> RowOrder {
        self.rows
    }

    fn release(&self, name: &str) {
        if let Some(info) = self.by_name.get(name) {
            // To its end.
            self.gguf.release(info, 0..usize::MAX);
        }
    }
}

/// Returns how a GGUF type is computed with.
pub fn storage_of(ggml_type: GgmlType) -> Storage {
    match ggml_type {
        GgmlType::F32 => Storage::Plain(PlainType::F32),
        GgmlType::F16 => Storage::Plain(PlainType::F16),
        GgmlType::BF16 => Storage::Plain(PlainType::BF16),
        kind if witness_kernels::is_packable(kind) => Storage::Blocks(kind),
        kind if witness_quantization::is_widened(kind) => Storage::Widened(kind),
        other => Storage::Other(other.name()),
    }
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
