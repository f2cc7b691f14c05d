//! How Transformers stores a model that bitsandbytes holds in 4 bits: which tensors stand for a weight, and what `config.json` says of it.
//!
//! ```text
//! NAME                                       [n / 2, 1]   u8   two codes a byte, the first in the high half
//! NAME.absmax                                [n / 64]     f32, or u8 where scales are quantized too
//! NAME.quant_map                             [16]         f32  what the codes stand for
//! NAME.nested_absmax, NAME.nested_quant_map  [blocks / 256], [256]   f32, where scales are quantized
//! NAME.quant_state.bitsandbytes__nf4         [bytes]      u8   JSON: shape, type, sizes of blocks, the mean of the scales
//! ```
//! Here are names and fields; what the numbers mean is the business of whoever decodes them. Source: `QuantState.as_dict` of bitsandbytes 0.50 and
//! `BitsAndBytesConfig` of Transformers 5.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::safetensors::SafeTensors;
use crate::{Dtype, FormatError, Result, TensorRef};

/// The end of the name of the tensor that tells a weight in NF4.
const STATE: &str = ".quant_state.bitsandbytes__nf4";
/// What the names of all such tensors contain, whatever the kind of 4 bits.
const ANY_STATE: &str = ".quant_state.bitsandbytes__";
/// The longest account of a weight that is read; real ones have some 150 bytes.
const STATE_BYTES_MAX: usize = 4_096;
/// Everything that stands beside a weight, by the end of its name.
const PARTS: [&str; 5] = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", STATE];

/// A weight in NF4 as it lies in its files.
#[derive(Clone, Debug)]
pub struct FourBit {
    /// What errors call the files.
    pub label: String,
    /// The weight's name.
    pub name: String,
    /// Shape of the weight, row-major.
    pub shape: [usize; 2],
    /// The type that the weight was quantized from, and that decoding rounds to.
    pub dtype: Dtype,
    /// Two codes a byte.
    pub packed: TensorRef,
    /// What the codes stand for.
    pub code: Vec<f32>,
    /// How many weights share a scale.
    pub block: usize,
    /// Scales, or their codes.
    pub absmax: TensorRef,
    /// How scales are quantized, where they are.
    pub nested: Option<NestedScales>,
}

/// How the scales of a [`FourBit`] are quantized.
#[derive(Clone, Debug, PartialEq)]
pub struct NestedScales {
    /// The largest magnitude of the scales of a block, less their mean.
    pub absmax: Vec<f32>,
    /// What their codes stand for.
    pub code: Vec<f32>,
    /// How many scales share one.
    pub block: usize,
    /// The mean of all scales.
    pub offset: f32,
}

/// The JSON of a weight.
#[derive(Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f64>,
}

impl FourBit {
    /// Reads what is said of a weight; nothing where there is no such weight or it is dense.
    ///
    /// # Errors
    /// If a part is missing or damaged, or the weight is in another kind of 4 bits.
    pub fn of(tensors: &SafeTensors, name: &str) -> Result<Option<FourBit>> {
        let Some(state) = tensors.tensor(&format!("{name}{STATE}")) else {
            return match tensors.tensor(&format!("{name}{ANY_STATE}fp4")) {
                Some(_) => Err(FormatError::unsupported(
                    tensors.label(),
                    format!("`{name}` is stored as FP4 of bitsandbytes, which is not read"),
                    "take the model in NF4 or unquantized",
                )),
                None => Ok(None),
            };
        };
        let place = format!("{name}{STATE}");
        let malformed =
            |expected: &str, found: String| FormatError::malformed(tensors.label(), &place, expected, found);
        let bytes = state.bytes();
        if bytes.len() > STATE_BYTES_MAX {
            let limit = STATE_BYTES_MAX as u64;
            return Err(FormatError::limit(tensors.label(), place, bytes.len(), limit));
        }
        let state: State =
            serde_json::from_slice(bytes).map_err(|error| malformed("JSON of bitsandbytes", error.to_string()))?;
        if state.quant_type != "nf4" {
            return Err(malformed("`quant_type` `nf4`", format!("`{}`", state.quant_type)));
        }
        let dtype = torch_dtype(&state.dtype).ok_or_else(|| malformed("a type of numbers", state.dtype.clone()))?;
        let shape = <[usize; 2]>::try_from(state.shape.as_slice());
        let shape = shape.map_err(|_| malformed("the shape of a matrix", format!("{:?}", state.shape)))?;
        let part = |end: &str| tensors.require(&format!("{name}{end}"));
        let nested = match (state.nested_blocksize, state.nested_offset) {
            (Some(block), Some(offset)) => Some(NestedScales {
                absmax: part(".nested_absmax")?.to_f32()?,
                code: part(".nested_quant_map")?.to_f32()?,
                block,
                offset: offset as f32,
            }),
            _ => None,
        };
        let absmax = part(".absmax")?;
        let wanted = if nested.is_some() { Dtype::U8 } else { Dtype::F32 };
        if absmax.dtype() != wanted {
            return Err(FormatError::malformed(
                tensors.label(),
                format!("{name}.absmax"),
                wanted.name(),
                absmax.dtype().name(),
            ));
        }
        Ok(Some(FourBit {
            label: tensors.label().to_owned(),
            name: name.to_owned(),
            shape,
            dtype,
            packed: tensors.require(name)?.clone(),
            code: part(".quant_map")?.to_f32()?,
            block: state.blocksize,
            absmax: absmax.clone(),
            nested,
        }))
    }

    /// Returns the names of all weights in 4 bits, sorted.
    pub fn names(tensors: &SafeTensors) -> Vec<&str> {
        let names = tensors.iter().filter_map(|(name, _)| name.split_once(ANY_STATE));
        names.map(|(name, _)| name).collect()
    }

    /// Says whether a name is that of a part beside a weight and not of a weight.
    pub fn is_part(tensors: &SafeTensors, name: &str) -> bool {
        let weight = PARTS.iter().find_map(|end| name.strip_suffix(end));
        weight.is_some_and(|weight| tensors.tensor(&format!("{weight}{STATE}")).is_some())
    }
}

/// Returns the tensors that stand for a weight beside its codes: ends of names, types and lengths. `n_numbers` is that of the weight, `state_bytes` the length of
/// its [`state`]. In the order of their names.
pub fn parts(n_numbers: usize, is_nested: bool, state_bytes: usize) -> Vec<(&'static str, Dtype, usize)> {
    let n_blocks = n_numbers.div_ceil(64);
    let mut parts = vec![(".absmax", Dtype::F32, n_blocks)];
    if is_nested {
        parts[0].1 = Dtype::U8;
        parts.push((".nested_absmax", Dtype::F32, n_blocks.div_ceil(256)));
        parts.push((".nested_quant_map", Dtype::F32, 256));
    }
    parts.push((".quant_map", Dtype::F32, 16));
    parts.push((STATE, Dtype::U8, state_bytes));
    parts
}

/// Returns the account of a weight as bitsandbytes writes it: `json.dumps` of Python. `offset` is the mean of the scales where they are quantized too.
pub fn state(shape: [usize; 2], dtype: Dtype, offset: Option<f32>) -> String {
    let [n_out, n_in] = shape;
    let dtype = torch_name(dtype);
    let nested = offset.map_or(String::new(), |offset| {
        let offset = python_float(f64::from(offset));
        format!(", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": {offset}")
    });
    format!(
        "{{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"{dtype}\", \"shape\": [{n_out}, {n_in}]{nested}}}"
    )
}

/// Returns what `config.json` says under `quantization_config`. Products are computed in `dtype`.
pub fn quantization_config(dtype: Dtype, is_nested: bool) -> Value {
    json!({
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "bnb_4bit_compute_dtype": torch_name(dtype),
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": is_nested,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": null,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": true,
        "load_in_8bit": false,
        "quant_method": "bitsandbytes",
    })
}

/// Says whether a `quantization_config` is that of weights in 4 bits of bitsandbytes.
pub fn is_four_bit(quantization_config: &Value) -> bool {
    let is = |key: &str| quantization_config[key] == true;
    let method = &quantization_config["quant_method"];
    (method.is_null() || *method == "bitsandbytes") && (is("load_in_4bit") || is("_load_in_4bit"))
}

/// torch's name of a type; what is no float of weights counts as f32.
fn torch_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::BF16 => "bfloat16",
        Dtype::F16 => "float16",
        _ => "float32",
    }
}

fn torch_dtype(name: &str) -> Option<Dtype> {
    let name = name.strip_prefix("torch.").unwrap_or(name);
    [Dtype::F32, Dtype::F16, Dtype::BF16]
        .into_iter()
        .find(|dtype| torch_name(*dtype) == name)
}

/// Writes a number as Python's `repr` does: the shortest digits that read back as it, with an exponent below 1e-4 and from 1e16 on.
fn python_float(number: f64) -> String {
    let size = number.abs();
    if number == 0.0 || (1e-4..1e16).contains(&size) {
        return format!("{number:?}");
    }
    // Rust writes `1.5e-7`; Python pads the exponent to two digits.
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // What `json.dumps` of Python 3.11 gives.
    #[test]
    fn numbers_and_accounts_are_pythons() {
        for (number, wanted) in [
            (0.145_494_520_664_215_1, "0.1454945206642151"),
            (0.0, "0.0"),
            (1.0, "1.0"),
            (f64::from(1.5e-5f32), "1.4999999621068127e-05"),
            (0.0001, "0.0001"),
            (1e-38, "1e-38"),
            (1e16, "1e+16"),
            (123_456.0, "123456.0"),
        ] {
            assert_eq!(python_float(number), wanted);
        }
        assert_eq!(
            state([3, 5], Dtype::BF16, None),
            r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [3, 5]}"#
        );
    }
}
